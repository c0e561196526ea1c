//! Descriptors of other processes, by kind: proc_pid_fd(5).

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use rustix::fs::{Dir, Mode, OFlags};

/// The file behind a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A socket of any family.
    Socket,
    /// An epoll instance.
    Epoll,
    /// A timerfd.
    TimerFd,
    /// An eventfd.
    EventFd,
    /// A pipe; a FIFO that has a name is `Other`.
    Pipe,
    /// Anything else.
    Other,
}

impl Kind {
    fn of(link: &[u8]) -> Self {
        match link {
            b"anon_inode:[eventpoll]" => Self::Epoll,
            b"anon_inode:[timerfd]" => Self::TimerFd,
            b"anon_inode:[eventfd]" => Self::EventFd,
            _ if link.starts_with(b"socket:[") => Self::Socket,
            _ if link.starts_with(b"pipe:[") => Self::Pipe,
            _ => Self::Other,
        }
    }
}

/// The descriptors of a process; none if the process is gone or may not be inspected.
pub fn descriptors(pid: i32) -> Vec<(i32, Kind)> {
    let mut found = Vec::new();
    visit(pid, |number, link| {
        found.push((number, Kind::of(link)));
        true
    });
    found
}

/// How many descriptors a process has open, without looking at each (proc_pid_fd(5): the size of
/// the directory, 6.2); 0 on an older kernel.
pub fn count(pid: i32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/fd")).map_or(0, |directory| directory.len())
}

/// A file that a process has open, opened once more: for example a terminal (proc_pid_fd(5)).
///
/// # Errors
/// ENXIO for a socket, EACCES for a file of another user.
pub fn open_again(pid: i32, number: i32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || rustix::fs::open(format!("/proc/{pid}/fd/{number}"), flags, Mode::empty());
    super::inspect::as_owner(pid, open).map_err(super::socket::errno_of)
}

/// The inode number of a link `socket:[N]`.
pub(super) fn socket_inode(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Calls `visitor` with the number and the link of every descriptor, while it returns true; false
/// if the process is gone or may not be inspected.
pub(super) fn visit(pid: i32, mut visitor: impl FnMut(i32, &[u8]) -> bool) -> bool {
    let Some(directory) = open(pid) else { return false };
    let Ok(entries) = Dir::read_from(&directory) else {
        return false;
    };
    // Long enough for every link that is told apart; a longer path is `Other` in any case.
    let mut link = [0; 64];
    for entry in entries.flatten() {
        let Some(number) = number(entry.file_name()) else {
            continue;
        };
        // By the directory's descriptor: a path would be walked from the root for each.
        let Ok(length) = rustix::fs::readlinkat_raw(&directory, entry.file_name(), &mut link[..]) else {
            continue;
        };
        if !visitor(number, &link[..length]) {
            break;
        }
    }
    true
}

pub(super) fn open(pid: i32) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()).ok()
}

pub(super) fn number(name: &CStr) -> Option<i32> {
    name.to_str().ok()?.parse().ok()
}

/// Whether a descriptor is a TCP socket, of any family; `None` where that cannot be said. The name
/// of a socket's protocol is an extended attribute (net/socket.c, sockfs_xattr_get), which is read
/// by the path: the descriptor is not duplicated.
pub fn is_tcp(pid: i32, number: i32) -> Option<bool> {
    let mut name = [0; 64];
    let path = format!("/proc/{pid}/fd/{number}");
    let read = || rustix::fs::getxattr(path.as_str(), "system.sockprotoname", &mut name[..]);
    let length = super::inspect::as_owner(pid, read).ok()?;
    let name = name[..length].split(|byte| *byte == 0).next()?;
    Some(matches!(name, b"TCP" | b"TCPv6" | b"MPTCP" | b"MPTCPv6"))
}
