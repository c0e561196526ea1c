//! Keeps other machines from the program's sockets at its host's address: socket(7), SO_ATTACH_FILTER ([`imsup_wire::neighbours`]).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use imsup_wire::neighbours;
use nix::errno::Errno;

use super::socket::set_int;

/// Keeps other machines from a socket that is, or will be, bound to `address`, where they could reach it; true if that was done here. A filter that the
/// socket has is left: the program's own, or this one.
pub fn keep_neighbours_out(socket: BorrowedFd<'_>, address: Ipv4Addr) -> bool {
    if !neighbours::can_reach(address) || has_filter(socket) {
        return false;
    }
    match neighbours::keep_out(socket, address) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%address, %error, "a socket at the host's address is not kept from other machines");
            false
        }
    }
}

/// Takes the filter from a socket that was not bound after all.
pub fn let_neighbours_in(socket: BorrowedFd<'_>) {
    let _ = set_int(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
}

/// Whether the socket has a filter: the kernel tells how long it is where there is room for nothing (net/core/filter.c, sk_get_filter), and EACCES of one
/// that is no classic BPF.
pub fn has_filter(socket: BorrowedFd<'_>) -> bool {
    let mut length: libc::socklen_t = 0;
    // SAFETY: the kernel writes nothing but `length`, which outlives the call: there is room for no instruction.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut length,
        )
    };
    match Errno::result(result) {
        Ok(_) => length != 0,
        Err(errno) => errno == Errno::EACCES,
    }
}
