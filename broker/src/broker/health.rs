//! Checks of hosts' health (`healthcheck`): a process beside the program, as `imsup exec` makes one,
//! from a boot until the first success. A sleeping host is not checked, so that no check wakes it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use imsup_wire::{EventKind, Health as Verdict, HostState};
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group, pidfd_send_signal};
use slotmap::SecondaryMap;

use super::Broker;
use super::timers::Timer;
use crate::health::Health;
use crate::hosts::Instance;
use crate::ids::HostId;
use crate::journal::Happening;
use crate::tokens::Source;

/// How much of a check's output is kept, in bytes.
const MAX_OUTPUT: usize = 512;

/// The hosts whose health is known or looked for, and the checks that run.
#[derive(Debug, Default)]
pub(super) struct Checks {
    hosts: SecondaryMap<HostId, Checked>,
    /// The hosts of the checks that run, by the number of the check.
    running: HashMap<u32, HostId>,
    last: u32,
}

#[derive(Debug)]
struct Checked {
    health: Health,
    /// When the next check is due, or when the check that runs has had its time.
    due: Option<Instant>,
    check: Option<Check>,
}

/// A check that runs.
#[derive(Debug)]
struct Check {
    number: u32,
    pid: Pid,
    process: OwnedFd,
    /// Brings the status, in one byte.
    result: UnixStream,
    output: File,
    heard: Vec<u8>,
}

impl Checks {
    /// What the checks of a host say; `None` if it does not run, or has none.
    pub(super) fn verdict(&self, host: HostId) -> Option<Verdict> {
        self.hosts.get(host).map(|checked| checked.health.verdict())
    }

    /// What the last failed check of a host said.
    pub(super) fn last_failure(&self, host: HostId) -> Option<&str> {
        self.hosts.get(host)?.health.last_failure()
    }
}

impl Check {
    /// Reads what the check prints, so that it never waits for a reader, and keeps the beginning.
    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.output.read(&mut buffer) {
            let room = MAX_OUTPUT.saturating_sub(self.heard.len());
            self.heard.extend_from_slice(&buffer[..count.min(room)]);
        }
    }

    /// The status, once the check is over; `None` within for a check that was killed.
    fn outcome(&mut self) -> Option<Option<u8>> {
        let mut status = [0];
        match self.result.read(&mut status) {
            Ok(0) => Some(None),
            Ok(_) => Some(Some(status[0])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(None),
        }
    }

    /// Ends the check, with the processes that it has started.
    fn kill(&self) {
        // A child that has not been waited for keeps its number, and this thread alone waits for it.
        if pidfd_send_signal(&self.process, Signal::KILL).is_ok() {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    fn deregister(&self, registry: &Registry) {
        for descriptor in [self.result.as_raw_fd(), self.output.as_raw_fd()] {
            let _ = registry.deregister(&mut SourceFd(&descriptor));
        }
    }

    /// A sentence for people: what a check with this status said.
    fn failure(&self, status: Option<u8>) -> String {
        let said = String::from_utf8_lossy(&self.heard);
        let said = said.lines().find(|line| !line.trim().is_empty()).map(str::trim);
        let status = status.map_or("the check took too long".to_owned(), |status| {
            format!("the check exited with status {status}")
        });
        match said {
            Some(said) => format!("{status}: {said}"),
            None => status,
        }
    }
}

impl Broker {
    /// Begins, goes on with or ends the checks of a host, of which something has changed.
    pub(super) fn follow_health(&mut self, id: HostId) {
        let host = &self.hosts[id];
        let has_program = host.instance().and_then(Instance::program).is_some();
        let state = host.life().state();
        if host.life().absent() {
            return self.end_checks(id);
        }
        let check = host.spec(&self.cluster).and_then(|spec| spec.health.as_ref());
        let Some(check) = check.filter(|check| has_program && check.command().is_some()) else {
            return;
        };
        if state == HostState::Suspended {
            return;
        }
        let now = Instant::now();
        if !self.checks.hosts.contains_key(id) {
            let health = Health::new(check, now);
            let (due, check) = (None, None);
            self.checks.hosts.insert(id, Checked { health, due, check });
        }
        self.schedule_check(id, now);
    }

    fn schedule_check(&mut self, id: HostId, now: Instant) {
        let Some(checked) = self.checks.hosts.get_mut(id) else {
            return;
        };
        if checked.check.is_some() || checked.due.is_some() {
            return;
        }
        if let Some(wait) = checked.health.next_in(now) {
            checked.due = Some(now + wait);
            self.timers.at(now + wait, Timer::Check(id));
        }
    }

    /// A check is due, or has had its time.
    pub(super) fn check_is_due(&mut self, id: HostId, due: Instant) {
        let Some(checked) = self.checks.hosts.get_mut(id) else {
            return;
        };
        if checked.due.take_if(|set| *set == due).is_none() {
            return;
        }
        if let Some(check) = &checked.check {
            // The end of its connection is heard next.
            return check.kill();
        }
        // Whoever wakes it goes on with the checks.
        if self.hosts[id].life().state() == HostState::Suspended || self.lifetime.is_going_down() {
            return;
        }
        if let Err(error) = self.start_check(id) {
            self.check_failed(id, format!("the check could not be started: {error}"));
        }
    }

    fn start_check(&mut self, id: HostId) -> io::Result<()> {
        let Some(spec) = self.hosts[id].spec(&self.cluster) else {
            return Ok(());
        };
        let command = spec
            .health
            .as_ref()
            .and_then(|check| check.command())
            .unwrap_or_default();
        let mut arguments: Vec<OsString> = vec!["check".into(), "--project".into()];
        arguments.extend([&*self.cluster.project, spec.name.as_str(), "--"].map(OsString::from));
        arguments.extend(command.into_iter().map(OsString::from));
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (output, printed) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let (pid, process) = self.launcher.start_helper(&arguments, theirs.into(), Some(printed))?;
        self.checks.last = self.checks.last.wrapping_add(1);
        let number = self.checks.last;
        for descriptor in [ours.as_raw_fd(), output.as_raw_fd()] {
            let token = Source::Check(number).into();
            self.registry
                .register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        }
        let Some(checked) = self.checks.hosts.get_mut(id) else {
            return Ok(());
        };
        let due = Instant::now() + checked.health.timeout();
        checked.check = Some(Check {
            number,
            pid,
            process,
            result: ours,
            output: output.into(),
            heard: Vec::new(),
        });
        checked.due = Some(due);
        self.checks.running.insert(number, id);
        self.timers.at(due, Timer::Check(id));
        Ok(())
    }

    /// A check has printed something, or is over.
    pub(super) fn check_spoke(&mut self, number: u32) {
        let Some(id) = self.checks.running.get(&number).copied() else {
            return;
        };
        let Some(checked) = self.checks.hosts.get_mut(id) else {
            return;
        };
        let Some(mut check) = checked.check.take_if(|check| check.number == number) else {
            return;
        };
        check.drain();
        let Some(status) = check.outcome() else {
            checked.check = Some(check);
            return;
        };
        checked.due = None;
        self.checks.running.remove(&number);
        check.deregister(&self.registry);
        match status {
            Some(0) => self.check_succeeded(id),
            status => self.check_failed(id, check.failure(status)),
        }
    }

    fn check_succeeded(&mut self, id: HostId) {
        let Some(checked) = self.checks.hosts.get_mut(id) else {
            return;
        };
        if checked.health.succeeded() {
            let age = checked.health.age(Instant::now());
            self.record(
                id,
                Happening {
                    duration: Some(age),
                    ..Happening::now(EventKind::Healthy)
                },
            );
        }
        self.prerequisite_changed(id);
    }

    fn check_failed(&mut self, id: HostId, why: String) {
        let now = Instant::now();
        let Some(checked) = self.checks.hosts.get_mut(id) else {
            return;
        };
        if checked.health.failed(why.clone(), now) {
            self.record(
                id,
                Happening {
                    detail: Some(why),
                    ..Happening::now(EventKind::Unhealthy)
                },
            );
        }
        self.schedule_check(id, now);
        self.prerequisite_changed(id);
    }

    /// A host has ended: what its checks said is over with it.
    fn end_checks(&mut self, id: HostId) {
        let Some(checked) = self.checks.hosts.remove(id) else {
            return;
        };
        if let Some(check) = checked.check {
            self.checks.running.remove(&check.number);
            check.deregister(&self.registry);
            check.kill();
        }
    }
}
