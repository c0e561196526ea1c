//! Keeps what is sent to a host from other users of the machine who listen at its address ([`crate::strangers`]).

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use imsup_protocol::ToBroker;
use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use super::Verdict;
use crate::held::{Held, Until, Waiting};
use crate::host::Host;
use crate::strangers::Standing;
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::socket;
use imsup_linux::source;

/// Whose socket answers at an endpoint. That a stranger's does is said.
pub(super) fn look(host: &mut Host, endpoint: Endpoint) -> Standing {
    let standing = host.strangers.look(endpoint);
    if let Standing::Stranger(uid) = standing {
        host.strangers.say(uid, endpoint);
    }
    standing
}

/// How a call is answered that must not go to `endpoint`, or not yet; `None` where it goes.
pub(super) fn verdict(host: &mut Host, call: &Notification, endpoint: Endpoint) -> Option<Verdict> {
    match look(host, endpoint) {
        Standing::Nobody | Standing::Trusted => None,
        Standing::Stranger(_) => Some(Errno::ECONNREFUSED.into()),
        Standing::Unknown(uid) => Some(ask(host, call, uid, endpoint)),
    }
}

/// Looks once more at a connection that was just made where nobody listened a moment ago: a stranger may have been quicker than the program. Then
/// it is undone, before the program can send anything, and the call answered so.
pub(super) fn undo_if_strangers(
    host: &mut Host,
    call: &Notification,
    socket: BorrowedFd<'_>,
    server: SocketAddrV4,
) -> Option<Verdict> {
    let endpoint = Endpoint {
        transport: Transport::Tcp,
        address: server,
    };
    let client = socket::local_address(socket).and_then(socket::as_v4)?;
    let standing = host.strangers.look_at_server(endpoint, client);
    let (Standing::Stranger(uid) | Standing::Unknown(uid)) = standing else {
        return None;
    };
    if let Err(errno) = source::disconnect(socket) {
        tracing::warn!(%endpoint, %errno, "a connection to another user's socket could not be undone");
    }
    Some(match standing {
        Standing::Unknown(_) => ask(host, call, uid, endpoint),
        _ => {
            host.strangers.say(uid, endpoint);
            Errno::ECONNREFUSED.into()
        }
    })
}

/// Has the broker say whether a user is of the project; the call is begun anew then. It is refused where nobody can say.
pub(super) fn ask(host: &mut Host, call: &Notification, uid: u32, endpoint: Endpoint) -> Verdict {
    let Some(waiting) = ask_for(host, call, uid, endpoint) else {
        return Errno::ECONNREFUSED.into();
    };
    let now = Instant::now();
    Verdict::Hold(Box::new(Held {
        tid: call.tid,
        since: now,
        deadline: now + host.reach_timeout,
        timeout_errno: Errno::ETIMEDOUT as i32,
        waiting,
    }))
}

/// The same for a call that is held already; `None` where nobody can say: there is no broker, and none comes by itself.
pub(super) fn ask_for(host: &mut Host, call: &Notification, uid: u32, endpoint: Endpoint) -> Option<Waiting> {
    if !host.link.is_answered() {
        tracing::debug!(
            "no broker says whether user {uid}, who has a socket at {endpoint}, is of the project: a call is refused"
        );
        return None;
    }
    host.link.send(&ToBroker::Trusts { uid, endpoint }, Vec::new());
    Some(Waiting::Anew {
        call: *call,
        until: Until::Trusted { uid, endpoint },
    })
}

/// How a held call of a datagram socket is answered, where its endpoint is retained or nobody can retain it: [`Answer::Continue`] unless a stranger has
/// it; `None` where the call waits for the broker's word on a user.
pub(super) fn held_datagram(
    host: &mut Host,
    held: &mut Held,
    call: &Notification,
    endpoint: Endpoint,
) -> Option<Answer> {
    match look(host, endpoint) {
        Standing::Nobody | Standing::Trusted => Some(Answer::Continue),
        Standing::Stranger(_) => Some(Answer::errno(Errno::ECONNREFUSED)),
        Standing::Unknown(uid) => wait_for_word(host, held, call, uid, endpoint),
    }
}

/// Has a held call wait for the broker's word on a user, or refuses it.
pub(super) fn wait_for_word(
    host: &mut Host,
    held: &mut Held,
    call: &Notification,
    uid: u32,
    endpoint: Endpoint,
) -> Option<Answer> {
    match ask_for(host, call, uid, endpoint) {
        Some(waiting) => {
            held.waiting = waiting;
            None
        }
        None => Some(Answer::errno(Errno::ECONNREFUSED)),
    }
}

/// Tells the broker as whom the program binds, where that is another user than the supervisor's: what he listens on is the project's.
pub(super) fn note_user(host: &mut Host, socket: impl AsFd) {
    if let Some(uid) = socket::other_owner(socket.as_fd())
        && host.strangers.binds_as(uid)
    {
        host.link.send(&ToBroker::Binds { uid }, Vec::new());
    }
}
