//! `imsup broker`: the broker itself, in the foreground for a service manager, or started by `up
//! -d` and `run`.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use imsup_broker::keeper::{Restored, Successor};
use imsup_broker::own_program;
use imsup_broker::paths::Paths;
use imsup_broker::{BrokerError, Ended};
use imsup_compose::cluster::Cluster;
use imsup_linux::{delegation, inherited};
use imsup_wire::Event;

use super::cluster::{self, ClusterArgs};
use super::failure;
use super::logging;
use super::output;
use super::readiness::{self, Word};

/// Run a project's broker in the foreground, for a service manager ('up' starts it by itself)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// End when the last host that somebody started has ended
    #[arg(long, hide = true)]
    ephemeral: bool,
    /// Have no hosts of its own, and read no compose file
    #[arg(long, hide = true, requires = "project")]
    empty: bool,
    /// Start the broker as nobody's child and end
    #[arg(long, hide = true)]
    detach: bool,
    /// Take the place of one that has died: standard input is the keeper's
    #[arg(long, hide = true, requires = "project")]
    successor: bool,
    /// The soft limit of descriptors that the first broker was started with
    #[arg(long, hide = true, value_name = "NUMBER", requires = "successor")]
    nofile: Option<u64>,
    /// Say on standard output when it is ready, or why not
    #[arg(long, hide = true)]
    report: bool,
}

/// Runs the verb until the project is taken down.
///
/// # Errors
/// The compose file, the machine, or a broker that runs already is in the way.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.detach {
        detach()?;
        return Ok(ExitCode::SUCCESS);
    }
    logging::start("info");
    if args.successor {
        return succeed(args);
    }
    if args.report {
        // Leaves the terminal's session. Fails only for the leader of a process group, which imsup
        // starts none as.
        let _ = rustix::process::setsid();
        return report(args);
    }
    let cluster = load(args, |warning| {
        output::warning(warning);
        Ok(())
    })?;
    let how = How {
        ephemeral: args.ephemeral,
        ..How::default()
    };
    serve(cluster, how, readiness::notify_systemd, None)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts `imsup broker --report` with the rest of this process's arguments, as nobody's child.
fn detach() -> Result<()> {
    keep_descriptors()?;
    let executable = std::env::current_exe().context("finding imsup's own program")?;
    let arguments = std::env::args_os().skip(2).filter(|argument| argument != "--detach");
    own_program::command(&executable)
        .args(["broker", "--report"])
        .args(arguments)
        .spawn()
        .context("starting the broker")?;
    Ok(())
}

/// Descriptors that `up` was started with (a lock, a secret) must go neither to the broker, which
/// outlives `up`, nor to its hosts.
fn keep_descriptors() -> Result<()> {
    inherited::keep_from_programs().context("keeping the descriptors that imsup was started with from hosts")
}

/// Serves, and reports to the command that started this broker; once that command is gone, to the
/// log.
fn report(args: &Args) -> Result<ExitCode> {
    let ready = Arc::new(AtomicBool::new(false));
    let outcome = load(args, |warning| readiness::say(&Word::Warning(warning.to_owned()))).and_then(|cluster| {
        let project = cluster.project.clone();
        let paths = Paths::of(&project);
        let ready = Arc::clone(&ready);
        serve(
            cluster,
            How {
                ephemeral: args.ephemeral,
                ..How::KEPT
            },
            move || {
                if let Err(error) = log_to_file(&paths) {
                    readiness::say(&Word::Warning(format!("{error:#}; what the broker logs is lost")))?;
                    rustix::stdio::dup2_stderr(File::options().write(true).open("/dev/null")?)?;
                }
                readiness::say(&Word::Ready { project })?;
                readiness::hang_up()?;
                ready.store(true, Ordering::Relaxed);
                Ok(())
            },
            None,
        )
    });
    match outcome {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) if ready.load(Ordering::Relaxed) => Err(error),
        Err(error) => {
            let (message, hint) = failure::lines(&error);
            let already_up = matches!(error.downcast_ref(), Some(BrokerError::AlreadyUp { .. }));
            readiness::say(&match already_up {
                true => Word::AlreadyUp { message },
                false => Word::Failed { message, hint },
            })?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Takes the place of a broker that has died, with all its descriptors in the keeper.
fn succeed(args: &Args) -> Result<ExitCode> {
    let keeper = std::io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let restored = Restored::receive(keeper, args.nofile)?;
    let cluster = restored.cluster()?;
    let how = How {
        ephemeral: args.ephemeral,
        restored: Some(restored),
        ..How::KEPT
    };
    serve(cluster, how, || Ok(()), None)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes `broker.log` in the project's state directory, which exists once a broker is ready, the
/// standard error.
pub fn log_to_file(paths: &Paths) -> Result<()> {
    let path = paths.state().join("broker.log");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    rustix::stdio::dup2_stderr(&file).with_context(|| format!("logging to {}", path.display()))
}

fn load(args: &Args, warn: impl FnMut(&str) -> Result<()>) -> Result<Cluster> {
    match args.cluster.project.project.explicit() {
        Some(project) if args.empty => {
            let here = std::env::current_dir().context("finding the current directory")?;
            Ok(cluster::empty(project, &here))
        }
        _ => args.cluster.load_to_serve(warn),
    }
}

/// The kind of a broker.
#[derive(Debug, Default)]
pub struct How {
    /// True if the broker ends with the last host started by a user.
    pub ephemeral: bool,
    /// True if a keeper holds the broker's sockets, and starts the next broker after a death: not
    /// if a service manager does that.
    pub kept: bool,
    /// The keeper's descriptors of a broker that has died.
    pub restored: Option<Restored>,
}

impl How {
    /// A broker with a keeper.
    pub const KEPT: Self = Self {
        ephemeral: false,
        kept: true,
        restored: None,
    };

    /// The way to start the next broker.
    fn successor(&self, project: &str) -> Option<Successor> {
        let managed = std::env::var_os("NOTIFY_SOCKET").is_some();
        if !self.kept || managed {
            return None;
        }
        let mut arguments = vec![
            "broker".into(),
            "--successor".into(),
            "--project".into(),
            project.into(),
        ];
        if self.ephemeral {
            arguments.push("--ephemeral".into());
        }
        Some(Successor { arguments })
    }
}

/// Called with each event.
pub type OnEvent = Box<dyn Fn(&Event)>;

/// The path of the running program; if the file was replaced or removed, the kernel's link to the
/// file (proc(5), /proc/PID/exe).
fn own_executable() -> Result<PathBuf> {
    let path = std::env::current_exe().context("finding imsup's own program")?;
    Ok(if path.exists() { path } else { "/proc/self/exe".into() })
}

/// Is the broker until the project is taken down; `on_ready` runs once the hosts exist.
///
/// # Errors
/// The machine, or a broker that runs already, is in the way.
pub fn serve(
    cluster: Cluster,
    how: How,
    on_ready: impl FnOnce() -> Result<()> + 'static,
    on_event: Option<OnEvent>,
) -> Result<Ended> {
    keep_descriptors()?;
    let on_ready = || {
        if let Err(error) = on_ready() {
            tracing::warn!("the hosts exist, but nobody could be told: {error:#}");
        }
    };
    let project = cluster.project.clone();
    let ended = imsup_broker::run(imsup_broker::Options {
        paths: Paths::of(&project),
        successor: how.successor(&project),
        cluster,
        ephemeral: how.ephemeral,
        restored: how.restored,
        resolv_conf: "/etc/resolv.conf".into(),
        imsup_exe: own_executable()?,
        stand_back: imsup_linux::priority::stand_back,
        on_ready: Box::new(on_ready),
        on_event,
    })?;
    if ended == Ended::Down {
        delegation::leave(&project);
    }
    Ok(ended)
}
