//! The process that makes the sockets: `imsup resolvers`. Its network namespace has every address,
//! so that the name server can answer there from any address that was asked.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use imsup_protocol::channel::{Channel, ChannelError};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{DNS_PORT, Made, Opened, Wanted};
use crate::helpers::Helper;
use crate::routes::netlink::Netlink;

/// Makes the namespace and, until the broker is gone, sockets in it.
///
/// # Errors
/// The connection to the broker fails. That there can be no namespace is told to the broker, and no
/// error.
pub fn serve(broker: UnixStream) -> Result<(), ChannelError> {
    let mut channel = Channel::connected(broker);
    match open() {
        Ok(servers) => {
            // Sockets are made in a namespace without any privilege.
            Helper::Resolvers.confine();
            let has_v6 = servers.len() > 1;
            channel.send(&Opened::Ok(has_v6), servers)?;
        }
        Err(error) => return channel.send(&Opened::Err(error.to_string()), Vec::new()),
    }
    loop {
        let wanted: Wanted = match channel.receive() {
            Ok(Some(wanted)) => wanted,
            Ok(None) | Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        };
        let (made, sockets) = make(&wanted);
        channel.send(&made, sockets)?;
    }
}

/// Enters the namespace, and returns the name server's sockets there: AF_INET, and AF_INET6 if
/// there is IPv6.
fn open() -> io::Result<Vec<OwnedFd>> {
    // Root needs no user namespace for this. An ordinary user has the capability only in a user
    // namespace of his own (user_namespaces(7)).
    unshare(CloneFlags::CLONE_NEWNET)
        .or_else(|_| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET))
        .map_err(|errno| context("unshare(2)", errno.into()))?;
    let mut netlink = Netlink::open().map_err(|error| context("rtnetlink(7)", error))?;
    netlink
        .take_every_address(netlink_packet_route::AddressFamily::Inet)
        .map_err(|error| context("making all addresses local", error))?;
    let v4 = server_v4().map_err(|error| context("binding port 53", error))?;
    let v6 = netlink
        .take_every_address(netlink_packet_route::AddressFamily::Inet6)
        .and_then(|()| server_v6());
    if let Err(error) = &v6 {
        tracing::debug!(%error, "name servers with an IPv6 address are not answered for from it");
    }
    Ok(std::iter::once(v4).chain(v6).collect())
}

fn context(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn server_v4() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::INET)?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, DNS_PORT)))?;
    Ok(socket)
}

fn server_v6() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::INET6)?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    // Addresses that are local by a route only may not be a source otherwise (net/ipv6/datagram.c,
    // ip6_datagram_send_ctl).
    rustix::net::sockopt::set_ipv6_freebind(&socket, true)?;
    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, DNS_PORT)))?;
    Ok(socket)
}

/// As many sockets as wanted, or as can be made. AF_INET6 sockets may ask servers with an IPv4
/// address, too.
fn make(wanted: &Wanted) -> (Made, Vec<OwnedFd>) {
    let of = |family, count: u8| (0..count).map_while(move |_| socket(family).ok()).collect::<Vec<_>>();
    let mut sockets = of(AddressFamily::INET, wanted.v4);
    let v4 = u8::try_from(sockets.len()).unwrap_or(wanted.v4);
    sockets.extend(of(AddressFamily::INET6, wanted.v6));
    let v6 = u8::try_from(sockets.len()).unwrap_or(u8::MAX).saturating_sub(v4);
    (Made { v4, v6 }, sockets)
}

fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        family,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}
