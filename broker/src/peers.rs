//! The peers that wait in a retained socket: found by asking the kernel, without accepting the
//! connection.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_wire::Endpoint;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// The older form of a request, which alone asks for both families at once (net/ipv4/inet_diag.c,
/// inet_diag_dump_compat); the answer is the same.
const TCPDIAG_GETSOCK: u16 = 18;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const NLMSG_HEADER_BYTES: usize = 16;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_JMP: u8 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
const INET_DIAG_BC_D_COND: u8 = 8;
const INET_DIAG_INFO: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// All states except SYN_SENT and CLOSE (include/net/tcp_states.h): a short connection may be over
/// before this question is asked.
const STATES: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11;

/// ESTABLISHED.
const ESTABLISHED: u8 = 1;

/// TIME_WAIT.
const TIME_WAIT: u8 = 6;

/// CLOSE_WAIT: the peer has closed.
const CLOSE_WAIT: u8 = 8;

/// LISTEN.
const LISTEN: u8 = 10;

/// A connection in TIME_WAIT has just ended if at least this many milliseconds are left of the 60 s
/// in this state (TCP_TIMEWAIT_LEN).
const JUST_ENDED_MS: u32 = 59_900;

/// The same limit for a connection that is believed if there is no other: this machine may be slow.
/// Older connections belong to other signals.
const ENDED_MS: u32 = 59_000;

/// The bytes of a `struct inet_diag_msg` up to and with `idiag_inode`.
const DIAG_MSG_BYTES: usize = 72;

/// Maximum number of endpoints in a dump: the kernel compares every connection of the machine with
/// each endpoint.
pub(crate) const AT_ONCE: usize = 16;

/// The peers of the connections that have just booted or woken hosts, for up to [`AT_ONCE`]
/// endpoints. For each endpoint: a connection not accepted yet, else a connection that has just
/// ended, else the last accepted connection, as far as known (with the latest packet).
///
/// The kernel walks its whole table of connections: 0.4 ms if the table is empty (262,144 buckets),
/// 4 ms with 30,000 connections in TIME_WAIT (measured). The thread of [`crate::peer_lookup`] asks.
pub(crate) fn came(endpoints: &[Endpoint]) -> Vec<Option<SocketAddr>> {
    look(endpoints).iter().map(Queued::newest).collect()
}

/// The sender of the datagram that waits in a socket, which stays there.
pub(crate) fn sender(socket: &OwnedFd) -> Option<SocketAddr> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (_, _, address) = rustix::net::recvfrom(socket, &mut [0; 1][..], flags).ok()?;
    SocketAddr::try_from(address?).ok().map(crate::sockets::canonical)
}

/// How many connections stand in the queue of the listening socket with this inode, and the peers
/// of those that somebody waits for an answer on, also of such as came while this was found out. Of
/// those that stand there, others were reset or closed: nobody has their other end any more.
///
/// A walk over all connections, as [`came`]: a thread of [`crate::peer_lookup`] asks.
pub(crate) fn queue(inode: u64, endpoint: Endpoint) -> (usize, Vec<SocketAddr>) {
    let found = look(&[endpoint]).pop().unwrap_or_default();
    // A dump begins with the listening sockets (net/ipv4/inet_diag.c, inet_diag_dump_icsk), so all
    // connections counted there are in the dump.
    let length = found.length_of(inode);
    let waits = |(peer, has_closed): &(SocketAddr, bool)| (!has_closed || found.open.contains(peer)).then_some(*peer);
    let peers = found.all_waiting.iter().filter_map(waits).collect();
    (length, peers)
}

/// The findings for each endpoint; after an error of the kernel, the findings until then, which are
/// better than none.
fn look(endpoints: &[Endpoint]) -> Vec<Queued> {
    let mut queued: Vec<Queued> = endpoints.iter().map(|_| Queued::default()).collect();
    let _ = dump(endpoints, STATES, &mut queued);
    queued
}

fn dump(endpoints: &[Endpoint], states: u32, queued: &mut [Queued]) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let netlink = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(netlink::SOCK_DIAG),
    )?;
    // The times since the last packet are as of the making of each part of the answer: the first
    // part is made at the request, each other part while the previous one is received
    // (net/netlink/af_netlink.c, netlink_recvmsg). A walk over many connections takes long on a
    // busy processor.
    let mut made = Instant::now();
    rustix::net::send(&netlink, &request(endpoints, states), SendFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let next_made = Instant::now();
        let (count, _) = rustix::net::recv(netlink.as_fd(), &mut buffer[..], RecvFlags::empty())?;
        for message in messages(&buffer[..count]) {
            let Message::Socket(found) = message else {
                return Ok(());
            };
            for (endpoint, queued) in endpoints.iter().zip(&mut *queued) {
                queued.take(&found, *endpoint, made);
            }
        }
        if count == 0 {
            return Ok(());
        }
        made = next_made;
    }
}

/// Peers of connections to an endpoint.
#[derive(Debug, Default)]
struct Queued {
    /// Of a connection not accepted yet.
    waiting: Option<SocketAddr>,
    /// Of all connections that are neither accepted nor closed at this end; true if the other end
    /// has closed, or has only shut down its sending.
    all_waiting: Vec<(SocketAddr, bool)>,
    /// Of all connections whose other end is on this machine and belongs to a process.
    open: HashSet<SocketAddr>,
    /// The inodes of listening sockets, and how many connections stand in the queue of each.
    queues: Vec<(u32, usize)>,
    /// Of the connection that has ended last, with its time left in TIME_WAIT.
    ended: Option<(u32, SocketAddr)>,
    /// Of the accepted connection with the latest packet, with that packet's time; `None` if that
    /// time is before the clock's start.
    accepted: Option<(Option<Instant>, SocketAddr)>,
    /// Of all that have an end here.
    here: HashSet<SocketAddr>,
    /// Of all connections whose other end is also on this machine.
    there: Vec<SocketAddr>,
}

impl Queued {
    /// How many connections stand in the queue of the socket with this inode.
    fn length_of(&self, inode: u64) -> usize {
        let queue = self.queues.iter().find(|(of, _)| u64::from(*of) == inode);
        queue.map_or(0, |(_, length)| *length)
    }

    /// Takes a socket of the dump, which describes the socket as of the time `made`.
    fn take(&mut self, found: &Found, endpoint: Endpoint, made: Instant) {
        let [local, peer] = [found.local, found.peer].map(crate::sockets::canonical);
        let address: SocketAddr = endpoint.address.into();
        if local != address && peer != address && (local.ip() != address.ip() || local.port() != 0) {
            return;
        }
        // A connection of the host to itself, or from the supervisor (a doorbell), is no signal.
        if found.state != LISTEN && local.ip() == peer.ip() {
            return;
        }
        // A connection that is just closing may have lost its port (inet_put_port).
        let here = local == address || (local.port() == 0 && peer != address);
        match found.state {
            LISTEN => self.queues.push((found.inode, found.queued as usize)),
            // Either end may be the end that waits for the last packets.
            TIME_WAIT if found.left_ms >= ENDED_MS => {
                let peer = if here { peer } else { local };
                self.ended = self.ended.max(Some((found.left_ms, peer)));
            }
            TIME_WAIT => {}
            _ if !here && local.port() == 0 => {}
            _ if !here => {
                self.there.push(local);
                if found.inode != 0 {
                    self.open.insert(local);
                }
            }
            _ => {
                self.here.insert(peer);
                if found.inode == 0 && matches!(found.state, ESTABLISHED | CLOSE_WAIT) {
                    self.all_waiting.push((peer, found.state == CLOSE_WAIT));
                }
                match found.inode {
                    0 => self.waiting = Some(peer),
                    _ => {
                        let heard = made.checked_sub(Duration::from_millis(found.heard_ms.into()));
                        self.accepted = self.accepted.max(Some((heard, peer)));
                    }
                }
            }
        }
    }

    fn newest(&self) -> Option<SocketAddr> {
        // A dump takes time: if a connection ends meanwhile, its other end may still be seen open,
        // but not this end.
        let mut amid = self.there.iter().filter(|peer| !self.here.contains(peer));
        let just_ended = self.ended.filter(|(left_ms, _)| *left_ms >= JUST_ENDED_MS);
        let of = |found: Option<(u32, SocketAddr)>| found.map(|(_, peer)| peer);
        self.waiting
            .or(amid.next().copied())
            .or(of(just_ended))
            .or(self.accepted.map(|(_, peer)| peer))
            .or(of(self.ended))
    }
}

/// A request for a dump of TCP sockets with any of the endpoints as an address: `nlmsghdr`,
/// `inet_diag_req`, and an attribute with a filter (include/uapi/linux/inet_diag.h).
fn request(endpoints: &[Endpoint], states: u32) -> Vec<u8> {
    let filter = filter(endpoints);
    let mut body = vec![0, 0, 0, 1 << (INET_DIAG_INFO - 1)];
    body.extend([0; 48]); // inet_diag_sockid: a dump does not look at it
    body.extend(states.to_ne_bytes());
    body.extend([0; 4]); // idiag_dbs: nor at this
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

/// A sequence of conditions, of which any must be met. Each but the last is followed by a jump to
/// the end, which means yes. A condition that is not met skips this jump; the last condition skips
/// past the end, which means no. The kernel requires that every target is also reached by going on
/// (inet_diag_bc_audit).
fn filter(endpoints: &[Endpoint]) -> Vec<u8> {
    const CONDITION_BYTES: u8 = 16;
    const JUMP_BYTES: u8 = 4;
    let conditions = endpoints
        .iter()
        .flat_map(|endpoint| [(INET_DIAG_BC_S_COND, endpoint), (INET_DIAG_BC_D_COND, endpoint)]);
    // From the end, so that the distance to the end is known.
    let mut filter: Vec<u8> = Vec::new();
    for (code, endpoint) in conditions.rev() {
        let mut step = vec![code, CONDITION_BYTES];
        step.extend(u16::from(CONDITION_BYTES + JUMP_BYTES).to_ne_bytes());
        step.extend([AF_INET, 32, 0, 0]);
        step.extend(i32::from(endpoint.address.port()).to_ne_bytes());
        step.extend(endpoint.address.ip().octets());
        if !filter.is_empty() {
            step.extend([INET_DIAG_BC_JMP, JUMP_BYTES]);
            step.extend((u16::from(JUMP_BYTES) + filter.len() as u16).to_ne_bytes());
        }
        step.extend(filter);
        filter = step;
    }
    filter
}

#[derive(Debug, PartialEq, Eq)]
enum Message {
    Socket(Found),
    End,
}

/// A socket of the dump.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    state: u8,
    local: SocketAddr,
    peer: SocketAddr,
    /// The time left of the timer.
    left_ms: u32,
    /// The length of a listening socket's queue (`idiag_rqueue`).
    queued: u32,
    /// The time since the last packet, in milliseconds.
    heard_ms: u32,
    /// 0 for a connection not accepted yet, and for an ended connection.
    inode: u32,
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
            TCPDIAG_GETSOCK => found.extend(parse(body)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// `struct inet_diag_msg`: family, state, timer, retrans; sport, dport; src, dst; interface,
/// cookie; then expires, the two queues, uid and inode.
fn parse(body: &[u8]) -> Option<Message> {
    let heard_ms = heard(body.get(DIAG_MSG_BYTES..)?);
    let body = body.first_chunk::<DIAG_MSG_BYTES>()?;
    let number = |at: usize| u32::from_ne_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    let address = |port: usize, at: usize| {
        let ip = match body[0] {
            AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&body[at..at + 4]).ok()?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&body[at..at + 16]).ok()?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes([body[port], body[port + 1]])))
    };
    Some(Message::Socket(Found {
        state: body[1],
        local: address(4, 8)?,
        peer: address(6, 24)?,
        left_ms: number(52),
        queued: number(56),
        heard_ms,
        inode: number(68),
    }))
}

/// How long ago data or an acknowledgement came: `tcpi_last_data_recv` and `tcpi_last_ack_recv` of
/// the attribute INET_DIAG_INFO.
fn heard(mut attributes: &[u8]) -> u32 {
    while let Some(header) = attributes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let Some(info) = attributes.get(4..length) else { break };
        if kind == INET_DIAG_INFO {
            let word = |at: usize| {
                let bytes = info.get(at..).and_then(<[u8]>::first_chunk);
                bytes.map(|bytes| u32::from_ne_bytes(*bytes))
            };
            return word(52).into_iter().chain(word(56)).min().unwrap_or(u32::MAX);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    u32::MAX
}

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};

    use super::*;
    use crate::sockets::{Sharing, create};

    /// A test delayed for this long cannot find earlier ended connections ([`ENDED_MS`]).
    const TOO_LATE: Duration = Duration::from_millis(900);

    #[test]
    fn a_queued_connection_is_found_before_it_is_accepted() {
        let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 97, 201, 1), 18_301);
        let socket = create(endpoint, None, Sharing::WithTheDead, 16).unwrap();
        assert_eq!(came(&[endpoint]), [None]);
        let client = TcpStream::connect(endpoint.address).unwrap();
        assert_eq!(came(&[endpoint]), [Some(client.local_addr().unwrap())]);
        let _accepted = rustix::net::accept_with(&socket, SocketFlags::CLOEXEC).unwrap();
        assert_eq!(came(&[endpoint]), [Some(client.local_addr().unwrap())]);
    }

    #[test]
    fn who_is_gone_stands_in_the_queue_and_does_not_wait() {
        let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 97, 201, 17), 18_317);
        let listener = create(endpoint, None, Sharing::WithTheDead, 16).unwrap();
        let [closed, ended, asked, stays] = [(); 4].map(|()| TcpStream::connect(endpoint.address).unwrap());
        let mut waiting = [&asked, &stays].map(|client| client.local_addr().unwrap());
        drop(closed);
        crate::sockets::reset(ended.into()).unwrap();
        asked.shutdown(std::net::Shutdown::Write).unwrap();
        waiting.sort_unstable();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (length, mut found) = queue(crate::sockets::inode(&listener).unwrap(), endpoint);
            found.sort_unstable();
            if (length, &found[..]) == (4, &waiting[..]) {
                break;
            }
            // Until its execve(2), a child that another test starts at this moment also has the
            // closed connections.
            assert!(Instant::now() < deadline, "{length}: {found:?}, not {waiting:?}");
        }
    }

    #[test]
    fn a_connection_that_has_just_ended_is_found_whoever_ended_it() {
        for (last, client_first) in [(4, true), (5, false)] {
            let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 97, 201, last), 18_304);
            let socket = create(endpoint, None, Sharing::WithTheDead, 16).unwrap();
            loop {
                let client = TcpStream::connect(endpoint.address).unwrap();
                let expected = client.local_addr().unwrap();
                let server = rustix::net::accept_with(&socket, SocketFlags::CLOEXEC).unwrap();
                let ended = Instant::now();
                if client_first {
                    drop(client);
                    drop(server);
                } else {
                    drop(server);
                    drop(client);
                }
                let found = came(&[endpoint]);
                if found == [Some(expected)] {
                    break;
                }
                assert!(ended.elapsed() > TOO_LATE, "client first: {client_first}: {found:?}");
            }
        }
    }

    #[test]
    fn a_connection_that_ends_meanwhile_is_found_all_the_same() {
        for port in 18_400..18_600 {
            let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 97, 201, 6), port);
            let socket = create(endpoint, None, Sharing::WithTheDead, 16).unwrap();
            let client = TcpStream::connect(endpoint.address).unwrap();
            let expected = client.local_addr().unwrap();
            let server = rustix::net::accept_with(&socket, SocketFlags::CLOEXEC).unwrap();
            let begun = Instant::now();
            // A little later each time: the connection ends before, during and after the kernel's
            // answer.
            let later = Duration::from_micros(u64::from(port - 18_400) * 2);
            let found = std::thread::scope(|scope| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    while begun.elapsed() < later {
                        std::hint::spin_loop();
                    }
                    drop(client);
                    drop(server);
                });
                came(&[endpoint])
            });
            let found_it = found == [Some(expected)];
            assert!(found_it || begun.elapsed() > TOO_LATE, "port {port}: {found:?}");
        }
    }

    /// Each is so many milliseconds old in a part of the answer that was made so many later than
    /// the first.
    #[test]
    fn the_one_that_was_heard_of_last_is_found_however_long_the_answer_takes() {
        let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 97, 201, 3), 18_303);
        let begun = Instant::now() + Duration::from_secs(10);
        let mut queued = Queued::default();
        for (port, heard_ms, made_ms) in [(1, 400, 0), (2, 450, 300), (3, 900, 600), (4, u32::MAX, 600)] {
            let found = Found {
                state: ESTABLISHED,
                local: endpoint.address.into(),
                peer: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                left_ms: 0,
                queued: 0,
                heard_ms,
                inode: 7,
            };
            queued.take(&found, endpoint, begun + Duration::from_millis(made_ms));
        }
        assert_eq!(queued.newest().map(|peer| peer.port()), Some(2));
    }

    #[test]
    fn a_connection_to_a_dual_stack_socket_is_found_too() {
        let address: SocketAddr = "[::ffff:127.97.201.2]:18302".parse().unwrap();
        let socket =
            rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 16).unwrap();
        let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 97, 201, 2), 18_302);
        let client = TcpStream::connect(endpoint.address).unwrap();
        assert_eq!(came(&[endpoint]), [Some(client.local_addr().unwrap())]);
    }

    #[test]
    fn many_are_asked_for_at_once_and_not_mixed_up() {
        let endpoints: Vec<Endpoint> = (0..AT_ONCE)
            .map(|number| Endpoint::tcp(Ipv4Addr::new(127, 97, 201, 18), 18_320 + number as u16))
            .collect();
        let listening: Vec<_> = endpoints
            .iter()
            .map(|endpoint| create(*endpoint, None, Sharing::WithTheDead, 16).unwrap())
            .collect();
        // Every second endpoint.
        let connect = |endpoint: &Endpoint| TcpStream::connect(endpoint.address).unwrap();
        let clients: Vec<_> = endpoints.iter().step_by(2).map(connect).collect();
        let expected = |number: usize| {
            number
                .is_multiple_of(2)
                .then(|| clients[number / 2].local_addr().unwrap())
        };
        let expected: Vec<_> = (0..AT_ONCE).map(expected).collect();
        assert_eq!(came(&endpoints), expected);
        drop(listening);
    }

    #[test]
    fn the_sender_of_a_datagram_is_found_and_the_datagram_stays() {
        let endpoint = Endpoint::udp(Ipv4Addr::new(127, 97, 201, 3), 18_303);
        let socket = create(endpoint, None, Sharing::WithTheDead, 16).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"hello", endpoint.address).unwrap();
        assert_eq!(sender(&socket), Some(client.local_addr().unwrap()));
        assert!(crate::sockets::is_readable(&socket));
    }
}
