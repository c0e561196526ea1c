//! Terminating a sleeper: decided while it is held, so that nothing can come in between.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_wire::{CauseKind, Index, Plane, Report, WakeCause};
use nix::sys::signal::Signal;

use super::asleep::Asleep;
use super::connections::Connections;
use super::deadlines::{Call, Due};
use super::rhythm::{self, Waiter};
use super::succession::{NotEnded, Succession, prepare_end};
use super::{Phase, Sleep, named, runtimes};
use crate::host::Host;
use crate::identity::Identity;
use imsup_linux::socket::as_v4;
use imsup_linux::timers;
use imsup_linux::traffic::Connection;

/// How soon it is looked again whether there is a broker.
const WITHOUT_BROKER: Duration = Duration::from_secs(5);

/// What keeps a sleeper from being terminated.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// Nothing.
    None,
    /// Connections with these hosts of the project, and it is disposable.
    Hosts(BTreeSet<Index>),
    /// This, in plain words.
    Other(String),
}

impl Sleep {
    /// Ends the program of a sleeper that nobody is connected to and that waits for no time; of a disposable one that only
    /// other hosts are connected to, when they can be ended as well.
    pub(super) fn terminate_if_unused(&mut self, host: &mut Host, now: Instant) {
        let Phase::Asleep(asleep) = &mut self.phase else { return };
        if host.link.socket().is_none() {
            // Whoever connects to the successors must find somebody who boots the host.
            asleep.terminate_at = Some(now + WITHOUT_BROKER);
            return;
        }
        match self.used_by(host) {
            Use::None => {}
            Use::Hosts(peers) => {
                self.not_terminated(waits_for_hosts(&peers));
                let peers = peers.into_iter().collect();
                host.link.send(&ToBroker::Disposable { peers }, Vec::new());
                return;
            }
            Use::Other(why) => return self.not_terminated(why),
        }
        match prepare_end(host) {
            Ok(succession) => self.end(host, now, succession),
            Err(NotEnded::SomebodyCame(port)) => {
                let cause = WakeCause {
                    kind: CauseKind::Connection,
                    by: None,
                    port: Some(port),
                };
                self.wake(host, now, cause, false);
            }
            Err(NotEnded::Connecting) => {
                self.not_terminated(CONNECTING.to_owned());
                self.try_to_terminate_again();
            }
            Err(NotEnded::Socket(errno)) => {
                // Connections that have ended keep the address for a minute where the listener has no SO_REUSEADDR (socat's).
                if let Phase::Asleep(asleep) = &mut self.phase {
                    asleep.terminate_at = Some(now + WITHOUT_BROKER);
                }
                self.not_terminated(format!("its listeners cannot be succeeded: {}", errno.desc()));
            }
        }
    }

    fn end(&mut self, host: &mut Host, now: Instant, succession: Succession) {
        let Phase::Asleep(asleep) = &self.phase else { return };
        let slept = now.saturating_duration_since(asleep.since);
        let usage = self.usage();
        match succession.complete(host) {
            Ok(successors) => {
                host.link.send(&ToBroker::Terminating { slept, usage }, Vec::new());
                for successor in successors {
                    host.announce(successor.endpoint, successor.socket);
                }
                self.ending = true;
                self.terminated = Some(slept);
            }
            Err(errno) => self.not_terminated(format!("its listeners cannot be succeeded: {}", errno.desc())),
        }
    }

    /// Promises to be terminated together with others, which [`Sleep::fulfil`] does: until then it neither wakes nor ticks.
    pub(super) fn pledge(&mut self, host: &mut Host) -> Report {
        let Phase::Asleep(asleep) = &self.phase else {
            return Report::Failed("it is awake".to_owned());
        };
        if asleep.pledged.is_some() {
            return Report::Done;
        }
        if !asleep.set.ready().is_empty() {
            return Report::Failed("it is about to wake".to_owned());
        }
        if let Use::Other(why) = self.used_by(host) {
            return Report::Failed(why);
        }
        match (prepare_end(host), &mut self.phase) {
            (Ok(succession), Phase::Asleep(asleep)) => {
                asleep.pledged = Some(succession);
                Report::Done
            }
            (Err(NotEnded::SomebodyCame(port)), _) => Report::Failed(format!("somebody has come to port {port}")),
            (Err(NotEnded::Connecting), _) => Report::Failed(CONNECTING.to_owned()),
            (Err(NotEnded::Socket(errno)), _) => Report::Failed(errno.desc().to_owned()),
            (Ok(succession), _) => {
                succession.give_back(host);
                Report::Failed("it is awake".to_owned())
            }
        }
    }

    /// Ends the program of a sleeper that has promised it.
    pub(super) fn fulfil(&mut self, host: &mut Host) -> Report {
        let Phase::Asleep(asleep) = &mut self.phase else {
            return Report::Failed("it is awake".to_owned());
        };
        let Some(succession) = asleep.pledged.take() else {
            return Report::Failed("it has promised nothing".to_owned());
        };
        self.end(host, Instant::now(), succession);
        Report::Done
    }

    /// What kept it from being terminated may have changed, as far as the broker goes.
    pub(super) fn try_to_terminate_again(&mut self) {
        if let Phase::Asleep(asleep) = &mut self.phase
            && asleep.not_terminated.is_some()
        {
            asleep.terminate_at = Some(Instant::now() + WITHOUT_BROKER);
        }
    }

    /// Takes a promise back.
    pub(super) fn give_back_pledged(&mut self, host: &mut Host) {
        if let Phase::Asleep(asleep) = &mut self.phase
            && let Some(succession) = asleep.pledged.take()
        {
            succession.give_back(host);
        }
    }

    fn not_terminated(&mut self, why: String) {
        if let Phase::Asleep(asleep) = &mut self.phase {
            asleep.not_terminated = Some(why);
        }
    }

    /// What keeps a sleeper from being terminated, in plain words.
    pub(super) fn in_use(&mut self, host: &Host) -> Option<String> {
        match self.used_by(host) {
            Use::None => None,
            Use::Hosts(peers) => Some(waits_for_hosts(&peers)),
            Use::Other(why) => Some(why),
        }
    }

    fn used_by(&mut self, host: &Host) -> Use {
        let Phase::Asleep(asleep) = &self.phase else {
            return Use::None;
        };
        if self.is_awaited() || self.commands > 0 || self.lease_until.is_some_and(|until| until > Instant::now()) {
            return Use::Other("it is to be kept awake".to_owned());
        }
        let disposable = self.policy.as_ref().is_some_and(|policy| policy.disposable);
        if !disposable && let Some(why) = self.pending_timer(asleep, Instant::now()) {
            return Use::Other(why);
        }
        // It is held, so each of its sockets may be looked at, however many there are.
        // What is not known is not known to be unused.
        let connections = match self.connections.read_held(&asleep.pids, &self.tree.duplicates()) {
            Ok(connections) => connections,
            Err(error) => return Use::Other(format!("its connections cannot be read: {error}")),
        };
        match Connections::unix_elsewhere(&asleep.pids) {
            Ok(None) => {}
            Ok(Some(at)) => {
                let who = named(at.pid);
                return Use::Other(format!(
                    "a UNIX connection with a process outside is established (descriptor {} of {who})",
                    at.number
                ));
            }
            Err(error) => return Use::Other(format!("its UNIX connections cannot be read: {error}")),
        }
        match disposable {
            true => used_connections(&host.identity, &connections),
            false => connections
                .iter()
                .find(|connection| connection.established)
                .map_or(Use::None, |connection| Use::Other(words_of(connection))),
        }
    }

    /// A timer that a sleeper waits for, and that may be for work of its own.
    fn pending_timer(&self, asleep: &Asleep, now: Instant) -> Option<String> {
        let pending = |pid, call| Some(format!("a timer is pending ({}, {call})", named(pid)));
        for (tid, call) in self.interrupted.all() {
            let Due::From { .. } = call.due else { continue };
            let polls =
                call.due.is_polling(asleep.slack) && self.rhythms.is_polling(rhythm::waiter(tid, call), asleep.slack);
            if !polls && !self.is_housekeeping(tid, call, asleep, now) && !runtimes::is_own_affair(tid, call) {
                return pending(call.pid, call.wait.call);
            }
        }
        if let Some((pid, call, _)) = asleep.dues.iter().find(|(_, _, due)| *due == Due::Unknown) {
            return Some(format!("nobody knows how long {} waits in {call}", named(*pid)));
        }
        // All of them, also where they were too many to be looked at each time.
        for timer in asleep.pids.iter().flat_map(|pid| timers::timerfds(*pid)) {
            let waiter = Waiter::TimerFd {
                pid: timer.pid,
                number: timer.number,
            };
            let repeats = !timer.interval.is_zero();
            let polls = repeats && timer.expires_in.max(timer.interval) < asleep.slack;
            let known = self.rhythms.is_polling(waiter, asleep.slack)
                || self.rhythms.is_housekeeping(waiter, !repeats, asleep.since, now);
            if !polls && !known {
                return pending(timer.pid, "timerfd");
            }
        }
        (asleep.posix_timers && asleep.pids.iter().any(|pid| runtimes::has_posix_timers(*pid)))
            .then(|| "it has POSIX timers, whose times nobody can see".to_owned())
    }

    fn is_housekeeping(&self, tid: i32, call: &Call, asleep: &Asleep, now: Instant) -> bool {
        let waiter = rhythm::waiter(tid, call);
        let is_known = |hides| self.rhythms.is_housekeeping(waiter, hides, asleep.since, now);
        // A loop whose limit is a constant keeps no timers of others.
        let shows_all = !rhythm::is_loop(call) || self.rhythms.is_exact(waiter);
        is_known(true) || (shows_all && is_known(false) && !runtimes::has_executors(call))
    }

    /// How long the host had slept when it was terminated, if it was.
    pub fn terminated(&self) -> Option<Duration> {
        self.terminated
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

/// Who uses the connections of a disposable host: itself does not count, other hosts may be disposable too.
fn used_connections(identity: &Identity, connections: &[Connection]) -> Use {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let ends = |one: &Connection| (canonical(one.local), canonical(one.peer));
    let mut hosts = BTreeSet::new();
    for connection in connections.iter().filter(|connection| connection.established) {
        let (local, peer) = ends(connection);
        if connections.iter().any(|other| ends(other) == (peer, local)) {
            continue;
        }
        let place = as_v4(peer).and_then(|peer| identity.planes.place(*peer.ip()));
        match place.filter(|place| place.plane == Plane::Vip && place.index != identity.index) {
            Some(place) => hosts.insert(place.index),
            None => return Use::Other(words_of(connection)),
        };
    }
    if hosts.is_empty() { Use::None } else { Use::Hosts(hosts) }
}

fn words_of(connection: &Connection) -> String {
    format!(
        "a connection is established ({} with {})",
        connection.local, connection.peer
    )
}

fn waits_for_hosts(peers: &BTreeSet<Index>) -> String {
    let hosts = if peers.len() == 1 { "host" } else { "hosts" };
    format!(
        "it is connected with {} {hosts}, and is terminated together with them",
        peers.len()
    )
}

/// Why a host is not ended to which somebody is about to be connected, in plain words.
const CONNECTING: &str = "somebody is about to be connected, or that cannot be seen";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::identity;

    fn used(connections: &[(&str, &str)]) -> Use {
        let connections: Vec<Connection> = connections
            .iter()
            .map(|(local, peer)| Connection {
                local: local.parse().unwrap(),
                peer: peer.parse().unwrap(),
                established: true,
                bytes: 0,
                last_received: Duration::ZERO,
                last_heard: Duration::ZERO,
            })
            .collect();
        used_connections(&identity(), &connections)
    }

    #[test]
    fn connections_with_hosts_and_with_itself_are_told_from_others() {
        let hosts = |numbers: &[u16]| Use::Hosts(numbers.iter().filter_map(|number| Index::new(*number)).collect());
        assert_eq!(used(&[]), Use::None);
        let own = [("127.78.5.7:80", "127.0.0.1:4000"), ("127.0.0.1:4000", "127.78.5.7:80")];
        assert_eq!(used(&own), Use::None);
        assert!(matches!(used(&own[..1]), Use::Other(_)), "a client outside");
        let others = [
            ("127.77.5.7:80", "127.77.5.8:4000"),
            ("[::ffff:127.77.5.7]:4001", "[::ffff:127.77.6.9]:80"),
            ("127.77.5.7:80", "127.77.5.8:4002"),
        ];
        assert_eq!(used(&others), hosts(&[0x0508, 0x0609]));
        assert!(matches!(used(&[others[0], own[0]]), Use::Other(_)));
    }
}
