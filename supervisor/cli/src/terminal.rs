//! A terminal for a command (pty(7)): the caller's terminal becomes the window of a new one, in
//! which the command has job control of its own.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use imsup_broker::own_program;
use imsup_linux::pidfd;
use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Pid, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// Signals of the caller that are passed on, so that the command decides on its end, and the
/// caller's terminal is restored after it.
const PASSED_ON: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// End of file, typed (VEOF, termios(3)).
const END_OF_FILE: u8 = 4;

/// The caller's terminal while it hands each byte on, restored when dropped.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    fn enter() -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &raw);
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Whether the caller reads and writes on a terminal.
pub fn is_callers() -> bool {
    rustix::termios::isatty(io::stdin()) && rustix::termios::isatty(io::stdout())
}

/// Executes imsup with these arguments on a new terminal, until it ends, and gives its status. In a
/// root with terminals of its own, the terminal is one of these: of the root of process `beside`.
///
/// # Errors
/// No terminal can be made, or no process.
pub fn run(arguments: Vec<OsString>, beside: Option<u32>) -> Result<ExitCode> {
    let made = beside.and_then(of_root).map_or_else(of_machine, Ok);
    let (window, terminal) = made.context("making a terminal")?;
    copy_size(&window);
    let mut child = start(arguments, &terminal)?;
    drop(terminal);
    let raw = Raw::enter();
    pass_on(&window, &child)?;
    type_in(window.try_clone()?);
    show(&window, &child)?;
    // A command that outlives its window is hung up (pty(7)).
    drop(window);
    let ended = child.wait().context("waiting for the command")?;
    drop(raw);
    Ok(ExitCode::from(status_of(ended)))
}

fn status_of(ended: ExitStatus) -> u8 {
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal));
    code.map_or(u8::MAX, |code| code.to_le_bytes()[0])
}

/// Both ends of a terminal of this machine.
fn of_machine() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    ends(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?)
}

/// Both ends of a terminal of the root of this process, whose devpts has names for it. What an
/// image has put in the place of `/dev/pts/ptmx` is no terminal, and is not followed out of the
/// root (openat2(2), RESOLVE_IN_ROOT).
fn of_root(pid: u32) -> Option<(OwnedFd, OwnedFd)> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, format!("/proc/{pid}/root"), directory, Mode::empty()).ok()?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let window = rustix::fs::openat2(root, "dev/pts/ptmx", flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    rustix::fs::fcntl_setfl(&window, OFlags::RDWR).ok()?;
    ends(window).ok()
}

fn ends(window: OwnedFd) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    unlockpt(&window)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&window, flags)?;
    Ok((window, terminal))
}

fn start(arguments: Vec<OsString>, terminal: &OwnedFd) -> Result<Child> {
    let shown = std::env::current_exe().context("finding imsup's own program")?;
    let mut command = own_program::command(&shown);
    command.args(arguments);
    command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?);
    command.stderr(terminal.try_clone()?);
    command.spawn().context("starting imsup on the terminal")
}

fn copy_size(window: &OwnedFd) {
    if let Ok(size) = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout())) {
        let _ = tcsetwinsize(window, size);
    }
}

/// Hands on the caller's signals and the changes of its window's size, in a thread.
fn pass_on(window: &OwnedFd, child: &Child) -> Result<()> {
    let mut taken: SigSet = PASSED_ON.into_iter().collect();
    taken.add(Signal::SIGWINCH);
    taken.thread_block().context("blocking signals")?;
    let window = window.try_clone()?;
    let child = Pid::from_child(child);
    // A change before the signals were blocked.
    copy_size(&window);
    std::thread::spawn(move || {
        while let Ok(signal) = taken.wait() {
            match signal {
                Signal::SIGWINCH => copy_size(&window),
                signal => pass(child, signal),
            }
        }
    });
    Ok(())
}

fn pass(child: Pid, signal: Signal) {
    if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
        let _ = kill_process(child, signal);
    }
}

/// Types what the caller types, in a thread that ends with the process.
fn type_in(window: OwnedFd) {
    std::thread::spawn(move || {
        let mut window = std::fs::File::from(window);
        // `io::copy` may splice(2), which terminals do not offer in all kernels.
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = io::stdin().lock().read(&mut bytes) {
            if window.write_all(&bytes[..read]).is_err() {
                return;
            }
        }
        let _ = window.write_all(&[END_OF_FILE]);
    });
}

/// Shows what the command prints, until its end or that of the caller's output.
fn show(window: &OwnedFd, child: &Child) -> Result<()> {
    let ended = pidfd::open_process(child.id().cast_signed()).context("watching the command")?;
    let mut polled = [PollFd::new(window, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
    let mut has_ended = false;
    loop {
        // What was printed before the end is there at the end: no wait then.
        let limit = has_ended.then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
        let watched = if has_ended { 1 } else { 2 };
        rustix::io::retry_on_intr(|| poll(&mut polled[..watched], limit.as_ref())).context("waiting for output")?;
        let window_events = polled[0].revents();
        if window_events.contains(PollFlags::IN) {
            if !show_some(window) {
                return Ok(());
            }
        } else if has_ended || window_events.contains(PollFlags::HUP) {
            return Ok(());
        } else {
            has_ended = !polled[1].revents().is_empty();
        }
    }
}

/// False if there is no more, or nobody reads (EIO of a terminal without users, pty(7)).
fn show_some(window: impl AsFd) -> bool {
    let mut bytes = [0; 4096];
    match rustix::io::read(window, &mut bytes) {
        Err(Errno::INTR) => true,
        Ok(0) | Err(_) => false,
        Ok(read) => {
            let mut out = io::stdout().lock();
            out.write_all(&bytes[..read]).and_then(|()| out.flush()).is_ok()
        }
    }
}
