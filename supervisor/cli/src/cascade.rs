//! Cascades: the order in which hosts booted or woke each other, found in the events.
//!
//! A boot or wake with a signal from another host of the project belongs below that host's own boot
//! or wake, unless that host has slept or ended since. Every other boot or wake begins a cascade.

use std::collections::HashMap;
use std::time::Duration;

use imsup_wire::{Cause, CauseKind, Event, EventKind, HostName};

/// Hosts that wake each other in turns would make an endless cascade; a hop below this depth begins
/// another cascade.
const DEEPEST: usize = 32;

/// A boot or wake of a host, and the consequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The host.
    pub host: HostName,
    /// Boot or wake, and its result.
    pub kind: HopKind,
    /// When: microseconds since the Unix epoch.
    pub time_us: u64,
    /// How long after the cascade began.
    pub after: Duration,
    /// The signal.
    pub cause: Option<Cause>,
    /// The duration of the wake-up, or the time from the signal to readiness.
    pub took: Option<Duration>,
    /// How long a sleeper slept; how a boot failed.
    pub detail: Option<String>,
    /// The hosts that this host booted and woke, in order.
    pub children: Vec<Hop>,
}

/// The event of a [`Hop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    /// The host slept, and was woken.
    Wake,
    /// The host was booted, and is not ready yet, or ended before.
    Booting,
    /// The host was booted.
    Boot,
    /// The host was to be booted, and that failed.
    Failed,
}

impl Hop {
    /// True if this host is the hop or anywhere below.
    pub fn has(&self, host: &HostName) -> bool {
        self.host == *host || self.children.iter().any(|child| child.has(host))
    }
}

/// The cascades in these events, in the order of their beginnings.
pub fn of(events: &[Event]) -> Vec<Hop> {
    // A wake is published later, once its sender is known.
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by_key(|event| event.time_us);
    let mut growing = Growing::default();
    for event in sorted {
        growing.add(event);
    }
    growing.finish()
}

/// A hop with its place; children come after their parents.
struct Placed {
    hop: Hop,
    parent: Option<usize>,
    depth: usize,
    began_us: u64,
}

#[derive(Default)]
struct Growing<'a> {
    hops: Vec<Placed>,
    /// The hop that last booted or woke a host, until that sleeps or ends.
    awake: HashMap<&'a str, usize>,
}

impl<'a> Growing<'a> {
    fn add(&mut self, event: &'a Event) {
        match event.kind {
            EventKind::Allocate => self.begin(event, HopKind::Booting),
            EventKind::Wake => self.begin(event, HopKind::Wake),
            EventKind::Ready => {
                if let Some(hop) = self.booting(event) {
                    hop.kind = HopKind::Boot;
                    hop.took = event.duration;
                }
            }
            EventKind::Fail => {
                if let Some(hop) = self.booting(event) {
                    hop.kind = HopKind::Failed;
                    hop.took = event.duration;
                    hop.detail.clone_from(&event.detail);
                }
                self.awake.remove(event.host.as_str());
            }
            EventKind::Exit => {
                if let Some(hop) = self.booting(event) {
                    hop.detail.clone_from(&event.detail);
                }
                self.awake.remove(event.host.as_str());
            }
            EventKind::Suspend | EventKind::Terminate => {
                self.awake.remove(event.host.as_str());
            }
            EventKind::Boot
            | EventKind::Tick
            | EventKind::Reclaim
            | EventKind::Unmet
            | EventKind::Oom
            | EventKind::Restart
            | EventKind::Healthy
            | EventKind::Unhealthy => {}
        }
    }

    fn begin(&mut self, event: &'a Event, kind: HopKind) {
        let parent = event
            .cause
            .as_ref()
            .and_then(sending_host)
            .and_then(|by| self.awake.get(by).copied())
            .filter(|parent| self.hops[*parent].depth < DEEPEST);
        let (depth, began_us) = match parent {
            Some(parent) => (self.hops[parent].depth + 1, self.hops[parent].began_us),
            None => (0, event.time_us),
        };
        let wakes = kind == HopKind::Wake;
        let hop = Hop {
            host: event.host.clone(),
            kind,
            time_us: event.time_us,
            after: Duration::from_micros(event.time_us.saturating_sub(began_us)),
            cause: event.cause.clone(),
            took: event.duration.filter(|_| wakes),
            detail: event.detail.clone().filter(|_| wakes),
            children: Vec::new(),
        };
        self.awake.insert(event.host.as_str(), self.hops.len());
        self.hops.push(Placed {
            hop,
            parent,
            depth,
            began_us,
        });
    }

    /// The boot of this event's host that is under way.
    fn booting(&mut self, event: &Event) -> Option<&mut Hop> {
        let at = *self.awake.get(event.host.as_str())?;
        let hop = &mut self.hops[at].hop;
        (hop.kind == HopKind::Booting).then_some(hop)
    }

    fn finish(mut self) -> Vec<Hop> {
        let mut cascades = Vec::new();
        // From the last to the first: each hop has its children by the time it is put below its
        // parent.
        while let Some(mut placed) = self.hops.pop() {
            placed.hop.children.reverse();
            match placed.parent {
                Some(parent) => self.hops[parent].hop.children.push(placed.hop),
                None => cascades.push(placed.hop),
            }
        }
        cascades.reverse();
        cascades
    }
}

/// The sender of the signal, if that may be a host: a user of the command line may have a host's
/// name.
fn sending_host(cause: &Cause) -> Option<&str> {
    match cause.kind {
        CauseKind::Connection
        | CauseKind::Connect
        | CauseKind::Datagram
        | CauseKind::Published
        | CauseKind::Lookup
        | CauseKind::Dependency
        | CauseKind::Data => cause.by.as_deref(),
        CauseKind::Wake
        | CauseKind::Exec
        | CauseKind::Timer
        | CauseKind::Signal
        | CauseKind::Descriptor
        | CauseKind::Idle => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{caused, event, lasting};

    fn connected(event: Event, by: &str) -> Event {
        caused(event, CauseKind::Connection, Some(by), Some(80))
    }

    fn woken(micros: u64, host: &str, by: &str) -> Event {
        connected(lasting(event(micros, host, EventKind::Wake), 90), by)
    }

    /// `web(app(db))`.
    fn shape(hops: &[Hop]) -> String {
        let each = hops.iter().map(|hop| match hop.children.as_slice() {
            [] => hop.host.to_string(),
            children => format!("{}({})", hop.host, shape(children)),
        });
        each.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_chain_of_sleepers_and_absent_hosts_is_one_cascade() {
        let cascades = of(&[
            woken(0, "web", "127.0.0.1:40112"),
            connected(event(900, "db", EventKind::Allocate), "app"),
            woken(210, "app", "web"),
            connected(lasting(event(1_500, "db", EventKind::Boot), 600), "app"),
            connected(lasting(event(13_300, "db", EventKind::Ready), 12_400), "app"),
            woken(14_000, "cache", "app"),
        ]);
        assert_eq!(shape(&cascades), "web(app(db cache))");
        let db = &cascades[0].children[0].children[0];
        assert_eq!(db.kind, HopKind::Boot);
        assert_eq!(
            (db.after, db.took),
            (Duration::from_micros(900), Some(Duration::from_micros(12_400)))
        );
    }

    #[test]
    fn a_host_that_slept_or_ended_since_causes_no_more_of_its_cascade() {
        for end in [EventKind::Suspend, EventKind::Exit, EventKind::Terminate] {
            let cascades = of(&[
                woken(0, "web", "127.0.0.1:1"),
                woken(1, "app", "web"),
                event(2, "app", EventKind::Suspend),
                woken(3, "app", "web"),
                event(4, "web", end),
                woken(5, "db", "web"),
                woken(6, "web", "127.0.0.1:1"),
                woken(7, "db", "web"),
            ]);
            assert_eq!(shape(&cascades), "web(app app) db web(db)", "{end}");
        }
    }

    #[test]
    fn a_user_with_the_name_of_a_host_is_none() {
        let cascades = of(&[
            woken(0, "postgres", "127.0.0.1:1"),
            caused(
                event(1, "web", EventKind::Wake),
                CauseKind::Wake,
                Some("postgres"),
                None,
            ),
            caused(event(2, "app", EventKind::Wake), CauseKind::Timer, None, None),
        ]);
        assert_eq!(shape(&cascades), "postgres web app");
    }

    #[test]
    fn a_boot_that_fails_says_why() {
        let mut failed = lasting(event(5_000, "web", EventKind::Fail), 4_000);
        failed.detail = Some("exited with status 3 before it listened".to_owned());
        let cascades = of(&[
            connected(event(0, "web", EventKind::Allocate), "127.0.0.1:1"),
            failed.clone(),
            connected(event(9_000, "web", EventKind::Allocate), "127.0.0.1:2"),
        ]);
        assert_eq!(shape(&cascades), "web web");
        assert_eq!(
            (cascades[0].kind, &cascades[0].detail),
            (HopKind::Failed, &failed.detail)
        );
        assert_eq!(cascades[1].kind, HopKind::Booting);
    }

    #[test]
    fn hosts_that_wake_each_other_for_ever_make_cascades_of_bounded_depth() {
        let mut events = Vec::new();
        for round in 0..200 {
            let (host, by) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
            events.push(woken(round * 10, host, by));
            events.push(event(round * 10 + 15, host, EventKind::Suspend));
        }
        let cascades = of(&events);
        fn depth(hop: &Hop) -> usize {
            1 + hop.children.iter().map(depth).max().unwrap_or(0)
        }
        assert_eq!(cascades.iter().map(depth).max(), Some(DEEPEST + 1));
        let all = shape(&cascades);
        assert_eq!(all.matches(['a', 'b']).count(), 200, "{all}");
    }
}
