//! The fate of each request, judged by the servers' notes and by the faults meanwhile. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddrV4;

use super::ledger::{Generation, Instant, Ledger};

/// The way of a request to its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the host's own address.
    Direct,
    /// By a published port: the broker's relay is in between; its connections have other ports and
    /// die with it.
    Published,
}

/// The outcome for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer of this process, and the process of the next host that was asked.
    Answered { pid: u32, next: Option<u32> },
    /// This process answered that it could not ask the next host: why, and its own address there.
    NextFailed {
        pid: u32,
        error: String,
        own: Option<SocketAddrV4>,
    },
    /// Refused, reset or closed without an answer.
    Failed(String),
    /// No answer at all.
    Hung,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: String,
    pub host: &'static str,
    pub route: Route,
    pub own: Option<SocketAddrV4>,
    pub connected: Instant,
    pub end: Instant,
    pub outcome: Outcome,
}

/// A time in which programs of hosts, or the broker, were ended.
#[derive(Clone, Debug)]
pub struct Loss {
    pub what: String,
    pub hosts: Vec<&'static str>,
    pub broker: bool,
    /// Those of `hosts` that may have been booting when `stop` ended them.
    pub booting: Vec<&'static str>,
    pub begin: Instant,
    pub end: Instant,
}

impl Loss {
    fn overlaps(&self, attempt: &Attempt) -> bool {
        self.begin <= attempt.end && attempt.begin <= self.end
    }

    /// True if this ending ended this start of a host's program.
    fn ended(&self, host: &str, generation: &Generation) -> bool {
        let within = generation.first <= self.end && self.begin <= generation.next;
        self.hosts.contains(&host) && within && generation.last <= self.end
    }
}

/// A failed connection.
struct Attempt {
    own: Option<SocketAddrV4>,
    begin: Instant,
    end: Instant,
}

/// The hosts' ledgers, and the next host of those that ask another.
pub struct World<'a> {
    pub ledgers: &'a BTreeMap<&'static str, Ledger>,
    pub next: &'a BTreeMap<&'static str, &'static str>,
    pub losses: &'a [Loss],
}

/// Every violation. Empty if all is well.
pub fn judge(world: &World, requests: &[Request]) -> Vec<String> {
    let mut faults = written_twice(world);
    let mut unwritten = Unwritten::default();
    // A connection that a program had accepted fails at the program's end; later losses follow from
    // that.
    let mut in_order: Vec<&Request> = requests.iter().collect();
    in_order.sort_by_key(|request| request.end);
    for request in in_order {
        let fault = match &request.outcome {
            Outcome::Answered { pid, next } => is_written(world, request, *pid, *next),
            Outcome::NextFailed { pid, error, own } => {
                let attempt = Attempt {
                    own: *own,
                    begin: request.connected,
                    end: request.end,
                };
                let host = world.next[request.host];
                // One order ends both: each may see the other's end before its own.
                if was_ended(world, request, *pid, &[host]) {
                    continue;
                }
                unwritten
                    .excused(world, host, Route::Direct, &attempt)
                    .err()
                    .map(|why| format!("{host} failed: {error}: {why}"))
            }
            Outcome::Failed(error) => {
                let attempt = Attempt {
                    own: request.own,
                    begin: request.connected,
                    end: request.end,
                };
                let excused = unwritten.excused(world, request.host, request.route, &attempt);
                excused.err().map(|why| format!("failed: {error}: {why}"))
            }
            Outcome::Hung => Some("hung".to_owned()),
        };
        if let Some(fault) = fault {
            faults.push(format!("{request:?}: {fault}"));
        }
    }
    faults
}

/// Whether the process that answered was ended meanwhile, together with these.
fn was_ended(world: &World, request: &Request, pid: u32, with: &[&str]) -> bool {
    let attempt = Attempt {
        own: request.own,
        begin: request.connected,
        end: request.end,
    };
    let mut generations = world.ledgers[request.host]
        .generations
        .iter()
        .filter(|generation| generation.pid == pid);
    let together = |loss: &&Loss| with.iter().all(|host| loss.hosts.contains(host));
    let losses: Vec<&Loss> = world
        .losses
        .iter()
        .filter(|loss| loss.overlaps(&attempt))
        .filter(together)
        .collect();
    generations.any(|generation| losses.iter().any(|loss| loss.ended(request.host, generation)))
}

fn written_twice(world: &World) -> Vec<String> {
    let mut faults = Vec::new();
    for (host, ledger) in world.ledgers {
        let often = ledger.ids.iter().filter(|(_, pids)| pids.len() > 1);
        faults.extend(often.map(|(id, pids)| format!("{id} was written more than once at {host}, by {pids:?}")));
    }
    faults
}

fn is_written(world: &World, request: &Request, pid: u32, next: Option<u32>) -> Option<String> {
    let is_by = |host: &str, pid: u32| {
        let pids = world.ledgers[host].ids.get(&request.id);
        pids.is_some_and(|pids| pids.contains(&pid))
    };
    if !is_by(request.host, pid) {
        return Some("answered and not written".to_owned());
    }
    match next {
        Some(next) if !is_by(world.next[request.host], next) => {
            Some("answered and not written at the next host".to_owned())
        }
        _ => None,
    }
}

/// Connections that a program may have accepted at its end without a note: how many of each have
/// been claimed.
#[derive(Default)]
struct Unwritten {
    claimed: HashMap<(&'static str, usize), usize>,
}

impl Unwritten {
    /// Whether a connection may fail: its program, or the broker that relayed it, was ended. Else
    /// the reason why not.
    fn excused(&mut self, world: &World, host: &'static str, route: Route, attempt: &Attempt) -> Result<(), String> {
        let mut overlapping = world.losses.iter().filter(|loss| loss.overlaps(attempt));
        if route == Route::Published {
            let found = overlapping.any(|loss| loss.broker || loss.hosts.contains(&host));
            return found
                .then_some(())
                .ok_or("neither its host nor the broker was ended".to_owned());
        }
        let ledger = &world.ledgers[host];
        let connections = attempt.own.and_then(|_| ledger.accepted.get(&attempt.own));
        let accepted =
            connections.and_then(|all| all.iter().rfind(|one| (attempt.begin..=attempt.end).contains(&one.at)));
        if let Some(accepted) = accepted {
            let generation = &ledger.generations[accepted.generation];
            let found = overlapping.any(|loss| loss.ended(host, generation));
            return found
                .then_some(())
                .ok_or(format!("process {} accepted it, which was not ended", generation.pid));
        }
        let overlapping: Vec<&Loss> = overlapping.collect();
        // A plain `stop` of a booting host turns its waiting clients away.
        if overlapping.iter().any(|loss| loss.booting.contains(&host)) {
            return Ok(());
        }
        for (number, generation) in ledger.generations.iter().enumerate() {
            let claimed = self.claimed.entry((host, number)).or_default();
            let was_ended = overlapping.iter().any(|loss| loss.ended(host, generation));
            if was_ended && *claimed < generation.may_have_accepted() {
                *claimed += 1;
                return Ok(());
            }
        }
        let meanwhile: Vec<&String> = overlapping.iter().map(|loss| &loss.what).collect();
        Err(format!("no program accepted it; meanwhile {meanwhile:?}"))
    }
}

/// A client is at 10.0.0.1:1; the program of `web`, process 7, accepts it at 20 and is followed by
/// process 8 at 50.
mod tests {
    use super::*;

    const LEDGER: &str =
        "listening 7 1\naccepting 7 2 7\naccepted 7 20 7 10.0.0.1:1\naccepting 7 21 7\nid 7 22 a\nlistening 8 50\n";

    fn faults(ledger: &str, own: &str, outcome: Outcome, losses: &[Loss]) -> Vec<String> {
        let ledgers = BTreeMap::from([("web", Ledger::parse(ledger))]);
        let world = World {
            ledgers: &ledgers,
            next: &BTreeMap::new(),
            losses,
        };
        let request = Request {
            id: "a".to_owned(),
            host: "web",
            route: Route::Direct,
            own: own.parse().ok(),
            connected: 10,
            end: 40,
            outcome,
        };
        judge(
            &world,
            &[request.clone(), request][..1 + usize::from(own == "10.0.0.1:2")],
        )
    }

    fn loss(begin: Instant, end: Instant) -> Loss {
        Loss {
            what: "a kill".to_owned(),
            hosts: vec!["web"],
            broker: false,
            booting: Vec::new(),
            begin,
            end,
        }
    }

    fn answered(pid: u32) -> Outcome {
        Outcome::Answered { pid, next: None }
    }

    fn reset() -> Outcome {
        Outcome::Failed("reset".to_owned())
    }

    #[test]
    fn whatever_is_answered_is_written_once_by_who_answers() {
        assert_eq!(faults(LEDGER, "10.0.0.1:1", answered(7), &[]).len(), 0);
        assert_eq!(faults(LEDGER, "10.0.0.1:1", answered(8), &[]).len(), 1);
        let twice = format!("{LEDGER}id 8 60 a\n");
        assert_eq!(faults(&twice, "10.0.0.1:1", answered(7), &[]).len(), 1);
        assert_eq!(faults(LEDGER, "10.0.0.1:1", Outcome::Hung, &[loss(30, 35)]).len(), 1);
    }

    #[test]
    fn what_fails_was_accepted_by_a_program_that_ended_meanwhile() {
        assert_eq!(faults(LEDGER, "10.0.0.1:1", reset(), &[loss(30, 35)]).len(), 0);
        assert_eq!(faults(LEDGER, "10.0.0.1:1", reset(), &[]).len(), 1);
        assert_eq!(faults(LEDGER, "10.0.0.1:1", reset(), &[loss(41, 45)]).len(), 1, "later");
        assert_eq!(
            faults(LEDGER, "10.0.0.1:1", reset(), &[loss(12, 15)]).len(),
            1,
            "it lived on"
        );
    }

    #[test]
    fn one_connection_a_thread_may_be_accepted_and_not_written_down() {
        assert_eq!(
            faults(LEDGER, "10.0.0.1:2", reset(), &[loss(30, 35)]).len(),
            1,
            "of two"
        );
        assert_eq!(faults(LEDGER, "10.0.0.1:2", reset(), &[]).len(), 2);
    }
}
