//! Calls that waited go on: what they waited for has come, or will not.

use std::os::fd::AsFd;

use imsup_linux::notify::{Answer, NotificationId};
use imsup_linux::socket::{self, Progress};
use imsup_protocol::Outcome;
use nix::errno::Errno;

use super::redirect::{in_kernel, try_again};
use super::{accept, bind, send, vet};
use crate::host::Host;
use crate::pending::{BindStage, PendingCall, TICK, Until, Waiting};
use crate::strangers::Standing;

/// Looks again at a connect that the kernel had begun; `None` if the call goes on waiting.
///
/// The connect nearly always has its outcome by now: loopback answers within the call unless the
/// machine is loaded or the other side's queue is full. With a full queue, the kernel waits on
/// inside the program's own call, except for a socket with its own time-out.
pub fn look_again(host: &mut Host, id: NotificationId, pending: &mut PendingCall) -> Option<Answer> {
    let connect = match &mut pending.waiting {
        Waiting::Connect(connect) => connect,
        Waiting::Accept { call, .. } => return accept::look_again(host, call),
        _ => return None,
    };
    if !connect.in_kernel {
        return None;
    }
    match socket::progress(connect.socket.as_fd()) {
        Progress::Established => Some(in_kernel(connect.blocking)),
        Progress::Waiting if connect.own_timeout.is_some() => None,
        Progress::Waiting => (pending.since.elapsed() > TICK).then(|| in_kernel(connect.blocking)),
        Progress::Failed => try_again(host, id, pending),
    }
}

/// The broker answered a [`imsup_protocol::ToBroker::Reach`]; `None` if the call goes on waiting.
pub fn reached(host: &mut Host, id: NotificationId, pending: &mut PendingCall, outcome: Outcome) -> Option<Answer> {
    match (outcome, &mut pending.waiting) {
        (Outcome::Connect, Waiting::Connect(_)) => try_again(host, id, pending),
        (Outcome::Connect | Outcome::Refused, Waiting::Datagram { endpoint, call }) => {
            let (endpoint, call) = (*endpoint, *call);
            let answer = vet::pending_datagram(host, pending, &call, endpoint);
            if outcome == Outcome::Connect && answer == Some(Answer::Continue) {
                host.answered.note(endpoint);
            }
            answer
        }
        (Outcome::Connect, Waiting::Send { endpoint, .. }) => {
            let endpoint = *endpoint;
            // If the socket is a stranger's, the call finds that too.
            if matches!(host.strangers.look(endpoint), Standing::Nobody | Standing::Trusted) {
                host.answered.note(endpoint);
            }
            send::resume(host, pending)
        }
        // No socket takes the datagram. The sender finds out as natively.
        (Outcome::Unknown | Outcome::Refused, Waiting::Send { .. }) => send::resume(host, pending),
        (Outcome::Unknown, _)
        | (Outcome::Connect, Waiting::Bind(_) | Waiting::Accept { .. } | Waiting::Anew { .. }) => {
            Some(Answer::Continue)
        }
        (Outcome::Refused, _) => Some(Answer::errno(Errno::ECONNREFUSED)),
        (Outcome::TimedOut, _) => Some(Answer::errno(Errno::ETIMEDOUT)),
        (Outcome::Busy, _) => Some(Answer::errno(Errno::EAGAIN)),
    }
}

/// There is no broker to wait for; `None` if the call waits for the next broker. A call that cannot
/// wait for long also waits if the keeper starts the next broker.
pub fn without_broker(host: &mut Host, id: NotificationId, pending: &mut PendingCall) -> Option<Answer> {
    match &pending.waiting {
        Waiting::Connect(connect) if connect.blocking || connect.in_kernel => None,
        Waiting::Connect(_) if host.link.is_answered() => None,
        Waiting::Connect(_) => Some(Answer::errno(Errno::ECONNREFUSED)),
        Waiting::Datagram { endpoint, call } => {
            let (endpoint, call) = (*endpoint, *call);
            vet::pending_datagram(host, pending, &call, endpoint)
        }
        Waiting::Send { .. } => send::resume(host, pending),
        Waiting::Bind(bind) if bind.stage == BindStage::Claim => Some(bind::claimed(host, id, pending, None)),
        Waiting::Bind(_) => bind::bind_again(host, id, pending),
        Waiting::Accept { .. } => None,
        Waiting::Anew {
            until: Until::Trusted { .. },
            ..
        } if !host.link.is_answered() => Some(Answer::errno(Errno::ECONNREFUSED)),
        // The loop makes the call again, once the loss is noted, or once the next broker has named
        // the socket's owner.
        Waiting::Anew { .. } => None,
    }
}
