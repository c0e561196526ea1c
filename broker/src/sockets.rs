//! The system calls that make and keep a retained socket.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use imsup_linux::neighbours;
use imsup_wire::{Endpoint, Planes, Transport};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

use crate::routes;

/// Maximum number of connections or datagrams taken from a socket at once.
const MAX_DRAINED: usize = 65_536;

/// The sharing of a new socket's port with other sockets that allow sharing (SO_REUSEADDR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// With connections of an earlier life in TIME_WAIT: for a host of which no process runs.
    WithTheDead,
    /// With no socket: for a host whose program may have bound the port without listening yet. Two
    /// sockets with SO_REUSEADDR may both bind, and then the program's `listen` would wrongly fail.
    Exclusive,
    /// With a machine's port that this user publishes, and which has every address.
    WithPublished,
}

/// The address family that a program gave a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6.
    V6,
}

/// The family of a socket.
pub(crate) fn family(socket: &OwnedFd) -> Option<Family> {
    let address = SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
    Some(match address {
        SocketAddr::V4(_) => Family::V4,
        SocketAddr::V6(_) => Family::V6,
    })
}

/// Makes a bound socket for the endpoint: listening, or for datagrams. Non-blocking.
///
/// A datagram socket is of both families, and a listener of which the family is not known: these
/// can become of IPv4 for the program that wants that, the datagram socket itself, and each
/// connection of the listener (IPV6_ADDRFORM), and not the other way round.
pub(crate) fn create(
    endpoint: Endpoint,
    family: Option<Family>,
    sharing: Sharing,
    backlog: i32,
) -> io::Result<OwnedFd> {
    let dual = endpoint.transport == Transport::Udp || family != Some(Family::V4);
    match attempt(endpoint, dual, sharing, sharing == Sharing::WithPublished, backlog) {
        // ADDRINUSE: a published port of this user with the same number has every address. Then
        // both sockets have SO_REUSEPORT, and the more specific address gets its traffic.
        // ADDRNOTAVAIL: IPv6 may be switched off.
        Err(Errno::ADDRNOTAVAIL) if dual => attempt(endpoint, false, sharing, false, backlog),
        Err(Errno::ADDRINUSE) if sharing == Sharing::WithTheDead => attempt(endpoint, dual, sharing, true, backlog),
        result => result,
    }
    .map_err(io::Error::from)
}

fn attempt(endpoint: Endpoint, dual: bool, sharing: Sharing, reuse_port: bool, backlog: i32) -> Result<OwnedFd, Errno> {
    let kind = match endpoint.transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // On a machine without IPv6, no program wants an IPv6 socket.
    let made = if dual {
        rustix::net::socket_with(AddressFamily::INET6, kind, flags, None).ok()
    } else {
        None
    };
    let (socket, address) = match made {
        Some(socket) => {
            sockopt::set_ipv6_v6only(&socket, false)?;
            let mapped = endpoint.address.ip().to_ipv6_mapped();
            (socket, SocketAddr::from((mapped, endpoint.address.port())))
        }
        None => (
            rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?,
            SocketAddr::V4(endpoint.address),
        ),
    };
    let tcp = endpoint.transport == Transport::Tcp;
    if tcp && sharing == Sharing::WithTheDead {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if !tcp {
        note_addresses(&socket);
    }
    keep_neighbours_out(&socket, *endpoint.address.ip());
    rustix::net::bind(&socket, &address)?;
    if tcp {
        if sharing != Sharing::WithTheDead {
            // The socket's connections, once in TIME_WAIT, must not keep a later socket from the
            // port.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        rustix::net::listen(&socket, backlog)?;
    }
    if !reuse_port {
        // After listen(2), or the kernel would make a group of 128 places for each
        // (net/core/sock_reuseport.c).
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    Ok(socket)
}

/// Keeps other machines from a socket at a host's address, before other machines can reach the
/// socket.
pub(crate) fn keep_neighbours_out(socket: impl AsFd, address: Ipv4Addr) {
    if let Err(error) = neighbours::keep_out(socket, address) {
        tracing::warn!(%address, %error, "a socket at a host's address is not kept from other machines");
    }
}

/// Has the kernel note the destination address of each datagram, which the kernel does on queuing.
/// A program that asks for the address later (IP_PKTINFO, ip(7)) would not learn the address of
/// waiting datagrams (net/ipv4/ip_sockglue.c, ipv4_pktinfo_prepare). Servers like dnsmasq drop
/// datagrams without the address.
fn note_addresses(socket: &OwnedFd) {
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Ipv4PacketInfo, &true);
    // ENOPROTOOPT for an AF_INET socket.
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Ipv6RecvPacketInfo, &true);
}

/// Makes a socket left by an ended program ready for the next connections: listening with the
/// machine's largest backlog, and non-blocking, whatever the program had set.
pub(crate) fn revive(socket: &OwnedFd, transport: Transport, backlog: i32) -> io::Result<()> {
    rustix::io::ioctl_fionbio(socket, true)?;
    if let Some(SocketAddr::V4(address)) = local_address(socket) {
        // The program may have attached a filter of its own.
        keep_neighbours_out(socket, *address.ip());
    }
    if transport == Transport::Tcp {
        rustix::net::listen(socket, backlog)?;
    } else {
        // A server that talked to a single client may have connected the socket.
        rustix::net::connect_unspec(socket)?;
        note_addresses(socket);
    }
    Ok(())
}

/// A datagram socket of both families to replace an empty IPv4 socket left by a program: the next
/// program may want the other family, to which an IPv4 socket cannot change. `None` if the old
/// socket stays.
///
/// For a moment both are bound. A connected socket receives only from its peer, so that no datagram
/// comes to the old socket, which is closed then.
pub(crate) fn of_both_families(old: &OwnedFd, endpoint: Endpoint) -> Option<OwnedFd> {
    if endpoint.transport != Transport::Udp || family(old) != Some(Family::V4) || is_readable(old) {
        return None;
    }
    share_with_us(old).ok()?;
    let new = attempt(endpoint, true, Sharing::Exclusive, true, 0).ok()?;
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let replaced = family(&new) == Some(Family::V6) && rustix::net::connect(old, &nobody).is_ok() && !is_readable(old);
    if !replaced {
        let _ = rustix::net::connect_unspec(old);
    }
    replaced.then_some(new)
}

/// A listener of this family to replace an empty listener of another family. `None` if the old
/// listener stays. Connections made meanwhile go to either listener.
pub(crate) fn listener_of(wanted: Option<Family>, old: &OwnedFd, endpoint: Endpoint, backlog: i32) -> Option<OwnedFd> {
    if is_readable(old) {
        return None;
    }
    share_with_us(old).ok()?;
    let new = attempt(
        endpoint,
        wanted != Some(Family::V4),
        Sharing::WithTheDead,
        true,
        backlog,
    )
    .ok()?;
    (family(&new) != family(old) && !is_readable(old)).then_some(new)
}

/// SO_REUSEPORT requires the same user for all sockets of an address, and a program may have had
/// another user.
fn share_with_us(socket: &OwnedFd) -> Result<(), Errno> {
    let ours = rustix::process::geteuid();
    if rustix::fs::fstat(socket)?.st_uid != ours.as_raw() {
        rustix::fs::fchown(socket, Some(ours), None)?;
    }
    sockopt::set_socket_reuseport(socket, true)
}

/// Connections of a program's own socket, once in TIME_WAIT, must not keep the next `up` from the
/// port. Until then, the socket listens, which excludes other binds as before.
pub(crate) fn share_with_the_dead(socket: &OwnedFd, transport: Transport) {
    if transport == Transport::Tcp {
        let _ = sockopt::set_socket_reuseaddr(socket, true);
    }
}

/// Shuts a listening socket down: waiting connections are reset, new connections are refused.
/// [`revive`] undoes this. No effect on datagram sockets.
pub(crate) fn shut_down_listener(socket: &OwnedFd, transport: Transport) {
    if transport == Transport::Udp {
        return;
    }
    // ENOTCONN: the socket does not listen, which is the desired state.
    let _ = rustix::net::shutdown(socket, Shutdown::Read);
}

/// Resets the connections that wait in a listening socket, or drops the datagrams. Leaves a
/// listening socket alone that a program has made blocking.
pub(crate) fn reset_queued(socket: &OwnedFd, transport: Transport) {
    for _ in 0..MAX_DRAINED {
        // A blocking socket belongs to a program, which is about to listen and may take the
        // connection seen here.
        if !is_readable(socket) || (transport == Transport::Tcp && is_blocking(socket)) {
            return;
        }
        let taken = match transport {
            Transport::Tcp => rustix::net::accept_with(socket, SocketFlags::CLOEXEC).and_then(reset),
            Transport::Udp => rustix::net::recv(socket, &mut [0; 1][..], RecvFlags::DONTWAIT).map(|_| ()),
        };
        if taken.is_err_and(|errno| !matches!(errno, Errno::CONNABORTED | Errno::INTR)) {
            return;
        }
    }
}

/// Resets the connections that have waited longest.
pub(crate) fn reset_first(socket: &OwnedFd, count: usize) {
    for _ in 0..count {
        if !is_readable(socket) || is_blocking(socket) {
            return;
        }
        let _ = rustix::net::accept_with(socket, SocketFlags::CLOEXEC).and_then(reset);
    }
}

/// Whether connections are accepted by the kernel, and datagrams kept.
pub(crate) fn is_open(socket: &OwnedFd, transport: Transport) -> bool {
    transport == Transport::Udp || sockopt::socket_acceptconn(socket) == Ok(true)
}

fn is_blocking(socket: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(socket).is_ok_and(|flags| !flags.contains(rustix::fs::OFlags::NONBLOCK))
}

/// Closes a connection so that its peer sees a reset.
pub(crate) fn reset(connection: OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_linger(&connection, Some(std::time::Duration::ZERO))
}

/// True if a connection or datagram waits in the socket.
///
/// Blocking: for no time.
pub(crate) fn is_readable(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}

/// How many connections stand in the queue of a listener; 0 for a socket that does not listen.
pub(crate) fn queue_length(socket: &OwnedFd) -> usize {
    imsup_linux::takeover::accept_queue(socket.as_fd()).map_or(0, |(length, _)| length as usize)
}

/// The inode number of a socket, by which processes of the machine identify the socket to each
/// other.
pub(crate) fn inode(socket: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(socket).ok().map(|status| status.st_ino)
}

/// Whether two descriptors are the same socket.
pub(crate) fn same(one: &OwnedFd, other: &OwnedFd) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => one.st_ino == other.st_ino && one.st_dev == other.st_dev,
        _ => false,
    }
}

/// Whether the descriptor is a socket bound to the endpoint, over either family.
pub(crate) fn is_bound_to(socket: &OwnedFd, endpoint: Endpoint) -> bool {
    let kind = match endpoint.transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    sockopt::socket_type(socket) == Ok(kind) && local_address(socket) == Some(SocketAddr::V4(endpoint.address))
}

fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    let any = rustix::net::getsockname(socket).ok()?;
    SocketAddr::try_from(any).ok().map(canonical)
}

/// The address, with a v4-mapped IPv6 address converted to IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Addresses of the machine's sockets that listen on `port` (or are bound to `port`, for
/// datagrams), except in the planes, including the planes of other projects.
///
/// Blocking: before the loop, for ports that are published.
pub(crate) fn occupants(transport: Transport, port: u16, planes: &Planes) -> Vec<IpAddr> {
    const LISTEN: u8 = 0x0a;
    let (four, six) = match transport {
        Transport::Tcp => ("/proc/net/tcp", "/proc/net/tcp6"),
        Transport::Udp => ("/proc/net/udp", "/proc/net/udp6"),
    };
    let rows = [four, six].map(|path| fs::read_to_string(path).unwrap_or_default());
    let is_a_hosts = routes::hosts_addresses();
    let parsed = rows.iter().flat_map(|text| text.lines().skip(1)).filter_map(parse_row);
    parsed
        .filter(|row| row.port == port && (transport == Transport::Udp || row.state == LISTEN))
        .map(|row| row.address)
        .filter(|address| match address {
            IpAddr::V4(address) => planes.place(*address).is_none() && !is_a_hosts(*address),
            IpAddr::V6(_) => true,
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    address: IpAddr,
    port: u16,
    state: u8,
}

/// A line of /proc/net/tcp and similar files: `sl local:port remote:port state ...`, addresses as
/// host-order words.
fn parse_row(line: &str) -> Option<Row> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let words = (0..address.len() / 8)
        .map(|word| u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok())
        .collect::<Option<Vec<u32>>>()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let address = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
        _ => return None,
    };
    Some(Row {
        address,
        port: u16::from_str_radix(port, 16).ok()?,
        state: u8::from_str_radix(state, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;

    use super::*;

    fn endpoint(low: u8) -> Endpoint {
        Endpoint::tcp(Ipv4Addr::new(127, 97, 200, low), 18_300)
    }

    #[test]
    fn a_listener_shut_down_resets_and_refuses_and_listens_again() {
        let endpoint = endpoint(1);
        let socket = create(endpoint, None, Sharing::WithTheDead, 16).unwrap();
        let mut waiting = TcpStream::connect(endpoint.address).unwrap();
        shut_down_listener(&socket, Transport::Tcp);
        let error = waiting.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = TcpStream::connect(endpoint.address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        revive(&socket, Transport::Tcp, 16).unwrap();
        TcpStream::connect(endpoint.address).unwrap();
    }

    #[test]
    fn reset_queued_keeps_the_listener_open() {
        let endpoint = endpoint(2);
        let socket = create(endpoint, None, Sharing::WithTheDead, 16).unwrap();
        let mut waiting = [(); 3].map(|()| TcpStream::connect(endpoint.address).unwrap());
        assert!(is_readable(&socket));
        reset_queued(&socket, Transport::Tcp);
        for connection in &mut waiting {
            let error = connection.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        TcpStream::connect(endpoint.address).unwrap();
    }

    #[test]
    fn reset_queued_takes_nothing_off_a_socket_that_blocks() {
        let endpoint = endpoint(7);
        let socket = create(endpoint, None, Sharing::WithTheDead, 16).unwrap();
        rustix::io::ioctl_fionbio(&socket, false).unwrap();
        let mut waiting = TcpStream::connect(endpoint.address).unwrap();
        reset_queued(&socket, Transport::Tcp);
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        drop(std::net::TcpListener::from(socket).accept().unwrap());
        assert_eq!(waiting.read(&mut [0]).unwrap(), 0, "it was accepted, and closed");
    }

    #[test]
    fn an_exclusive_socket_is_not_made_beside_one_that_is_bound_and_does_not_listen() {
        let endpoint = endpoint(3);
        let bound =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseaddr(&bound, true).unwrap();
        rustix::net::bind(&bound, &SocketAddr::V4(endpoint.address)).unwrap();
        let error = create(endpoint, None, Sharing::Exclusive, 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(is_bound_to(&bound, endpoint));
        assert!(!is_bound_to(&bound, self::endpoint(4)));
    }

    #[test]
    fn a_family_is_given_where_it_is_known() {
        for (low, wanted, given) in [
            (8, None, Family::V6),
            (9, Some(Family::V4), Family::V4),
            (10, Some(Family::V6), Family::V6),
        ] {
            let endpoint = endpoint(low);
            let socket = create(endpoint, wanted, Sharing::WithTheDead, 16).unwrap();
            assert_eq!(family(&socket), Some(given), "{wanted:?}");
            assert!(is_bound_to(&socket, endpoint));
            TcpStream::connect(endpoint.address).unwrap();
        }
    }

    #[test]
    fn a_datagram_socket_that_is_left_takes_both_families_again() {
        let endpoint = Endpoint {
            transport: Transport::Udp,
            ..endpoint(11)
        };
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut old = attempt(endpoint, false, Sharing::Exclusive, false, 0).unwrap();
        sender.send_to(b"waits", endpoint.address).unwrap();
        assert!(of_both_families(&old, endpoint).is_none(), "something waits");
        reset_queued(&old, Transport::Udp);
        let new = of_both_families(&old, endpoint).unwrap();
        assert_eq!(family(&new), Some(Family::V6));
        drop(std::mem::replace(&mut old, new));
        sender.send_to(b"comes", endpoint.address).unwrap();
        assert!(is_readable(&old));
        assert!(of_both_families(&old, endpoint).is_none(), "it is of both already");
    }

    #[test]
    fn a_listener_gives_way_to_one_of_another_family() {
        let endpoint = endpoint(12);
        let mut old = create(endpoint, Some(Family::V4), Sharing::WithTheDead, 16).unwrap();
        for wanted in [None, Some(Family::V4), Some(Family::V6)] {
            let waiting = TcpStream::connect(endpoint.address).unwrap();
            assert!(listener_of(wanted, &old, endpoint, 16).is_none(), "somebody waits");
            reset_queued(&old, Transport::Tcp);
            drop(waiting);
            let new = listener_of(wanted, &old, endpoint, 16).unwrap();
            old = new;
            assert_eq!(family(&old), wanted.or(Some(Family::V6)));
            TcpStream::connect(endpoint.address).unwrap();
            reset_queued(&old, Transport::Tcp);
            assert!(
                listener_of(family(&old), &old, endpoint, 16).is_none(),
                "it is of that family"
            );
        }
    }

    #[test]
    fn sockets_are_told_apart() {
        let one = create(endpoint(5), None, Sharing::WithTheDead, 16).unwrap();
        let copy = one.try_clone().unwrap();
        let other = create(endpoint(6), None, Sharing::WithTheDead, 16).unwrap();
        assert!(same(&one, &copy));
        assert!(!same(&one, &other));
    }

    #[test]
    fn rows_of_proc_are_read() {
        let row = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        let expected = Row {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 8080,
            state: 10,
        };
        assert_eq!(parse_row(row), Some(expected));
        assert_eq!(parse_row("garbage"), None);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = occupants(Transport::Tcp, port, &Planes::default());
        assert_eq!(found, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }
}
