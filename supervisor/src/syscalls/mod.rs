//! The trapped system calls, a file for each family: parse the arguments, decide purely, carry out.
//!
//! The table (`imsup-bpf-filters`) decides which calls come here. If arguments cannot be parsed,
//! the kernel carries the call out, and fails the call in its own way.

mod accept;
mod bind;
mod conflict;
mod connect;
mod datagram;
mod home;
mod listen;
mod names;
mod open;
mod options;
mod redirect;
mod remembered;
mod resolver;
mod resume;
mod send;
mod socket;
mod uname;
mod vet;

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use imsup_bpf_filters::Handler;
use nix::errno::Errno;

use crate::host::Host;
use crate::unhonoured::Unhonoured;
use crate::verdict::Verdict;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::socket::{Family, InetSocket, as_v4, clear_v6only, decode_address, is_v6only};

pub use bind::{bind_again, claimed, keep_claimed};
pub use redirect::connect_answered;
pub use resume::{look_again, reached, without_broker};

/// Longest sockaddr that the kernel takes (`struct sockaddr_storage`).
const MAX_SOCKADDR_BYTES: u64 = 128;

/// Handles a notification.
pub fn handle(host: &mut Host, call: &Notification) -> Verdict {
    let handler = imsup_bpf_filters::handler_of(call.number);
    let verdict = match handler {
        Some(Handler::Socket) => socket::socket(host, call),
        Some(Handler::Bind) => bind::bind(host, call),
        Some(Handler::Accept) => accept::accept(host, call),
        Some(Handler::Listen) => listen::listen(host, call),
        Some(Handler::Connect) => connect::connect(host, call),
        Some(Handler::SendTo | Handler::SendMsg | Handler::SendMmsg) => send::send(host, call, None),
        Some(Handler::GetSockName) => names::getsockname(host, call),
        Some(Handler::GetPeerName) => names::getpeername(host, call),
        Some(Handler::AcceptConn) => options::accept_conn(host, call),
        Some(Handler::Uname) => uname::uname(host, call),
        Some(Handler::Open) => open::open(host, call),
        Some(Handler::IoUringSetup) => {
            host.warned.once(call.tid, Unhonoured::IoUring);
            Errno::ENOSYS.into()
        }
        None => Answer::Continue.into(),
    };
    // TCP Fast Open connects elsewhere without connect(2).
    let flags = match handler {
        Some(Handler::SendTo | Handler::SendMmsg) => call.int(3),
        Some(Handler::SendMsg) => call.int(2),
        _ => 0,
    };
    if flags & libc::MSG_FASTOPEN != 0 && matches!(verdict, Verdict::Answer(Answer::Continue)) {
        host.give_up_copy_of(call.tid, call.fd(0));
    }
    verdict
}

/// A duplicate of the socket that is the call's first argument, and the socket's kind. The call is
/// left to the kernel if the socket is neither TCP nor UDP, or cannot be duplicated. If the caller
/// is gone, no answer is needed.
fn socket_of(host: &mut Host, call: &Notification) -> Result<(OwnedFd, InetSocket), Verdict> {
    let socket = match host.socket(call.tid, call.fd(0)) {
        Ok(socket) => socket,
        Err(errno) => {
            let binds = matches!(
                imsup_bpf_filters::handler_of(call.number),
                Some(Handler::Bind | Handler::Connect)
            );
            match errno {
                Errno::EPERM | Errno::EACCES => host.warned.once(call.tid, Unhonoured::Uninspectable),
                Errno::ENOLINK if binds && !host.is_remembered(call.tid, call.fd(0)) => {
                    host.warned.once(call.tid, Unhonoured::NoCopy);
                }
                _ => {}
            }
            return Err(Answer::Continue.into());
        }
    };
    // Checked after the duplication: the duplicated descriptor was the caller's only if the caller
    // still waits.
    if !host.listener.is_valid(call.id) {
        return Err(Verdict::Done);
    }
    match InetSocket::inspect(socket.as_fd()) {
        Some(kind) => Ok((socket, kind)),
        None => Err(Answer::Continue.into()),
    }
}

/// The family of no address: a connect to this family removes a socket's peer.
const AF_UNSPEC: u16 = 0;

/// The address argument of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sockaddr {
    /// An IPv4 or IPv6 address.
    Inet(SocketAddr),
    /// AF_UNSPEC.
    Unspecified,
    /// Another family's, or none that the kernel takes.
    Other,
}

impl Sockaddr {
    /// The address, if IPv4 or IPv6.
    fn inet(self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(address),
            Self::Unspecified | Self::Other => None,
        }
    }
}

/// The sockaddr at `address` with this length, as an `int`.
///
/// # Errors
/// Errors of reading the program's memory.
fn read_sockaddr(memory: ThreadMemory, address: u64, length: u64) -> Result<Sockaddr, Errno> {
    // Lengths are ints: the kernel ignores the upper half of the register, and refuses negative
    // lengths.
    let length = length & u64::from(u32::MAX);
    let mut bytes = [0; MAX_SOCKADDR_BYTES as usize];
    let Some(wanted) = usize::try_from(length).ok().and_then(|length| bytes.get_mut(..length)) else {
        return Ok(Sockaddr::Other);
    };
    // A short read means that the rest is not mapped, which is for the kernel to say.
    if wanted.len() < 2 || memory.read(address, wanted)? < wanted.len() {
        return Ok(Sockaddr::Other);
    }
    Ok(match decode_address(wanted) {
        Some(address) => Sockaddr::Inet(address),
        None if wanted[..2] == AF_UNSPEC.to_ne_bytes() => Sockaddr::Unspecified,
        None => Sockaddr::Other,
    })
}

/// Leaves a call to the kernel if the arguments could not be read. `why` is the reason.
fn leave(host: &mut Host, call: &Notification, why: Errno) -> Verdict {
    if matches!(why, Errno::EPERM | Errno::EACCES) {
        host.warned.once(call.tid, Unhonoured::Uninspectable);
    }
    Answer::Continue.into()
}

/// True if `socket` can be redirected to the planes, which are IPv4. An unbound IPv6-only socket is
/// made dual-stack for this purpose. If an IPv6-only socket is to connect to a v4-mapped address,
/// the refusal is left to the kernel.
fn takes_v4(kind: &InetSocket, socket: &OwnedFd, address: SocketAddr) -> bool {
    if kind.family != Family::V6 || !is_v6only(socket.as_fd()) {
        return true;
    }
    let v4_mapped = as_v4(address).is_some_and(|v4| !v4.ip().is_unspecified());
    !v4_mapped && clear_v6only(socket.as_fd()).is_ok()
}
