//! Descriptors that only the program may poll, since a poll takes from the program: signalfds, and
//! files that report news once.

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::FEW_DESCRIPTORS;
use super::plan::Plan;
use super::waitset::is_epoll;
use imsup_linux::duplicates::Duplicates;
use imsup_linux::process;

/// `EPOLLET` (epoll_ctl(2)).
const EDGE_TRIGGERED: u32 = 1 << 31;

/// The events that poll(2) has as well; the higher bits are flags.
const EVENTS: u32 = 0xffff;

/// How deep epoll instances may watch each other (fs/eventpoll.c, EP_MAX_NESTS).
const EPOLL_NESTS: u32 = 4;

/// A signalfd with a waiting thread, or a file that reports news once.
pub(super) struct Taking {
    pub(super) pid: i32,
    /// The signals that a signalfd takes.
    pub(super) signals: Option<u64>,
    /// True if the program has been told of the signals already pending, and may have left the
    /// signals pending (an edge-triggered registration).
    pub(super) told: bool,
}

/// Takes the signalfds out of the plan, and returns the signalfds. A signalfd reports the signals
/// that are pending for the process that polls. The same holds for an epoll instance that watches a
/// signalfd. An epoll instance also forgets members that are not ready: the program would never
/// hear of the signal (fs/signalfd.c, fs/eventpoll.c; found by a probe). The members take the place
/// of the epoll instance, and imsup looks for the signals instead. Files whose news would be
/// reported to imsup (mounts) are treated alike: the host runs once per slack.
pub(super) fn leave_taking(plan: &mut Plan, duplicates: &Duplicates<'_>) -> Vec<Taking> {
    let mut found = Vec::new();
    for (pid, watches) in &mut plan.watches {
        // A process with many descriptors rarely blocks signals, and a look at each descriptor
        // takes time.
        if watches.len() > FEW_DESCRIPTORS && !process::blocks_signals(*pid) {
            continue;
        }
        let all: Vec<(i32, bool)> = watches
            .iter()
            .map(|(number, (_, call))| (*number, is_epoll(call)))
            .collect();
        for (number, epoll) in all {
            if let (false, Some(taking)) = (epoll, taking(*pid, number, false)) {
                watches.remove(&number);
                found.push(taking);
            }
            if epoll && (process::blocks_signals(*pid) || watches_news(*pid, number)) {
                let before = found.len();
                let mut others = Vec::new();
                taking_of_epoll(*pid, number, EPOLL_NESTS, &mut found, &mut others);
                if found.len() > before {
                    watches.remove(&number);
                    for (number, events) in others {
                        let events = events_of_member(duplicates, *pid, number, events);
                        watches
                            .entry(number)
                            .or_insert((events, "beside what nobody else may poll"));
                    }
                }
            }
        }
    }
    found
}

fn taking(pid: i32, number: i32, told: bool) -> Option<Taking> {
    let signals = process::signalfd_mask(pid, number);
    (signals.is_some() || process::tells_once(pid, number)).then_some(Taking { pid, signals, told })
}

/// True if an epoll instance that watches few descriptors watches a file that reports news once.
fn watches_news(pid: i32, epoll: i32) -> bool {
    let watched = process::all_watched_by_epoll(pid, epoll, FEW_DESCRIPTORS);
    watched.len() <= FEW_DESCRIPTORS && watched.iter().any(|number| process::tells_once(pid, *number))
}

/// Finds the descriptors of this kind that an epoll instance watches, also through other instances,
/// and all other watched descriptors.
fn taking_of_epoll(pid: i32, epoll: i32, nests: u32, found: &mut Vec<Taking>, others: &mut Vec<(i32, u32)>) {
    for (number, events) in process::epoll_registrations(pid, epoll) {
        if events & EVENTS == 0 {
            // Disarmed after the single event (EPOLLONESHOT): otherwise at least EPOLLERR and
            // EPOLLHUP would be set.
            continue;
        }
        if let Some(taking) = taking(pid, number, events & EDGE_TRIGGERED != 0) {
            found.push(taking);
            continue;
        }
        let before = found.len();
        if nests > 0 && process::is_epoll(pid, number) {
            taking_of_epoll(pid, number, nests - 1, found, others);
        }
        if found.len() == before {
            others.push((number, events));
        }
    }
}

/// The events to await of a member of an epoll instance. The program already knows that an
/// edge-triggered member is writable.
fn events_of_member(duplicates: &Duplicates<'_>, pid: i32, number: i32, registered: u32) -> PollFlags {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the events of poll(2) are the low 16 bits"
    )]
    let events = PollFlags::from_bits_retain(registered as u16);
    let duplicate = duplicates.one(pid, number);
    let writable = duplicate.is_ok_and(|fd| {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&at_once)).is_ok_and(|ready| ready > 0)
    });
    match registered & EDGE_TRIGGERED != 0 && writable {
        true => events.difference(PollFlags::OUT),
        false => events,
    }
}
