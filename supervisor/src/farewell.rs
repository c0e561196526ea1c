//! A supervisor's last words. What it holds and no broker has yet must not end with it: listeners that took the place of a terminated program's, in
//! which somebody may wait.

use std::os::fd::OwnedFd;
use std::time::Duration;

use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::{Endpoint, Usage};

use crate::host::Host;
use crate::reconnect;
use imsup_linux::socket;

/// What is left when the program has ended.
#[derive(Debug)]
pub struct Farewell {
    /// How we introduce ourselves to the next broker.
    pub hello: ToBroker,
    /// How long the host had slept when it was terminated, if it was.
    pub terminated: Option<Duration>,
    /// Sockets of the program's addresses in which somebody waits.
    pub left: Vec<(Endpoint, OwnedFd)>,
    /// What the host has used.
    pub usage: Usage,
    /// How the program ended.
    pub exited: ToBroker,
}

impl Farewell {
    /// Whether a broker must have heard it before we end.
    pub fn must_be_heard(&self) -> bool {
        self.terminated.is_some() || !self.left.is_empty()
    }

    /// Says it until a broker has heard it: this one, or the next where one comes by itself.
    pub fn say(&self, host: &mut Host) {
        for _ in 0..=reconnect::BROKERS {
            if self.is_heard(host) {
                return;
            }
            let path = host.link.path().to_owned();
            // One that is there has been given its time to answer.
            if !host.link.has_hung_up() || !reconnect::next_comes(&path) {
                return;
            }
            let Ok(link) = reconnect::open(&path, &self.hello) else {
                return;
            };
            host.link = link;
            if host.link.wait_again(reconnect::NEXT_BROKER).is_err() {
                continue;
            }
            match host.link.welcome() {
                Ok(ToSupervisor::Welcome { .. }) => reconnect::tell_sockets(host, self.terminated, self.usage),
                // It has no place for us.
                Ok(_) => return,
                Err(_) => {}
            }
        }
    }

    fn is_heard(&self, host: &mut Host) -> bool {
        if host.link.wait_again(reconnect::NEXT_BROKER).is_err() {
            return false;
        }
        for (endpoint, socket) in &self.left {
            if let Ok(copy) = socket::duplicate(socket) {
                host.announce(*endpoint, copy);
            }
        }
        host.link.send(&self.exited, Vec::new());
        host.link.is_acknowledged()
    }
}
