//! Faults done to a project while clients ask: one after the other, from a seed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::clients::Shared;
use super::common::command::wait_exit;
use super::common::random::Random;
use super::common::{Host, LIMIT, Project, leaks, parent, wait_until};
use super::disk::Disk;
use super::ledger::now;
use super::pace::Pace;
use super::verdict::Loss;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillProgram,
    KillSupervisor,
    KillZygote,
    KillBroker,
    KillKeeper,
    PauseProgram,
    PauseSupervisor,
    PauseZygote,
    PauseBroker,
    PauseKeeper,
    Suspend,
    Resume,
    Stop,
    StopAll,
    Restart,
    RestartAll,
    FillDisk,
    RemoveRuntime,
}

use Fault::*;

/// Each as often as listed. The clock is not set: CLOCK_REALTIME is the machine's, and no namespace
/// has its own (time_namespaces(7)).
const FAULTS: [Fault; 24] = [
    KillProgram,
    KillProgram,
    KillProgram,
    KillSupervisor,
    KillSupervisor,
    KillSupervisor,
    KillZygote,
    KillBroker,
    KillBroker,
    KillKeeper,
    PauseProgram,
    PauseSupervisor,
    PauseZygote,
    PauseBroker,
    PauseKeeper,
    Suspend,
    Resume,
    Stop,
    Stop,
    StopAll,
    Restart,
    RestartAll,
    FillDisk,
    RemoveRuntime,
];

/// The faults to choose from.
fn kinds() -> Vec<Fault> {
    let only = std::env::var("IMSUP_CHAOS_ONLY").ok();
    let is_chosen = |fault: &Fault| {
        only.as_ref()
            .is_none_or(|only| only.split(',').any(|name| name == format!("{fault:?}")))
    };
    let kinds: Vec<Fault> = FAULTS.into_iter().filter(is_chosen).collect();
    assert!(!kinds.is_empty(), "IMSUP_CHAOS_ONLY: {only:?} are no names of faults");
    kinds
}

/// Requests answered while a process is stopped.
const REQUESTS_MEANWHILE: u64 = 10;

/// The source of faults.
pub struct Chaos<'a> {
    pub project: &'a Project,
    pub shared: &'a Shared,
    pub disk: &'a Disk,
    /// The hosts that are harmed.
    pub hosts: &'a [&'static str],
    /// All hosts of the compose file.
    pub all: &'a [&'static str],
    /// Hosts that are ended when unused.
    pub terminated: &'a [&'static str],
    /// Clients whose host is not harmed by processes that stop for a while.
    pub steady: Vec<usize>,
    /// The number of sockets in the keeper while no program runs.
    pub kept: usize,
    pub random: Random,
    pub pace: Pace,
    pub losses: Mutex<Vec<Loss>>,
    /// The count of each fault, and how often there was no target.
    pub counts: BTreeMap<Fault, [u64; 2]>,
}

impl Chaos<'_> {
    /// Does this many faults. After most of them every client is waited for: it must be answered,
    /// or fail, and once more.
    pub fn go(&mut self, faults: u64) -> Result<(), String> {
        let kinds = kinds();
        for number in 0..faults {
            let fault = self.draw(&kinds, number);
            let host = self.hosts[self.random.below(self.hosts.len() as u64) as usize];
            let Some(fault) = fault else { continue };
            let begin = now();
            let was_done = self
                .apply(fault, host)
                .map_err(|error| format!("fault {number}, {fault:?} of {host}: {error}"))?;
            self.counts.entry(fault).or_default()[usize::from(!was_done)] += 1;
            let done = now();
            let progress = match self.random.one_in(3) {
                true => Ok(0),
                false => self.shared.await_progress(&[], 2),
            };
            let millis = |from, to| (to - from) / 1_000_000;
            eprintln!(
                "{number}: {fault:?} {host} {was_done}: {} ms, and {} ms until all went on, client {} last",
                millis(begin, done),
                millis(done, now()),
                progress.clone().unwrap_or_default()
            );
            progress.map_err(|error| format!("after fault {number}, {fault:?} of {host}: {error}"))?;
        }
        self.shared.await_progress(&[], 2).map(|_| ())
    }

    /// Chooses a fault: another one if imsup's own processes would be killed too often, or none if
    /// only those are requested. Draws the same random numbers in any case, so that a seed repeats
    /// the rest of a run.
    fn draw(&mut self, kinds: &[Fault], number: u64) -> Option<Fault> {
        let fault = kinds[self.random.below(kinds.len() as u64) as usize];
        let others: Vec<Fault> = kinds.iter().filter(|fault| !is_paced(**fault)).copied().collect();
        let other = self.random.below(others.len().max(1) as u64);
        if !is_paced(fault) {
            return Some(fault);
        }
        if self.pace.allows(number, Instant::now()) {
            self.pace.count(number, Instant::now());
            return Some(fault);
        }
        others.get(other as usize).copied()
    }

    /// Does a fault; false without a target.
    fn apply(&mut self, fault: Fault, host: &'static str) -> Result<bool, String> {
        match fault {
            KillProgram => self.kill(fault, &[host], |chaos| chaos.program(host)),
            KillSupervisor => self.kill(fault, &[host], |chaos| chaos.supervisor(host)),
            KillZygote => self.kill(fault, &[], Self::zygote),
            KillBroker => self.kill_broker(),
            KillKeeper => self.kill_keeper(),
            PauseProgram => self.pause(|chaos| chaos.program(host)),
            PauseSupervisor => self.pause(|chaos| chaos.supervisor(host)),
            PauseZygote => self.pause(Self::zygote),
            PauseBroker => self.pause(|chaos| Some(chaos.project.broker())),
            PauseKeeper => self.pause(|chaos| Some(chaos.project.keeper())),
            // A host that does not run, or does not become quiet, is no target.
            Suspend => Ok(self.project.imsup(&["suspend", host]).success()),
            Resume => Ok(self.project.imsup(&["resume", host]).success()),
            Stop => self.end(&["stop", host], &[host]),
            Restart => self.end(&["restart", host], &[host]),
            StopAll => self.end(&[&["stop"], self.all].concat(), self.all),
            RestartAll => self.end(&[&["restart"], self.all].concat(), self.all),
            FillDisk => self.fill_disk(),
            RemoveRuntime => self.remove_runtime(),
        }
    }

    /// Kills a process, and reports the time in which its hosts' programs ended by that.
    fn kill(&self, fault: Fault, hosts: &[&'static str], find: impl Fn(&Self) -> Option<u32>) -> Result<bool, String> {
        let Some(pid) = find(self) else { return Ok(false) };
        let program = hosts.first().and_then(|host| self.program(host));
        let begin = now();
        if !self.send(pid, Signal::KILL) {
            return Ok(false);
        }
        if !wait_exit(pid, LIMIT) || program.is_some_and(|program| !wait_exit(program, LIMIT)) {
            return Err(format!("{pid} or its program {program:?} is still there"));
        }
        self.lose(format!("{fault:?} {hosts:?} {pid}"), hosts, false, begin);
        Ok(true)
    }

    /// Kills the broker, and waits for the next, which the keeper starts.
    fn kill_broker(&self) -> Result<bool, String> {
        let pid = self.project.broker();
        let begin = now();
        if !self.send(pid, Signal::KILL) || !wait_exit(pid, LIMIT) {
            return Err(format!("the broker {pid} cannot be killed"));
        }
        let answered = self.project.imsup(&["ps"]);
        self.lose(format!("the broker {pid}"), &[], true, begin);
        match answered.success() {
            true => Ok(true),
            false => Err(format!("imsup ps after the broker was killed: {answered}")),
        }
    }

    /// Kills the keeper, and waits until the next keeper has everything: no loss.
    fn kill_keeper(&self) -> Result<bool, String> {
        let pid = self.project.keeper();
        if !self.send(pid, Signal::KILL) || !wait_exit(pid, LIMIT) {
            return Err(format!("the keeper {pid} cannot be killed"));
        }
        wait_until("the next keeper to have everything", || {
            has_lock(self.project) && sockets_of(self.project.keeper()) >= self.kept
        });
        Ok(true)
    }

    /// Stops a process for some requests, and continues it.
    fn pause(&self, find: impl Fn(&Self) -> Option<u32>) -> Result<bool, String> {
        // An order may just have ended all hosts: they need the broker, and perhaps the zygote, to
        // boot.
        self.shared.await_progress(&self.steady, 1)?;
        let Some(pid) = find(self) else { return Ok(false) };
        if !self.send(pid, Signal::STOP) {
            return Ok(false);
        }
        let progress = self.shared.await_progress(&self.steady, REQUESTS_MEANWHILE);
        self.send(pid, Signal::CONT);
        progress.map(|_| true)
    }

    /// Has an order end hosts.
    fn end(&self, order: &[&str], hosts: &[&'static str]) -> Result<bool, String> {
        // A host whose supervisor was killed before is shown as running until all its leftovers are
        // ended.
        let is_there = |host: &Host| host.pid.is_some_and(|pid| !wait_exit(pid, Duration::ZERO));
        let mut ready = self.project.ps();
        ready.retain(|_, host| ["running", "suspended"].contains(&host.state.as_str()) && is_there(host));
        let begin = now();
        let finished = self.project.imsup(order);
        self.lose(order.join(" "), hosts, false, begin);
        if order[0] == "stop" {
            // A ready host was ended while it ran, unless it was terminated just before, and booted
            // again.
            let runs = |host: &&&str| ready.contains_key(**host) && !self.terminated.contains(*host);
            let mut losses = self.losses.lock().unwrap();
            let booting = hosts.iter().filter(|host| !runs(host)).copied().collect();
            losses.last_mut().unwrap().booting = booting;
        }
        match finished.success() {
            true => Ok(true),
            false => Err(format!("imsup {}: {finished}", order.join(" "))),
        }
    }

    fn fill_disk(&self) -> Result<bool, String> {
        self.disk.fill();
        let progress = self.shared.await_progress(&[], 3);
        self.disk.free();
        progress.map(|_| true)
    }

    /// A cleaner of /tmp comes by, or a logout: the directory is made anew.
    fn remove_runtime(&self) -> Result<bool, String> {
        match std::fs::remove_dir_all(self.project.runtime()) {
            // Some are made anew already.
            Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => return Err(error.to_string()),
            _ => {}
        }
        wait_until("the runtime directory to be made anew", || {
            has_lock(self.project) && self.project.imsup(&["ps"]).success()
        });
        Ok(true)
    }

    fn lose(&self, what: String, hosts: &[&'static str], broker: bool, begin: u64) {
        self.losses.lock().unwrap().push(Loss {
            what,
            hosts: hosts.to_vec(),
            broker,
            booting: Vec::new(),
            begin,
            end: now(),
        });
    }

    fn program(&self, host: &str) -> Option<u32> {
        self.project.host(host).pid
    }

    fn supervisor(&self, host: &str) -> Option<u32> {
        parent(self.program(host)?)
    }

    /// Supervisors made by the zygote have its command line, but not the socket to the broker as
    /// standard input.
    fn zygote(&self) -> Option<u32> {
        let is_zygote = |process: &leaks::Process| {
            let input = std::fs::read_link(format!("/proc/{}/fd/0", process.pid));
            process.command.contains(" zygote ")
                && input.is_ok_and(|input| input.to_string_lossy().starts_with("socket:"))
        };
        self.project
            .processes()
            .into_iter()
            .find(is_zygote)
            .map(|process| process.pid)
    }

    /// Sends a signal to a process of the project. False if the process has ended.
    fn send(&self, pid: u32, signal: Signal) -> bool {
        let Ok(pidfd) = rustix::process::pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty())
        else {
            return false;
        };
        let is_ours = self.project.processes().iter().any(|process| process.pid == pid);
        is_ours && rustix::process::pidfd_send_signal(&pidfd, signal).is_ok()
    }
}

/// Faults that imsup gives up on if repeated too often.
fn is_paced(fault: Fault) -> bool {
    matches!(fault, KillBroker | KillKeeper)
}

/// True if the live keeper has the lock by which clients know of it.
fn has_lock(project: &Project) -> bool {
    let holder = std::fs::read_to_string(project.runtime().join("keeper.lock")).unwrap_or_default();
    let holder: u32 = holder.trim().parse().unwrap_or_default();
    project.processes().iter().any(|process| process.pid == holder)
}

/// The sockets that a process has.
pub fn sockets_of(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let names = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    names
        .filter(|name| name.to_string_lossy().starts_with("socket:"))
        .count()
}

/// The address of a host's published port.
#[track_caller]
pub fn published(project: &Project, host: &str) -> std::net::SocketAddr {
    let host = project.host(host);
    let machine = host.json["published"][0]["machine"].as_str();
    machine
        .unwrap_or_else(|| panic!("{} is not published", host.json))
        .parse()
        .unwrap()
}
