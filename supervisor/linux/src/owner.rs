//! The user whose socket replies at an endpoint, queried from the kernel: sock_diag(7),
//! include/uapi/linux/inet_diag.h.
//!
//! The kernel shows every user the owner of any socket in the network namespace. A request for one
//! socket costs some microseconds, whatever the number of sockets, since the kernel looks up the
//! socket as for a packet (net/ipv4/inet_diag.c, inet_diag_find_one_icsk; net/ipv4/udp_diag.c,
//! udp_dump_one).

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use imsup_wire::{Endpoint, Transport};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_HEADER_BYTES: usize = 16;
/// `struct inet_diag_msg`.
const DIAG_MSG_BYTES: usize = 72;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// The index of the loopback device in every network namespace (include/linux/netdevice.h,
/// LOOPBACK_IFINDEX). Hosts are reached through this device. A socket bound to the device
/// (SO_BINDTODEVICE) is not found by a request that names no device.
const LOOPBACK_INDEX: u32 = 1;

/// No particular peer.
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// The owner of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user id in the user namespace of the requester (65534 for a user without an id in this
    /// namespace).
    pub uid: u32,
    /// The socket's inode number; 0 for a connection that was not accepted yet.
    pub inode: u32,
    /// The socket's cookie (SO_COOKIE).
    pub cookie: u64,
}

/// A way to ask for owners.
#[derive(Debug)]
pub struct Owners {
    netlink: OwnedFd,
    asked: u32,
    /// Whether the kernel was seen to find a datagram socket.
    finds_datagrams: bool,
}

impl Owners {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// Errors of socket(2): EPROTONOSUPPORT without CONFIG_INET_DIAG.
    pub fn open() -> io::Result<Self> {
        let netlink = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Self {
            netlink,
            asked: 0,
            finds_datagrams: false,
        })
    }

    /// The owner of the socket to which the kernel would give a connection, or datagram, to
    /// `endpoint`, which may be a socket at the machine's wildcard. `None` if there is no socket.
    ///
    /// # Errors
    /// Errors of send(2) and recv(2), and errors in the kernel's reply, except for a missing
    /// socket. EOPNOTSUPP for a datagram socket without CONFIG_INET_UDP_DIAG.
    pub fn of(&mut self, endpoint: Endpoint) -> io::Result<Option<Owner>> {
        let found = self.ask(endpoint.transport, endpoint.address, NOBODY)?;
        if endpoint.transport == Transport::Udp && !self.finds_datagrams {
            self.finds_datagrams = found.is_some() || self.finds_own()?;
            if !self.finds_datagrams {
                return Err(Errno::EOPNOTSUPP.into());
            }
        }
        Ok(found)
    }

    /// True if the kernel finds an existing datagram socket. The kernel also returns ENOENT if
    /// there is no support for UDP (net/ipv4/inet_diag.c, inet_diag_cmd_exact).
    fn finds_own(&mut self) -> io::Result<bool> {
        let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let SocketAddr::V4(address) = own.local_addr()? else {
            return Ok(false);
        };
        Ok(self.ask(Transport::Udp, address, NOBODY)?.is_some())
    }

    /// The owner of the other end of a TCP connection from `client` to `server`: of the listener, by
    /// which whoever accepts has the connection (a server that listens as root and accepts as another
    /// user), or of the accepted socket if the listener is closed. `None` if neither is there any more.
    ///
    /// # Errors
    /// As [`Owners::of`].
    pub fn of_server(&mut self, server: SocketAddrV4, client: SocketAddrV4) -> io::Result<Option<Owner>> {
        let listener = self.of(Endpoint {
            transport: Transport::Tcp,
            address: server,
        })?;
        match listener {
            Some(listener) => Ok(Some(listener)),
            None => self.ask(Transport::Tcp, server, client),
        }
    }

    fn ask(&mut self, transport: Transport, local: SocketAddrV4, peer: SocketAddrV4) -> io::Result<Option<Owner>> {
        self.asked = self.asked.wrapping_add(1);
        rustix::net::send(
            &self.netlink,
            &request(self.asked, transport, local, peer),
            SendFlags::empty(),
        )?;
        let mut buffer = [0; 1024];
        loop {
            // The kernel has replied by the time that send(2) returns.
            let (count, _) = rustix::net::recv(&self.netlink, &mut buffer[..], RecvFlags::DONTWAIT)?;
            if let Some((number, answer)) = parse(&buffer[..count])
                && number == self.asked
            {
                return match answer {
                    Ok(owner) => Ok(Some(owner)),
                    Err(Errno::ENOENT) => Ok(None),
                    Err(errno) => Err(errno.into()),
                };
            }
        }
    }
}

/// `nlmsghdr` and `inet_diag_req_v2`.
fn request(number: u32, transport: Transport, local: SocketAddrV4, peer: SocketAddrV4) -> Vec<u8> {
    // The kernel has the two addresses of a datagram socket the other way round ("swapped for
    // historical reasons").
    let (protocol, first, second) = match transport {
        Transport::Tcp => (IPPROTO_TCP, local, peer),
        Transport::Udp => (IPPROTO_UDP, peer, local),
    };
    let mut body = vec![AF_INET, protocol, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    for address in [first, second] {
        body.extend(address.port().to_be_bytes());
    }
    for address in [first, second] {
        body.extend(address.ip().octets());
        body.extend([0; 12]);
    }
    body.extend(LOOPBACK_INDEX.to_ne_bytes());
    // INET_DIAG_NOCOOKIE.
    body.extend([0xff; 8]);
    let mut frame = Vec::with_capacity(NLMSG_HEADER_BYTES + body.len());
    frame.extend(((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    frame.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    frame.extend(NLM_F_REQUEST.to_ne_bytes());
    frame.extend(number.to_ne_bytes());
    frame.extend([0; 4]);
    frame.extend(body);
    frame
}

/// The number of the request that a message answers, and the answer.
fn parse(bytes: &[u8]) -> Option<(u32, Result<Owner, Errno>)> {
    let (header, body) = bytes.split_first_chunk::<NLMSG_HEADER_BYTES>()?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let number = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let answer = match kind {
        NLMSG_ERROR => {
            let code = i32::from_ne_bytes(*body.first_chunk()?);
            Err(Errno::from_raw(code.checked_neg()?))
        }
        SOCK_DIAG_BY_FAMILY => {
            let message = body.first_chunk::<DIAG_MSG_BYTES>()?;
            let word = |at: usize| message[at..].first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            Ok(Owner {
                uid: word(64)?,
                inode: word(68)?,
                cookie: u64::from(word(48)?) << 32 | u64::from(word(44)?),
            })
        }
        _ => return None,
    };
    Some((number, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_kernels_structure() {
        let server = "127.77.5.8:80".parse().unwrap();
        let client = "127.77.5.7:4000".parse().unwrap();
        let tcp = request(7, Transport::Tcp, server, client);
        assert_eq!(tcp.len(), 72);
        assert_eq!(tcp[16..18], [AF_INET, IPPROTO_TCP]);
        assert_eq!(tcp[24..28], [0, 80, 0x0f, 0xa0], "ports, the socket's own first");
        assert_eq!(tcp[28..32], [127, 77, 5, 8]);
        let udp = request(7, Transport::Udp, server, client);
        assert_eq!(udp[24..28], [0x0f, 0xa0, 0, 80]);
        assert_eq!(udp[28..32], [127, 77, 5, 7]);
    }

    #[test]
    fn what_is_cut_short_is_no_answer() {
        let mut message = vec![0; NLMSG_HEADER_BYTES + DIAG_MSG_BYTES];
        message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message[8..12].copy_from_slice(&3_u32.to_ne_bytes());
        message[16 + 64..16 + 68].copy_from_slice(&1001_u32.to_ne_bytes());
        let (number, owner) = parse(&message).unwrap();
        assert_eq!((number, owner.unwrap().uid), (3, 1001));
        for length in 0..message.len() {
            assert!(parse(&message[..length]).is_none());
        }
    }
}
