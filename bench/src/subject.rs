//! A guest of this crate as a process, native or supervised, that takes a batch on demand.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::context::Context as Suite;
use crate::interrupt;
use crate::rounds::Series;

/// Longer than any batch.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running guest.
#[derive(Debug)]
pub struct Subject {
    child: Child,
    commands: Option<ChildStdin>,
    answers: ChildStdout,
    unread: Vec<u8>,
}

/// The guest `arguments` run natively.
pub fn native(suite: &Suite, arguments: &[&str]) -> Result<Subject> {
    let mut command = Command::new(&suite.this);
    command.arg("guest").args(arguments);
    Subject::start(command)
}

/// The guest `arguments` run by `imsup run --`, as `command` begins.
pub fn supervised(suite: &Suite, mut command: Command, arguments: &[&str]) -> Result<Subject> {
    command.arg(&suite.this).arg("guest").args(arguments);
    Subject::start(command)
}

impl Subject {
    /// A guest, started by this command.
    ///
    /// # Errors
    /// The container does not start.
    pub fn start(mut command: Command) -> Result<Self> {
        let name = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a child without pipes");
        };
        let mut subject = Self {
            child,
            commands: Some(commands),
            answers,
            unread: Vec::new(),
        };
        let ready = subject.line().with_context(|| format!("starting {name}"))?;
        if ready != "ready" {
            bail!("{name} said '{ready}'");
        }
        Ok(subject)
    }

    /// The guest's process; for a supervised guest, the supervisor's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes a batch of `count` samples of each of the guest's series.
    ///
    /// # Errors
    /// The guest failed, or a signal came.
    pub fn batch(&mut self, count: usize) -> Result<Vec<Series>> {
        let commands = self.commands.as_mut().context("it was told to end")?;
        writeln!(commands, "{count}").context("telling a guest what to do")?;
        let mut series = Vec::new();
        loop {
            let line = self.line()?;
            if line == "end" {
                return Ok(series);
            }
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default().to_owned();
            let samples: Result<Vec<u64>, _> = words.map(str::parse).collect();
            series.push((name, samples.with_context(|| format!("a guest said '{line}'"))?));
        }
    }

    fn line(&mut self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !interrupt::readable(&self.answers, deadline.saturating_duration_since(Instant::now()))? {
                bail!("a guest said nothing for {} s", PATIENCE.as_secs());
            }
            let mut piece = [0; 65536];
            match self.answers.read(&mut piece).context("reading what a guest says")? {
                0 => bail!("a guest ended before it was done"),
                count => self.unread.extend_from_slice(&piece[..count]),
            }
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // The end of the input tells the guest to end. A guest that does not end is killed; under
        // imsup its program dies with it.
        self.commands = None;
        let ended = rustix::process::pidfd_open(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::PidfdFlags::empty(),
        )
        .is_ok_and(|pidfd| interrupt::readable_regardless(&pidfd, Duration::from_secs(2)));
        if !ended {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
