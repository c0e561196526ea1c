//! Keeps traffic to a host from other users of the machine that listen at the host's address
//! ([`crate::strangers`]).

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use imsup_protocol::ToBroker;
use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use super::Verdict;
use crate::host::Host;
use crate::pending::{PendingCall, Until, Waiting};
use crate::strangers::Standing;
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::socket;
use imsup_linux::source;

/// The owner of the socket that answers at an endpoint. Warns if the socket is a stranger's.
pub(super) fn look(host: &mut Host, endpoint: Endpoint) -> Standing {
    let standing = host.strangers.look(endpoint);
    if let Standing::Stranger(uid) = standing {
        host.strangers.say(uid, endpoint);
    }
    standing
}

/// The verdict for a call that must not go to `endpoint`, or not yet; `None` if the call may go.
pub(super) fn verdict(host: &mut Host, call: &Notification, endpoint: Endpoint) -> Option<Verdict> {
    match look(host, endpoint) {
        Standing::Nobody | Standing::Trusted => None,
        Standing::Stranger(_) => Some(Errno::ECONNREFUSED.into()),
        Standing::Unknown(uid) => Some(ask(host, call, uid, endpoint)),
    }
}

/// Looks once more at a connection that was just made at an endpoint without a listener a moment
/// ago: a stranger may have been quicker than the program. The connection to a stranger is undone
/// before the program can send any data, and the verdict for the call is returned.
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

/// Asks the broker if a user is of the project; the call is begun anew after the reply. The call is
/// refused if no broker can reply.
pub(super) fn ask(host: &mut Host, call: &Notification, uid: u32, endpoint: Endpoint) -> Verdict {
    let Some(waiting) = ask_for(host, call, uid, endpoint) else {
        return Errno::ECONNREFUSED.into();
    };
    let now = Instant::now();
    Verdict::Pending(Box::new(PendingCall {
        tid: call.tid,
        since: now,
        deadline: now + host.reach_timeout,
        timeout_errno: Errno::ETIMEDOUT as i32,
        waiting,
    }))
}

/// The same for a call that is already pending; `None` if no broker can reply: there is no broker,
/// and the keeper starts none.
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

/// The answer to a pending call of a datagram socket, if its endpoint is retained or cannot be
/// retained: [`Answer::Continue`] unless a stranger has the endpoint. `None` if the call waits for
/// the broker's word on a user.
pub(super) fn pending_datagram(
    host: &mut Host,
    pending: &mut PendingCall,
    call: &Notification,
    endpoint: Endpoint,
) -> Option<Answer> {
    match look(host, endpoint) {
        Standing::Nobody | Standing::Trusted => Some(Answer::Continue),
        Standing::Stranger(_) => Some(Answer::errno(Errno::ECONNREFUSED)),
        Standing::Unknown(uid) => wait_for_word(host, pending, call, uid, endpoint),
    }
}

/// Makes a pending call wait for the broker's word on a user, or refuses the call.
pub(super) fn wait_for_word(
    host: &mut Host,
    pending: &mut PendingCall,
    call: &Notification,
    uid: u32,
    endpoint: Endpoint,
) -> Option<Answer> {
    match ask_for(host, call, uid, endpoint) {
        Some(waiting) => {
            pending.waiting = waiting;
            None
        }
        None => Some(Answer::errno(Errno::ECONNREFUSED)),
    }
}

/// Tells the broker the user as which the program binds, if not the supervisor's user: that user's
/// listeners belong to the project.
pub(super) fn note_user(host: &mut Host, socket: impl AsFd) {
    if let Some(uid) = socket::other_owner(socket.as_fd())
        && host.strangers.binds_as(uid)
    {
        host.link.send(&ToBroker::Binds { uid }, Vec::new());
    }
}
