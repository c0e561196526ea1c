//! `imsup exec`: a command with a host's identity.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use imsup_broker::client::ClientError;
use imsup_broker::own_program;
use imsup_protocol::message::Role;
use imsup_protocol::{Request, Response};
use imsup_wire::{ErrorKind, HostName, ProgramSpec};

use super::caller;
use super::connection;
use super::failure::{Annotate, hinted};
use super::habits;
use super::program::ProgramArgs;
use super::project::{Project, ProjectAndFileArgs};
use super::supervise::{self, OWN_FAILURE};
use super::terminal;

/// Run a command with the identity of a host, which is booted if it does not run
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Make no terminal for the command [default: one if imsup is used on one]
    #[arg(short = 'T', long = "no-tty", visible_alias = "no-TTY")]
    no_tty: bool,
    /// As is: input is always handed on, and a terminal made if imsup is used on one
    #[arg(short, long, hide = true)]
    interactive: bool,
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Return at once, and let the command run in the background, without input and output
    #[arg(short, long)]
    detach: bool,
    /// The replica, by number
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    #[arg(long, hide = true)]
    privileged: bool,
    /// Lead a session, on the terminal that is standard input if any
    #[arg(long, hide = true)]
    leads: bool,
    /// The host
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
}

/// Runs the verb and gives the command's status.
///
/// # Errors
/// No project that is up, no such host, a host that cannot be started, or as [`supervise::run`];
/// status [`OWN_FAILURE`].
pub fn run(args: Args) -> Result<ExitCode> {
    if args.privileged {
        return Err(privileged()).status(OWN_FAILURE);
    }
    let (project, host) = ready(&args).status(OWN_FAILURE)?;
    let (pid, of_host) = program(&project, &host).status(OWN_FAILURE)?;
    if args.leads {
        lead().status(OWN_FAILURE)?;
    } else if args.detach {
        return detach().map(|()| ExitCode::SUCCESS).status(OWN_FAILURE);
    } else if !args.no_tty && terminal::is_callers() {
        let in_root = of_host.is_some_and(|spec| spec.root.is_some());
        return terminal::run(leading(), in_root.then_some(pid)).status(OWN_FAILURE);
    }
    let mut spec = args.program.into_spec();
    let mut assignment = supervise::assignment(&project, Some(host), Role::Exec);
    if let Some(of_host) = of_host.filter(|spec| spec.root.is_some()) {
        assignment.beside = Some(pid);
        join(&mut spec, of_host);
        if args.leads && io::stdin().is_terminal() {
            // As docker does; the caller's own kind may be one that the image does not know.
            spec.environment
                .entry("TERM".to_owned())
                .or_insert_with(|| "xterm".to_owned());
        }
    }
    supervise::run(&spec, &assignment)
}

fn privileged() -> anyhow::Error {
    let error = anyhow!("--privileged gives a command what its host does not have");
    hinted(
        error,
        "give the host the capability (cap_add), or run the command outside with sudo",
    )
}

/// This command line, for the process that leads the command's session.
fn leading() -> Vec<OsString> {
    let mut arguments = habits::arrange(std::env::args_os().collect());
    // Behind the program's name and the verb.
    arguments.insert(2, "--leads".into());
    arguments.remove(0);
    arguments
}

/// Begins a session, away from the caller's terminal (setsid(2)).
fn lead() -> Result<()> {
    rustix::process::setsid().context("beginning a session")?;
    if io::stdin().is_terminal() {
        rustix::process::ioctl_tiocsctty(io::stdin()).context("taking the terminal")?;
    }
    Ok(())
}

/// Starts this command line in the background.
fn detach() -> Result<()> {
    let shown = std::env::current_exe().context("finding imsup's own program")?;
    let mut command = own_program::command(&shown);
    command.args(leading());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("starting imsup in the background")?;
    Ok(())
}

/// The host's process, and what it was started with.
///
/// # Errors
/// The host does not run, or as [`connection::ask`].
pub fn program(project: &Project, host: &HostName) -> Result<(u32, Option<ProgramSpec>)> {
    // A broker that has just taken the place of another learns of the program from its supervisor.
    for _ in 0..LOOKS {
        match ask_program(project, host) {
            Err(error) if is_not_running(&error) => std::thread::sleep(LOOK),
            found => return found,
        }
    }
    ask_program(project, host)
}

/// How often a broker is asked for a program that it does not know yet, and the time in between.
const LOOKS: u32 = 100;
const LOOK: Duration = Duration::from_millis(20);

fn is_not_running(error: &anyhow::Error) -> bool {
    let client = error.downcast_ref::<ClientError>();
    client.is_some_and(|error| error.kind() == ErrorKind::NotRunning)
}

fn ask_program(project: &Project, host: &HostName) -> Result<(u32, Option<ProgramSpec>)> {
    let request = Request::Program { host: host.clone() };
    for answer in connection::ask(project, request)? {
        if let Response::Program { pid, spec } = answer? {
            return Ok((pid, spec.map(|spec| *spec)));
        }
    }
    bail!("the broker did not say what host '{host}' runs")
}

/// A command beside the program of an image has the program's root, and what is not said otherwise.
pub fn join(spec: &mut ProgramSpec, of_host: ProgramSpec) {
    let mut environment = of_host.environment;
    environment.extend(std::mem::take(&mut *spec.environment));
    spec.environment = environment;
    spec.working_dir = of_host.working_dir.join(&spec.working_dir);
    spec.user = spec.user.take().or(of_host.user);
    spec.root = of_host.root;
}

/// The host, booted.
fn ready(args: &Args) -> Result<(Project, HostName)> {
    let project = args.project.find()?;
    let host = match args.index {
        Some(index) => connection::replica(&project, &args.host, index)?,
        None => connection::select_one(&project, &args.host)?,
    };
    let request = Request::Wake {
        hosts: vec![host.clone()],
        by: caller::name(),
        exec: true,
    };
    connection::order(&project, request)?;
    Ok((project, host))
}
