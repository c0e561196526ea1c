//! The two places of a host's `::1`. The first is the machine's own `::1`, for ports that the
//! kernel chose. The second is the IPv4 address that stands for `::1` in the planes, for ports that
//! the program chose. An IPv6 address and a v4-mapped address do not reach each other. So a client
//! at one place is moved to the other place when the client connects or sends there. The client's
//! port stays.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use super::bind::{is_bound_machine_local, note_listen_target};
use crate::host::Host;
use crate::identity::Identity;
use imsup_linux::socket::{self, Family, InetSocket};
use imsup_linux::source;

/// True if a socket is bound to the machine's `::1` or IPv6-only wildcard, from which the planes
/// cannot be reached.
pub(super) fn is_on_v6(socket: &InetSocket, v6only: bool) -> bool {
    let IpAddr::V6(local) = socket.local.ip() else {
        return false;
    };
    !socket.is_unbound() && (local == Ipv6Addr::LOCALHOST || (local.is_unspecified() && v6only))
}

/// True if an IPv6 socket is bound to an address of the host in the planes, from which `::1` cannot
/// be reached.
pub(super) fn is_on_planes(identity: &Identity, socket: &InetSocket) -> bool {
    let own = [identity.vip(), identity.v6_shadow()];
    socket.family == Family::V6
        && !socket.is_unbound()
        && socket.local_v4().is_some_and(|local| own.contains(local.ip()))
}

/// Whether a connect or datagram to 127.0.0.1 (`::1` if `v6`) with this port is redirected nowhere
/// else. `on_v6` is whether the sender is at the machine's `::1`.
pub(super) fn is_native(host: &Host, transport: Transport, v6: bool, on_v6: bool, port: u16) -> bool {
    if host.native_ports.contains(transport, v6, port) {
        return true;
    }
    if transport == Transport::Tcp || !v6 {
        return false;
    }
    let is_target = |ip| host.retained.is_dual_stack(Endpoint::udp(ip, port));
    if is_target(host.identity.v6_shadow()) || is_target(host.identity.vip()) {
        return false;
    }
    // A socket at the machine's IPv4 wildcard would receive the traffic for the address that stands
    // for `::1`. The port of a client that never called bind(2) is not recorded.
    host.native_ports.contains(transport, false, port) || (on_v6 && is_bound_machine_local(transport, true, port))
}

/// Moves a socket to this address. A socket with a port of the program's choice is not moved, and
/// sends from its present address.
///
/// # Errors
/// Errors of bind(2).
pub(super) fn move_home(host: &mut Host, socket: &OwnedFd, kind: &InetSocket, to: IpAddr) -> Result<(), Errno> {
    match source::move_to(socket.as_fd(), kind, to) {
        Ok(()) => {}
        Err(Errno::EINVAL) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    if let Ok(cookie) = socket::cookie(socket.as_fd()) {
        let before = host.identity.shown_local(kind.local).ip();
        let asked = SocketAddr::new(before, 0);
        host.sockets
            .update(cookie, |entry| entry.bound = Some(entry.bound.unwrap_or(asked)));
    }
    let Some(local) = socket::local_address(socket.as_fd()) else {
        return Ok(());
    };
    if to == IpAddr::V6(Ipv6Addr::LOCALHOST) {
        host.native_ports.insert(kind.transport, true, local.port());
        return Ok(());
    }
    host.native_ports.remove(kind.transport, true, kind.local.port());
    if let (Transport::Udp, IpAddr::V4(ip)) = (kind.transport, to) {
        host.has_bound_datagrams = true;
        let endpoint = Endpoint::udp(ip, local.port());
        note_listen_target(host, endpoint, Some(kind.family.wildcard()));
    }
    Ok(())
}
