//! Listener takeover: listening sockets that replace another listener, and the connections waiting
//! in both. listen(2), socket(7), net/core/sock_reuseport.c.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};

use super::sock_diag::{self, Local};
use super::tcp_info::{TcpInfo, state};
use super::{guard, settings, socket};

/// A socket that has taken a listener's place.
#[derive(Debug)]
pub struct Successor {
    /// The new socket.
    pub socket: OwnedFd,
    /// Connections that waited in the old listener when the new socket was chosen. A connection
    /// whose handshake was under way on another processor may still come; call [`accept_queue`]
    /// once more before closing the old listener.
    pub old_queue: u32,
}

/// The number of connections waiting in a listener, and the listener's backlog (TCP_INFO).
///
/// # Errors
/// EINVAL if the socket does not listen; ENOPROTOOPT or EOPNOTSUPP if this is no TCP socket.
pub fn accept_queue(listener: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
    let info = TcpInfo::of(listener)?;
    if info.state == state::LISTEN {
        Ok((info.unacked, info.sacked))
    } else {
        Err(Errno::EINVAL)
    }
}

/// A socket that takes over from `listener`: of the same family, address, options and owner. Both
/// have SO_REUSEPORT, and the new socket is chosen for every connection from now on
/// (SO_ATTACH_REUSEPORT_CBPF). Connections waiting in the old listener stay there.
///
/// If several listeners share the address (SO_REUSEPORT, each worker with a listener of its own),
/// one successor takes over from all. SO_REUSEPORT stays set on `listener`. A filter that the
/// program itself attached to the group is replaced.
///
/// # Errors
/// Errors of socket(2), bind(2), listen(2) and sock_diag(7); EPERM if the listener belongs to
/// another user and we lack CAP_CHOWN.
pub fn take_over(listener: BorrowedFd<'_>, backlog: i32) -> Result<Successor, Errno> {
    let address = socket::local_address(listener).ok_or(Errno::EAFNOSUPPORT)?;
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let protocol = socket::get_int(listener, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    let protocol = u32::try_from(protocol)
        .ok()
        .and_then(std::num::NonZeroU32::new)
        .map(Protocol::from_raw);
    let new = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, protocol)
        .map_err(socket::errno_of)?;
    adopt_owner(listener, new.as_fd())?;
    socket::Sharing::Port.set(listener, true)?;
    settings::copy(listener, new.as_fd())?;
    if address.is_ipv6() {
        let v6only = i32::from(socket::is_v6only(listener));
        socket::set_int(new.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, v6only)?;
    }
    if let Some(v4) = socket::as_v4(address) {
        guard::keep_neighbours_out(new.as_fd(), *v4.ip());
    }
    socket::bind(new.as_fd(), address)?;
    socket::listen(new.as_fd(), backlog)?;
    // The new socket is the last of the group.
    let last = group_size(listener)?.saturating_sub(1);
    choose(new.as_fd(), last)?;
    let (old_queue, _) = accept_queue(listener)?;
    Ok(Successor { socket: new, old_queue })
}

/// Chooses the first listener of a group again, the program's original listener.
///
/// # Errors
/// EINVAL if the listener never had a successor.
pub fn give_back(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    choose(listener, 0)
}

/// Chooses a successor again that was kept after [`give_back`]: the last socket of the group.
///
/// # Errors
/// As [`take_over`].
pub fn choose_last(successor: BorrowedFd<'_>) -> Result<(), Errno> {
    choose(successor, group_size(successor)?.saturating_sub(1))
}

/// Takes the choice away, once the successor is closed: the program's own listeners share
/// connections as before.
///
/// # Errors
/// ENOENT if no filter is attached.
pub fn detach(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;
    socket::set_int(listener, libc::SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
}

/// SO_REUSEPORT requires one user for all sockets of an address, by the owner of the inode, which
/// fchown(2) changes (net/socket.c, sockfs_setattr).
///
/// # Errors
/// EPERM if the owners differ and we lack CAP_CHOWN.
pub fn adopt_owner(listener: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<(), Errno> {
    let owner = |socket| rustix::fs::fstat(socket).map_err(socket::errno_of);
    let (wanted, present) = (owner(listener)?.st_uid, owner(new)?.st_uid);
    if wanted == present {
        return Ok(());
    }
    rustix::fs::fchown(new, Some(rustix::fs::Uid::from_raw(wanted)), None).map_err(socket::errno_of)
}

/// The number of sockets that listen at the address of `listener`, including `listener`. This is
/// the reuseport group, if all are of one user and family. The kernel numbers the sockets of a
/// group in the order of listen(2). The last socket fills the place of a socket that leaves.
fn group_size(listener: BorrowedFd<'_>) -> Result<usize, Errno> {
    let address = socket::local_address(listener).ok_or(Errno::EAFNOSUPPORT)?;
    let uid = rustix::fs::fstat(listener).map_err(socket::errno_of)?.st_uid;
    let local = Local {
        ip: address.ip(),
        port: Some(address.port()),
    };
    let found = sock_diag::find(&[local], 1 << state::LISTEN)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(found
        .iter()
        .filter(|socket| socket.local == address && socket.uid == uid)
        .count())
}

/// Has the socket at `index` of the group of `member` take every new connection.
fn choose(member: BorrowedFd<'_>, index: usize) -> Result<(), Errno> {
    let index = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
    socket::attach_reuseport_filter(
        member,
        &[libc::sock_filter {
            // BPF_RET | BPF_K: this number, for every packet.
            code: 0x06,
            jt: 0,
            jf: 0,
            k: index,
        }],
    )
}
