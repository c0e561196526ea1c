//! Commands with a bounded time.

use std::fmt;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

/// The limit of every wait, after which the test fails. Far above what is expected, since no time
/// is asserted.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The end of a command, and its output.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Finished {
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The exit status; `None` if a signal ended the command.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended the command.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// The output of a successful command.
    #[track_caller]
    pub fn expect_success(self, what: &str) -> String {
        assert!(self.success(), "{what}: {self}");
        self.stdout
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} after {:?}\n-- stdout\n{}\n-- stderr\n{}",
            self.status, self.elapsed, self.stdout, self.stderr
        )
    }
}

/// A command that runs beside the test and is ended when dropped.
pub struct Background {
    pub child: Child,
    readers: Vec<JoinHandle<String>>,
    started: Instant,
}

impl Background {
    /// Starts the command in a process group of its own, its output going to `stdout`.
    #[track_caller]
    pub fn spawn(command: Command, stdout: Stdio) -> Self {
        Self::spawn_to(command, stdout, Stdio::null())
    }

    /// The same, with standard error going to `stderr`.
    #[track_caller]
    pub fn spawn_to(command: Command, stdout: Stdio, stderr: Stdio) -> Self {
        Self::spawn_on(command, Stdio::null(), stdout, stderr)
    }

    /// The same, with this standard input.
    #[track_caller]
    pub fn spawn_on(mut command: Command, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Self {
        let child = command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        Self {
            child,
            readers: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Starts the command for a conversation: standard input and output are pipes, standard error
    /// is the test's.
    #[track_caller]
    pub fn conversing(mut command: Command) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        Self {
            child,
            readers: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Starts the command and collects its output.
    #[track_caller]
    pub fn collecting(command: Command) -> Self {
        Self::collecting_with(command, Stdio::null())
    }

    /// The same, with this standard input.
    #[track_caller]
    pub fn collecting_with(mut command: Command, stdin: Stdio) -> Self {
        let child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        let readers = vec![
            collect(child.stdout.take().unwrap()),
            collect(child.stderr.take().unwrap()),
        ];
        Self {
            child,
            readers,
            started: Instant::now(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the command's end.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Finished {
        if !wait_exit(self.child.id(), limit) {
            let said = self.describe();
            panic!("still running after {limit:?}: {said}");
        }
        let status = self.child.wait().unwrap();
        let mut texts = self.readers.drain(..).map(|reader| reader.join().unwrap());
        let (stdout, stderr) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        drop(texts);
        Finished {
            status,
            stdout,
            stderr,
            elapsed: self.started.elapsed(),
        }
    }

    fn describe(&mut self) -> String {
        let command = std::fs::read_to_string(format!("/proc/{}/cmdline", self.child.id())).unwrap_or_default();
        self.end();
        let texts: Vec<String> = self.readers.drain(..).map(|reader| reader.join().unwrap()).collect();
        format!("{}\n{}", command.replace('\0', " "), texts.join("\n-- stderr\n"))
    }

    fn end(&mut self) {
        // Not reaped yet, so pid and group cannot belong to another process.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: Command, limit: Duration) -> Finished {
    Background::collecting(command).finish(limit)
}

/// Waits until a process has ended; false if it has not within `limit`.
pub fn wait_exit(pid: u32, limit: Duration) -> bool {
    let Some(pid) = Pid::from_raw(i32::try_from(pid).unwrap()) else {
        return true;
    };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match rustix::event::poll(&mut polled, Some(&Timespec::try_from(left).unwrap())) {
            Ok(count) => return count == 1,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
