//! getsockname(2) and getpeername(2).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::bind::bind_wildcard_now;
use super::remembered::known;
use super::{Verdict, socket_of};
use crate::host::Host;
use crate::identity::{Identity, like};
use crate::sockets::Asked;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::socket::{self, as_v4, encode_address};

/// Handles getsockname(2).
pub(super) fn getsockname(host: &mut Host, call: &Notification) -> Verdict {
    let (socket, mut kind) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => {
            return known(host, call).map_or(verdict, |known| {
                let shown = shown_local(host, known.local, &known.asked, known.peer);
                show(call, known.local, shown)
            });
        }
    };
    let asked = socket::cookie(socket.as_fd())
        .map(|cookie| host.sockets.get(cookie))
        .unwrap_or_default();
    if asked.bind_later && kind.is_unbound() {
        if let Err(errno) = bind_wildcard_now(host, &socket, kind.family) {
            return errno.into();
        }
        match socket::local_address(socket.as_fd()) {
            Some(local) => kind.local = local,
            None => return Answer::Continue.into(),
        }
    }
    let peer = socket::peer_address(socket.as_fd()).ok().flatten();
    let shown = shown_local(host, kind.local, &asked, peer);
    show(call, kind.local, shown)
}

fn shown_local(host: &Host, local: SocketAddr, asked: &Asked, peer: Option<SocketAddr>) -> SocketAddr {
    match asked.bound {
        // A socket that bound the wildcard and then connected shows its source, as natively.
        Some(bound) if !(peer.is_some() && bound.ip().to_canonical().is_unspecified()) => {
            SocketAddr::new(bound.ip(), local.port())
        }
        _ => accepted_at_localhost(host, local, peer).unwrap_or_else(|| host.identity.shown_local(local)),
    }
}

/// The local address of a connection that the host's own program made to localhost and that the
/// wildcard's listener accepted.
fn accepted_at_localhost(host: &Host, local: SocketAddr, peer: Option<SocketAddr>) -> Option<SocketAddr> {
    let own = as_v4(local).filter(|own| *own.ip() == host.identity.vip())?;
    match host.own_connections.get(as_v4(peer?)?, own.port())? {
        true => Some(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), own.port())),
        false => Some(like(local, Ipv4Addr::LOCALHOST)),
    }
}

/// Handles getpeername(2).
pub(super) fn getpeername(host: &mut Host, call: &Notification) -> Verdict {
    let (socket, kind) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => {
            let known = known(host, call).and_then(|known| Some((known.peer?, known)));
            return known.map_or(verdict, |(peer, known)| {
                let shown = shown_peer(&host.identity, peer, known.local, &known.asked);
                if shown == peer || !known.is_connected() {
                    return Answer::Continue.into();
                }
                show(call, peer, shown)
            });
        }
    };
    let Ok(Some(peer)) = socket::peer_address(socket.as_fd()) else {
        return Answer::Continue.into();
    };
    let asked = socket::cookie(socket.as_fd())
        .map(|cookie| host.sockets.get(cookie))
        .unwrap_or_default();
    show(call, peer, shown_peer(&host.identity, peer, kind.local, &asked))
}

fn shown_peer(identity: &Identity, peer: SocketAddr, local: SocketAddr, asked: &Asked) -> SocketAddr {
    asked.peer.unwrap_or_else(|| identity.shown_peer(peer, local))
}

/// Answers with `shown`. The call is left to the kernel if the kernel's own answer is the same.
fn show(call: &Notification, actual: SocketAddr, shown: SocketAddr) -> Verdict {
    if shown == actual {
        return Answer::Continue.into();
    }
    match write_address(&ThreadMemory::of(call.tid), call.args[1], call.args[2], shown) {
        Ok(()) => Answer::Value(0).into(),
        Err(errno) => errno.into(),
    }
}

/// Writes an address as the kernel does (net/socket.c, move_addr_to_user): at most as many bytes as
/// there is room for, and the real length.
pub(super) fn write_address(
    memory: &impl TargetMemory,
    to: u64,
    length_at: u64,
    address: SocketAddr,
) -> Result<(), Errno> {
    let room = i32::from_ne_bytes(memory.read_array(length_at)?);
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let bytes = encode_address(address);
    let written = &bytes[..bytes.len().min(room)];
    if !written.is_empty() {
        memory.write(to, written)?;
    }
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    memory.write(length_at, &length.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use imsup_linux::memory::array::Array;

    fn memory_with_length(length: i32) -> Array {
        let mut bytes = vec![0xee; 64];
        bytes[60..].copy_from_slice(&length.to_ne_bytes());
        Array::new(bytes)
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        for room in [0, 2, 16, 60] {
            let memory = memory_with_length(room);
            write_address(&memory, 0, 60, address).unwrap();
            let bytes = memory.into_bytes();
            let expected = encode_address(address);
            let count = expected.len().min(usize::try_from(room).unwrap());
            assert_eq!(bytes[..count], expected[..count]);
            assert!(bytes[count..60].iter().all(|byte| *byte == 0xee), "room for {room}");
            assert_eq!(bytes[60..], 16_u32.to_ne_bytes(), "the real length is told");
        }
    }

    #[test]
    fn bad_lengths_and_pointers_fail_as_natively() {
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        assert_eq!(
            write_address(&memory_with_length(-1), 0, 60, address),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            write_address(&memory_with_length(16), 1 << 40, 60, address),
            Err(Errno::EFAULT)
        );
        assert_eq!(
            write_address(&memory_with_length(16), 0, 1 << 40, address),
            Err(Errno::EFAULT)
        );
    }
}
