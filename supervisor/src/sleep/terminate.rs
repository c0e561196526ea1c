//! Terminating a sleeper: decided while it is held, so that nothing can come in between.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_wire::{CauseKind, Endpoint, ToBroker, WakeCause};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::deadlines::Due;
use super::{Phase, Sleep, named};
use crate::host::Host;
use crate::kernel::{socket, succession};
use crate::sockets::Successor;

/// How soon it is looked again whether there is a broker.
const WITHOUT_BROKER: Duration = Duration::from_secs(5);

impl Sleep {
    /// Ends the program of a sleeper that nobody is connected to and that waits for no time.
    pub(super) fn terminate_if_unused(&mut self, host: &mut Host, now: Instant) {
        let Phase::Asleep(asleep) = &mut self.phase else { return };
        if host.link.socket().is_none() {
            // Whoever connects to the successors must find somebody who boots the host.
            asleep.terminate_at = Some(now + WITHOUT_BROKER);
            return;
        }
        let used = self.in_use(host);
        let Phase::Asleep(asleep) = &self.phase else { return };
        if used.is_none() {
            let slept = now.saturating_duration_since(asleep.since);
            match self.begin_end(host) {
                Ok(successors) => {
                    let usage = self.usage();
                    host.link.send(&ToBroker::Terminating { slept, usage }, Vec::new());
                    for successor in successors {
                        host.announce(successor.endpoint, successor.socket);
                    }
                    self.ending = true;
                    return;
                }
                Err(NotEnded::SomebodyCame(port)) => {
                    let cause = WakeCause {
                        kind: CauseKind::Connection,
                        by: None,
                        port: Some(port),
                    };
                    return self.wake(host, now, cause, false);
                }
                Err(NotEnded::Socket(errno)) => {
                    let message = format!("its listeners cannot be succeeded: {}", errno.desc());
                    self.not_terminated(message);
                    return;
                }
            }
        }
        if let Some(why) = used {
            self.not_terminated(why);
        }
    }

    fn not_terminated(&mut self, why: String) {
        if let Phase::Asleep(asleep) = &mut self.phase {
            asleep.not_terminated = Some(why);
        }
    }

    /// What keeps a sleeper from being terminated, in plain words.
    pub(super) fn in_use(&self, host: &Host) -> Option<String> {
        let Phase::Asleep(asleep) = &self.phase else {
            return None;
        };
        if self.commands > 0 || self.lease_until.is_some_and(|until| until > Instant::now()) {
            return Some("it is to be kept awake".to_owned());
        }
        if let Some((pid, call, _)) = asleep.dues.iter().find(|(_, _, due)| !due.is_polling(asleep.slack)) {
            return Some(format!("a timer is pending ({}, {call})", named(*pid)));
        }
        if let Some((pid, call, _)) = asleep.dues.iter().find(|(_, _, due)| *due == Due::Unknown) {
            return Some(format!("nobody knows how long {} waits in {call}", named(*pid)));
        }
        if asleep.posix_timers {
            return Some("it has POSIX timers, whose times nobody can see".to_owned());
        }
        let Some(connections) = self.connections(host, &asleep.pids) else {
            return Some("its connections cannot be read".to_owned());
        };
        let established = connections.iter().find(|connection| connection.established)?;
        Some(format!(
            "a connection is established ({} with {})",
            established.local, established.peer
        ))
    }

    /// Puts other sockets in the place of those that the program listens on: a program that is told to end may still accept, and would reset
    /// whom it accepted.
    fn begin_end(&mut self, host: &mut Host) -> Result<Vec<Successor>, NotEnded> {
        let mut listeners: BTreeMap<Endpoint, Vec<OwnedFd>> = BTreeMap::new();
        for (endpoint, listener, _) in host.retained.listeners() {
            let copy = socket::duplicate(listener).map_err(NotEnded::Socket)?;
            listeners.entry(endpoint).or_default().push(copy);
        }
        let mut successors = Vec::new();
        for (endpoint, old) in listeners {
            let successor = match host.retained.take_successor(endpoint) {
                Some(kept) => succession::choose_last(kept.as_fd()).map(|()| kept),
                None => succession::succeed(old[0].as_fd(), i32::MAX).map(|successor| successor.socket),
            };
            match successor {
                Ok(socket) => successors.push((endpoint, old, socket)),
                Err(errno) => {
                    give_back(host, successors);
                    return Err(NotEnded::Socket(errno));
                }
            }
        }
        let waits =
            |listener: &OwnedFd| succession::accept_queue(listener.as_fd()).is_ok_and(|(waiting, _)| waiting > 0);
        let came = successors
            .iter()
            .find_map(|(endpoint, old, _)| old.iter().any(waits).then(|| endpoint.address.port()));
        if let Some(port) = came {
            give_back(host, successors);
            return Err(NotEnded::SomebodyCame(port));
        }
        successors
            .into_iter()
            .map(|(endpoint, _, socket)| {
                let copy = socket::duplicate(&socket).map_err(NotEnded::Socket)?;
                let inode = socket::inode(socket.as_fd()).map_err(NotEnded::Socket)?;
                host.retained.succeed(endpoint, socket, inode);
                Ok(Successor { endpoint, socket: copy })
            })
            .collect()
    }

    /// Whether the loop is to end the program now; says how, once.
    pub fn take_ending(&mut self) -> Option<(Signal, Duration)> {
        if !std::mem::take(&mut self.ending) {
            return None;
        }
        let policy = self.policy.as_ref()?;
        let signal = Signal::try_from(policy.stop_signal).unwrap_or(Signal::SIGTERM);
        Some((signal, policy.stop_grace))
    }
}

enum NotEnded {
    /// A connection has come to this port.
    SomebodyCame(u16),
    /// A socket could not be made.
    Socket(Errno),
}

/// The listeners are chosen again. Who was let in by a successor meanwhile waits in it until the program is next idle, and is then served by
/// the next boot.
fn give_back(host: &mut Host, successors: Vec<(Endpoint, Vec<OwnedFd>, OwnedFd)>) {
    for (endpoint, old, socket) in successors {
        let _ = succession::give_back(old[0].as_fd());
        match succession::accept_queue(socket.as_fd()) {
            Ok((0, _)) => {
                drop(socket);
                let _ = succession::detach(old[0].as_fd());
            }
            _ => host.retained.keep_successor(endpoint, socket),
        }
    }
}
