//! Sockets of a network namespace in which every address is local, and replacing a socket by
//! another.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use imsup_linux::replace;
use imsup_linux::socket;
use imsup_protocol::channel::Channel;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Makes the namespace by the calls of unshare(2), lo(4) and rtnetlink(7), binds servers, makes
/// clients, passes all sockets on (SCM_RIGHTS) and exits.
const MAKER: &str = r#"
import ctypes, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNET = 0x10000000, 0x40000000
assert libc.unshare(NEWNET) == 0 or libc.unshare(NEWUSER | NEWNET) == 0, ctypes.get_errno()
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
def request(kind, flags, body):
    netlink.send(struct.pack("=IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body)
    assert struct.unpack_from("=i", netlink.recv(4096), 16)[0] == 0, kind
NEWLINK, NEWROUTE, CREATE_EXCL = 16, 24, 0x600
request(NEWLINK, 0, struct.pack("=BBHiII", 0, 0, 0, 1, 1, 1))
for family, scope in ((socket.AF_INET, 254), (socket.AF_INET6, 0)):
    route = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 255, 4, scope, 2, 0) + struct.pack("=HHi", 8, 4, 1)
    request(NEWROUTE, CREATE_EXCL, route)
v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
v4.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
v4.bind(("0.0.0.0", 53))
v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
v6.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
v6.bind(("::", 53))
clients = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET, socket.AF_INET6)]
given = [one.fileno() for one in (v4, v6, *clients)]
socket.send_fds(socket.socket(fileno=0), [bytes([0])], given)
"#;

/// The descriptors of the servers and clients, of a namespace whose only process has ended.
fn sockets() -> Vec<OwnedFd> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let status = Command::new("python3")
        .args(["-c", MAKER])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .status()
        .expect("python3");
    assert!(
        status.success(),
        "an ordinary user needs user namespaces (user_namespaces(7)): {status}"
    );
    let mut channel = Channel::accepted(ours);
    // The byte is no hello; the descriptors come with it.
    let _ = channel.receive::<u8>();
    channel.take_fds(5).unwrap()
}

/// Receives a question and sends a reply from the address of the question, like the name server (in
/// Python, for brevity: `server` is the standard input).
fn answer(server: &OwnedFd) {
    const SERVER: &str = r#"
import socket, struct
server = socket.socket(fileno=0)
query, control, _, client = server.recvmsg(100, 200)
level, kind, data = control[0]
if level == socket.IPPROTO_IP:
    data = struct.pack("=i4s4s", 0, data[8:12], bytes(4))
server.sendmsg([query + b"!"], [(level, kind, data)], 0, client)
"#;
    let status = Command::new("python3")
        .args(["-c", SERVER])
        .stdin(Stdio::from(server.try_clone().unwrap()))
        .status()
        .unwrap();
    assert!(status.success());
}

/// network_namespaces(7): a namespace lives as long as any socket in the namespace. A route of type
/// local makes all addresses local (ip-route(8)), and a datagram may come from any local address
/// (IP_PKTINFO in ip(7); IPV6_PKTINFO in ipv6(7), with IPV6_FREEBIND: net/ipv6/datagram.c,
/// ip6_datagram_send_ctl). The owner of the user namespace may bind port 53 (user_namespaces(7),
/// CAP_NET_BIND_SERVICE).
#[test]
fn a_socket_outlives_the_processes_of_its_namespace_and_is_answered_from_the_address_it_asked() {
    let mut all = sockets().into_iter();
    let (v4, v6) = (all.next().unwrap(), all.next().unwrap());
    let own = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut clients = all.map(UdpSocket::from);
    let (unconnected, connected, of_v6) = (
        clients.next().unwrap(),
        clients.next().unwrap(),
        clients.next().unwrap(),
    );
    let theirs = socket::namespace(v4.as_fd()).unwrap();
    for client in [&unconnected, &connected, &of_v6] {
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(socket::namespace(client.as_fd()), Ok(theirs));
        assert_ne!(socket::namespace(own.as_fd()), Ok(theirs));
    }
    let mut buffer = [0; 10];
    for asked in ["192.0.2.53:53", "127.0.0.53:53", "10.1.2.3:53"] {
        let asked: SocketAddr = asked.parse().unwrap();
        unconnected.send_to(b"query", asked).unwrap();
        answer(&v4);
        assert_eq!(unconnected.recv_from(&mut buffer).unwrap(), (6, asked));
    }
    for asked in ["[2001:db8::53]:53", "[::1]:53", "[fd00::1]:53"] {
        let asked: SocketAddr = asked.parse().unwrap();
        of_v6.send_to(b"query", asked).unwrap();
        answer(&v6);
        assert_eq!(of_v6.recv_from(&mut buffer).unwrap(), (6, asked));
    }
    // Any address may be the source as well.
    socket::bind(connected.as_fd(), (Ipv4Addr::new(127, 77, 5, 7), 0).into()).unwrap();
    connected.connect("9.9.9.9:53").unwrap();
    connected.send(b"query").unwrap();
    answer(&v4);
    assert_eq!(connected.recv(&mut buffer).unwrap(), 6);
    assert_eq!(connected.local_addr().unwrap().ip(), Ipv4Addr::new(127, 77, 5, 7));
}

/// epoll(7), Q6 and A6; fs/eventpoll.c, ep_find: a registration belongs to a file and a number. The
/// program finds a registration made by another process in which the file has the same number.
#[test]
fn a_replaced_descriptor_loses_its_registrations_and_they_can_be_made_anew() {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let mut registered = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let number = registered.as_raw_fd();
    let inode = socket::inode(registered.as_fd()).unwrap();
    epoll
        .add(&registered, EpollEvent::new(EpollFlags::EPOLLIN, 0xfeed))
        .unwrap();
    let uses = replace::uses(std::process::id().cast_signed(), inode).expect("nobody waits in it");
    assert_eq!((uses.numbers.as_slice(), uses.registrations.len()), (&[number][..], 1));
    assert_eq!(uses.registrations[0].number, number);

    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    let mut event = EpollEvent::new(EpollFlags::EPOLLIN, 0xfade);
    let elsewhere = OwnedFd::from(other.try_clone().unwrap());
    rustix::io::dup3(&other, &mut registered, rustix::io::DupFlags::CLOEXEC).unwrap();
    assert_eq!(epoll.modify(&registered, &mut event), Err(Errno::ENOENT), "it is lost");

    let epoll_again = epoll.0.try_clone().unwrap();
    replace::register(&epoll_again, elsewhere.as_fd(), &uses.registrations[0]).unwrap();
    assert_eq!(
        socket::cookie(registered.as_fd()),
        socket::cookie(elsewhere.as_fd()),
        "what stepped aside is back"
    );
    other.send_to(b"x", at).unwrap();
    let mut events = [EpollEvent::empty()];
    assert_eq!(epoll.wait(&mut events, EpollTimeout::from(20_000_u16)).unwrap(), 1);
    assert_eq!(events[0].data(), 0xfeed, "what the program had registered it with");
    epoll.modify(&registered, &mut event).unwrap();
    epoll.wait(&mut events, EpollTimeout::from(20_000_u16)).unwrap();
    assert_eq!(events[0].data(), 0xfade);
    epoll.delete(&registered).unwrap();
}
