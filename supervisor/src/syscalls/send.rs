//! sendto(2) with a destination; sendmsg(2) and sendmmsg(2) with MSG_FASTOPEN.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;

use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;
use rustix::net::SendFlags;

use super::lead::retained_datagram;
use super::{Verdict, read_sockaddr, socket_of, takes_v4};
use crate::host::Host;
use crate::identity::Destination;
use crate::kernel::memory::{TargetMemory, ThreadMemory};
use crate::kernel::notify::{Answer, Notification};
use crate::kernel::socket;

/// Largest payload of a UDP datagram (RFC 768, over IPv4).
const MAX_DATAGRAM_BYTES: usize = 65_507;

/// Handles sendto(2) with a destination.
pub(super) fn sendto(host: &mut Host, call: &Notification) -> Verdict {
    let Some(address) = read_sockaddr(ThreadMemory::of(call.tid), call.args[4], call.args[5]) else {
        return Answer::Continue.into();
    };
    let destination = host.identity.destination(address);
    if destination == Destination::Foreign || address.port() == 0 {
        return Answer::Continue.into();
    }
    let (socket, kind) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    if !takes_v4(&kind, &socket, address) {
        return Answer::Continue.into();
    }
    if kind.transport == Transport::Tcp {
        return fast_open(call.int(3));
    }
    let unbound = kind.is_unbound() && kind.local.ip().is_unspecified();
    let own_source = !matches!(destination, Destination::Localhost { .. });
    if unbound
        && own_source
        && let Err(errno) = socket::bind_source(socket.as_fd(), kind.family, host.identity.vip())
    {
        return errno.into();
    }
    // A bound socket answers whoever asked, and that may be a client outside, on the machine's own localhost.
    let answers = !kind.local.ip().is_unspecified();
    let vip = |port| Endpoint::udp(host.identity.vip(), port);
    let led_to = match destination {
        Destination::Foreign => return Answer::Continue.into(),
        Destination::Forbidden => return Errno::ECONNREFUSED.into(),
        Destination::Vip(target) => {
            return retained_datagram(host, call, Endpoint::udp(*target.ip(), target.port()));
        }
        Destination::NameServer => host.identity.name_server,
        Destination::Localhost { port, .. } if host.retained.is_wildcard(vip(port)) => vip(port).address,
        Destination::Localhost { v6: false, port } => SocketAddrV4::new(host.identity.localhost(), port),
        Destination::Localhost { v6: true, port } => SocketAddrV4::new(host.identity.v6_shadow(), port),
    };
    if answers && !own_source && !is_bound(led_to) {
        return Answer::Continue.into();
    }
    send_in_its_place(call, &socket, kind.family.form(led_to))
}

/// Whether a datagram socket is bound there: then nobody else can be.
fn is_bound(address: SocketAddrV4) -> bool {
    rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .and_then(|probe| rustix::net::bind(&probe, &address))
        .is_err()
}

/// Sends the program's bytes elsewhere than it says: the destination lies in memory that the program may change, so the kernel
/// cannot be left to read it again.
fn send_in_its_place(call: &Notification, socket: &impl AsFd, to: SocketAddr) -> Verdict {
    let length = match usize::try_from(call.args[2]) {
        Ok(length) if length <= MAX_DATAGRAM_BYTES => length,
        _ => return Errno::EMSGSIZE.into(),
    };
    let bytes = match ThreadMemory::of(call.tid).read_vec(call.args[1], length) {
        Ok(bytes) => bytes,
        Err(errno) => return errno.into(),
    };
    let flags = SendFlags::from_bits_retain(call.int(3).cast_unsigned()) | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::sendto(socket, &bytes, flags, &to) {
        Ok(count) => Answer::Value(i64::try_from(count).unwrap_or(i64::MAX)).into(),
        Err(errno) => socket::errno_of(errno).into(),
    }
}

/// TCP Fast Open to a host is EOPNOTSUPP, as where the sysctl has it off: programs then connect. Without the flag the kernel
/// ignores the address of a stream socket.
fn fast_open(flags: i32) -> Verdict {
    if flags & libc::MSG_FASTOPEN != 0 {
        Errno::EOPNOTSUPP.into()
    } else {
        Answer::Continue.into()
    }
}

/// Handles sendmsg(2) with MSG_FASTOPEN.
pub(super) fn sendmsg(host: &mut Host, call: &Notification) -> Verdict {
    message(host, call, call.int(2))
}

/// Handles sendmmsg(2) with MSG_FASTOPEN, which is the same for its first message.
pub(super) fn sendmmsg(host: &mut Host, call: &Notification) -> Verdict {
    message(host, call, call.int(3))
}

fn message(host: &mut Host, call: &Notification, flags: i32) -> Verdict {
    let memory = ThreadMemory::of(call.tid);
    // `struct msghdr` begins with the address of the name and its length; `struct mmsghdr` with a `struct msghdr`.
    let name = memory.read_array::<8>(call.args[1]).map(u64::from_ne_bytes);
    let length = memory
        .read_array::<4>(call.args[1].wrapping_add(8))
        .map(u32::from_ne_bytes);
    let (Ok(name), Ok(length)) = (name, length) else {
        return Answer::Continue.into();
    };
    match read_sockaddr(memory, name, u64::from(length)) {
        Some(address) if host.identity.destination(address) != Destination::Foreign => fast_open(flags),
        _ => Answer::Continue.into(),
    }
}
