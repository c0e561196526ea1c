//! The usage of a host since `up`: a fold over the host's events, so that the next broker gets the
//! same result by reading the events back. All times are of the project's clock ([`crate::clock`]).
//!
//! Two things no event tells, and they count as the state before: that a failed host was stopped
//! that would not have been booted by itself (`failed` goes on), and the delay after a run that
//! broke (`imaginary`).

use std::time::Duration;

use imsup_protocol::control::HostUsage;
use imsup_protocol::message::Adoption;
use imsup_wire::{Event, EventKind, HostName, HostState, Usage};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// In the order of the display.
const STATES: [HostState; 5] = [
    HostState::Imaginary,
    HostState::Booting,
    HostState::Running,
    HostState::Suspended,
    HostState::Failed,
];

/// The maximum difference of two reports of the same moment: each is converted between two clocks.
const SAME_MOMENT_US: u64 = 10_000;

/// The account of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    opened_us: u64,
    state: HostState,
    since_us: u64,
    /// Microseconds in each of [`STATES`], up to `since_us`.
    spent_us: [u64; 5],
    /// Of programs that have ended.
    ended: Usage,
    /// The usage of the running program.
    current: Usage,
    boots: u64,
    wakes: u64,
}

/// An event without a running broker: its time and kind.
pub(crate) type Missed = (u64, EventKind);

impl Account {
    /// The account of a host that has been imaginary since then.
    pub(crate) fn new(opened_us: u64) -> Self {
        Self {
            opened_us,
            state: HostState::Imaginary,
            since_us: opened_us,
            spent_us: [0; 5],
            ended: Usage::default(),
            current: Usage::default(),
            boots: 0,
            wakes: 0,
        }
    }

    /// Takes an event of the host into account, which happened then.
    pub(crate) fn apply(&mut self, event: &Event, at_us: u64) {
        let duration_us = event.duration.map_or(0, micros);
        let next = match event.kind {
            EventKind::Allocate => Some((at_us, HostState::Booting)),
            EventKind::Boot => {
                self.boots += 1;
                self.close_run();
                // A start that is tried again has no allocation; its beginning follows from the
                // duration.
                let began_us = at_us.saturating_sub(duration_us).max(self.since_us);
                (self.state != HostState::Booting).then_some((began_us, HostState::Booting))
            }
            EventKind::Ready | EventKind::Wake | EventKind::Terminate => Some((at_us, HostState::Running)),
            EventKind::Suspend => Some((at_us, HostState::Suspended)),
            EventKind::Exit => Some((at_us, HostState::Imaginary)),
            EventKind::Fail => Some((at_us, HostState::Failed)),
            EventKind::Tick
            | EventKind::Reclaim
            | EventKind::Unmet
            | EventKind::Oom
            | EventKind::Restart
            | EventKind::Healthy
            | EventKind::Unhealthy => None,
        };
        self.wakes += u64::from(event.kind == EventKind::Wake);
        if let Some(usage) = event.usage {
            self.used(usage);
        }
        if matches!(event.kind, EventKind::Exit | EventKind::Fail) {
            self.close_run();
        }
        if let Some((time_us, state)) = next {
            self.spent_us[place(self.state)] += time_us.saturating_sub(self.since_us);
            (self.since_us, self.state) = (time_us, state);
        }
    }

    /// The usage of the running program since its start.
    pub(crate) fn used(&mut self, usage: Usage) {
        self.current = usage;
    }

    /// The known usage of the running program; `None` if never reported.
    pub(crate) fn current(&self) -> Option<Usage> {
        (self.current != Usage::default()).then_some(self.current)
    }

    fn close_run(&mut self) {
        let run = std::mem::take(&mut self.current);
        self.ended.cpu = self.ended.cpu.saturating_add(run.cpu);
        self.ended.memory_byte_ms = self.ended.memory_byte_ms.saturating_add(run.memory_byte_ms);
    }

    /// The time since which the host is in its state, according to the events.
    pub(crate) fn since_us(&self) -> u64 {
        self.since_us
    }

    /// The number of boots, and the number of wakes.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.boots, self.wakes)
    }

    /// Events without a running broker that the account misses, according to the host's supervisor,
    /// at times of the project's clock. The number of wakes and sleeps meanwhile is unknown. A
    /// single pair is known from the time at which the present sleep began.
    pub(crate) fn missed(&self, adoption: &Adoption, now_us: u64) -> Vec<Missed> {
        let mut missed = Vec::new();
        let mut state = self.state;
        if matches!(state, HostState::Imaginary | HostState::Failed) {
            missed.push((adoption.started_us.max(self.since_us), EventKind::Boot));
            state = HostState::Booting;
        }
        if state == HostState::Booting && (adoption.ready || adoption.suspended_us.is_some()) {
            missed.push((adoption.suspended_us.unwrap_or(now_us), EventKind::Ready));
            state = HostState::Running;
        }
        match (state, adoption.suspended_us) {
            (HostState::Running, Some(suspended_us)) => missed.push((suspended_us, EventKind::Suspend)),
            (HostState::Suspended, None) => missed.push((now_us, EventKind::Wake)),
            // The account has the time at which the broker learned of a sleep, which is later than
            // its beginning.
            (HostState::Suspended, Some(suspended_us)) if suspended_us > self.since_us + SAME_MOMENT_US => {
                missed.extend([(suspended_us, EventKind::Wake), (suspended_us, EventKind::Suspend)]);
            }
            _ => {}
        }
        missed
    }

    /// The account in the form of an answer.
    pub(crate) fn tell(&self, host: HostName, clock: &Clock) -> HostUsage {
        HostUsage {
            since_us: clock.wall_us(self.opened_us),
            ..self.tell_at(host, clock.now_us())
        }
    }

    /// The account as of this time.
    pub(crate) fn tell_at(&self, host: HostName, now_us: u64) -> HostUsage {
        let mut spent_us = self.spent_us;
        spent_us[place(self.state)] += now_us.saturating_sub(self.since_us);
        let states = STATES.into_iter().zip(spent_us);
        HostUsage {
            host,
            since_us: self.opened_us,
            states: states
                .filter(|(state, spent_us)| *spent_us > 0 || *state == self.state)
                .map(|(state, spent_us)| (state, Duration::from_micros(spent_us)))
                .collect(),
            cpu: self.ended.cpu.saturating_add(self.current.cpu),
            memory_byte_ms: self.ended.memory_byte_ms.saturating_add(self.current.memory_byte_ms),
            boots: self.boots,
            wakes: self.wakes,
        }
    }
}

fn place(state: HostState) -> usize {
    STATES.iter().position(|known| *known == state).unwrap_or_default()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const START: u64 = 1_700_000_000 * SECOND;

    fn event(second: u64, kind: EventKind) -> Event {
        Event {
            time_us: START + second * SECOND,
            host: "web".parse().unwrap(),
            kind,
            cause: None,
            duration: None,
            detail: None,
            usage: None,
        }
    }

    fn usage(cpu_ms: u64, memory_byte_ms: u128) -> Option<Usage> {
        Some(Usage {
            cpu: Duration::from_millis(cpu_ms),
            memory_byte_ms,
            resident_bytes: 4096,
        })
    }

    fn seconds(usage: &HostUsage, state: HostState) -> f64 {
        let found = usage.states.iter().find(|(known, _)| *known == state);
        found.map_or(0.0, |(_, time)| time.as_secs_f64())
    }

    fn apply(account: &mut Account, event: &Event) {
        account.apply(event, event.time_us);
    }

    fn fold(events: &[Event]) -> Account {
        let mut account = Account::new(START);
        events.iter().for_each(|event| account.apply(event, event.time_us));
        account
    }

    /// Two boots, with two sleeps in a single boot.
    fn life() -> Vec<Event> {
        let mut events = vec![
            event(10, EventKind::Allocate),
            event(10, EventKind::Boot),
            event(11, EventKind::Ready),
            event(16, EventKind::Suspend),
            event(20, EventKind::Tick),
            event(30, EventKind::Wake),
            event(31, EventKind::Suspend),
            event(41, EventKind::Terminate),
            event(42, EventKind::Exit),
            event(50, EventKind::Allocate),
            event(50, EventKind::Boot),
            event(52, EventKind::Fail),
        ];
        events[3].usage = usage(100, 1_000);
        events[5].usage = usage(101, 9_000);
        events[8].usage = usage(200, 10_000);
        events[11].usage = usage(7, 5);
        events
    }

    #[test]
    fn every_microsecond_is_in_one_state() {
        let told = fold(&life()).tell_at("web".parse().unwrap(), START + 60 * SECOND);
        let spent = STATES.map(|state| seconds(&told, state));
        assert_eq!(spent, [10.0 + 8.0, 1.0 + 2.0, 5.0 + 1.0 + 1.0, 14.0 + 10.0, 8.0]);
        assert_eq!(
            told.states.iter().map(|(_, time)| *time).sum::<Duration>(),
            Duration::from_secs(60)
        );
        assert_eq!((told.boots, told.wakes), (2, 1));
        assert_eq!((told.cpu, told.memory_byte_ms), (Duration::from_millis(207), 10_005));
    }

    #[test]
    fn what_is_used_now_is_counted_until_the_event_that_says_it_again() {
        let mut account = fold(&life()[..6]);
        account.used(usage(150, 9_500).unwrap());
        let told = account.tell_at("web".parse().unwrap(), START + 31 * SECOND);
        assert_eq!((told.cpu, told.memory_byte_ms), (Duration::from_millis(150), 9_500));
        apply(&mut account, &life()[8]);
        let told = account.tell_at("web".parse().unwrap(), START + 43 * SECOND);
        assert_eq!(told.cpu, Duration::from_millis(200));
        assert_eq!(account.current(), None);
    }

    #[test]
    fn a_start_that_is_tried_again_begins_with_its_boot() {
        let mut again = event(53, EventKind::Boot);
        again.duration = Some(Duration::from_millis(500));
        let mut account = fold(&life());
        apply(&mut account, &again);
        let told = account.tell_at("web".parse().unwrap(), START + 54 * SECOND);
        assert_eq!(seconds(&told, HostState::Failed), 0.5);
        assert_eq!(seconds(&told, HostState::Booting), 1.0 + 2.0 + 1.5);
    }

    #[test]
    fn a_clock_that_is_set_back_takes_nothing_away() {
        let mut account = fold(&life());
        apply(&mut account, &event(5, EventKind::Boot));
        apply(&mut account, &event(6, EventKind::Ready));
        let told = account.tell_at("web".parse().unwrap(), START + 4 * SECOND);
        assert!(told.states.iter().all(|(_, time)| *time <= Duration::from_secs(60)));
    }

    #[test]
    fn what_a_broker_missed_is_what_its_supervisors_say() {
        let adoption = |ready, suspended: Option<u64>| Adoption {
            index: imsup_wire::Index::new(0x0501).unwrap(),
            pid: 7,
            started_us: START + 10 * SECOND,
            ready,
            suspended_us: suspended.map(|second| START + second * SECOND),
            usage: Usage::default(),
        };
        let missed = |heard: usize, ready, suspended| {
            let account = fold(&life()[..heard]);
            let missed = account.missed(&adoption(ready, suspended), START + 100 * SECOND);
            missed
                .into_iter()
                .map(|(time_us, kind)| ((time_us - START) / SECOND, kind))
                .collect::<Vec<_>>()
        };
        assert_eq!(missed(2, false, None), [], "it boots still");
        assert_eq!(missed(2, true, None), [(100, EventKind::Ready)]);
        assert_eq!(
            missed(2, true, Some(40)),
            [(40, EventKind::Ready), (40, EventKind::Suspend)]
        );
        assert_eq!(missed(3, true, None), []);
        assert_eq!(missed(3, true, Some(40)), [(40, EventKind::Suspend)]);
        assert_eq!(missed(4, true, Some(15)), [], "the sleep that is known");
        assert_eq!(missed(4, true, None), [(100, EventKind::Wake)]);
        assert_eq!(
            missed(4, true, Some(40)),
            [(40, EventKind::Wake), (40, EventKind::Suspend)]
        );
        assert_eq!(
            missed(0, true, None),
            [(10, EventKind::Boot), (100, EventKind::Ready)],
            "its history is lost"
        );
    }
}
