//! socket(2), if the supervisor makes the program's sockets ([`crate::mirror`]).

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::Verdict;
use crate::host::{Descriptors, Host};
use crate::unhonoured::Unhonoured;
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::socket::{self, IPPROTO_MPTCP};
use imsup_linux::{inspect, process};

/// The type proper of socket(2)'s second argument (SOCK_TYPE_MASK, include/linux/net.h).
const TYPE_MASK: i32 = 0xf;

/// Handles socket(2): makes the socket as the program's user, gives the socket to the program, and
/// keeps a copy. Sockets that are neither TCP nor UDP are left to the kernel. So are sockets of a
/// process that cannot be inspected, or lives in another network namespace: the supervisor could
/// not use such sockets.
pub(super) fn socket(host: &mut Host, call: &Notification) -> Verdict {
    let Descriptors::Mirrored(mirror) = &mut host.descriptors else {
        return Answer::Continue.into();
    };
    let (domain, kind, protocol) = (call.int(0), call.int(1), call.int(2));
    if !is_tcp_or_udp(kind & TYPE_MASK, protocol) {
        return Answer::Continue.into();
    }
    match process::shares_network(call.tid) {
        Ok(true) => {}
        Ok(false) => return Answer::Continue.into(),
        Err(errno) => {
            if errno == Errno::EPERM {
                host.warned.once(call.tid, Unhonoured::Uninspectable);
            }
            return Answer::Continue.into();
        }
    }
    // The program's user owns the socket: other users may not share its port (SO_REUSEPORT).
    let make = || inspect::as_owner(call.tid, || socket::make(domain, kind, protocol));
    let made = match make() {
        Err(Errno::EMFILE | Errno::ENFILE) => {
            mirror.sweep();
            make()
        }
        made => made,
    };
    let (made, inode) = match made.and_then(|made| socket::inode(made.as_fd()).map(|inode| (made, inode))) {
        Ok(made) => made,
        // Ours are used up; perhaps the program's are not.
        Err(Errno::EMFILE) => return Answer::Continue.into(),
        Err(errno) => return errno.into(),
    };
    let cloexec = kind & libc::SOCK_CLOEXEC != 0;
    match host.listener.answer_with_fd(call.id, made.as_fd(), cloexec) {
        Ok(()) => {
            mirror.keep(inode, made);
            host.trace.decided(&"made here, and a copy kept");
            Verdict::Done
        }
        // The caller is gone.
        Err(Errno::ENOENT) => Verdict::Done,
        // EMFILE: the program's limit.
        Err(errno) => errno.into(),
    }
}

fn is_tcp_or_udp(kind: i32, protocol: i32) -> bool {
    match kind {
        libc::SOCK_STREAM => matches!(protocol, 0 | libc::IPPROTO_TCP | IPPROTO_MPTCP),
        libc::SOCK_DGRAM => matches!(protocol, 0 | libc::IPPROTO_UDP),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_and_udp_are_made() {
        for (kind, protocol, made) in [
            (libc::SOCK_STREAM, 0, true),
            (libc::SOCK_STREAM, IPPROTO_MPTCP, true),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP, true),
            (libc::SOCK_STREAM, libc::IPPROTO_UDP, false),
            (libc::SOCK_DGRAM, libc::IPPROTO_ICMP, false),
            (libc::SOCK_STREAM, libc::IPPROTO_SCTP, false),
            (libc::SOCK_RAW, 0, false),
        ] {
            assert_eq!(is_tcp_or_udp(kind, protocol), made, "{kind} {protocol}");
        }
    }
}
