//! The reasons why a host is awake, or the events that a host waits for, in plain words.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use imsup_wire::Why;
use imsup_wire::sleep::{Reason, ReasonKind, WaitKind, WaitsFor};

use super::Asleep;
use crate::host::Host;
use crate::sleep::deadlines::{Due, Now};
use crate::sleep::hold::NotNow;
use crate::sleep::idle::Activity;
use crate::sleep::waitset::{SocketSource, Source, is_epoll};
use crate::sleep::{Circumstances, Sleeper, named};
use imsup_linux::duplicates::Duplicates;
use imsup_linux::process;

impl Sleeper {
    /// What keeps a host awake that runs, and why it could not be suspended.
    pub(in crate::sleep) fn why_awake(
        &self,
        host: &Host,
        circumstances: &Circumstances,
        not_now: Option<&NotNow>,
    ) -> Why {
        let now = Instant::now();
        let idle = now.saturating_duration_since(self.idle.quiet_since());
        let idle_after = self.policy.as_ref().and_then(|policy| policy.idle_after);
        let mut reasons = Vec::new();
        let reason = |kind, detail: String| Reason {
            kind,
            detail,
            pid: None,
        };
        if idle_after.is_none() {
            let detail = "its settings keep it awake (keep_awake, or idle_after: never)".to_owned();
            reasons.push(reason(ReasonKind::Setting, detail));
        }
        let kept = self.kept_awake(host, circumstances, now);
        reasons.extend(kept.map(|(kind, detail)| reason(kind, detail)));
        if let Some((at, activity)) = self.idle.last_activity() {
            let ago = ago(now.saturating_duration_since(at));
            reasons.push(self.activity(activity, &ago));
        }
        if let Some(what) = not_now {
            let detail = format!("it could not be suspended: {what}");
            let kind = match what.is_of_another() {
                true => ReasonKind::Stopped,
                false => ReasonKind::Unsuspendable,
            };
            reasons.push(reason(kind, detail));
        }
        let held = reasons.iter().any(|reason| {
            !matches!(
                reason.kind,
                ReasonKind::Cpu | ReasonKind::Connection | ReasonKind::Unsuspendable
            )
        });
        let left = idle_after.map(|idle_after| idle_after.saturating_sub(idle));
        Why::Awake {
            reasons,
            idle,
            sleeps_in: left.filter(|_| !held),
        }
    }

    fn activity(&self, activity: Activity, ago: &str) -> Reason {
        match activity {
            Activity::Cpu { pid, used, within } => Reason {
                kind: ReasonKind::Cpu,
                detail: format!(
                    "{} used {:.1} % of a processor for {}, {ago}",
                    named(pid),
                    100.0 * used.as_secs_f64() / within.as_secs_f64().max(1e-9),
                    short(within),
                ),
                pid: u32::try_from(pid).ok(),
            },
            Activity::Bytes => {
                let connections = self.connections().unwrap_or_default();
                let last = connections.iter().min_by_key(|connection| connection.last_received);
                let which = match last {
                    Some(connection) => {
                        format!("its connections (last: {} with {})", connection.local, connection.peer)
                    }
                    None => "its connections".to_owned(),
                };
                Reason {
                    kind: ReasonKind::Connection,
                    detail: format!("bytes moved on {which}, {ago}"),
                    pid: None,
                }
            }
            Activity::Arrival => Reason {
                kind: ReasonKind::Connection,
                detail: format!("a connection or a datagram came, {ago}"),
                pid: None,
            },
            Activity::Connect => Reason {
                kind: ReasonKind::Connection,
                detail: format!("it connected to a place outside, {ago}"),
                pid: None,
            },
            Activity::Unseen => Reason {
                kind: ReasonKind::Cpu,
                detail: format!("it ran while imsup could not see whether something came, {ago}"),
                pid: None,
            },
            Activity::Unasked => Reason {
                kind: ReasonKind::Cpu,
                detail: format!("it ran, though nothing in it waited for a time: a signal came, or the like, {ago}"),
                pid: None,
            },
            Activity::Processes => Reason {
                kind: ReasonKind::Cpu,
                detail: format!("a process was started or ended, {ago}"),
                pid: None,
            },
        }
    }
}

impl Asleep {
    /// What a sleeper waits for.
    pub(in crate::sleep) fn why(&self, sleeper: &mut Sleeper, host: &Host) -> Why {
        let terminate_after = sleeper.policy.as_ref().and_then(|policy| policy.terminate_after);
        let in_use = terminate_after.and_then(|_| self.in_use(sleeper, host));
        let now = Now::read();
        // The obstacle at the time of the attempt, if no obstacle is visible now.
        let not_terminated = in_use.or_else(|| terminate_after.and(self.slept.not_terminated.clone()));
        let terminates_in = terminate_after
            .filter(|_| not_terminated.is_none())
            .map(|time| (self.slept.since + time).saturating_duration_since(now.instant));
        let duplicates = sleeper.tree.duplicates();
        let mut waits: Vec<WaitsFor> = self
            .frozen
            .set
            .sources()
            .filter_map(|(source, fd)| words(source, fd, &duplicates))
            .collect();
        waits.sort_by_key(|wait| (wait.kind == WaitKind::Process, wait.pid));
        waits.dedup();
        let of = self
            .frozen
            .tick()
            .map(|(_, pid, call)| format!("{}, {call}", named(pid)));
        let timerfd = self.frozen.dues.iter().find(|(_, call, _)| *call == "timerfd");
        let of = of.or_else(|| timerfd.map(|(pid, call, _)| format!("{}, {call}", named(*pid))));
        if self.frozen.dues.iter().any(|(_, _, due)| *due == Due::Unknown) {
            waits.push(WaitsFor {
                kind: WaitKind::Timer,
                detail: format!(
                    "a call that imsup does not know: it runs for a moment every {} s",
                    self.frozen.slack.as_secs_f64()
                ),
                pid: None,
            });
        }
        waits.push(WaitsFor {
            kind: WaitKind::Signal,
            detail: format!(
                "a signal from outside, looked for every {} s",
                self.frozen.signals_every.as_secs_f64()
            ),
            pid: None,
        });
        Why::Asleep {
            waits,
            deadline_us: self.deadline_us(),
            deadline_of: of,
            terminates_in,
            not_terminated,
            method: sleeper.tree.method(),
        }
    }
}

/// The awaited event of one source. The end of a process is left out: the end of every process is
/// awaited.
fn words(source: Source, fd: std::os::fd::BorrowedFd<'_>, duplicates: &Duplicates<'_>) -> Option<WaitsFor> {
    let Source::Descriptor { pid, watch, call } = source else {
        return None;
    };
    let who = named(pid);
    let number = watch.number;
    let (kind, detail) = if is_epoll(call) {
        let watched = Watched::of(pid, number, duplicates).words();
        (
            WaitKind::Epoll,
            format!("{who}: {watched} (epoll instance, descriptor {number})"),
        )
    } else {
        match SocketSource::of(fd) {
            Some(SocketSource::Listener(local)) => (
                WaitKind::Listener,
                format!(
                    "{who}: a connection to port {} (descriptor {number}, {call})",
                    local.port()
                ),
            ),
            Some(SocketSource::Connection { peer, .. }) => (
                WaitKind::Connection,
                format!(
                    "{who}: its connection with {} (descriptor {number}, {call})",
                    shown(peer)
                ),
            ),
            Some(SocketSource::Datagrams { local, .. }) => (
                WaitKind::Datagram,
                format!(
                    "{who}: a datagram to port {} (descriptor {number}, {call})",
                    local.port()
                ),
            ),
            Some(SocketSource::Reset(_)) | None => {
                (WaitKind::Descriptor, format!("{who}: descriptor {number} ({call})"))
            }
        }
    };
    Some(WaitsFor {
        kind,
        detail,
        pid: u32::try_from(pid).ok(),
    })
}

/// The descriptors that an epoll instance watches.
#[derive(Debug, Default)]
struct Watched {
    /// Ports that are listened on, for connections and for datagrams.
    ports: BTreeSet<(u16, &'static str)>,
    /// The peers of connections.
    peers: Vec<SocketAddr>,
    /// Pipes, timers, sockets of the machine and the like.
    others: usize,
}

impl Watched {
    fn of(pid: i32, number: i32, duplicates: &Duplicates<'_>) -> Self {
        let mut found = Self::default();
        let watched: Vec<i32> = process::watched_by_epoll(pid, number);
        let open = duplicates.all(pid, &watched).unwrap_or_default();
        found.others = watched.len() - open.len();
        for duplicate in open {
            match duplicate.ok().and_then(|fd| SocketSource::of(fd.as_fd())) {
                Some(SocketSource::Connection { peer, .. }) => found.peers.push(shown(peer)),
                Some(SocketSource::Listener(local)) if local.port() != 0 => {
                    found.ports.insert((local.port(), "a connection"));
                }
                Some(SocketSource::Datagrams { local, .. }) if local.port() != 0 => {
                    found.ports.insert((local.port(), "a datagram"));
                }
                _ => found.others += 1,
            }
        }
        found
    }

    fn words(&self) -> String {
        let mut parts: Vec<String> = self
            .ports
            .iter()
            .map(|(port, what)| format!("{what} to port {port}"))
            .collect();
        match &self.peers[..] {
            [] => {}
            [peer] => parts.push(format!("its connection with {peer}")),
            peers => parts.push(format!("its {} connections", peers.len())),
        }
        match (self.others, parts.is_empty()) {
            (0, false) => {}
            (0, true) => parts.push("nothing".to_owned()),
            (1, _) => parts.push("1 other descriptor".to_owned()),
            (count, _) => parts.push(format!("{count} other descriptors")),
        }
        parts.join(", ")
    }
}

/// How long ago.
fn ago(elapsed: Duration) -> String {
    if elapsed < Duration::from_millis(1) {
        "just now".to_owned()
    } else {
        format!("{} ago", short(elapsed))
    }
}

/// A duration to milliseconds, or to tenths of seconds.
fn short(length: Duration) -> String {
    match length.as_millis() {
        millis @ 0..1_000 => format!("{millis} ms"),
        _ => format!("{:.1} s", length.as_secs_f64()),
    }
}

/// An address without the `::ffff:` of an IPv6 socket.
fn shown(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_epoll_instance_watches_is_said_in_words() {
        let mut watched = Watched::default();
        assert_eq!(watched.words(), "nothing");
        watched.others = 1;
        assert_eq!(watched.words(), "1 other descriptor");
        watched.ports.extend([(53, "a datagram"), (53, "a connection")]);
        watched.peers.push("127.0.0.1:4000".parse().unwrap());
        assert_eq!(
            watched.words(),
            "a connection to port 53, a datagram to port 53, its connection with 127.0.0.1:4000, 1 other descriptor"
        );
        watched.others = 0;
        watched.peers.push("127.0.0.1:4001".parse().unwrap());
        watched.ports.clear();
        assert_eq!(watched.words(), "its 2 connections");
    }
}
