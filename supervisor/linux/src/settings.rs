//! The options of a program's socket that a retained socket in its place must have: socket(7),
//! ip(7), ipv6(7), tcp(7).

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::socket::{get, get_int, set, set_int, set_status_flags, status_flags};

/// An option that a program may set before bind, and that the retained socket must also have.
struct Copied {
    level: i32,
    name: i32,
    bytes: usize,
}

const fn int(level: i32, name: i32) -> Copied {
    Copied { level, name, bytes: 4 }
}

const fn sized(level: i32, name: i32, bytes: usize) -> Copied {
    Copied { level, name, bytes }
}

/// Which of the buffers have a size that was set (Linux 5.14; asm-generic/socket.h).
const SO_BUF_LOCK: i32 = 72;
/// The lock of the send buffer (include/linux/socket.h).
const SOCK_SNDBUF_LOCK: i32 = 1;
/// The lock of the receive buffer.
const SOCK_RCVBUF_LOCK: i32 = 2;

/// Whether groups that others have joined are received too (ip(7)).
const IP_MULTICAST_ALL: i32 = 49;

/// The value of TCP_MAXSEG before a connection, if the option was not set (TCP_MSS_DEFAULT,
/// include/net/tcp.h).
const DEFAULT_SEGMENT_BYTES: i32 = 536;

const COPIED: &[Copied] = &[
    int(libc::SOL_SOCKET, libc::SO_REUSEADDR),
    int(libc::SOL_SOCKET, libc::SO_REUSEPORT),
    int(libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    int(libc::SOL_SOCKET, libc::SO_OOBINLINE),
    int(libc::SOL_SOCKET, libc::SO_DONTROUTE),
    int(libc::SOL_SOCKET, libc::SO_BROADCAST),
    int(libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    int(libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    int(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    int(libc::SOL_SOCKET, libc::SO_TIMESTAMPING),
    int(libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    int(libc::SOL_SOCKET, libc::SO_NO_CHECK),
    int(libc::SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE),
    int(libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    int(libc::SOL_SOCKET, libc::SO_MARK),
    int(libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    int(libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL),
    int(libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE),
    sized(libc::SOL_SOCKET, libc::SO_RCVTIMEO, 16),
    sized(libc::SOL_SOCKET, libc::SO_SNDTIMEO, 16),
    int(libc::IPPROTO_TCP, libc::TCP_NODELAY),
    int(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    int(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    int(libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    int(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    int(libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    int(libc::IPPROTO_TCP, libc::TCP_LINGER2),
    int(libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    int(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    int(libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    int(libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    int(libc::IPPROTO_TCP, libc::TCP_INQ),
    int(libc::IPPROTO_TCP, libc::TCP_SAVE_SYN),
    int(libc::IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS),
    sized(libc::IPPROTO_TCP, libc::TCP_CONGESTION, 16),
    int(libc::SOL_UDP, libc::UDP_GRO),
    int(libc::SOL_UDP, libc::UDP_SEGMENT),
    int(libc::IPPROTO_IP, libc::IP_TOS),
    int(libc::IPPROTO_IP, libc::IP_TTL),
    int(libc::IPPROTO_IP, libc::IP_PKTINFO),
    int(libc::IPPROTO_IP, libc::IP_RECVTOS),
    int(libc::IPPROTO_IP, libc::IP_RECVTTL),
    int(libc::IPPROTO_IP, libc::IP_RECVERR),
    int(libc::IPPROTO_IP, libc::IP_RECVOPTS),
    int(libc::IPPROTO_IP, libc::IP_RETOPTS),
    int(libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
    int(libc::IPPROTO_IP, libc::IP_UNICAST_IF),
    int(libc::IPPROTO_IP, IP_MULTICAST_ALL),
    int(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    int(libc::IPPROTO_IP, libc::IP_FREEBIND),
    int(libc::IPPROTO_IP, libc::IP_MINTTL),
    int(libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    int(libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    int(libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    int(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    int(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    int(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    int(libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    int(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    int(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    int(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    int(libc::IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL),
    int(libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    int(libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    int(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS),
    int(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP),
    int(libc::IPPROTO_IPV6, libc::IPV6_RECVPATHMTU),
    int(libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR),
    int(libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO_SEND),
    // After IP_TOS, which sets SO_PRIORITY (net/ipv4/ip_sockglue.c, __ip_sock_set_tos).
    int(libc::SOL_SOCKET, libc::SO_PRIORITY),
];

/// Gives `to` the options and file status flags of `from`. Skips options that one of the two
/// sockets does not know (a UDP socket's TCP options, an AF_INET socket's IPv6 options), and
/// options that need a privilege imsup lacks.
///
/// # Errors
/// Errors of fcntl(2) for the flags.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    for option in COPIED {
        let (mut wanted, mut present) = ([0; 16], [0; 16]);
        let (wanted, present) = (&mut wanted[..option.bytes], &mut present[..option.bytes]);
        let known =
            get(from, option.level, option.name, wanted).is_ok() && get(to, option.level, option.name, present).is_ok();
        if !known || wanted == present {
            continue;
        }
        let _ = set(to, option.level, option.name, wanted);
    }
    copy_buffer_sizes(from, to);
    copy_linger(from, to);
    copy_segment_size(from, to);
    set_status_flags(to, status_flags(from)?)
}

/// Gives a connection that was accepted before its listener's options were known the inherited
/// options: all but two (net/core/sock.c, sk_clone_lock; net/ipv4/inet_connection_sock.c,
/// inet_csk_clone_lock). SO_REUSEADDR stays on. A connection in TIME_WAIT therefore does not keep
/// the next `up` from the port.
///
/// # Errors
/// As [`copy`].
pub fn inherit(listener: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> Result<(), Errno> {
    copy(listener, connection)?;
    let _ = set_int(connection, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 0);
    let _ = set_int(connection, libc::SOL_SOCKET, libc::SO_PRIORITY, 0);
    let _ = set_int(connection, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    Ok(())
}

/// SO_RCVBUF and SO_SNDBUF, unless neither of the programs has set the size. The kernel may change
/// an unset size, and has done so for a connection. A size that is set becomes locked, so the locks
/// come last.
fn copy_buffer_sizes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let locks = |socket| get_int(socket, libc::SOL_SOCKET, SO_BUF_LOCK);
    let (Ok(wanted), Ok(present)) = (locks(from), locks(to)) else {
        return;
    };
    for (lock, name) in [(SOCK_SNDBUF_LOCK, libc::SO_SNDBUF), (SOCK_RCVBUF_LOCK, libc::SO_RCVBUF)] {
        if (wanted | present) & lock != 0
            && let Ok(bytes) = get_int(from, libc::SOL_SOCKET, name)
            && get_int(to, libc::SOL_SOCKET, name) != Ok(bytes)
        {
            // The kernel returns twice the value that was set (socket(7)).
            let _ = set_int(to, libc::SOL_SOCKET, name, bytes / 2);
        }
    }
    let _ = set_int(to, libc::SOL_SOCKET, SO_BUF_LOCK, wanted);
}

/// SO_LINGER: the kernel accepts the time only if lingering is on, so lingering is switched on for
/// the moment (net/core/sock.c, sk_setsockopt).
fn copy_linger(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let (mut wanted, mut present) = ([0; 8], [0; 8]);
    let known = [(from, &mut wanted), (to, &mut present)]
        .into_iter()
        .all(|(socket, value)| get(socket, libc::SOL_SOCKET, libc::SO_LINGER, value).is_ok());
    if known && wanted != present {
        let mut on = wanted;
        on[..4].copy_from_slice(&1_i32.to_ne_bytes());
        let _ = set(to, libc::SOL_SOCKET, libc::SO_LINGER, &on);
        let _ = set(to, libc::SOL_SOCKET, libc::SO_LINGER, &wanted);
    }
}

/// TCP_MAXSEG: what was not set reads as the default, and is taken back by 0 (net/ipv4/tcp.c,
/// tcp_sock_set_maxseg).
fn copy_segment_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let bytes = |socket| get_int(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG);
    if let (Ok(wanted), Ok(present)) = (bytes(from), bytes(to))
        && wanted != present
    {
        let value = if wanted == DEFAULT_SEGMENT_BYTES { 0 } else { wanted };
        let _ = set_int(to, libc::IPPROTO_TCP, libc::TCP_MAXSEG, value);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    #[test]
    fn options_of_each_family_are_copied() {
        let ipv4 = [
            (libc::IP_RECVOPTS, 1),
            (libc::IP_RECVORIGDSTADDR, 1),
            (libc::IP_TOS, 16),
            (libc::IP_TTL, 33),
            (libc::IP_MINTTL, 2),
            (libc::IP_FREEBIND, 1),
            (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        ];
        let ipv6 = [
            (libc::IPV6_TCLASS, 8),
            (libc::IPV6_UNICAST_HOPS, 33),
            (libc::IPV6_MINHOPCOUNT, 2),
            (libc::IPV6_FREEBIND, 1),
            (libc::IPV6_DONTFRAG, 1),
            (libc::IPV6_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
            (libc::IPV6_RECVTCLASS, 1),
            (libc::IPV6_RECVHOPLIMIT, 1),
            (libc::IPV6_RECVPKTINFO, 1),
        ];
        for kind in [SocketType::STREAM, SocketType::DGRAM] {
            for family in [AddressFamily::INET, AddressFamily::INET6] {
                let make = || rustix::net::socket_with(family, kind, rustix::net::SocketFlags::CLOEXEC, None).unwrap();
                let (from, to) = (make(), make());
                let mut all: Vec<_> = ipv4.map(|(name, value)| (libc::IPPROTO_IP, name, value)).to_vec();
                if family == AddressFamily::INET6 {
                    all.extend(ipv6.map(|(name, value)| (libc::IPPROTO_IPV6, name, value)));
                }
                for (level, name, value) in &all {
                    set_int(from.as_fd(), *level, *name, *value).unwrap();
                }
                copy(from.as_fd(), to.as_fd()).unwrap();
                for (level, name, value) in all {
                    assert_eq!(
                        get_int(to.as_fd(), level, name),
                        Ok(value),
                        "{kind:?}, {family:?}: {level} {name}"
                    );
                }
            }
        }
    }
}
