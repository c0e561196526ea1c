//! THE table: the system calls that do not simply go to the kernel, with a treatment for each.
//!
//! `build.rs` compiles the filter from the table, and the supervisor dispatches by the table: the
//! two cannot drift apart. A call that is not in the table is allowed, and stays in the kernel's
//! bitmap of calls that need no filter run at all (kernel/seccomp.c, `seccomp_cache_prepare`).

use libc::c_long;

/// Number of a system call under the architecture imsup was built for.
pub type Number = c_long;

/// The part of the supervisor that answers a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handler {
    /// socket(2) of IPv4 or IPv6.
    Socket,
    /// bind(2).
    Bind,
    /// listen(2).
    Listen,
    /// accept(2) and accept4(2).
    Accept,
    /// connect(2).
    Connect,
    /// sendto(2) with a destination.
    SendTo,
    /// sendmsg(2), which may carry a destination.
    SendMsg,
    /// sendmmsg(2), of which each message may carry a destination.
    SendMmsg,
    /// getsockname(2).
    GetSockName,
    /// getpeername(2).
    GetPeerName,
    /// getsockopt(2) of SO_ACCEPTCONN.
    AcceptConn,
    /// uname(2).
    Uname,
    /// open(2) with the flags by which musl reads a file.
    Open,
    /// io_uring_setup(2).
    IoUringSetup,
}

/// The test of a [`Condition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// All 64 bits differ from this value: `argument != value`.
    NotEqual(u64),
    /// `argument & mask == value`. For arguments that are an `int` to the kernel the mask keeps to
    /// the low 32 bits, since the rest of the register is anybody's.
    MaskedEqual {
        /// The bits that are looked at.
        mask: u64,
        /// The required value of these bits.
        value: u64,
    },
}

/// A test of one argument of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, from 0 to 5.
    pub argument: u8,
    /// The test.
    pub test: Test,
}

impl Condition {
    /// Whether a call with these arguments meets the condition.
    pub fn holds(&self, arguments: &[u64; 6]) -> bool {
        let argument = arguments[usize::from(self.argument)];
        match self.test {
            Test::NotEqual(value) => argument != value,
            Test::MaskedEqual { mask, value } => argument & mask == value,
        }
    }
}

/// Conditions that must all hold.
pub type Conjunction = &'static [Condition];

/// The treatment of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The supervisor is notified if all conditions of any of these conjunctions hold; otherwise
    /// the call is allowed.
    Notify {
        /// Who answers.
        handler: Handler,
        /// The conjunctions; always if empty.
        when: &'static [Conjunction],
    },
    /// The call fails with this errno.
    Refuse {
        /// The errno.
        errno: i32,
    },
}

/// How the supervisor reaches the program's sockets, by which filters differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sockets {
    /// The supervisor duplicates the program's descriptors (pidfd_getfd(2)).
    Duplicated,
    /// The supervisor may not duplicate descriptors: the supervisor makes the sockets, and keeps
    /// socket mirrors.
    Made,
}

/// The knowledge if each socket retained for a host has the family that the program binds; filters
/// differ by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Families {
    /// An earlier boot has shown the family: the program gets the retained socket itself.
    Known,
    /// The broker made a socket before any program bound the port. Connections waiting in a socket
    /// of the other family are handed to the program in accept(2).
    Unknown,
}

impl Action {
    /// Whether the supervisor is asked about a call with these arguments.
    pub fn notifies(&self, arguments: &[u64; 6]) -> bool {
        let Self::Notify { when, .. } = self else {
            return false;
        };
        let all_hold = |conjunction: &Conjunction| conjunction.iter().all(|condition| condition.holds(arguments));
        when.is_empty() || when.iter().any(all_hold)
    }
}

/// One system call of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name, as in syscalls(2).
    pub name: &'static str,
    /// Its number.
    pub number: Number,
    /// The treatment of the call.
    pub action: Action,
    /// The only way to the sockets for which the row holds, or `None` for both; otherwise the call
    /// goes to the kernel.
    pub only: Option<Sockets>,
    /// The only knowledge of families for which the row holds, or `None` for both; otherwise the
    /// call goes to the kernel.
    pub while_families: Option<Families>,
    /// The reason and the purpose.
    pub why: &'static str,
}

/// The errno of calls of another architecture (i386, and x32 on x86-64), which would reach the
/// socket calls past the filter, by other numbers.
pub const FOREIGN_ARCHITECTURE_ERRNO: i32 = libc::ENOSYS;

/// musl adds this to the flags of every open(2). libc's own constant is glibc's for 64-bit
/// programs, which is 0.
#[cfg(target_arch = "x86_64")]
const KERNEL_O_LARGEFILE: i32 = 0o100_000;

#[cfg(target_arch = "x86_64")]
const AS_MUSL_READS: &[Conjunction] = &[&[Condition {
    argument: 1,
    test: Test::MaskedEqual {
        mask: u32::MAX as u64,
        value: (libc::O_RDONLY | libc::O_CLOEXEC | KERNEL_O_LARGEFILE) as u64,
    },
}]];

const WITH_DESTINATION: &[Conjunction] = &[&[Condition {
    argument: 4,
    test: Test::NotEqual(0),
}]];

const OF_ACCEPTCONN: &[Conjunction] = &[&[int(1, libc::SOL_SOCKET), int(2, libc::SO_ACCEPTCONN)]];

/// A flag of sendmsg(2) for the kernel's own use, which no program passes (include/linux/socket.h):
/// with the flag, the call is not trapped. The child that has installed the filter hands over its
/// listener with this flag, before notifications can be answered.
pub const HANDOVER_FLAG: i32 = libc::MSG_RST;

/// The destination of a message is in memory, which a filter cannot read.
const UNLESS_HANDED_OVER: &[Conjunction] = &[&[Condition {
    argument: 2,
    test: Test::MaskedEqual {
        mask: HANDOVER_FLAG as u64,
        value: 0,
    },
}]];

/// The argument, an `int` to the kernel, is `value`.
const fn int(argument: u8, value: i32) -> Condition {
    Condition {
        argument,
        test: Test::MaskedEqual {
            mask: u32::MAX as u64,
            value: value as u64,
        },
    }
}

const fn notify(name: &'static str, number: Number, handler: Handler, why: &'static str) -> Row {
    notify_when(name, number, handler, &[], why)
}

const fn notify_when(
    name: &'static str,
    number: Number,
    handler: Handler,
    when: &'static [Conjunction],
    why: &'static str,
) -> Row {
    Row {
        name,
        number,
        action: Action::Notify { handler, when },
        only: None,
        while_families: None,
        why,
    }
}

const fn refuse(name: &'static str, number: Number, errno: i32, why: &'static str) -> Row {
    Row {
        name,
        number,
        action: Action::Refuse { errno },
        only: None,
        while_families: None,
        why,
    }
}

/// IPv4 and IPv6.
const OF_INET: &[Conjunction] = &[&[int(0, libc::AF_INET)], &[int(0, libc::AF_INET6)]];

impl Row {
    const fn only(self, sockets: Sockets) -> Self {
        Self {
            only: Some(sockets),
            ..self
        }
    }

    const fn while_families(self, families: Families) -> Self {
        Self {
            while_families: Some(families),
            ..self
        }
    }

    /// True if the row holds in a filter for this way to the program's sockets, and this knowledge
    /// of families.
    pub fn applies(&self, sockets: Sockets, families: Families) -> bool {
        self.only.is_none_or(|only| only == sockets) && self.while_families.is_none_or(|only| only == families)
    }
}

/// The table. A name and a number appear once.
pub const TABLE: &[Row] = &[
    notify_when(
        "socket",
        libc::SYS_socket,
        Handler::Socket,
        OF_INET,
        "the supervisor makes the socket and keeps a copy, to act on it",
    )
    .only(Sockets::Made),
    notify(
        "bind",
        libc::SYS_bind,
        Handler::Bind,
        "a wildcard lands on the host's VIP, loopback on its own localhost; a retained socket takes the place of the program's",
    ),
    notify(
        "listen",
        libc::SYS_listen,
        Handler::Listen,
        "the host is ready on that port, and the broker retains the socket",
    ),
    notify(
        "accept",
        libc::SYS_accept,
        Handler::Accept,
        "connections that waited in a retained socket of the other family than the program's own are handed over, in the program's family",
    )
    .while_families(Families::Unknown),
    notify("accept4", libc::SYS_accept4, Handler::Accept, "as accept").while_families(Families::Unknown),
    notify(
        "connect",
        libc::SYS_connect,
        Handler::Connect,
        "a signal that boots an absent host; elsewhere the source address is the caller's VIP",
    ),
    notify_when(
        "sendto",
        libc::SYS_sendto,
        Handler::SendTo,
        WITH_DESTINATION,
        "datagrams to hosts and name servers; sends on a connected socket carry no address and are not trapped",
    ),
    notify_when(
        "sendmsg",
        libc::SYS_sendmsg,
        Handler::SendMsg,
        UNLESS_HANDED_OVER,
        "as sendto; its destination lies in memory, where a filter cannot look; TCP Fast Open connects without connect(2)",
    ),
    notify("sendmmsg", libc::SYS_sendmmsg, Handler::SendMmsg, "as sendmsg"),
    notify(
        "getsockname",
        libc::SYS_getsockname,
        Handler::GetSockName,
        "the program sees the address it asked for, not the alias it was given",
    ),
    notify(
        "getpeername",
        libc::SYS_getpeername,
        Handler::GetPeerName,
        "the program sees the address it connected to, not the alias that stands for it",
    ),
    notify_when(
        "getsockopt",
        libc::SYS_getsockopt,
        Handler::AcceptConn,
        OF_ACCEPTCONN,
        "a retained socket that took the place of the program's listens before the program says so, and HAProxy asks before it does",
    ),
    notify("uname", libc::SYS_uname, Handler::Uname, "the node name is the host's"),
    #[cfg(target_arch = "x86_64")]
    notify_when(
        "open",
        libc::SYS_open,
        Handler::Open,
        AS_MUSL_READS,
        "how musl, and neither glibc nor Go, opens /etc/hosts: the project's is given instead",
    ),
    notify(
        "io_uring_setup",
        libc::SYS_io_uring_setup,
        Handler::IoUringSetup,
        "answered ENOSYS, and said once: rings connect and accept past the filter; runtimes fall back to epoll",
    ),
    refuse(
        "io_uring_enter",
        libc::SYS_io_uring_enter,
        libc::ENOSYS,
        "as io_uring_setup: a ring may be inherited",
    ),
    refuse(
        "io_uring_register",
        libc::SYS_io_uring_register,
        libc::ENOSYS,
        "as io_uring_setup: a ring may be inherited",
    ),
];

/// The row of a system call, or `None` if the call is left to the kernel.
pub fn row_of(number: Number) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.number == number)
}

/// The handler of notifications of this call (`seccomp_data.nr`), or `None` if the filter never
/// sends one.
pub fn handler_of(nr: i32) -> Option<Handler> {
    match row_of(Number::from(nr))?.action {
        Action::Notify { handler, .. } => Some(handler),
        Action::Refuse { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_numbers_appear_once() {
        let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        let numbers: BTreeSet<_> = TABLE.iter().map(|row| row.number).collect();
        assert_eq!((names.len(), numbers.len()), (TABLE.len(), TABLE.len()));
    }

    #[test]
    fn names_and_numbers_are_those_of_libseccomp() {
        for row in TABLE {
            let syscall = libseccomp::ScmpSyscall::from_name(row.name).unwrap();
            assert_eq!(Number::from(syscall.as_raw_syscall()), row.number, "{}", row.name);
        }
    }

    #[test]
    fn masked_values_lie_within_their_masks() {
        for row in TABLE {
            let Action::Notify { when, .. } = row.action else {
                continue;
            };
            for condition in when.iter().copied().flatten() {
                assert!(condition.argument < 6, "{}", row.name);
                if let Test::MaskedEqual { mask, value } = condition.test {
                    assert_eq!(value & !mask, 0, "{}: this condition never holds", row.name);
                }
            }
        }
    }

    #[test]
    fn only_notified_calls_have_a_handler() {
        assert_eq!(handler_of(libc::SYS_connect as i32), Some(Handler::Connect));
        assert_eq!(handler_of(libc::SYS_io_uring_enter as i32), None);
        assert_eq!(handler_of(libc::SYS_read as i32), None);
        assert_eq!(handler_of(-1), None);
    }
}
