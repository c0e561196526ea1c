//! Supervisors that want sockets for their program's resolver ([`crate::resolvers`]).

use std::os::fd::OwnedFd;

use imsup_protocol::ToSupervisor;

use super::Broker;
use crate::ids::SessionId;
use crate::resolvers::Batch;

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
        let notifier = self.notices.notifier();
        self.resolvers.ask(self.launcher.as_mut(), project, notifier)
    }

    /// There is a namespace: the name server answers in it, and so does the next broker's.
    pub(super) fn resolver_namespace_made(&mut self, sockets: Vec<OwnedFd>) {
        self.resolvers.made(sockets, &mut self.sockets.store);
        self.push_keeper();
    }

    /// Here they are, for whoever has waited longest.
    pub(super) fn resolver_sockets_made(&mut self, batch: Batch) {
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

    /// Who makes them has ended: another is asked, where there can be one.
    pub(super) fn no_resolver_sockets(&mut self, for_good: bool) {
        self.resolvers.ended(for_good);
        for _ in 0..self.resolvers.waiting() {
            if !self.ask_for_a_batch() {
                self.give_resolver_sockets(Batch::default());
            }
        }
    }

    /// Nobody is there any more to be given some.
    pub(super) fn forget_resolver_asks(&mut self, session: SessionId) {
        self.resolvers.leave(session);
    }
}
