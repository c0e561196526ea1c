//! Carrying a connect out: on a duplicate of the program's socket, without waiting, and again when
//! the broker says so.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use imsup_protocol::{ToBroker, asked};
use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;
use rustix::fs::OFlags;

use super::{Verdict, vet};
use crate::host::Host;
use crate::pending::{PendingCall, PendingConnect, Waiting};
use crate::strangers::Standing;
use imsup_linux::message;
use imsup_linux::notify::{Answer, Notification, NotificationId};
use imsup_linux::socket::{self, Family, InetSocket, Progress};

/// The number of attempts, if the broker replies "connect" while the kernel goes on refusing.
const MAX_ATTEMPTS: u8 = 16;

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The call is to be answered thus.
    Over(Answer),
    /// The kernel has not heard from the other side yet.
    InKernel {
        /// The errno of the call if the socket's own time-out ends it.
        at_timeout: Errno,
    },
    /// Nobody listens.
    Refused,
}

/// Tries `address` without waiting.
///
/// A blocking socket is *kicked*: made non-blocking for the moment of the call. On loopback the
/// handshake is over when connect(2) returns, and a second call reports the result. If
/// `leave_refusal` is true, a refusal is left in the socket, so that a program with a non-blocking
/// socket finds the refusal there.
fn attempt(socket: BorrowedFd<'_>, address: SocketAddr, blocking: bool, leave_refusal: bool) -> Attempt {
    if !blocking {
        return attempt_now(socket, address, false, leave_refusal);
    }
    // Another thread may wait in recv(2) or accept(2) on the socket, and would see EAGAIN.
    if socket::is_in_use(socket) {
        return Attempt::Over(Answer::Continue);
    }
    match socket::status_flags(socket) {
        Ok(flags) => kick(socket, flags, address, leave_refusal),
        Err(errno) => Attempt::Over(Answer::errno(errno)),
    }
}

/// The attempt for a blocking socket with these flags, on which no thread waits.
fn kick(socket: BorrowedFd<'_>, flags: OFlags, address: SocketAddr, leave_refusal: bool) -> Attempt {
    match socket::without_blocking(socket, flags, || attempt_now(socket, address, true, leave_refusal)) {
        Ok(outcome) => outcome,
        Err(errno) => Attempt::Over(Answer::errno(errno)),
    }
}

fn attempt_now(socket: BorrowedFd<'_>, address: SocketAddr, blocking: bool, leave_refusal: bool) -> Attempt {
    const BEGUN: Attempt = Attempt::InKernel {
        at_timeout: Errno::EINPROGRESS,
    };
    match socket::connect(socket, address) {
        Ok(()) => Attempt::Over(Answer::Value(0)),
        Err(Errno::ECONNREFUSED) => Attempt::Refused,
        // The program made the socket blocking again behind our back.
        Err(Errno::EINTR) => BEGUN,
        Err(Errno::EINPROGRESS) if blocking => match socket::connect(socket, address) {
            Ok(()) => Attempt::Over(Answer::Value(0)),
            Err(Errno::EALREADY | Errno::EINTR) => BEGUN,
            Err(Errno::ECONNREFUSED) => Attempt::Refused,
            Err(errno) => Attempt::Over(Answer::errno(errno)),
        },
        Err(Errno::EALREADY) if blocking => Attempt::InKernel {
            at_timeout: Errno::EALREADY,
        },
        Err(Errno::EINPROGRESS) => match socket::progress(socket) {
            Progress::Established => Attempt::Over(Answer::errno(Errno::EINPROGRESS)),
            Progress::Failed if leave_refusal => Attempt::Over(Answer::errno(Errno::EINPROGRESS)),
            Progress::Failed => match socket::connect(socket, address) {
                Err(Errno::ECONNREFUSED) => Attempt::Refused,
                Err(Errno::EINTR) => BEGUN,
                Err(errno) => Attempt::Over(Answer::errno(errno)),
                Ok(()) => Attempt::Over(Answer::errno(Errno::EINPROGRESS)),
            },
            Progress::Waiting => BEGUN,
        },
        Err(errno) => Attempt::Over(Answer::errno(errno)),
    }
}

/// The answer to a call after the kernel has begun the attempt: the kernel waits inside the
/// program's own call, natively.
pub(super) fn in_kernel(blocking: bool) -> Answer {
    if blocking {
        Answer::Continue
    } else {
        Answer::errno(Errno::EINPROGRESS)
    }
}

/// A connect of `socket` is about to be answered. A copy of the socket is given up, since the copy
/// would delay a FIN. The copy stays if the attempt failed: the program may try again.
pub fn connect_answered(host: &mut Host, socket: BorrowedFd<'_>, answer: Answer) {
    let under_way = match answer {
        Answer::Value(_) | Answer::Continue => true,
        Answer::Errno(_) | Answer::Interrupted => socket::progress(socket) != Progress::Failed,
    };
    if under_way {
        host.give_up_copy(socket);
    }
}

/// The kind of a connect's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A host.
    Host,
    /// The program's own localhost; `::1` if `v6` is true.
    Localhost { v6: bool },
    /// This name server. The project's name server is told which server the program asked.
    NameServer(IpAddr),
}

/// Redirects a stream socket, of this kind, to the first of `candidates` that does not refuse; asks
/// the broker to `reach` where all do.
pub(super) fn redirect_stream(
    host: &mut Host,
    call: &Notification,
    socket: OwnedFd,
    kind: &InetSocket,
    candidates: &[SocketAddrV4],
    reach: Option<Endpoint>,
    purpose: Purpose,
) -> Verdict {
    let (to_localhost, name_server) = match purpose {
        Purpose::Localhost { v6 } => (Some(v6), None),
        Purpose::NameServer(asked) => (None, Some(asked)),
        Purpose::Host => (None, None),
    };
    if reach.is_some_and(|endpoint| host.answered.lately(endpoint)) {
        host.give_up_copy(socket.as_fd());
        return Answer::Continue.into();
    }
    let flags = match socket::status_flags(socket.as_fd()) {
        Ok(flags) => flags,
        Err(errno) => return errno.into(),
    };
    let blocking = !flags.contains(OFlags::NONBLOCK);
    for (position, candidate) in candidates.iter().enumerate() {
        let address = kind.family.form(*candidate);
        let is_last = position + 1 == candidates.len();
        let leave_refusal = is_last && reach.is_none();
        let at = tcp(*candidate);
        let standing = vet::look(host, at);
        match standing {
            Standing::Nobody | Standing::Trusted => {}
            Standing::Stranger(_) if is_last => break,
            Standing::Stranger(_) => continue,
            Standing::Unknown(uid) => return vet::ask(host, call, uid, at),
        }
        let asked = name_server.filter(|_| socket::peer_address(socket.as_fd()).is_err());
        // An unbound socket is neither connected nor listening: no thread waits on the socket.
        let attempt = if blocking && kind.is_unbound() {
            kick(socket.as_fd(), flags, address, leave_refusal)
        } else {
            attempt(socket.as_fd(), address, blocking, leave_refusal)
        };
        if standing == Standing::Nobody
            && is_made(attempt)
            && let Some(verdict) = vet::undo_if_strangers(host, call, socket.as_fd(), *candidate)
        {
            return verdict;
        }
        note_own(host, socket.as_fd(), *candidate, to_localhost);
        if let Some(asked) = asked
            && socket::progress(socket.as_fd()) == Progress::Established
        {
            // Sent before the program can send any data. Without this frame, the servers of
            // resolv.conf are asked.
            let _ = message::send(socket.as_fd(), &asked::frame(asked), &[], None, 0);
        }
        match (attempt, reach) {
            (Attempt::Over(answer), _) => {
                if let (true, Some(endpoint)) = (is_made(attempt), reach) {
                    host.answered.note(endpoint);
                }
                connect_answered(host, socket.as_fd(), answer);
                return answer.into();
            }
            (Attempt::Refused, _) if !is_last => {}
            (Attempt::Refused, None) => break,
            (outcome, endpoint) => {
                // A connect that times out by SO_SNDTIMEO returns EINPROGRESS, or EALREADY if
                // another call began the connect.
                let own_timeout = blocking
                    .then(|| socket::send_timeout(socket.as_fd()).ok().flatten())
                    .flatten();
                let in_hand = matches!(outcome, Attempt::InKernel { .. });
                if in_hand && endpoint.is_none() && own_timeout.is_none() {
                    host.give_up_copy(socket.as_fd());
                    return in_kernel(blocking).into();
                }
                let at_timeout = match outcome {
                    Attempt::InKernel { at_timeout } => at_timeout,
                    _ => Errno::EINPROGRESS,
                };
                let pending = PendingConnect {
                    call: *call,
                    socket,
                    address,
                    endpoint,
                    own_timeout,
                    blocking,
                    in_kernel: in_hand,
                    attempts: 1,
                };
                return keep_pending(host, call, pending, at_timeout);
            }
        }
    }
    Errno::ECONNREFUSED.into()
}

/// Whether the connection is made, or begun.
fn is_made(attempt: Attempt) -> bool {
    match attempt {
        Attempt::Over(answer) => answer == Answer::Value(0) || answer == Answer::errno(Errno::EINPROGRESS),
        Attempt::InKernel { .. } => true,
        Attempt::Refused => false,
    }
}

fn tcp(address: SocketAddrV4) -> Endpoint {
    Endpoint {
        transport: Transport::Tcp,
        address,
    }
}

/// Notes a connection of the host to itself, for the accepted end (getsockname(2)). The note is
/// used after this call is answered. The note of a refused connection is overwritten or forgotten
/// in time.
fn note_own(host: &mut Host, client: BorrowedFd<'_>, to: SocketAddrV4, to_localhost: Option<bool>) {
    let may_be_known = to_localhost.is_some() || !host.own_connections.is_empty();
    if !may_be_known || *to.ip() != host.identity.vip() {
        return;
    }
    let Some(client) = socket::local_address(client).and_then(socket::as_v4) else {
        return;
    };
    match to_localhost {
        Some(v6) => host.own_connections.note(client, to.port(), v6),
        None => host.own_connections.forget(client, to.port()),
    }
}

/// Keeps a connect pending. If the kernel has begun the attempt, the connect waits until the next
/// tick, or for its own time-out. Otherwise the connect waits for the broker's reply.
fn keep_pending(host: &mut Host, call: &Notification, pending: PendingConnect, at_timeout: Errno) -> Verdict {
    let now = Instant::now();
    let (timeout, timeout_errno) = match pending.own_timeout {
        Some(own) if pending.in_kernel || own < host.reach_timeout => (own, at_timeout),
        _ => (host.reach_timeout, Errno::ETIMEDOUT),
    };
    if !pending.in_kernel {
        ask(host, call.id, &pending);
    }
    Verdict::Pending(Box::new(PendingCall {
        tid: call.tid,
        since: now,
        deadline: now + timeout,
        timeout_errno: timeout_errno as i32,
        waiting: Waiting::Connect(pending),
    }))
}

fn ask(host: &mut Host, id: NotificationId, pending: &PendingConnect) {
    let Some(endpoint) = pending.endpoint else {
        return;
    };
    host.link.send(
        &ToBroker::Reach {
            id: id.number(),
            endpoint,
            can_wait: pending.blocking,
        },
        Vec::new(),
    );
}

/// Tries a connect once more that waited; `None` if it goes on waiting.
pub(super) fn try_again(host: &mut Host, id: NotificationId, pending: &mut PendingCall) -> Option<Answer> {
    let Waiting::Connect(connect) = &mut pending.waiting else {
        return None;
    };
    if !host.listener.is_valid(id) {
        return None;
    }
    if let Some(at) = socket::as_v4(connect.address).map(tcp) {
        match vet::look(host, at) {
            Standing::Nobody | Standing::Trusted => {}
            Standing::Stranger(_) => return Some(Answer::errno(Errno::ECONNREFUSED)),
            Standing::Unknown(uid) => {
                let call = connect.call;
                return vet::wait_for_word(host, pending, &call, uid, at);
            }
        }
    }
    connect.attempts += 1;
    let leave_refusal = connect.attempts >= MAX_ATTEMPTS || connect.endpoint.is_none();
    host.incoming.note_connect();
    match attempt(connect.socket.as_fd(), connect.address, connect.blocking, leave_refusal) {
        Attempt::Over(answer) => Some(answer),
        Attempt::InKernel { .. } if connect.own_timeout.is_some() => {
            connect.in_kernel = true;
            None
        }
        Attempt::InKernel { .. } => Some(in_kernel(connect.blocking)),
        Attempt::Refused if leave_refusal => Some(Answer::errno(Errno::ECONNREFUSED)),
        Attempt::Refused => {
            connect.in_kernel = false;
            ask(host, id, connect);
            None
        }
    }
}

/// Redirects a datagram socket to the first of `candidates`, unless the kernel is to connect the
/// socket.
pub(super) fn redirect_datagram(
    host: &mut Host,
    call: &Notification,
    socket: &OwnedFd,
    family: Family,
    candidates: &[SocketAddrV4],
    reach: Option<Endpoint>,
) -> Verdict {
    if let Some(endpoint) = reach {
        return retained_datagram(host, call, endpoint);
    }
    let Some(candidate) = candidates.first() else {
        return Errno::ECONNREFUSED.into();
    };
    let endpoint = Endpoint {
        transport: Transport::Udp,
        address: *candidate,
    };
    if let Some(verdict) = vet::verdict(host, call, endpoint) {
        return verdict;
    }
    match socket::connect(socket.as_fd(), family.form(*candidate)) {
        Ok(()) => Answer::Value(0).into(),
        Err(errno) => errno.into(),
    }
}

/// Leaves a datagram socket's connect to the kernel once the endpoint is retained.
fn retained_datagram(host: &mut Host, call: &Notification, endpoint: Endpoint) -> Verdict {
    if host.answered.lately(endpoint) {
        return Answer::Continue.into();
    }
    ask_for_datagram(host, call, endpoint, Waiting::Datagram { endpoint, call: *call })
}

/// Has the broker retain `endpoint`, and keeps the call pending until then.
pub(super) fn ask_for_datagram(host: &mut Host, call: &Notification, endpoint: Endpoint, waiting: Waiting) -> Verdict {
    let now = Instant::now();
    host.link.send(
        &ToBroker::Reach {
            id: call.id.number(),
            endpoint,
            can_wait: false,
        },
        Vec::new(),
    );
    Verdict::Pending(Box::new(PendingCall {
        tid: call.tid,
        since: now,
        deadline: now + host.reach_timeout,
        timeout_errno: Errno::ETIMEDOUT as i32,
        waiting,
    }))
}
