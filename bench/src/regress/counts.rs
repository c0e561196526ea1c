//! Measures that noise cannot touch: the number of system calls that imsup makes for given work,
//! and the instructions to read a file.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{SIDES, Side};
use crate::command;
use crate::compose::{self, Service};
use crate::context::Context;
use crate::interrupt;
use crate::project::Project;
use crate::report::{Question, Section};
use crate::rounds::{Batches, Series, Turn};
use crate::stats::Unit;
use crate::subject;
use crate::suites::sleep::BY_COMMAND;
use crate::suites::sleep::server::{Client, Connection, echo};
use crate::suites::{PEER, peer};

/// strace attaches in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(1);
/// Services of the file that is read.
const SERVICES: usize = 200;
const HOW_TO_GET: &str = "is not installed: 'scripts/setup.sh regress' installs it";

/// All counts.
pub fn all(context: &Context, sides: &[Side<'_>], section: &mut Section) -> Result<Vec<Question>> {
    let mut all = Vec::new();
    let unit = Unit::CALLS;
    match command::find("strace") {
        Some(strace) => {
            let mut batches = Batches::default();
            let mut turns = Vec::new();
            for side in sides {
                let strace = &strace;
                turns.push(Turn::new(side.name, move || {
                    Ok(vec![
                        ("connects".to_owned(), vec![connects(context, side, strace)?]),
                        ("wakes".to_owned(), vec![wakes(context, side, strace)?]),
                        ("boots".to_owned(), vec![boots(context, side, strace)?]),
                    ])
                }));
            }
            batches.interleave(&mut turns, 0, context.count(7, 5))?;
            for (series, what) in [
                ("connects", "system calls: of a supervisor, 600 connects of six kinds"),
                (
                    "wakes",
                    "system calls: of supervisor and broker, 10 suspensions and wakes",
                ),
                ("boots", "system calls: of the broker, 3 boots"),
            ] {
                all.push(Question::of(&batches, &SIDES, series, what, unit)?);
            }
        }
        None => section.gap("system calls", format!("strace {HOW_TO_GET}")),
    }
    match command::find("valgrind") {
        Some(valgrind) => {
            let mut batches = Batches::default();
            for side in sides {
                batches.add(side.name, instructions(side, &valgrind)?);
            }
            let what = format!("instructions of 'imsup config', {SERVICES} services");
            all.push(Question::of(
                &batches,
                &SIDES,
                "instructions",
                what,
                Unit::INSTRUCTIONS,
            )?);
        }
        None => section.gap("instructions", format!("valgrind {HOW_TO_GET}")),
    }
    Ok(all)
}

fn connects(context: &Context, side: &Side<'_>, strace: &Path) -> Result<u64> {
    let project = Project::up(side.sandbox, &[peer(context, &[])])?;
    project.wake(PEER)?;
    let at = project.address(PEER)?.to_string();
    let mut caller = subject::supervised(context, project.supervised(None), &["connect", &at])?;
    caller.batch(10)?;
    let counted = Strace::attach(side, strace, &[caller.pid()])?;
    caller.batch(100)?;
    counted.end()
}

fn wakes(context: &Context, side: &Side<'_>, strace: &Path) -> Result<u64> {
    let server = echo(context);
    let project = Project::up(side.sandbox, &[server.service(BY_COMMAND)])?;
    project.wake(server.name)?;
    let mut client = Client::new(&server, project.address(server.name)?, Connection::Held)?;
    let of = [project.broker()?, project.supervisor(server.name)?];
    let counted = Strace::attach(side, strace, &of)?;
    for _ in 0..10 {
        project.suspend(&[server.name])?;
        client.reply(Instant::now())?;
    }
    counted.end()
}

fn boots(context: &Context, side: &Side<'_>, strace: &Path) -> Result<u64> {
    let server = echo(context);
    let project = Project::up(side.sandbox, &[server.service(BY_COMMAND)])?;
    let boot = || project.wake(server.name).and_then(|()| project.stop(server.name));
    // The zygote is started after `up`, and would be counted with all its children if it came later
    // than strace.
    boot()?;
    let counted = Strace::attach(side, strace, &[project.broker()?])?;
    for _ in 0..3 {
        boot()?;
    }
    counted.end()
}

/// strace(1) that counts.
struct Strace {
    child: Child,
    file: std::path::PathBuf,
}

impl Strace {
    /// Counts the calls of these processes, and of their later children.
    fn attach(side: &Side<'_>, strace: &Path, processes: &[u32]) -> Result<Self> {
        let file = side.sandbox.directory().join("strace");
        let mut command = Command::new(strace);
        command.args(["-f", "-c", "-o"]).arg(&file);
        for pid in processes {
            command.args(["-p", &pid.to_string()]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting strace")?;
        let mut counting = Self { child, file };
        let deadline = Instant::now() + TIMEOUT;
        while !processes.iter().all(|pid| is_traced(*pid)) {
            if let Some(status) = counting.child.try_wait()? {
                bail!(
                    "strace ended with {status}: may this user trace its own processes (/proc/sys/kernel/yama/ptrace_scope)?"
                );
            }
            anyhow::ensure!(Instant::now() < deadline, "strace does not attach");
            interrupt::pause(LOOK)?;
        }
        Ok(counting)
    }

    /// How many there were.
    fn end(mut self) -> Result<u64> {
        kill_process(Pid::from_child(&self.child), Signal::INT).context("ending strace")?;
        command::wait(&mut self.child)?;
        let text = fs::read_to_string(&self.file).context("reading what strace counted")?;
        total(&text)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether all threads are: proc_pid_status(5), `TracerPid`.
fn is_traced(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut traced = threads.map(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    });
    traced.all(|traced| traced)
}

/// The calls of the last line of `strace -c`.
fn total(text: &str) -> Result<u64> {
    let line = text.lines().find(|line| line.trim_end().ends_with(" total"));
    let calls = line.and_then(|line| line.split_whitespace().nth(3));
    let calls = calls.and_then(|word| word.parse().ok());
    calls.with_context(|| format!("strace counts no total: {text}"))
}

/// Of reading and checking a file, by callgrind.
fn instructions(side: &Side<'_>, valgrind: &Path) -> Result<Vec<Series>> {
    let services: Vec<_> = (1..=SERVICES)
        .map(|number| Service::new(format!("host-{number}"), ["false"], [7000]))
        .collect();
    let directory = side.sandbox.directory();
    let file = directory.join("config.yaml");
    command::write_file(&file, &compose::file(&services))?;
    let imsup = side.sandbox.command();
    let mut command = Command::new(valgrind);
    command
        .arg("--tool=callgrind")
        .arg(format!(
            "--callgrind-out-file={}",
            directory.join("callgrind").display()
        ))
        .arg(imsup.get_program())
        .args(["config", "--quiet", "-f"])
        .arg(&file);
    for (name, value) in imsup.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let text = command::said(&mut command)?;
    Ok(vec![("instructions".to_owned(), vec![collected(&text)?])])
}

/// callgrind's output at its end.
fn collected(text: &str) -> Result<u64> {
    let count = text
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.with_context(|| format!("callgrind counts nothing: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strace_and_callgrind_count_is_read() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n \
                    60.00    0.000012           1        10           read\n------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.000020           1        17         2 total\n";
        assert_eq!(total(text).unwrap(), 17);
        assert!(total("").is_err());
        assert_eq!(
            collected("==1== Events    : Ir\n==1== Collected : 21443\n").unwrap(),
            21_443
        );
        assert!(collected("").is_err());
    }
}
