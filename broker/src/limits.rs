//! The number of sockets that a broker can hold.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors for all other uses than retained sockets: live hosts, clients of the command line,
/// the broker's own.
const RESERVED: u64 = 512;
/// The broker's own (some 33), and the descriptors of a single live host: a channel, a pidfd, and
/// descriptors in flight. (The listener of the program's calls is kept only if there is room:
/// [`Limits::can_spare`].)
const OWN: u64 = 40;
const PER_HOST: u64 = 4;
/// How many live hosts [`make_room`] counts with.
const LIVE: u64 = 16;
/// How many hosts come with another descriptor of the broker's own, at least: a block of 254
/// addresses has the claim, and sockets of the name server.
const HOSTS_PER_OWN: usize = 8;
/// Most connections, and clients of datagrams, that are relayed from published ports at once.
const MAX_RELAYED: u64 = 1024;
/// The descriptors of a connection and a client of datagrams: two sockets and two pipes, and a
/// socket.
const PER_RELAYED: u64 = 7;

/// The broker's bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sockets that the broker may retain.
    pub(crate) sockets: u64,
    /// Connections, and as many clients of datagrams, that may be relayed from published ports at
    /// once.
    pub(crate) relayed: usize,
    /// The hard limit, from which the bounds are derived.
    pub(crate) descriptors: u64,
    /// The soft limit before it was raised, with which programs start; `None` for no limit.
    pub(crate) before: Option<u64>,
    /// The backlog of an absent host's sockets.
    pub(crate) somaxconn: i32,
}

impl Limits {
    /// True if an optional descriptor may be kept: fewer than half are in use. A new descriptor has
    /// the lowest free number (open(2)).
    pub(crate) fn can_spare(&self, descriptor: impl AsFd) -> bool {
        u64::try_from(descriptor.as_fd().as_raw_fd()).is_ok_and(|number| number < self.descriptors / 2)
    }
}

/// Raises the soft limit of descriptors to the hard one and reads the bounds, for a project of this
/// many `hosts`, which `publishes` ports or not.
pub(crate) fn raise(hosts: usize, publishes: bool) -> io::Result<Limits> {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let descriptors = limit.maximum.unwrap_or(u64::MAX);
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(128);
    let relayed = match publishes {
        true => MAX_RELAYED.min(descriptors / 4 / PER_RELAYED).max(1),
        false => 0,
    };
    let left = reserved(descriptors, hosts) + relayed * PER_RELAYED;
    Ok(Limits {
        sockets: descriptors.saturating_sub(left),
        relayed: relayed as usize,
        descriptors,
        before,
        somaxconn,
    })
}

/// Makes room in this process's table of descriptors for sockets at so many `ports` of so many
/// `hosts`, as long as the process has one thread, with a descriptor that is of no other use. A table
/// that threads share grows after a grace period of RCU (fs/file.c, expand_fdtable): some 10 ms each
/// time that the number of descriptors doubles. If there is no room, the table grows later.
pub(crate) fn make_room(any: impl AsFd, ports: usize, hosts: usize) {
    let needed = OWN + LIVE * PER_HOST + (ports + hosts / HOSTS_PER_OWN) as u64;
    let last = i32::try_from(needed).unwrap_or(i32::MAX);
    // The table never shrinks.
    drop(rustix::io::fcntl_dupfd_cloexec(any, last));
}

/// The number of descriptors kept for other uses than sockets, for this total and this number of
/// hosts.
fn reserved(descriptors: u64, hosts: usize) -> u64 {
    let needed = OWN.saturating_add(PER_HOST.saturating_mul(hosts as u64));
    RESERVED.min(needed.max(descriptors / 2))
}

/// The first port that needs no privilege (`net.ipv4.ip_unprivileged_port_start`).
pub(crate) fn first_unprivileged_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_descriptors_has_room_before_there_are_any() {
        make_room(fs::File::open("/dev/null").unwrap(), 600, 9);
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        assert!(size.trim().parse::<u64>().unwrap() > 600, "{size}");
    }

    #[test]
    fn few_descriptors_are_kept_for_hosts_that_live() {
        assert_eq!(reserved(1 << 20, 10_000), RESERVED);
        assert_eq!(reserved(1024, 5), RESERVED);
        assert_eq!(reserved(40, 1), OWN + PER_HOST);
        assert!(reserved(40, 18) > 40, "not all of them could live");
    }
}
