//! A supervisor's last words. Sockets that only the supervisor holds must not end with it. Example:
//! listeners that replaced a terminated program's listeners, in which clients may wait.

use std::os::fd::OwnedFd;
use std::time::Duration;

use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::{Endpoint, Usage};

use crate::host::Host;
use crate::reconnect;
use imsup_linux::socket;

/// The state that is left when the program has ended.
#[derive(Debug)]
pub struct Farewell {
    /// How we introduce ourselves to the next broker.
    pub hello: ToBroker,
    /// The time slept until the termination; `None` if the host was not terminated.
    pub terminated: Option<Duration>,
    /// Sockets of the program's addresses in which clients wait.
    pub left: Vec<(Endpoint, OwnedFd)>,
    /// The resources used by the host.
    pub usage: Usage,
    /// How the program ended.
    pub exited: ToBroker,
}

impl Farewell {
    /// True if a broker must have received the farewell before the supervisor ends.
    pub fn must_be_heard(&self) -> bool {
        self.terminated.is_some() || !self.left.is_empty()
    }

    /// Sends the farewell until a broker has received it: the present broker, or the next broker if
    /// the keeper starts one.
    pub fn say(&self, host: &mut Host) {
        for _ in 0..=reconnect::BROKERS {
            if self.is_heard(host) {
                return;
            }
            let path = host.link.path().to_owned();
            // A present broker has had its time to reply.
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
                // The broker has no place for this host.
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
