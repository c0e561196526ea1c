//! Users that listen at hosts' addresses: supervisors ask if a user belongs to the project.

use std::collections::BTreeSet;

use imsup_linux::owner::Owners;
use imsup_protocol::ToSupervisor;
use imsup_wire::Endpoint;

use super::Broker;
use crate::holder;
use crate::ids::SessionId;
use crate::projects::Recorded;
use crate::trust::SharedTrust;

/// Strangers that are named in the log.
const MAX_NAMED: usize = 64;

/// The maximum number of users of the project's programs that the next broker is told of.
const MAX_KEPT: usize = 64;

/// Who is of the project, questions for that which are not answered yet, and strangers that were
/// named.
///
/// A question about an unknown user waits for another turn of the loop. The listening program's
/// supervisor has sent [`imsup_protocol::ToBroker::Binds`] before the program could listen, but
/// that connection may be read after the asker's.
#[derive(Debug)]
pub(crate) struct Strangers {
    /// The users whose sockets at hosts' addresses belong to the project.
    trust: SharedTrust,
    fresh: Vec<(SessionId, u32, Endpoint)>,
    ripe: Vec<(SessionId, u32, Endpoint)>,
    named: BTreeSet<(u32, Endpoint)>,
}

impl Strangers {
    /// No stranger yet.
    pub(crate) fn new(trust: SharedTrust) -> Self {
        Self {
            trust,
            fresh: Vec::new(),
            ripe: Vec::new(),
            named: BTreeSet::new(),
        }
    }

    /// The name of a user, as people know it.
    pub(super) fn name_of(&self, uid: u32) -> String {
        self.trust.read().name_of(uid)
    }

    /// Whether the loop is to go round without waiting.
    pub(super) fn are_due(&self) -> bool {
        !self.ripe.is_empty()
    }
}

impl Broker {
    /// A supervisor's program binds as this user.
    pub(super) fn binds_as(&mut self, uid: u32) {
        if !self.strangers.trust.write().add(uid) {
            return;
        }
        // A program that becomes many users in turn must not make an endless list.
        let learns = |recorded: &mut Recorded| recorded.users.len() < MAX_KEPT && recorded.users.insert(uid);
        if self.record.learn(learns) {
            self.remember();
        }
    }

    /// A supervisor asks if a user that listens at an endpoint belongs to the project.
    pub(super) fn ask_for_trust(&mut self, session: SessionId, uid: u32, endpoint: Endpoint) {
        if self.is_trusted_at(uid, endpoint) {
            self.say_trusted(session, uid, endpoint, true);
        } else {
            self.strangers.fresh.push((session, uid, endpoint));
        }
    }

    /// Answers questions that have waited for a whole turn of the loop.
    pub(super) fn answer_for_trust(&mut self) {
        for (session, uid, endpoint) in std::mem::take(&mut self.strangers.ripe) {
            let is_trusted = self.is_trusted_at(uid, endpoint);
            if !is_trusted {
                self.name_stranger(uid, endpoint);
            }
            self.say_trusted(session, uid, endpoint, is_trusted);
        }
        self.strangers.ripe = std::mem::take(&mut self.strangers.fresh);
    }

    /// The asker is gone, and the number of its session may be reused.
    pub(super) fn forget_trust_questions(&mut self, session: SessionId) {
        self.strangers.fresh.retain(|(asker, ..)| *asker != session);
        self.strangers.ripe.retain(|(asker, ..)| *asker != session);
    }

    fn is_trusted_at(&self, uid: u32, endpoint: Endpoint) -> bool {
        !self.claim.has(&self.planes, *endpoint.address.ip()) || self.strangers.trust.read().includes(uid)
    }

    fn say_trusted(&mut self, session: SessionId, uid: u32, endpoint: Endpoint, is_trusted: bool) {
        let answer = ToSupervisor::Trusted {
            uid,
            endpoint,
            is_trusted,
        };
        self.tell(session, &answer, Vec::new());
    }

    /// Logs once which process the stranger is. Outside of the loop: the search walks over all
    /// processes.
    pub(super) fn name_stranger(&mut self, uid: u32, endpoint: Endpoint) {
        if self.strangers.named.len() >= MAX_NAMED || !self.strangers.named.insert((uid, endpoint)) {
            return;
        }
        let thread = std::thread::Builder::new().name("stranger".to_owned());
        let spawned = thread.spawn(move || say_who(uid, endpoint));
        if let Err(error) = spawned {
            tracing::warn!(%error, "user {uid}, who is not of this project, has a socket at {endpoint}");
        }
    }
}

/// Blocking: a thread of its own.
fn say_who(uid: u32, endpoint: Endpoint) {
    let owner = Owners::open().and_then(|mut owners| owners.of(endpoint)).ok().flatten();
    let who = match owner.filter(|owner| owner.uid == uid) {
        Some(owner) => holder::describe(owner),
        None => format!("user {uid}"),
    };
    tracing::warn!(
        "{who} has a socket at {endpoint}, an address of a host, and is not of this project: what hosts, and clients of published ports, send there is refused. End that process, or \
         declare the port (`expose`), so that it is the project's from `up` on"
    );
}
