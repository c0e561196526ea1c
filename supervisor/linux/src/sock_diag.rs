//! Sockets of the whole machine, by local address or by port: sock_diag(7),
//! include/uapi/linux/inet_diag.h.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use imsup_wire::Transport;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::tcp_info::{TcpInfo, state};

/// The older request, the only request that covers all families in one walk over the table
/// (net/ipv4/inet_diag.c, inet_diag_dump_compat). This takes half the time of a dump for each
/// family.
const TCPDIAG_GETSOCK: u16 = 18;
/// The newer request, for a single socket or for a dump of one family and protocol: `struct
/// inet_diag_req_v2`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER_BYTES: usize = 16;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
/// The kernel adds this to each AF_INET6 socket that listens or is not connected, unasked.
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_BC_JMP: u8 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
/// Linux 5.9, with CONFIG_SOCK_CGROUP_DATA. Needs no privilege, unlike the condition on a mark.
const INET_DIAG_BC_CGROUP_COND: u8 = 13;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct inet_diag_msg`.
const DIAG_MSG_BYTES: usize = 72;

/// A jump of a filter: `struct inet_diag_bc_op`.
const JUMP_BYTES: usize = 4;

/// A local address to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Local {
    pub ip: IpAddr,
    /// `None` for any port.
    pub port: Option<u16>,
}

/// A condition on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// This local address.
    Local(Local),
    /// The socket was made in the cgroup with this id, or accepted from a listener made there.
    Cgroup(u64),
}

impl Condition {
    fn bytes(self) -> usize {
        match self {
            Self::Local(local) if local.ip.is_ipv4() => 16,
            Self::Local(_) => 28,
            Self::Cgroup(_) => 12,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Local(_) => INET_DIAG_BC_S_COND,
            Self::Cgroup(_) => INET_DIAG_BC_CGROUP_COND,
        }
    }

    fn write(self, filter: &mut Vec<u8>) {
        match self {
            Self::Local(local) => {
                let (family, prefix) = if local.ip.is_ipv4() {
                    (AF_INET, 32)
                } else {
                    (AF_INET6, 128)
                };
                filter.extend([family, prefix, 0, 0]);
                filter.extend(local.port.map_or(-1, i32::from).to_ne_bytes());
                match local.ip {
                    IpAddr::V4(ip) => filter.extend(ip.octets()),
                    IpAddr::V6(ip) => filter.extend(ip.octets()),
                }
            }
            Self::Cgroup(id) => filter.extend(id.to_ne_bytes()),
        }
    }
}

/// A TCP socket as identified in the kernel's table of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// The interface that the socket is bound to (SO_BINDTODEVICE, a VRF, an address of one link),
    /// or 0. A request finds the socket by this interface only.
    pub interface: u32,
    /// The socket's cookie (SO_COOKIE), which is never used for another socket.
    pub cookie: u64,
}

/// A socket that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub state: u8,
    pub uid: u32,
    /// 0 if no process has a descriptor of the socket: the socket waits in an accept queue, or was
    /// closed.
    pub inode: u32,
    /// The interface that the socket is bound to, or 0.
    pub interface: u32,
    pub cookie: u64,
    /// IPV6_V6ONLY, of a socket that listens or is not connected.
    pub v6only: bool,
    pub info: Option<TcpInfo>,
}

/// The TCP sockets in `states` (a mask, `1 << TCP_ESTABLISHED` and so on) whose local address is in
/// `locals`. The v4-mapped addresses of AF_INET6 sockets match IPv4 addresses.
///
/// # Errors
/// As [`find_any`].
pub(super) fn find(locals: &[Local], states: u32) -> io::Result<Vec<Found>> {
    let conditions: Vec<Condition> = locals.iter().copied().map(Condition::Local).collect();
    find_any(&conditions, states)
}

/// The TCP sockets in `states` for which at least one condition is true; all sockets if there is no
/// condition.
///
/// # Errors
/// What socket(2), send(2) and recv(2) say, and the error the kernel answers with (ENOENT without
/// CONFIG_INET_TCP_DIAG, EINVAL for a cgroup before Linux 5.9).
pub(super) fn find_any(conditions: &[Condition], states: u32) -> io::Result<Vec<Found>> {
    dump(&open()?, &request(conditions, states))
}

/// The sockets of both families with this local port, in every state.
///
/// # Errors
/// Errors of socket(2), send(2) and recv(2), and errors in the kernel's reply (ENOENT without
/// CONFIG_INET_TCP_DIAG or CONFIG_INET_UDP_DIAG).
pub(super) fn at_port(transport: Transport, port: u16) -> io::Result<Vec<Found>> {
    let netlink = open()?;
    let mut found = dump(&netlink, &port_request(AF_INET, transport, port))?;
    found.extend(dump(&netlink, &port_request(AF_INET6, transport, port))?);
    Ok(found)
}

/// Sends a dump request, and receives the whole reply.
fn dump(netlink: &OwnedFd, request: &[u8]) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    rustix::net::send(netlink, request, SendFlags::empty())?;
    loop {
        let (count, _) = rustix::net::recv(netlink, &mut buffer[..], RecvFlags::empty())?;
        if count == 0 {
            return Ok(found);
        }
        for message in messages(&buffer[..count]) {
            match message {
                Message::Socket(socket) => found.push(*socket),
                Message::Failed(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Message::End => return Ok(found),
            }
        }
    }
}

/// Requests sent at once: the answers must have room in the socket's buffer.
const LOOK_UPS: usize = 32;

/// The kernel's data on each of these sockets. The kernel finds a socket by the hash of its
/// addresses (2 us), whatever the number of sockets. `None` if the socket is gone.
///
/// # Errors
/// Errors of socket(2), send(2) and recv(2), EAGAIN or ENOBUFS if there was no room for a reply,
/// and errors in the kernel's reply, except for a missing socket.
pub(super) fn look_up(entries: &[Entry]) -> io::Result<Vec<Option<Found>>> {
    let mut found = vec![None; entries.len()];
    if entries.is_empty() {
        return Ok(found);
    }
    let netlink = open()?;
    let mut buffer = vec![0; 8 * 1024];
    for (first, some) in (0..).step_by(LOOK_UPS).zip(entries.chunks(LOOK_UPS)) {
        let requests: Vec<u8> = (0..)
            .zip(some)
            .flat_map(|(number, entry)| look_up_request(number, entry))
            .collect();
        rustix::net::send(&netlink, &requests, SendFlags::empty())?;
        // Each is answered by the time that send(2) returns: a socket, or ENOENT.
        let mut left = some.len();
        while left > 0 {
            let (count, _) = rustix::net::recv(&netlink, &mut buffer[..], RecvFlags::DONTWAIT)?;
            for (number, message) in numbered_messages(&buffer[..count]) {
                left = left.saturating_sub(1);
                match message {
                    Message::Socket(socket) => {
                        if let Some(place) = found.get_mut(first + number as usize)
                            && entries[first + number as usize].cookie == socket.cookie
                        {
                            *place = Some(*socket);
                        }
                    }
                    // The socket is gone, or these addresses now belong to a socket with another
                    // cookie.
                    Message::Failed(libc::ENOENT | libc::ESTALE) | Message::End => {}
                    Message::Failed(errno) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
    }
    Ok(found)
}

/// `nlmsghdr` and `inet_diag_req_v2` for a single socket. A request for IPv4 also finds AF_INET6
/// sockets with v4-mapped addresses (net/ipv4/inet_diag.c, inet_diag_find_one_icsk).
fn look_up_request(number: u32, entry: &Entry) -> Vec<u8> {
    let addresses = [entry.local, entry.peer].map(|address| (address.ip().to_canonical(), address.port()));
    let v4 = addresses.iter().all(|(ip, _)| ip.is_ipv4());
    let family = if v4 { AF_INET } else { AF_INET6 };
    let mut body = vec![family, libc::IPPROTO_TCP as u8, 1 << (INET_DIAG_INFO - 1), 0];
    body.extend(u32::MAX.to_ne_bytes());
    for (_, port) in addresses {
        body.extend(port.to_be_bytes());
    }
    for (ip, _) in addresses {
        match ip {
            IpAddr::V4(ip) if v4 => {
                body.extend(ip.octets());
                body.extend([0; 12]);
            }
            IpAddr::V4(ip) => body.extend(ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend(entry.interface.to_ne_bytes());
    body.extend(entry.cookie.to_ne_bytes());
    let mut frame = Vec::with_capacity(NLMSG_HEADER_BYTES + body.len());
    frame.extend(((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    frame.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    frame.extend(NLM_F_REQUEST.to_ne_bytes());
    frame.extend(number.to_ne_bytes());
    frame.extend([0; 4]);
    frame.extend(body);
    frame
}

fn open() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?)
}

/// A dump request: `nlmsghdr`, `inet_diag_req`, and an attribute with a filter.
fn request(conditions: &[Condition], states: u32) -> Vec<u8> {
    let filter = filter(conditions);
    let mut body = Vec::with_capacity(64 + filter.len());
    body.extend([0, 0, 0, 1 << (INET_DIAG_INFO - 1)]);
    body.extend([0; 48]); // inet_diag_sockid: a dump does not look at it
    body.extend(states.to_ne_bytes());
    body.extend([0; 4]); // idiag_dbs
    if !filter.is_empty() {
        body.extend((4 + filter.len() as u16).to_ne_bytes());
        body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
        body.extend(filter);
    }

    let mut frame = Vec::with_capacity(NLMSG_HEADER_BYTES + body.len());
    frame.extend(((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    frame.extend(TCPDIAG_GETSOCK.to_ne_bytes());
    frame.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    frame.extend([0; 8]);
    frame.extend(body);
    frame
}

/// A dump request: `nlmsghdr` and `inet_diag_req_v2`.
fn port_request(family: u8, transport: Transport, port: u16) -> Vec<u8> {
    let protocol = match transport {
        Transport::Tcp => libc::IPPROTO_TCP,
        Transport::Udp => libc::IPPROTO_UDP,
    };
    let mut body = vec![family, protocol as u8, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    // inet_diag_sockid: a dump looks at the two ports only, and 0 is any port.
    body.extend(port.to_be_bytes());
    body.extend([0; 46]);
    let mut frame = Vec::with_capacity(NLMSG_HEADER_BYTES + body.len());
    frame.extend(((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    frame.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    frame.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    frame.extend([0; 8]);
    frame.extend(body);
    frame
}

/// One condition after the other; each but the last is followed by a jump to the end, which means
/// yes. The kernel wants to reach every operation by going on after a yes (net/ipv4/inet_diag.c,
/// valid_cc), hence the jumps.
fn filter(conditions: &[Condition]) -> Vec<u8> {
    let last = conditions.len().saturating_sub(1);
    let bytes = conditions.iter().map(|condition| condition.bytes());
    let mut left = bytes.sum::<usize>() + last * JUMP_BYTES;
    let mut filter = Vec::with_capacity(left);
    for (index, condition) in conditions.iter().enumerate() {
        let length = condition.bytes();
        // To the next condition, or past the end, which means no.
        let no = length + JUMP_BYTES;
        filter.extend([condition.code(), length as u8]);
        filter.extend((no as u16).to_ne_bytes());
        condition.write(&mut filter);
        left -= length;
        if index < last {
            filter.extend([INET_DIAG_BC_JMP, JUMP_BYTES as u8]);
            filter.extend((left as u16).to_ne_bytes());
            left -= JUMP_BYTES;
        }
    }
    filter
}

#[derive(Debug, PartialEq, Eq)]
enum Message {
    Socket(Box<Found>),
    Failed(i32),
    End,
}

fn messages(bytes: &[u8]) -> Vec<Message> {
    numbered_messages(bytes)
        .into_iter()
        .map(|(_, message)| message)
        .collect()
}

/// Messages, each with the number of the request.
fn numbered_messages(mut bytes: &[u8]) -> Vec<(u32, Message)> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<NLMSG_HEADER_BYTES>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let number = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let Some(body) = bytes.get(NLMSG_HEADER_BYTES..length) else {
            break;
        };
        match kind {
            NLMSG_DONE => found.push((number, Message::End)),
            NLMSG_ERROR => {
                let errno = body.first_chunk().map_or(-libc::EIO, |code| i32::from_ne_bytes(*code));
                found.push((number, Message::Failed(-errno)));
            }
            TCPDIAG_GETSOCK | SOCK_DIAG_BY_FAMILY => {
                found.extend(parse(body).map(|socket| (number, Message::Socket(Box::new(socket)))))
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// `struct inet_diag_msg`: family, state, timer, retrans; sport, dport; src, dst; interface,
/// cookie; then expires, the two queues, uid and inode; then attributes.
fn parse(body: &[u8]) -> Option<Found> {
    let (message, attributes) = body.split_first_chunk::<DIAG_MSG_BYTES>()?;
    let address = |port: usize, ip: usize| {
        let port = u16::from_be_bytes([message[port], message[port + 1]]);
        let ip = match message[0] {
            AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&message[ip..ip + 4]).ok()?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&message[ip..ip + 16]).ok()?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    };
    let number = |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
    Some(Found {
        local: address(4, 8)?,
        peer: address(6, 24)?,
        // The dump shows an incomplete connection in a state of its own.
        state: if message[1] == state::NEW_SYN_RECV {
            state::SYN_RECV
        } else {
            message[1]
        },
        uid: number(64),
        inode: number(68),
        interface: number(40),
        cookie: u64::from_ne_bytes(message[44..52].try_into().ok()?),
        v6only: attribute(attributes, INET_DIAG_SKV6ONLY).is_some_and(|value| value.first() == Some(&1)),
        info: attribute(attributes, INET_DIAG_INFO).map(TcpInfo::parse),
    })
}

/// The payload of the attribute of this type (`struct nlattr`: length, type, payload, padded to
/// four bytes).
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some(header) = bytes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let payload = bytes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) == wanted {
            return Some(payload);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(last: u8) -> Condition {
        Condition::Local(Local {
            ip: IpAddr::V4(Ipv4Addr::new(127, 77, 1, last)),
            port: None,
        })
    }

    #[test]
    fn one_address_is_one_condition() {
        let expected = [7, 16, 20, 0, 2, 32, 0, 0, 255, 255, 255, 255, 127, 77, 1, 1];
        assert_eq!(filter(&[local(1)]), expected);
    }

    #[test]
    fn each_of_several_addresses_leads_to_the_end() {
        let filter = filter(&[local(1), local(2), local(3)]);
        assert_eq!(filter.len(), 3 * 16 + 2 * 4);
        assert_eq!(filter[16..20], [1, 4, 40, 0], "from byte 16 to byte 56");
        assert_eq!(filter[36..40], [1, 4, 20, 0], "from byte 36 to byte 56");
        assert_eq!(filter[40..44], [7, 16, 20, 0], "the last no leads past the end");
    }

    #[test]
    fn a_cgroup_is_a_condition_like_an_address() {
        let filter = filter(&[local(1), Condition::Cgroup(7)]);
        assert_eq!(filter.len(), 16 + 4 + 12);
        assert_eq!(filter[16..20], [1, 4, 16, 0], "from byte 16 to byte 32");
        assert_eq!(filter[20..], [13, 12, 16, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_cut_short_is_nothing() {
        assert!(messages(&[40, 0, 0, 0, 20, 0]).is_empty());
        assert_eq!(parse(&[2; 40]), None);
        assert_eq!(attribute(&[0, 0, 2, 0], 2), None);
        assert_eq!(attribute(&[200, 0, 2, 0, 1], 2), None);
    }
}
