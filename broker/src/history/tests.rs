use std::iter;
use std::path::PathBuf;
use std::time::Duration;

use imsup_protocol::control::HostUsage;
use imsup_wire::{Cause, CauseKind, HostState, Usage};

use super::*;

const UP_US: u64 = 1_700_000_000_000_000;
const SECOND_US: u64 = 1_000_000;

/// More than any test writes.
const UNBOUNDED: u64 = 1 << 40;

fn event(port: u16) -> Entry {
    let event = Event {
        time_us: UP_US,
        host: "web".parse().unwrap(),
        kind: EventKind::Ready,
        cause: Some(Cause {
            kind: CauseKind::Connection,
            by: Some("curl".to_owned()),
            port: Some(port),
        }),
        duration: Some(Duration::from_micros(2700)),
        detail: None,
        usage: None,
    };
    Entry { event, at_us: UP_US }
}

fn ports_of(history: &History) -> Vec<u16> {
    let mut from = 0;
    iter::from_fn(|| {
        let (number, event) = history.next(from)?;
        from = number + 1;
        event.cause.as_ref()?.port
    })
    .collect()
}

/// A history in a directory of its own.
struct Kept {
    _directory: tempfile::TempDir,
    path: PathBuf,
    bound: u64,
}

impl Kept {
    fn bounded(bound: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        Self {
            _directory: directory,
            path,
            bound,
        }
    }

    fn open(&self) -> History {
        History::open(&self.path, self.bound, UP_US).unwrap()
    }

    fn lines(&self) -> usize {
        let text = std::fs::read_to_string(&self.path).unwrap();
        let is_event = |line: &&str| matches!(parse(line.as_bytes()), Some(Line::Event(_)));
        text.lines().filter(is_event).count()
    }
}

fn tell(history: &mut History, events: &[Entry]) {
    history.tell(events.to_vec(), iter::empty(), |_| true);
}

fn usage_of(history: &History, host: &str, now_us: u64) -> HostUsage {
    let (name, summary) = history.ledger().iter().find(|(name, _)| name.as_str() == host).unwrap();
    summary.account.tell_at(name.clone(), now_us)
}

#[test]
fn ticks_are_streamed_in_their_place_and_not_written() {
    let kept = Kept::bounded(UNBOUNDED);
    let mut history = kept.open();
    let mut tick = event(9);
    tick.event.kind = EventKind::Tick;
    tell(&mut history, &[event(1)]);
    for _ in 0..KEPT_TICKS + 10 {
        tell(&mut history, &[tick.clone()]);
    }
    tell(&mut history, &[event(2)]);
    let ports = ports_of(&history);
    assert_eq!(
        ports.len(),
        KEPT_TICKS + 2,
        "old ticks make room for new ones, and other events stay"
    );
    assert_eq!((ports[0], ports[1]), (1, 9));
    assert_eq!(kept.lines(), 2);
}

#[test]
fn a_history_is_read_back_and_a_line_cut_off_is_left_out() {
    let kept = Kept::bounded(UNBOUNDED);
    let mut history = kept.open();
    tell(&mut history, &[event(1)]);
    tell(&mut history, &[event(2)]);
    let text = std::fs::read_to_string(&kept.path).unwrap();
    std::fs::write(&kept.path, &text[..text.len() - 10]).unwrap();
    let mut history = kept.open();
    assert_eq!(ports_of(&history), [1]);
    tell(&mut history, &[event(3)]);
    assert_eq!(ports_of(&history), [1, 3]);
    assert_eq!(ports_of(&kept.open()), [1, 3]);
}

#[test]
fn what_was_noted_is_read_back_where_it_was_never_told() {
    let kept = Kept::bounded(UNBOUNDED);
    let ports = || ports_of(&kept.open());
    let mut history = kept.open();
    history.note(&event(1_000));
    history.note(&event(20));
    assert_eq!(ports(), [1_000, 20]);
    let mut unknown = event(1);
    unknown.event.detail = Some("told".to_owned());
    history.tell(vec![unknown], [&event(20)].into_iter(), |_| true);
    assert_eq!(ports(), [1, 20], "in its place");
    history.note(&event(3));
    tell(&mut history, &[event(2), event(3)]);
    assert_eq!(ports(), [1, 2, 3]);
    assert_eq!(history.end(), 3);
}

/// The `number`th wake or sleep of a host.
fn turn(number: u64) -> Entry {
    let mut entry = event(u16::try_from(number % 60_000).unwrap());
    entry.event.kind = if number.is_multiple_of(2) {
        EventKind::Suspend
    } else {
        EventKind::Wake
    };
    entry.event.time_us += number * SECOND_US;
    entry.at_us = entry.event.time_us;
    entry.event.usage = Some(Usage {
        cpu: Duration::from_millis(number),
        memory_byte_ms: u128::from(u64::MAX) + u128::from(number),
        resident_bytes: 4096,
    });
    entry
}

#[test]
fn the_files_are_bounded_and_totals_outlive_any_number_of_them() {
    let bounded = Kept::bounded(16 << 10);
    let all = Kept::bounded(UNBOUNDED);
    let (mut history, mut whole) = (bounded.open(), all.open());
    for number in 0..2_000 {
        if number % 333 == 0 {
            // A broker that is killed, with an event that was noted only.
            history.note(&turn(number));
            tell(&mut whole, &[turn(number)]);
            history = bounded.open();
            continue;
        }
        // Each event is noted first, and then published beside an event that is not published yet.
        history.note(&turn(number));
        let next = turn(number + 1);
        history.note(&next);
        let untold = (number % 333 != 332 && number < 1_999).then_some(&next);
        history.tell(vec![turn(number)], untold.into_iter(), |_| true);
        tell(&mut whole, &[turn(number)]);
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let before = bounded.path.with_extension("jsonl.1");
        assert!(
            size(&bounded.path) + size(&before) < 2 * ((16 << 10) + 4_096),
            "{number}"
        );
    }
    drop(history);
    let now_us = UP_US + 3_000 * SECOND_US;
    let history = bounded.open();
    assert_eq!(usage_of(&history, "web", now_us), usage_of(&whole, "web", now_us));
    assert_eq!(usage_of(&history, "web", now_us).wakes, 1_000);
    let (seen, told) = (ports_of(&history), ports_of(&whole));
    assert!(seen.len() > 40, "the file before the last is read, too");
    assert_eq!(
        seen,
        told[told.len() - seen.len()..],
        "none is missing or doubled at the seam"
    );
}

#[test]
fn hosts_that_nobody_knows_any_more_leave_the_file() {
    let kept = Kept::bounded(1);
    let mut history = kept.open();
    let mut transient = event(7);
    transient.event.host = "run-1".parse().unwrap();
    history.tell(vec![transient, event(1)], iter::empty(), |_| true);
    history.tell(vec![event(2)], iter::empty(), |host| host.as_str() == "web");
    let text = std::fs::read_to_string(&kept.path).unwrap();
    assert!(text.contains("\"web\"") && !text.contains("run-1"), "{text}");
}

#[test]
fn a_broker_that_was_killed_between_the_renames_has_lost_nothing() {
    let kept = Kept::bounded(1);
    let mut history = kept.open();
    tell(&mut history, &[turn(0)]);
    tell(&mut history, &[turn(1)]);
    drop(history);
    std::fs::rename(&kept.path, kept.path.with_extension("jsonl.new")).unwrap();
    let history = kept.open();
    assert_eq!(ports_of(&history), [0, 1]);
    assert_eq!(usage_of(&history, "web", UP_US + 5 * SECOND_US).wakes, 1);
}

#[test]
fn a_file_that_somebody_has_emptied_begins_with_the_totals_and_a_removed_one_is_made_anew() {
    for remove in [false, true] {
        let kept = Kept::bounded(UNBOUNDED);
        let mut history = kept.open();
        (0..10).for_each(|number| tell(&mut history, &[turn(number)]));
        match remove {
            false => std::fs::write(&kept.path, "").unwrap(),
            true => std::fs::remove_file(&kept.path).unwrap(),
        }
        history.note(&turn(10));
        tell(&mut history, &[turn(10)]);
        tell(&mut history, &[turn(11)]);
        let bytes = std::fs::read(&kept.path).unwrap();
        assert!(!bytes.contains(&0), "no hole");
        let again = kept.open();
        let now_us = UP_US + 60 * SECOND_US;
        assert_eq!(usage_of(&again, "web", now_us), usage_of(&history, "web", now_us));
        assert_eq!(usage_of(&again, "web", now_us).wakes, 6);
        let kept: Vec<_> = (if remove { 0 } else { 10 }..12).collect();
        assert_eq!(ports_of(&again), kept);
    }
}

#[test]
fn a_file_that_somebody_has_moved_is_followed_by_one_with_the_accounts() {
    for there in [false, true] {
        let kept = Kept::bounded(UNBOUNDED);
        let mut history = kept.open();
        (0..10).for_each(|number| tell(&mut history, &[turn(number)]));
        // As logrotate(8) does, without and with `create`.
        std::fs::rename(&kept.path, kept.path.with_extension("jsonl.1")).unwrap();
        if there {
            std::fs::write(&kept.path, "").unwrap();
        }
        history.restore(|_| true).unwrap();
        tell(&mut history, &[turn(10)]);
        let again = kept.open();
        let now_us = UP_US + 60 * SECOND_US;
        assert_eq!(usage_of(&again, "web", now_us), usage_of(&history, "web", now_us));
        assert_eq!(ports_of(&again), (0..11).collect::<Vec<_>>());
    }
}

#[test]
fn times_are_counted_by_the_clock_that_nobody_sets() {
    let kept = Kept::bounded(UNBOUNDED);
    let mut history = kept.open();
    let mut ready = event(80);
    ready.at_us += 10 * SECOND_US;
    ready.event.time_us = ready.at_us;
    let mut exit = event(80);
    exit.event.kind = EventKind::Exit;
    exit.at_us = ready.at_us + 5 * SECOND_US;
    // Set a day ahead, and then two back.
    exit.event.time_us = exit.at_us + 86_400 * SECOND_US;
    let mut again = ready.clone();
    again.at_us = exit.at_us + 7 * SECOND_US;
    again.event.time_us = again.at_us - 86_400 * SECOND_US;
    tell(&mut history, &[ready, exit, again.clone()]);
    for history in [history, kept.open()] {
        let usage = usage_of(&history, "web", again.at_us + 3 * SECOND_US);
        let spent = |state| usage.states.iter().find(|(known, _)| *known == state).unwrap().1;
        assert_eq!(spent(HostState::Running), Duration::from_secs(8));
        assert_eq!(spent(HostState::Imaginary), Duration::from_secs(17));
        assert_eq!(
            history.next(2).unwrap().1,
            &again.event,
            "with the time that people read"
        );
    }
}
