//! Who waits in a retained socket: asked of the kernel, without taking the connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use imsup_wire::{Endpoint, Transport};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const NLMSG_HEADER_BYTES: usize = 16;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// ESTABLISHED, SYN_RECV and CLOSE_WAIT: what an accept queue holds (include/net/tcp_states.h).
const QUEUED_STATES: u32 = 1 << 1 | 1 << 3 | 1 << 8;

/// The bytes of a `struct inet_diag_msg` up to and with `idiag_inode`.
const DIAG_MSG_BYTES: usize = 72;

/// The peer of a connection, or the sender of a datagram, that waits in `socket`.
pub(crate) fn waiting(socket: &OwnedFd, endpoint: Endpoint) -> Option<SocketAddr> {
    let peer = match endpoint.transport {
        Transport::Udp => sender(socket),
        Transport::Tcp => match queued(endpoint, AF_INET) {
            // A socket that a program left may be AF_INET6, and what it accepts is, too.
            Ok(Queued {
                waiting: None,
                accepted: None,
            }) => queued(endpoint, AF_INET6).ok(),
            found => found.ok(),
        }
        .and_then(|found| found.waiting.or(found.accepted)),
    };
    peer.map(crate::sockets::canonical)
}

/// The peer of a connection to `endpoint` that nobody has accepted.
pub(crate) fn unaccepted(endpoint: Endpoint) -> Option<SocketAddr> {
    let found = |family| queued(endpoint, family).ok().and_then(|found| found.waiting);
    found(AF_INET)
        .or_else(|| found(AF_INET6))
        .map(crate::sockets::canonical)
}

fn sender(socket: &OwnedFd) -> Option<SocketAddr> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (_, _, address) = rustix::net::recvfrom(socket, &mut [0; 1][..], flags).ok()?;
    SocketAddr::try_from(address?).ok()
}

/// Peers of connections to an endpoint.
#[derive(Debug, Default)]
struct Queued {
    /// Of one that nobody has accepted.
    waiting: Option<SocketAddr>,
    /// Else of one that somebody has: the program may have been quicker than this question.
    accepted: Option<SocketAddr>,
}

fn queued(endpoint: Endpoint, family: u8) -> io::Result<Queued> {
    let flags = SocketFlags::CLOEXEC;
    let netlink = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&netlink, &request(endpoint, family), SendFlags::empty())?;
    let mut found = Queued::default();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (count, _) = rustix::net::recv(netlink.as_fd(), &mut buffer[..], RecvFlags::empty())?;
        for message in messages(&buffer[..count]) {
            match message {
                Message::End => return Ok(found),
                Message::Socket { peer, inode: 0 } => {
                    found.waiting = Some(peer);
                    return Ok(found);
                }
                Message::Socket { peer, .. } => found.accepted = found.accepted.or(Some(peer)),
            }
        }
        if count == 0 {
            return Ok(found);
        }
    }
}

/// A dump of TCP sockets whose local address is the endpoint: `nlmsghdr`, `inet_diag_req_v2`, and one attribute with a
/// filter of one operation (include/uapi/linux/inet_diag.h).
fn request(endpoint: Endpoint, family: u8) -> Vec<u8> {
    let mut filter = Vec::with_capacity(16);
    // On a match go on by 16, which is the end and means yes; else by 20, past the end, which means no.
    filter.extend([INET_DIAG_BC_S_COND, 16]);
    filter.extend(20u16.to_ne_bytes());
    filter.extend([AF_INET, 32, 0, 0]);
    filter.extend(i32::from(endpoint.address.port()).to_ne_bytes());
    filter.extend(endpoint.address.ip().octets());

    let mut body = Vec::with_capacity(80);
    body.extend([family, IPPROTO_TCP, 0, 0]);
    body.extend(QUEUED_STATES.to_ne_bytes());
    body.extend([0; 48]); // inet_diag_sockid: a dump does not look at it
    body.extend((4 + filter.len() as u16).to_ne_bytes());
    body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    body.extend(filter);

    let mut frame = Vec::with_capacity(NLMSG_HEADER_BYTES + body.len());
    frame.extend(((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    frame.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    frame.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    frame.extend([0; 8]);
    frame.extend(body);
    frame
}

#[derive(Debug, PartialEq, Eq)]
enum Message {
    Socket { peer: SocketAddr, inode: u32 },
    End,
}

fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<NLMSG_HEADER_BYTES>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = bytes.get(NLMSG_HEADER_BYTES..length) else {
            break;
        };
        match kind {
            NLMSG_DONE | NLMSG_ERROR => found.push(Message::End),
            SOCK_DIAG_BY_FAMILY => found.extend(parse(body)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// `struct inet_diag_msg`: family, state, timer, retrans; sport, dport; src, dst; interface, cookie; then expires, the
/// two queues, uid and inode.
fn parse(body: &[u8]) -> Option<Message> {
    let body = body.first_chunk::<DIAG_MSG_BYTES>()?;
    let port = u16::from_be_bytes([body[6], body[7]]);
    let address = match body[0] {
        AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&body[24..28]).ok()?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&body[24..40]).ok()?)),
        _ => return None,
    };
    let inode = u32::from_ne_bytes(<[u8; 4]>::try_from(&body[68..72]).ok()?);
    Some(Message::Socket {
        peer: SocketAddr::new(address, port),
        inode,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};

    use super::*;
    use crate::sockets::{Sharing, create};

    #[test]
    fn a_queued_connection_is_found_before_it_is_accepted() {
        let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 97, 201, 1), 18_301);
        let socket = create(endpoint, Sharing::WithTheDead, 16).unwrap();
        assert_eq!(waiting(&socket, endpoint), None);
        let client = TcpStream::connect(endpoint.address).unwrap();
        assert_eq!(waiting(&socket, endpoint), Some(client.local_addr().unwrap()));
        assert_eq!(unaccepted(endpoint), Some(client.local_addr().unwrap()));
        let _accepted = rustix::net::accept(&socket).unwrap();
        assert_eq!(waiting(&socket, endpoint), Some(client.local_addr().unwrap()));
        assert_eq!(unaccepted(endpoint), None);
    }

    #[test]
    fn a_connection_to_a_dual_stack_socket_is_found_too() {
        let address: SocketAddr = "[::ffff:127.97.201.2]:18302".parse().unwrap();
        let socket = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 16).unwrap();
        let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 97, 201, 2), 18_302);
        let client = TcpStream::connect(endpoint.address).unwrap();
        assert_eq!(waiting(&socket, endpoint), Some(client.local_addr().unwrap()));
    }

    #[test]
    fn the_sender_of_a_datagram_is_found_and_the_datagram_stays() {
        let endpoint = Endpoint::udp(Ipv4Addr::new(127, 97, 201, 3), 18_303);
        let socket = create(endpoint, Sharing::WithTheDead, 16).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"hello", endpoint.address).unwrap();
        assert_eq!(waiting(&socket, endpoint), Some(client.local_addr().unwrap()));
        assert!(crate::sockets::is_readable(&socket));
    }
}
