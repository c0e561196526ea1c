//! Properties of processes in /proc: proc(5).

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{descriptors, inspect};

/// The process that thread `tid` belongs to.
pub fn thread_group(tid: i32) -> Option<i32> {
    status_field(tid, "Tgid:")?.parse().ok()
}

/// True if thread `tid` belongs, or may belong, to this process or a descendant. "May" covers a
/// walk that fails because ancestors end one after another. This process is the subreaper of its
/// descendants, so the walk up always leads here.
pub fn may_be_descendant(tid: i32) -> bool {
    let own = std::process::id().cast_signed();
    let parent = |pid: i32| status_field(pid, "PPid:")?.parse().ok();
    may_lead_to(own, || thread_group(tid).filter(|pid| *pid != 0), parent)
}

/// Whether the way up from a process, which is `None` once that is gone, leads to `own`, or may.
fn may_lead_to(own: i32, from: impl Fn() -> Option<i32>, parent: impl Fn(i32) -> Option<i32>) -> bool {
    /// The number of walks if a process on the way ends meanwhile: its children then have another
    /// parent.
    const WALKS: usize = 3;
    for _ in 0..WALKS {
        let Some(mut pid) = from() else { return false };
        loop {
            match parent(pid) {
                _ if pid == own => return true,
                // 0 is the parent of a process without a parent in our pid namespace, and of a
                // process that has just ended (fs/proc/array.c, task_state).
                Some(0) if parent(pid) == Some(0) => return false,
                Some(0) | None => break,
                Some(above) => pid = above,
            }
        }
    }
    from().is_some()
}

/// The start time of thread `tid` of process `pid`, in clock ticks since boot (proc_pid_stat(5),
/// starttime); `None` if there is no thread of this id. Together with the ids, the start time tells
/// a thread from a later thread with the same id.
pub fn started(pid: i32, tid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    // After the name, in parentheses: state is field 3, starttime field 22.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// The value of a field of /proc/TID/status.
pub fn status_field(tid: i32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(value.trim().to_owned())
}

/// The name of a process (/proc/PID/comm).
pub fn name(pid: i32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// The number of threads of a process: the directory of threads has a link for each thread, and two
/// for itself.
pub fn count_threads(pid: i32) -> u32 {
    let links = fs::metadata(format!("/proc/{pid}/task")).map_or(2, |directory| directory.nlink());
    u32::try_from(links.saturating_sub(2)).unwrap_or(u32::MAX)
}

/// Whether a thread of a process runs, is about to, or is in something that cannot be interrupted
/// (proc_pid_stat(5), states R and D).
pub fn is_runnable(pid: i32) -> bool {
    threads(pid).into_iter().any(|tid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap_or_default();
        // The name, in parentheses, may contain any character.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        state.starts_with(['R', 'D'])
    })
}

/// The minor page faults of the children that a process has waited for (proc_pid_stat(5), cminflt).
/// A child that executes nothing has 26 (measured).
pub fn faults_of_children(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, in parentheses: state is field 3, cminflt field 11.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(8)?.parse().ok()
}

/// The nanoseconds by which the CLOCK_MONOTONIC (or CLOCK_BOOTTIME) of a process is ahead of ours,
/// due to a time namespace (time_namespaces(7)).
pub fn clock_ahead(pid: i32, boottime: bool) -> i128 {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/time")).ok();
    if namespace(&pid.to_string()) == namespace("self") {
        return 0;
    }
    let name = if boottime { "boottime" } else { "monotonic" };
    let offset = |process: &str| {
        let text = fs::read_to_string(format!("/proc/{process}/timens_offsets")).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        let mut numbers = line
            .split_whitespace()
            .map(|number| number.parse::<i128>().unwrap_or(0));
        numbers.next().unwrap_or(0) * 1_000_000_000 + numbers.next().unwrap_or(0)
    };
    offset(&pid.to_string()) - offset("self")
}

/// The call that blocks a thread, with arguments and stack pointer (/proc/PID/syscall); `None` if
/// the thread runs.
pub fn blocked_in(pid: i32, tid: i32) -> Option<(i64, [u64; 6], u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    let mut fields = text.split_whitespace();
    let number = fields.next()?.parse().ok()?;
    let mut next = || u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok();
    let mut args = [0; 6];
    for argument in &mut args {
        *argument = next()?;
    }
    Some((number, args, next()?))
}

/// The number of waits of a thread so far (proc_pid_status(5), `voluntary_ctxt_switches`).
pub fn waits(pid: i32, tid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

/// True if a descriptor of a process is a terminal, by the name of the file.
pub fn is_terminal(pid: i32, number: i32) -> bool {
    let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
    ["/dev/pts/", "/dev/tty", "/dev/console"]
        .iter()
        .any(|prefix| link.as_os_str().as_encoded_bytes().starts_with(prefix.as_bytes()))
}

/// Whether a descriptor of a process is a pipe, a FIFO or a socket.
pub fn is_pipe_or_socket(pid: i32, number: i32) -> bool {
    let path = format!("/proc/{pid}/fd/{number}");
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo() || metadata.file_type().is_socket())
}

/// Whether a descriptor of a process is non-blocking (/proc/PID/fdinfo: the octal `flags`).
pub fn is_nonblocking(pid: i32, number: i32) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & libc::O_NONBLOCK != 0)
}

/// The address ranges of a process that are, or could be, shared with other processes
/// (proc_pid_maps(5): `s`).
pub fn shared_mappings(pid: i32) -> Vec<Range<u64>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines().filter_map(shared_range).collect()
}

fn shared_range(line: &str) -> Option<Range<u64>> {
    let mut fields = line.split(' ');
    let (from, to) = fields.next()?.split_once('-')?;
    let shared = fields.next()?.ends_with('s');
    let address = |text| u64::from_str_radix(text, 16).ok();
    shared.then_some(address(from)?..address(to)?)
}

/// The kernel's function that a blocked thread waits in (/proc/PID/wchan).
pub fn waits_at(pid: i32, tid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/task/{tid}/wchan")).ok()
}

/// Whether a process is stopped by a signal or a tracer (proc_pid_stat(5), states T and t).
pub fn is_stopped(pid: i32) -> bool {
    status_field(pid, "State:").is_some_and(|state| state.starts_with(['T', 't']))
}

/// True if a process has blocked a signal, for example to read signals from a signalfd.
pub fn blocks_signals(pid: i32) -> bool {
    status_field(pid, "SigBlk:").is_some_and(|mask| mask.contains(|digit| digit != '0'))
}

/// The registrations with an epoll instance of a process: descriptor numbers and events, as
/// registered.
pub fn epoll_registrations(pid: i32, number: i32) -> Vec<(i32, u32)> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    let registration = |line: &str| {
        let mut fields = line.strip_prefix("tfd:")?.split_whitespace();
        let number = fields.next()?.parse().ok()?;
        let events = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
        Some((number, events))
    };
    info.lines().filter_map(registration).collect()
}

/// The signal mask of a signalfd of a process (proc_pid_fdinfo(5)); `None` if the descriptor is no
/// signalfd.
pub fn signalfd_mask(pid: i32, number: i32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/fd/{number}"));
    link.is_ok_and(|link| link.as_os_str() == "anon_inode:[signalfd]")
        .then_some(())?;
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
    let mask = info.lines().find_map(|line| line.strip_prefix("sigmask:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// True if a descriptor of a process is a file that reports each change once, to the first caller
/// of poll(2): a poll records the reported change in the open file description.
///
/// Mounts (fs/proc_namespace.c, mounts_poll), swap spaces (mm/swapfile.c, swaps_poll), names of the
/// machine (fs/proc/proc_sysctl.c, proc_sys_poll), pressure (kernel/sched/psi.c, psi_trigger_poll)
/// and perf_event_open(2) (kernel/events/core.c, perf_poll).
pub fn tells_once(pid: i32, number: i32) -> bool {
    let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
    let link = link.to_string_lossy();
    let of_process = |name| link.starts_with("/proc/") && link.ends_with(name);
    ["/mounts", "/mountinfo", "/mountstats"].into_iter().any(of_process)
        || ["/proc/sys/", "/proc/pressure/"]
            .iter()
            .any(|prefix| link.starts_with(prefix))
        || link == "/proc/swaps"
        || link.ends_with(".pressure")
        || link == "anon_inode:[perf_event]"
}

/// Whether a descriptor of a process is an epoll instance.
pub fn is_epoll(pid: i32, number: i32) -> bool {
    let link = fs::read_link(format!("/proc/{pid}/fd/{number}"));
    link.is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]")
}

/// The descriptors that an epoll instance of a process watches (proc_pid_fdinfo(5)).
pub fn watched_by_epoll(pid: i32, number: i32) -> Vec<i32> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    let watched = |line: &str| line.strip_prefix("tfd:")?.split_whitespace().next()?.parse().ok();
    info.lines().filter_map(watched).collect()
}

/// The same, including the descriptors watched by nested epoll instances; at most `most` + 1
/// descriptors, if there are more than `most`.
pub fn all_watched_by_epoll(pid: i32, number: i32, most: usize) -> Vec<i32> {
    let mut found = watched_by_epoll(pid, number);
    let mut next = 0;
    while let Some(&number) = found.get(next)
        && found.len() <= most
    {
        if is_epoll(pid, number) {
            let below = watched_by_epoll(pid, number);
            found.extend(below);
        }
        next += 1;
    }
    found.truncate(most + 1);
    found
}

/// True if one of our own descriptors is an anonymous file of this kind: "timerfd", "eventpoll"
/// (proc_pid_fd(5)).
pub fn is_anonymous(fd: BorrowedFd<'_>, kind: &str) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| link.as_os_str() == format!("anon_inode:[{kind}]").as_str())
}

/// The threads of a process.
pub fn threads(pid: i32) -> Vec<i32> {
    numbers(PathBuf::from(format!("/proc/{pid}/task")))
}

/// Whether descriptor `number` of thread `tid` is close-on-exec (/proc/PID/fdinfo: the octal
/// `flags`).
pub fn is_cloexec(tid: i32, number: i32) -> bool {
    let info =
        inspect::as_owner(tid, || fs::read_to_string(format!("/proc/{tid}/fdinfo/{number}"))).unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
}

/// The children of this process, including orphans adopted as their subreaper.
pub fn own_children() -> Vec<i32> {
    children(std::process::id().cast_signed())
}

/// The children of all threads of `pid` (/proc/PID/task/TID/children, CONFIG_PROC_CHILDREN).
fn children(pid: i32) -> Vec<i32> {
    threads(pid)
        .into_iter()
        .flat_map(|tid| children_of_thread(pid, tid))
        .collect()
}

/// The children of a thread of `pid`.
pub(super) fn children_of_thread(pid: i32, tid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// All descendants of this process.
pub fn descendants() -> Vec<i32> {
    let mut found = own_children();
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// All descendants of this process, without zombies.
pub fn living_descendants() -> Vec<i32> {
    let mut found = descendants();
    found.retain(|pid| !is_gone(*pid));
    found
}

/// Whether a process has ended, or is a zombie.
pub fn is_gone(pid: i32) -> bool {
    status_field(pid, "State:").is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// True if a process has ended, or is about to. An ending process gives up the descriptor table
/// before closing the descriptors, and long before becoming a zombie (kernel/exit.c, do_exit;
/// fs/file.c, exit_files). A process that has closed all its descriptors counts as well.
pub fn has_no_descriptors(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut entries| entries.next().is_none()) || is_gone(pid)
}

/// Whether the network namespace of thread `tid` is ours.
///
/// # Errors
/// EPERM if the thread may not be inspected, ESRCH if the thread is gone.
pub fn shares_network(tid: i32) -> Result<bool, Errno> {
    static OURS: LazyLock<Option<PathBuf>> = LazyLock::new(|| fs::read_link("/proc/self/ns/net").ok());
    match inspect::as_owner(tid, || fs::read_link(format!("/proc/{tid}/ns/net"))) {
        Ok(theirs) => Ok(Some(theirs) == *OURS),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(Errno::EPERM),
        Err(_) => Err(Errno::ESRCH),
    }
}

/// The inode number of the socket behind descriptor `number` of thread `tid`.
///
/// # Errors
/// EBADF if the descriptor is not open, ENOTSOCK if the descriptor is no socket, EPERM if the
/// thread may not be inspected.
pub fn socket_of(tid: i32, number: i32) -> Result<u64, Errno> {
    let mut link = [0; 64];
    let path = format!("/proc/{tid}/fd/{number}");
    let read = || rustix::fs::readlinkat_raw(rustix::fs::CWD, path, &mut link[..]);
    match inspect::as_owner(tid, read) {
        Ok(length) => descriptors::socket_inode(&link[..length]).ok_or(Errno::ENOTSOCK),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => Err(Errno::EPERM),
        Err(_) => Err(Errno::EBADF),
    }
}

/// Sends a signal to a child. A child that has ended meanwhile is no error: its pid is not reused
/// before we reap the child.
pub fn send(pid: i32, signal: Signal) -> Result<(), Errno> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn numbers(directory: PathBuf) -> Vec<i32> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_mappings_are_told_from_others() {
        assert_eq!(
            shared_range("7f58c1e00000-7f58c1e01000 rw-s 00000000 00:1a 5    /dev/shm/a"),
            Some(0x7f58_c1e0_0000..0x7f58_c1e0_1000)
        );
        assert_eq!(shared_range("7f58c1e00000-7f58c1e01000 rw-p 00000000 00:00 0 "), None);
        assert_eq!(shared_range(""), None);
    }

    /// An orphan's parent is another by the time that the way up is walked again (credentials(7),
    /// PR_SET_CHILD_SUBREAPER).
    #[test]
    fn a_parent_that_ends_meanwhile_does_not_cut_the_way_up() {
        let (own, orphan, ended, stranger) = (10, 30, 20, 40);
        let walks = std::cell::Cell::new(0);
        let from = || {
            walks.set(walks.get() + 1);
            Some(orphan)
        };
        let parent = |pid: i32| match pid {
            30 if walks.get() == 1 => Some(ended),
            30 => Some(own),
            _ => None,
        };
        assert!(may_lead_to(own, from, parent));
        assert_eq!(walks.get(), 2);
        assert!(!may_lead_to(
            own,
            || Some(stranger),
            |pid| Some(if pid == 1 { 0 } else { 1 })
        ));
        assert!(!may_lead_to(own, || None, parent), "it is gone");
        assert!(may_lead_to(own, || Some(ended), |_| None), "nobody knows");
    }
}
