//! Supervisors that want sockets for their program's resolver ([`crate::resolvers`]).

use std::os::fd::OwnedFd;

use imsup_protocol::ToSupervisor;

use super::Broker;
use crate::ids::SessionId;
use crate::loop_messages::LoopMessage;
use crate::resolvers::{Batch, Reply};

impl Broker {
    /// A supervisor asks for some.
    pub(super) fn ask_resolver_sockets(&mut self, session: SessionId) {
        self.resolvers.wait(session);
        if !self.ask_for_a_batch() {
            self.give_resolver_sockets(Batch::default());
        }
    }

    fn ask_for_a_batch(&mut self) -> bool {
        let project = &self.cluster.project;
        let notifier = self.messages.notifier().clone();
        let tell = move |told| notifier.tell(LoopMessage::Resolvers(told));
        self.resolvers.ask(self.launcher.as_mut(), project, tell)
    }

    /// What the process that makes sockets has done.
    pub(super) fn hear_of_resolvers(&mut self, told: Reply) {
        match told {
            Reply::Namespace(sockets) => self.resolver_namespace_made(sockets),
            Reply::Sockets(batch) => self.resolver_sockets_made(batch),
            Reply::Ended { for_good } => self.no_resolver_sockets(for_good),
        }
    }

    /// The namespace exists: the name server of this broker answers there, and so does the next
    /// broker's.
    fn resolver_namespace_made(&mut self, sockets: Vec<OwnedFd>) {
        self.resolvers.made(sockets, &mut self.sockets.store);
        self.push_keeper();
    }

    /// The sockets are made, for the supervisor that has waited longest.
    fn resolver_sockets_made(&mut self, batch: Batch) {
        self.resolvers.succeeded();
        self.give_resolver_sockets(batch);
    }

    fn give_resolver_sockets(&mut self, batch: Batch) {
        let Some(session) = self.resolvers.next_waiting() else {
            return;
        };
        let answer = ToSupervisor::ResolverSockets {
            v4: batch.v4,
            v6: batch.v6,
        };
        self.tell(session, &answer, batch.sockets);
    }

    /// The process that makes the sockets has ended: another is started, if possible.
    fn no_resolver_sockets(&mut self, for_good: bool) {
        self.resolvers.ended(for_good);
        for _ in 0..self.resolvers.waiting() {
            if !self.ask_for_a_batch() {
                self.give_resolver_sockets(Batch::default());
            }
        }
    }

    /// The supervisor is gone and needs no sockets any more.
    pub(super) fn forget_resolver_asks(&mut self, session: SessionId) {
        self.resolvers.leave(session);
    }
}
