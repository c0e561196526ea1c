//! TCP sockets of the whole machine, by local address: sock_diag(7), include/uapi/linux/inet_diag.h.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::tcp_info::{TcpInfo, state};

/// The older request, which alone takes all families in one walk over the table (net/ipv4/inet_diag.c,
/// inet_diag_dump_compat): half the time of one dump for each.
const TCPDIAG_GETSOCK: u16 = 18;
/// The newer request, for one socket: `struct inet_diag_req_v2`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER_BYTES: usize = 16;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_BC_JMP: u8 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
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
    /// Any port where `None`.
    pub port: Option<u16>,
}

/// A socket that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub state: u8,
    pub uid: u32,
    /// 0 where no process has a descriptor of it: it waits in an accept queue, or was closed.
    pub inode: u32,
    pub info: Option<TcpInfo>,
}

/// The TCP sockets in `states` (a mask, `1 << TCP_ESTABLISHED` and so on) whose local address is one of `locals`; of those
/// of AF_INET6, v4-mapped addresses match IPv4 ones.
///
/// # Errors
/// What socket(2), send(2) and recv(2) say, and the error the kernel answers with (ENOENT without CONFIG_INET_TCP_DIAG).
pub(super) fn find(locals: &[Local], states: u32) -> io::Result<Vec<Found>> {
    let netlink = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    rustix::net::send(&netlink, &request(locals, states), SendFlags::empty())?;
    loop {
        let (count, _) = rustix::net::recv(&netlink, &mut buffer[..], RecvFlags::empty())?;
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

/// The state of the TCP connection with these addresses and this cookie: found by its hash, whatever the number of sockets. `None` where there
/// is none such.
///
/// # Errors
/// What socket(2), send(2) and recv(2) say.
pub(super) fn state_of(local: SocketAddrV4, peer: SocketAddrV4, cookie: u64) -> io::Result<Option<u8>> {
    let netlink = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut body = vec![AF_INET, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(peer.port().to_be_bytes());
    for address in [local, peer] {
        body.extend(address.ip().octets());
        body.extend([0; 12]);
    }
    body.extend([0; 4]); // idiag_if
    body.extend(cookie.to_ne_bytes());
    let mut frame = Vec::with_capacity(NLMSG_HEADER_BYTES + body.len());
    frame.extend(((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    frame.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    frame.extend(NLM_F_REQUEST.to_ne_bytes());
    frame.extend([0; 8]);
    frame.extend(body);
    rustix::net::send(&netlink, &frame, SendFlags::empty())?;
    let mut buffer = [0; 1024];
    let (count, _) = rustix::net::recv(&netlink, &mut buffer[..], RecvFlags::empty())?;
    Ok(messages(&buffer[..count])
        .into_iter()
        .find_map(|message| match message {
            Message::Socket(socket) => Some(socket.state),
            Message::Failed(_) | Message::End => None,
        }))
}

/// A dump: `nlmsghdr`, `inet_diag_req`, and one attribute with a filter.
fn request(locals: &[Local], states: u32) -> Vec<u8> {
    let filter = filter(locals);
    let mut body = Vec::with_capacity(64 + filter.len());
    body.extend([0, 0, 0, 1 << (INET_DIAG_INFO - 1)]);
    body.extend([0; 48]); // inet_diag_sockid: a dump does not look at it
    body.extend(states.to_ne_bytes());
    body.extend([0; 4]); // idiag_dbs
    body.extend((4 + filter.len() as u16).to_ne_bytes());
    body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    body.extend(filter);

    let mut frame = Vec::with_capacity(NLMSG_HEADER_BYTES + body.len());
    frame.extend(((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    frame.extend(TCPDIAG_GETSOCK.to_ne_bytes());
    frame.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    frame.extend([0; 8]);
    frame.extend(body);
    frame
}

/// One condition after the other; each but the last is followed by a jump to the end, which means yes. The kernel wants to
/// reach every operation by going on after a yes (net/ipv4/inet_diag.c, valid_cc), hence the jumps.
fn filter(locals: &[Local]) -> Vec<u8> {
    let bytes = |local: &Local| if local.ip.is_ipv4() { 16 } else { 28 };
    let last = locals.len().saturating_sub(1);
    let mut left = locals.iter().map(bytes).sum::<usize>() + last * JUMP_BYTES;
    let mut filter = Vec::with_capacity(left);
    for (index, local) in locals.iter().enumerate() {
        let length = bytes(local);
        // To the next condition, or past the end, which means no.
        let no = length + JUMP_BYTES;
        filter.extend([INET_DIAG_BC_S_COND, length as u8]);
        filter.extend((no as u16).to_ne_bytes());
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

fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<NLMSG_HEADER_BYTES>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = bytes.get(NLMSG_HEADER_BYTES..length) else {
            break;
        };
        match kind {
            NLMSG_DONE => found.push(Message::End),
            NLMSG_ERROR => {
                let errno = body.first_chunk().map_or(-libc::EIO, |code| i32::from_ne_bytes(*code));
                found.push(Message::Failed(-errno));
            }
            TCPDIAG_GETSOCK | SOCK_DIAG_BY_FAMILY => {
                found.extend(parse(body).map(|socket| Message::Socket(Box::new(socket))))
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// `struct inet_diag_msg`: family, state, timer, retrans; sport, dport; src, dst; interface, cookie; then expires, the
/// two queues, uid and inode; then attributes.
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
        // A connection that is not yet complete is dumped as one of its own kind of state.
        state: if message[1] == state::NEW_SYN_RECV {
            state::SYN_RECV
        } else {
            message[1]
        },
        uid: number(64),
        inode: number(68),
        info: attribute(attributes, INET_DIAG_INFO).map(TcpInfo::parse),
    })
}

/// The payload of the attribute of this type (`struct nlattr`: length, type, payload, padded to four bytes).
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

    fn local(last: u8) -> Local {
        Local {
            ip: IpAddr::V4(Ipv4Addr::new(127, 77, 1, last)),
            port: None,
        }
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
    fn what_is_cut_short_is_nothing() {
        assert!(messages(&[40, 0, 0, 0, 20, 0]).is_empty());
        assert_eq!(parse(&[2; 40]), None);
        assert_eq!(attribute(&[0, 0, 2, 0], 2), None);
        assert_eq!(attribute(&[200, 0, 2, 0, 1], 2), None);
    }
}
