//! Processes to freeze, stop and inspect: Python, with threads that make the requested system
//! calls.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};

/// The limit of a wait, which only serves to end a test that hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// `call` makes a system call without Python's own retries and without the interpreter lock;
/// `thread` makes a call in a thread and reports the result.
const PRELUDE: &str = "
import ctypes, os, select, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return (result, ctypes.get_errno() if result < 0 else 0)
def say(*what): os.write(1, (' '.join(map(str, what)) + '\\n').encode())
def thread(name, *args):
    threading.Thread(target=lambda: say(name, *call(*args)), daemon=True).start()
";

/// Executes the lines of the standard input, one by one, after the initial source.
const LOOP: &str = "
say('ready')
while True: exec(sys.stdin.readline() or 'os._exit(0)')
";

/// A Python process; killed when dropped.
pub struct Script {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Script {
    pub fn start(source: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", &format!("{PRELUDE}\n{source}\n{LOOP}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed: scripts/setup.sh installs it");
        let mut script = Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        assert_eq!(script.line(), "ready");
        script
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Makes the script write the value of an expression, and returns the output.
    pub fn ask(&mut self, expression: &str) -> String {
        self.tell(&format!("say({expression})"));
        self.line()
    }

    /// The next line of output.
    pub fn line(&mut self) -> String {
        assert!(self.has_spoken(LIMIT), "it says nothing");
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// True if the script writes output within a time.
    pub fn has_spoken(&self, within: Duration) -> bool {
        if !self.output.buffer().is_empty() {
            return true;
        }
        let mut polled = [PollFd::from_borrowed_fd(self.output.get_ref().as_fd(), PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::try_from(within).unwrap())).unwrap() > 0
    }

    /// Waits until the script's threads are blocked in exactly these calls.
    pub fn await_calls(&self, calls: &[i64]) {
        let mut wanted: Vec<_> = calls.iter().map(i64::to_string).collect();
        wanted.sort_unstable();
        until(&format!("calls {calls:?}"), || self.calls() == wanted);
    }

    fn calls(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()))
            .unwrap()
            .flatten();
        let call = |path: std::path::PathBuf| std::fs::read_to_string(path.join("syscall")).unwrap_or_default();
        let mut calls: Vec<_> = tasks
            .map(|task| call(task.path()).split_whitespace().next().unwrap_or("").to_owned())
            .collect();
        calls.sort_unstable();
        calls
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// The letter of the script's state (proc_pid_stat(5)).
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a condition is true. A socket, a lock or a pipe that a test has closed is free only
/// once no child has a copy: a child that a concurrent test is just starting has copies of all
/// descriptors until execve(2).
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::yield_now();
    }
}
