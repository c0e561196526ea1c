//! `imsup broker`: the broker itself, in the foreground for a service manager, or started by `up -d` and `run`.

use std::fs::File;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use imsup_broker::BrokerError;
use imsup_broker::cluster::Cluster;
use imsup_broker::own_program;
use imsup_broker::paths::Paths;
use imsup_supervisor::kernel::{delegation, inherited};
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
    if args.report {
        return report(args);
    }
    let cluster = load(args, |warning| {
        output::warning(warning);
        Ok(())
    })?;
    serve(cluster, args.ephemeral, readiness::notify_systemd, None)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts `imsup broker --report` with the rest of this process's arguments, in a session of its own.
fn detach() -> Result<()> {
    keep_descriptors()?;
    // Fails only for the leader of a process group, which one started by imsup isn't.
    rustix::process::setsid().context("leaving the terminal's session")?;
    let executable = std::env::current_exe().context("finding imsup's own program")?;
    let arguments = std::env::args_os().skip(2).filter(|argument| argument != "--detach");
    own_program::command(&executable)
        .args(["broker", "--report"])
        .args(arguments)
        .spawn()
        .context("starting the broker")?;
    Ok(())
}

/// What `up` was started with (a lock, a secret) is neither the broker's, which outlives it, nor its hosts'.
fn keep_descriptors() -> Result<()> {
    inherited::keep_from_programs().context("keeping the descriptors that imsup was started with from hosts")
}

/// Serves, and tells the command that started this one; once that has gone, the log.
fn report(args: &Args) -> Result<ExitCode> {
    let ready = Arc::new(AtomicBool::new(false));
    let outcome = load(args, |warning| readiness::say(&Word::Warning(warning.to_owned()))).and_then(|cluster| {
        let project = cluster.project.clone();
        let paths = Paths::of(&project);
        let ready = Arc::clone(&ready);
        serve(
            cluster,
            args.ephemeral,
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
        Ok(()) => Ok(ExitCode::SUCCESS),
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

/// Makes `broker.log` in the project's state directory, which exists once a broker is ready, the standard error.
fn log_to_file(paths: &Paths) -> Result<()> {
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

/// What is called with each event.
pub type OnEvent = Box<dyn Fn(&Event)>;

/// Is the broker until the project is taken down; `on_ready` runs once the hosts exist.
///
/// # Errors
/// The machine, or a broker that runs already, is in the way.
pub fn serve(
    cluster: Cluster,
    ephemeral: bool,
    on_ready: impl FnOnce() -> Result<()> + 'static,
    on_event: Option<OnEvent>,
) -> Result<()> {
    keep_descriptors()?;
    let on_ready = || {
        if let Err(error) = on_ready() {
            tracing::warn!("the hosts exist, but nobody could be told: {error:#}");
        }
    };
    let project = cluster.project.clone();
    imsup_broker::run(imsup_broker::Options {
        paths: Paths::of(&project),
        cluster,
        ephemeral,
        resolv_conf: "/etc/resolv.conf".into(),
        imsup_exe: std::env::current_exe().context("finding imsup's own program")?,
        stand_back: imsup_supervisor::kernel::priority::stand_back,
        confine: super::confine::confine,
        on_ready: Box::new(on_ready),
        on_event,
    })?;
    delegation::leave(&project);
    Ok(())
}
