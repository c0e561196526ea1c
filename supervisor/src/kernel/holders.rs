//! Who has a socket open: the links of proc_pid_fd(5).

use std::fs;

use super::descriptors::{socket_inode, visit};
use super::{inspect, process};

/// Where a socket is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// At this descriptor of this process, among others.
    At {
        /// The process, or thread.
        pid: i32,
        /// The descriptor.
        number: i32,
    },
    /// At none that can be seen, but some process may not be looked into, as one that is not dumpable (PR_SET_DUMPABLE, ptrace(2)), or descriptors are
    /// under way between processes (SCM_RIGHTS), of which it may be one.
    Unknown,
    /// Nowhere.
    Nobody,
}

/// Whether a descriptor of a thread is the socket with this inode number.
pub fn is_at(tid: i32, number: i32, inode: u64) -> bool {
    process::socket_of(tid, number) == Ok(inode)
}

/// A process among these that has the socket; or a thread of one, which may have descriptors of its own (CLONE_FILES, unshare(2)).
pub fn find(inode: u64, pids: &[i32]) -> Holder {
    let threads = |pid: i32| process::threads(pid).into_iter().filter(move |tid| *tid != pid);
    let mut hidden = false;
    for pid in pids.iter().copied().chain(pids.iter().copied().flat_map(threads)) {
        let mut found = None;
        let seen = inspect::as_owner(pid, || {
            visit(pid, |number, link| {
                found = (socket_inode(link) == Some(inode)).then_some(number);
                found.is_none()
            })
        });
        if let Some(number) = found {
            return Holder::At { pid, number };
        }
        hidden |= !seen && !process::is_gone(pid);
    }
    if hidden || pids.iter().any(|pid| descriptors_are_under_way(*pid)) {
        Holder::Unknown
    } else {
        Holder::Nobody
    }
}

/// Whether descriptors wait in a UNIX socket of a process (Linux 5.11; net/unix/af_unix.c, unix_show_fdinfo).
fn descriptors_are_under_way(pid: i32) -> bool {
    let mut found = false;
    visit(pid, |number, link| {
        found = socket_inode(link).is_some() && {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
            let mut lines = info.lines();
            lines.any(|line| line.strip_prefix("scm_fds:").is_some_and(|count| count.trim() != "0"))
        };
        !found
    });
    found
}

/// Whether any process of the machine that may be looked into has the socket, but for imsup's own: it may have been passed to another host.
pub fn is_anywhere(inode: u64) -> bool {
    let own = fs::read_link("/proc/self/exe").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.any(|pid| {
        let mut found = false;
        visit(pid, |_, link| {
            found = socket_inode(link) == Some(inode);
            !found
        });
        found && fs::read_link(format!("/proc/{pid}/exe")).ok() != own
    })
}
