//! The broker on the receive loop: what it says, and its loss.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use imsup_protocol::ToSupervisor;
use nix::sys::signal::Signal;

use super::Loop;
use crate::reconnect::{Attempt, Reconnect};
use crate::syscalls;

/// The number of consecutive removals of the project's directory after which the directory is not
/// made again, until an entry is made at its place.
const REMOVALS: u32 = 3;

impl Loop {
    pub(super) fn on_broker(&mut self) {
        self.watchdog.end();
        self.host.link.flush();
        while let Some(message) = self.host.link.receive() {
            if !self.welcomed {
                self.welcomed = true;
                if Reconnect::welcomed(&mut self.host, &mut self.sleep, &message) == Attempt::Rejected {
                    tracing::warn!(?message, "the new broker does not take this host; it ends");
                    self.reconnect.give_up();
                    self.stop(Signal::SIGTERM, Duration::from_secs(10));
                } else {
                    self.retake_running();
                    self.ask_again();
                }
                continue;
            }
            self.on_message(message);
        }
    }

    fn on_message(&mut self, message: ToSupervisor) {
        match message {
            ToSupervisor::Reached { .. }
            | ToSupervisor::Claimed { .. }
            | ToSupervisor::ResolverSockets { .. }
            | ToSupervisor::Trusted { .. } => {
                self.watchdog.begin();
            }
            _ => self.watchdog.end(),
        }
        match message {
            ToSupervisor::Reached { id, outcome } => {
                let Some(id) = self.pending_id(id) else {
                    return;
                };
                let Some(pending) = self.pending.get_mut(&id) else {
                    return;
                };
                if let Some(answer) = syscalls::reached(&mut self.host, id, pending, outcome) {
                    self.finish(id, answer);
                }
            }
            ToSupervisor::Claimed { id, .. } if self.host.closed_listeners.closed(id) => self.go_on_with_vetted(),
            ToSupervisor::Claimed { id, found } => {
                let socket: Option<OwnedFd> = if found {
                    self.host.link.take_fds(1).ok().and_then(|mut fds| fds.pop())
                } else {
                    None
                };
                if let Some(id) = self.pending_id(id)
                    && let Some(pending) = self.pending.get(&id)
                {
                    let answer = syscalls::claimed(&mut self.host, id, pending, socket);
                    self.finish(id, answer);
                } else if let Some(socket) = socket {
                    syscalls::keep_claimed(&mut self.host, socket);
                }
            }
            ToSupervisor::ResolverSockets { v4, v6 } => {
                let (v4, v6) = (usize::from(v4), usize::from(v6));
                let mut sockets = self.host.link.take_fds(v4 + v6).unwrap_or_default();
                let of_v6 = sockets.split_off(v4.min(sockets.len()));
                self.host.resolvers.receive(sockets, of_v6);
                self.resume_resolvers();
            }
            ToSupervisor::Trusted {
                uid,
                endpoint,
                is_trusted,
            } => {
                self.host.strangers.learn(uid, *endpoint.address.ip(), is_trusted);
                self.resume_trusted((uid, endpoint));
            }
            ToSupervisor::Stop { signal, grace } => match Signal::try_from(signal) {
                Ok(signal) => self.stop(signal, grace),
                Err(_) => self.stop(Signal::SIGTERM, grace),
            },
            ToSupervisor::KeepAwake(awake) => self.sleep.keep_awake(awake),
            ToSupervisor::Ask { id, order } => {
                let circumstances = self.circumstances();
                self.sleep.ask(&mut self.host, &circumstances, id, order);
            }
            ToSupervisor::RetakeRunning => self.retake_running(),
            ToSupervisor::Welcome { .. } | ToSupervisor::Rejected(_) | ToSupervisor::Acknowledged => {
                tracing::warn!("the broker spoke out of turn");
            }
        }
    }

    /// Watches for the next broker. Without a broker, only the supervisor makes the project's
    /// directory again after a removal.
    pub(super) fn watch_for_broker(&mut self) {
        for _ in 0..REMOVALS {
            let before = self.project_directory();
            self.reconnect.watch_directory(&self.host);
            self.retake_running();
            if before.is_some() && before == self.project_directory() {
                return;
            }
        }
    }

    /// The device and inode of the project's runtime directory, if the directory exists.
    fn project_directory(&self) -> Option<(u64, u64)> {
        let found = std::fs::metadata(self.host.link.path().parent()?).ok()?;
        Some((found.dev(), found.ino()))
    }

    fn retake_running(&mut self) {
        if let Some(running) = &mut self.running
            && let Err(error) = running.retake()
        {
            tracing::warn!("{error}: nobody sees that the host runs if its broker dies");
        }
    }

    /// Any send may lose the link.
    pub(super) fn notice_loss(&mut self) {
        let was_lost = std::mem::replace(&mut self.lost, self.host.link.socket().is_none());
        if !self.lost || was_lost {
            return;
        }
        self.watchdog.end();
        self.welcomed = false;
        self.host.answered.forget();
        self.host.strangers.forget();
        let next_comes = self.reconnect.next_comes(&self.host);
        self.host.link.lost(next_comes);
        self.host.closed_listeners.broker_lost(next_comes);
        self.host.resolvers.lose_broker();
        self.sleep.broker_lost(&mut self.host);
        self.reconnect.begin();
        self.watch_for_broker();
        self.answer_all_without_broker();
        self.resume_resolvers();
        self.go_on_with_vetted();
    }

    /// Goes on without the next broker if the keeper does not start one.
    pub(super) fn look_for_next_broker(&mut self) {
        let awaits_next =
            self.host.closed_listeners.awaits_next() || (!self.pending.is_empty() && self.host.link.is_answered());
        if self.lost && awaits_next && !self.reconnect.next_comes(&self.host) {
            self.host.link.lost(false);
            self.host.closed_listeners.broker_lost(false);
            self.answer_all_without_broker();
            self.go_on_with_vetted();
        }
    }
}
