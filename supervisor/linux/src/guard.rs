//! Keeps other machines from the program's sockets at its host's address: socket(7),
//! SO_ATTACH_FILTER ([`crate::neighbours`]).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Once;

use crate::neighbours;
use nix::errno::Errno;

use super::socket::set_int;

/// Keeps other machines from a socket that is, or will be, bound to `address`, if they could reach
/// it; true if a filter was attached here. An existing filter is left: the program's own, or this
/// one.
pub fn keep_neighbours_out(socket: BorrowedFd<'_>, address: Ipv4Addr) -> bool {
    if !neighbours::can_reach(address) {
        return false;
    }
    match filter_length(socket) {
        Some(0) => {}
        Some(neighbours::FILTER_LENGTH) => return false,
        _ => {
            say_unguarded(address);
            return false;
        }
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

/// Says once that the program's own filter is on a socket that other machines can reach.
fn say_unguarded(address: Ipv4Addr) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            "imsup: the program has put a filter of its own (SO_ATTACH_FILTER, SO_ATTACH_BPF) on a socket at {address}: other machines, which can reach that \
             address, are not kept from it. See docs/deviations.md#guard-filter"
        );
    });
}

/// Whether the socket has a filter.
pub fn has_filter(socket: BorrowedFd<'_>) -> bool {
    filter_length(socket) != Some(0)
}

/// The number of instructions of the socket's filter, 0 without one: the kernel returns it if the
/// buffer has no room (net/core/filter.c, sk_get_filter). `None` for a filter other than classic
/// BPF (EACCES).
fn filter_length(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut length: libc::socklen_t = 0;
    // SAFETY: the kernel writes nothing but `length`, which outlives the call: there is room for no
    // instruction.
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
        Ok(_) => Some(length),
        Err(Errno::EACCES) => None,
        Err(_) => Some(0),
    }
}
