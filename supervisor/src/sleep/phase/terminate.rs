//! Termination of a sleeping host: decided while the host is held, so that no event can come in
//! between.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_wire::{CauseKind, Index, Plane, WakeCause};

use super::takeover::{NotEnded, Takeover, prepare_end};
use super::{Asleep, Phase, Prepared};
use crate::host::Host;
use crate::identity::Identity;
use crate::sleep::connections::Connections;
use crate::sleep::deadlines::{Call, Due};
use crate::sleep::rhythm::{self, Waiter};
use crate::sleep::{Sleeper, named, runtimes, unnamed};
use imsup_linux::socket::as_v4;
use imsup_linux::timers;
use imsup_linux::traffic::Connection;

/// The delay of the next check for a broker.
const WITHOUT_BROKER: Duration = Duration::from_secs(5);

/// The obstacle to the termination of a sleeping host.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// Nothing.
    None,
    /// Connections with these hosts of the project; the host is disposable.
    Hosts(BTreeSet<Index>),
    /// This, in plain words.
    Other(String),
}

impl Asleep {
    /// Ends the program of a sleeping host that has no connections and waits for no time. A
    /// disposable host may have connections with other hosts, and is ended if these hosts can be
    /// ended as well.
    pub(super) fn terminate_if_unused(
        mut self: Box<Self>,
        sleeper: &mut Sleeper,
        host: &mut Host,
        now: Instant,
    ) -> Phase {
        if host.link.socket().is_none() {
            // A client that connects to a successor needs a broker that boots the host.
            self.slept.terminate_at = Some(now + WITHOUT_BROKER);
            return Phase::Asleep(self);
        }
        match self.used_by(sleeper, host) {
            Use::None => {}
            Use::Hosts(peers) => {
                self.not_terminated(waits_for_hosts(&peers));
                let peers = peers.into_iter().collect();
                host.link.send(&ToBroker::Disposable { peers }, Vec::new());
                return Phase::Asleep(self);
            }
            Use::Other(why) => {
                self.not_terminated(why);
                return Phase::Asleep(self);
            }
        }
        match prepare_end(host) {
            Ok(takeover) => self.end(sleeper, host, now, takeover),
            Err(NotEnded::SomebodyCame(port)) => {
                let cause = WakeCause {
                    port: Some(port),
                    ..unnamed(CauseKind::Connection)
                };
                return Phase::Awake(self.wake(sleeper, host, now, cause, false));
            }
            Err(NotEnded::Connecting) => {
                self.not_terminated(CONNECTING.to_owned());
                self.try_to_terminate_again();
            }
            Err(NotEnded::Socket(errno)) => {
                // Connections that have ended keep the address for a minute if the listener has no
                // SO_REUSEADDR (socat's).
                self.slept.terminate_at = Some(now + WITHOUT_BROKER);
                self.not_terminated(format!("its listeners cannot be succeeded: {}", errno.desc()));
            }
        }
        Phase::Asleep(self)
    }

    fn end(&mut self, sleeper: &mut Sleeper, host: &mut Host, now: Instant, takeover: Takeover) {
        let slept = now.saturating_duration_since(self.slept.since);
        let usage = sleeper.usage();
        match takeover.complete(host) {
            Ok(successors) => {
                host.link.send(&ToBroker::Terminating { slept, usage }, Vec::new());
                for successor in successors {
                    host.announce(successor.endpoint, successor.socket);
                }
                sleeper.ending = true;
                sleeper.terminated = Some(slept);
            }
            Err(errno) => self.not_terminated(format!("its listeners cannot be succeeded: {}", errno.desc())),
        }
    }

    /// Prepares to be terminated together with others, which [`Prepared::commit`] does; else says
    /// why not.
    pub(in crate::sleep) fn prepare(
        self: Box<Self>,
        sleeper: &mut Sleeper,
        host: &mut Host,
    ) -> Result<Box<Prepared>, (Box<Self>, String)> {
        if !self.frozen.set.ready().is_empty() {
            return Err((self, "it is about to wake".to_owned()));
        }
        if let Use::Other(why) = self.used_by(sleeper, host) {
            return Err((self, why));
        }
        match prepare_end(host) {
            Ok(takeover) => Ok(Box::new(Prepared { asleep: self, takeover })),
            Err(NotEnded::SomebodyCame(port)) => Err((self, format!("somebody has come to port {port}"))),
            Err(NotEnded::Connecting) => Err((self, CONNECTING.to_owned())),
            Err(NotEnded::Socket(errno)) => Err((self, errno.desc().to_owned())),
        }
    }

    /// The obstacle to the termination may be gone, as far as the broker is concerned.
    pub(in crate::sleep) fn try_to_terminate_again(&mut self) {
        if self.slept.not_terminated.is_some() {
            self.slept.terminate_at = Some(Instant::now() + WITHOUT_BROKER);
        }
    }

    fn not_terminated(&mut self, why: String) {
        self.slept.not_terminated = Some(why);
    }

    /// The obstacle to the termination of a sleeping host, in plain words.
    pub(super) fn in_use(&self, sleeper: &mut Sleeper, host: &Host) -> Option<String> {
        match self.used_by(sleeper, host) {
            Use::None => None,
            Use::Hosts(peers) => Some(waits_for_hosts(&peers)),
            Use::Other(why) => Some(why),
        }
    }

    fn used_by(&self, sleeper: &mut Sleeper, host: &Host) -> Use {
        let now = Instant::now();
        if sleeper.is_awaited() || sleeper.commands > 0 || sleeper.lease_until.is_some_and(|until| until > now) {
            return Use::Other("it is to be kept awake".to_owned());
        }
        let disposable = sleeper.policy.as_ref().is_some_and(|policy| policy.disposable);
        if !disposable && let Some(why) = self.pending_timer(sleeper, Instant::now()) {
            return Use::Other(why);
        }
        let pids = &self.frozen.pids;
        // The host is held, so each socket may be examined, regardless of the number of sockets.
        // Unknown connections are not assumed to be unused.
        let connections = match sleeper.connections.read_held(pids, &sleeper.tree.duplicates()) {
            Ok(connections) => connections,
            Err(error) => return Use::Other(format!("its connections cannot be read: {error}")),
        };
        match Connections::unix_elsewhere(pids) {
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

    /// A timer that a sleeping host waits for, and that may be for the program's own work.
    fn pending_timer(&self, sleeper: &Sleeper, now: Instant) -> Option<String> {
        let pending = |pid, call| Some(format!("a timer is pending ({}, {call})", named(pid)));
        for (tid, call) in sleeper.interrupted.all() {
            let Due::From { .. } = call.due else { continue };
            let polls = call.due.is_polling(self.frozen.slack)
                && sleeper.rhythms.is_polling(rhythm::waiter(tid, call), self.frozen.slack);
            if !polls && !self.is_housekeeping(sleeper, tid, call, now) && !runtimes::is_own_affair(tid, call) {
                return pending(call.pid, call.wait.call);
            }
        }
        if let Some((pid, call, _)) = self.frozen.dues.iter().find(|(_, _, due)| *due == Due::Unknown) {
            return Some(format!("nobody knows how long {} waits in {call}", named(*pid)));
        }
        // All timerfds, even if there were too many for a look each time.
        for timer in self.frozen.pids.iter().flat_map(|pid| timers::timerfds(*pid)) {
            let waiter = Waiter::TimerFd {
                pid: timer.pid,
                number: timer.number,
            };
            let repeats = !timer.interval.is_zero();
            let polls = repeats && timer.expires_in.max(timer.interval) < self.frozen.slack;
            let known = sleeper.rhythms.is_polling(waiter, self.frozen.slack)
                || sleeper.rhythms.is_housekeeping(waiter, !repeats, self.slept.since, now);
            if !polls && !known {
                return pending(timer.pid, "timerfd");
            }
        }
        (self.frozen.posix_timers && self.frozen.pids.iter().any(|pid| runtimes::has_posix_timers(*pid)))
            .then(|| "it has POSIX timers, whose times nobody can see".to_owned())
    }

    fn is_housekeeping(&self, sleeper: &Sleeper, tid: i32, call: &Call, now: Instant) -> bool {
        let waiter = rhythm::waiter(tid, call);
        let is_known = |hides| sleeper.rhythms.is_housekeeping(waiter, hides, self.slept.since, now);
        // A loop with a constant limit hides no other timers.
        let shows_all = !rhythm::is_loop(call) || sleeper.rhythms.is_exact(waiter);
        is_known(true) || (shows_all && is_known(false) && !runtimes::has_executors(call))
    }
}

impl Prepared {
    /// Ends the program.
    pub(in crate::sleep) fn commit(self, sleeper: &mut Sleeper, host: &mut Host) -> Box<Asleep> {
        let Self { mut asleep, takeover } = self;
        asleep.end(sleeper, host, Instant::now(), takeover);
        asleep
    }

    /// Aborts: the host sleeps on.
    pub(in crate::sleep) fn abort(self, host: &mut Host) -> Box<Asleep> {
        self.takeover.give_back(host);
        self.asleep
    }
}

/// The users of a disposable host's connections: the host itself does not count, and other hosts
/// may be disposable too.
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

/// The reason for not ending a host with a connection about to be established, in plain words.
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
