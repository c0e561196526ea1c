//! Supervisors' reports about hosts' sleep become state, events and accounts.
//!
//! A sleep is decided and done without the broker, which is told afterwards. A sleeping host keeps
//! all sockets, and connections reach the host without the broker.

use std::time::Duration;

use imsup_protocol::ToBroker;
use imsup_protocol::message::Adoption;
use imsup_wire::{Cause, CauseKind, Endpoint, EventKind, Order, Transport, Usage, WakeCause};

use super::Broker;
use super::recording::cause_of;
use super::supervisor_requests::Asker;
use crate::hosts::Sleep;
use crate::ids::HostId;
use crate::journal::Happening;
use crate::retained::Retained;
use imsup_lifecycle::Input;

impl Broker {
    /// A message about a host's sleep.
    pub(super) fn hear_of_sleep(&mut self, id: HostId, message: ToBroker) {
        match message {
            ToBroker::Suspended {
                time_us,
                deadline_us,
                took,
                usage,
            } => self.fell_asleep(id, time_us, deadline_us, took, usage),
            ToBroker::Woke {
                time_us,
                cause,
                named_later,
                slept,
                ticks,
                took,
                usage,
            } => {
                let wake = Happening {
                    cause: Some(self.wake_cause(id, cause)),
                    duration: Some(took),
                    detail: Some(wake_detail(slept, ticks)),
                    usage: Some(usage),
                    ..Happening::at(time_us, EventKind::Wake)
                };
                self.woke(id, wake, named_later);
            }
            ToBroker::WokenBy { by, port } => {
                let by = by.map(|address| self.caller(address));
                if let Some(sleep) = self.sleep(id) {
                    sleep.name_waker(by, port);
                }
                self.record_wake(id);
            }
            ToBroker::Ticked { deadline_us, took } => {
                self.note_deadline(id, deadline_us);
                let tick = Happening {
                    cause: Some(cause_of(CauseKind::Timer, None)),
                    duration: Some(took),
                    ..Happening::now(EventKind::Tick)
                };
                self.record(id, tick);
            }
            ToBroker::Reclaimed { bytes, took, detail } => {
                let reclaim = Happening {
                    cause: Some(cause_of(CauseKind::Idle, None)),
                    duration: Some(took),
                    detail: Some(reclaim_detail(bytes, detail)),
                    ..Happening::now(EventKind::Reclaim)
                };
                self.record(id, reclaim);
            }
            ToBroker::Terminating { slept, usage } => self.terminating(id, slept, usage),
            ToBroker::Disposable { peers } => {
                if let Some(sleep) = self.sleep(id) {
                    sleep.set_disposable(peers);
                }
                self.terminate_connected(id);
            }
            _ => {}
        }
    }

    fn fell_asleep(&mut self, id: HostId, time_us: u64, deadline_us: Option<u64>, took: Duration, usage: Usage) {
        self.note_deadline(id, deadline_us);
        let asked_by = self.sleep(id).and_then(Sleep::suspended);
        self.feed(id, Input::Suspended);
        self.hosts[id].is_so_since(self.clock.of_wall(time_us));
        let cause = match asked_by {
            Some(by) => cause_of(CauseKind::Wake, Some(by)),
            None => cause_of(CauseKind::Idle, None),
        };
        let suspend = Happening {
            cause: Some(cause),
            duration: Some(took),
            usage: Some(usage),
            ..Happening::at(time_us, EventKind::Suspend)
        };
        self.record(id, suspend);
    }

    /// Keeps a sleeper's next deadline, which is told as the wall clock's time.
    pub(super) fn note_deadline(&mut self, id: HostId, deadline_us: Option<u64>) {
        let deadline_us = deadline_us.map(|wall_us| self.clock.of_wall(wall_us));
        if let Some(sleep) = self.sleep(id) {
            sleep.set_deadline(deadline_us);
        }
    }

    fn woke(&mut self, id: HostId, wake: Happening, named_later: bool) {
        let nobody = wake.cause.as_ref().is_some_and(|cause| cause.by.is_none());
        self.feed(id, Input::Woke);
        let host = &mut self.hosts[id];
        host.count_wake();
        host.is_so_since(self.clock.of_wall(wake.time_us));
        if let Some(sleep) = self.sleep(id) {
            sleep.woke(wake);
        }
        if !(named_later && nobody) {
            self.record_wake(id);
        }
    }

    /// The caller that asked for the wake-up is the cause of a wake by order; the supervisor does
    /// not know the caller.
    fn wake_cause(&mut self, id: HostId, cause: WakeCause) -> Cause {
        if cause.kind == CauseKind::Wake
            && let Some(asked) = self.sleep(id).and_then(Sleep::asked_to_wake)
        {
            return asked;
        }
        Cause {
            kind: cause.kind,
            by: cause.by.map(|address| self.caller(address)),
            port: cause.port,
        }
    }

    /// Says that a host woke: whoever sent the signal is named by now, or is still found out, or is
    /// not going to be.
    pub(super) fn record_wake(&mut self, id: HostId) {
        let Some(mut wake) = self.sleep(id).and_then(Sleep::take_wake) else {
            return;
        };
        wake.question = match &wake.cause {
            Some(Cause {
                kind: CauseKind::Connection,
                by: None,
                port: Some(port),
            }) => {
                let endpoint = self.endpoint_at(id, *port);
                endpoint.and_then(|endpoint| self.ask_sender(endpoint))
            }
            _ => None,
        };
        self.record(id, wake);
    }

    /// The endpoint of a host at a port. The clients that woke the host there may have been
    /// connected for long.
    fn endpoint_at(&self, id: HostId, port: u16) -> Option<Endpoint> {
        let mut endpoints = self.sockets.of(id).map(Retained::endpoint);
        endpoints.find(|endpoint| endpoint.transport == Transport::Tcp && endpoint.address.port() == port)
    }

    fn terminating(&mut self, id: HostId, slept: Duration, usage: Usage) {
        if let Some(sleep) = self.sleep(id) {
            sleep.terminate();
        }
        self.feed(id, Input::Terminating);
        let terminate = Happening {
            cause: Some(cause_of(CauseKind::Idle, None)),
            duration: Some(slept),
            detail: Some(format!("slept {}", spoken(slept))),
            usage: Some(usage),
            ..Happening::now(EventKind::Terminate)
        };
        self.record(id, terminate);
    }

    /// Wakes a sleeper for a waiting caller.
    pub(super) fn resume(&mut self, id: HostId, cause: Cause) {
        if let Some(sleep) = self.sleep(id) {
            sleep.ask_to_wake(cause);
        }
        if !self.ask(id, Order::Resume, Asker::Broker) {
            self.feed(id, Input::NotWoken("its supervisor is not connected".to_owned()));
        }
    }

    /// Takes the report of a supervisor that outlived the last broker: missed events are added to
    /// the account and the history.
    pub(super) fn take_up(&mut self, id: HostId, adoption: &Adoption) {
        let adoption = &self.clock.of_adoption(adoption);
        let (now_us, declared) = (self.clock.now_us(), self.is_declared(id));
        if !declared {
            self.hosts[id].is_so_since(adoption.started_us);
        }
        let account = self.account(id);
        let missed = account.missed(adoption, now_us);
        account.used(adoption.usage);
        for (at_us, kind) in missed {
            let happening = Happening {
                detail: Some("while no broker ran".to_owned()),
                usage: (kind == EventKind::Suspend).then_some(adoption.usage),
                ..Happening::at(self.clock.wall_us(at_us), kind)
            };
            if !declared {
                // The history has this event already, but no account was kept of a host that is in
                // no file.
                let event = happening.of(self.name_of(id).clone());
                self.account(id).apply(&event, at_us);
                continue;
            }
            if kind == EventKind::Wake {
                self.hosts[id].count_wake();
            }
            self.record(id, happening);
        }
        let since_us = self.account(id).since_us();
        self.hosts[id].is_so_since(since_us);
        if let Some(suspended_us) = adoption.suspended_us {
            self.feed(id, Input::Suspended);
            self.hosts[id].is_so_since(suspended_us);
            // The sleeper's deadline is not part of the introduction.
            self.ask(id, Order::Why, Asker::Broker);
        }
    }

    /// The known sleep state of the instance that runs a host.
    pub(super) fn sleep(&mut self, id: HostId) -> Option<&mut Sleep> {
        Some(self.hosts[id].instance_mut()?.sleep_mut())
    }
}

fn wake_detail(slept: Duration, ticks: u64) -> String {
    match ticks {
        0 => format!("slept {}", spoken(slept)),
        1 => format!("slept {}, 1 tick", spoken(slept)),
        _ => format!("slept {}, {ticks} ticks", spoken(slept)),
    }
}

fn reclaim_detail(bytes: u64, more: Option<String>) -> String {
    const MIB: f64 = (1 << 20) as f64;
    let freed = format!("{:.1} MiB came back", bytes as f64 / MIB);
    match more {
        Some(more) => format!("{freed}; {more}"),
        None => freed,
    }
}

/// A time in the unit that people would use.
fn spoken(time: Duration) -> String {
    match time.as_millis() {
        millis @ 0..1000 => format!("{millis} ms"),
        1000..60_000 => format!("{:.1} s", time.as_secs_f64()),
        _ => humantime::format_duration(Duration::from_secs(time.as_secs())).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_plain_words() {
        assert_eq!(wake_detail(Duration::from_millis(312), 0), "slept 312 ms");
        assert_eq!(wake_detail(Duration::from_millis(3249), 1), "slept 3.2 s, 1 tick");
        assert_eq!(wake_detail(Duration::from_millis(62_900), 3), "slept 1m 2s, 3 ticks");
        assert_eq!(
            reclaim_detail(
                13_107_200,
                Some("anonymous memory needs swap, and there is none".to_owned())
            ),
            "12.5 MiB came back; anonymous memory needs swap, and there is none"
        );
        assert_eq!(reclaim_detail(0, None), "0.0 MiB came back");
    }
}
