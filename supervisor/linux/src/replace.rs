//! Other references to a descriptor that is to be replaced. Epoll instances identify a file by the
//! file itself *and* the descriptor number (epoll(7), Q1 and A1). A registration is therefore lost
//! with the old file, and is made anew for the new file.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::descriptors::{socket_inode, visit};
use super::memory::{TargetMemory, ThreadMemory};
use super::socket::errno_of;
use super::{inspect, process};

/// Descriptors looked at of a call that waits for several.
const MOST_POLLED: usize = 1 << 16;

/// The references to a socket in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uses {
    /// Its descriptors.
    pub numbers: Vec<RawFd>,
    /// The socket's registrations with epoll instances.
    pub registrations: Vec<Registration>,
}

/// A registration with an epoll instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The instance's descriptor in the program.
    pub epoll: RawFd,
    /// The descriptor number of the registration.
    pub number: RawFd,
    events: u32,
    data: u64,
}

/// The references to the socket with this inode number in the process of thread `tid`. `None` if
/// another thread waits in the socket, or if this cannot be determined.
pub fn uses(tid: i32, inode: u64) -> Option<Uses> {
    inspect::as_owner(tid, || {
        let (mut numbers, mut epolls) = (Vec::new(), Vec::new());
        let seen = visit(tid, |number, link| {
            if socket_inode(link) == Some(inode) {
                numbers.push(number);
            }
            if link == b"anon_inode:[eventpoll]" {
                epolls.push(number);
            }
            true
        });
        if !seen || numbers.is_empty() || is_waited_for(tid, &numbers) {
            return None;
        }
        let registrations = epolls.iter().flat_map(|epoll| watched(tid, *epoll, inode)).collect();
        Some(Uses { numbers, registrations })
    })
}

/// The registrations of an epoll instance for a socket (proc_pid_fdinfo(5): `tfd: N events: E data:
/// D pos: P ino: I sdev: S`).
fn watched(tid: i32, epoll: RawFd, inode: u64) -> Vec<Registration> {
    let info = fs::read_to_string(format!("/proc/{tid}/fdinfo/{epoll}")).unwrap_or_default();
    info.lines().filter_map(|line| parse(line, epoll, inode)).collect()
}

fn parse(line: &str, epoll: RawFd, inode: u64) -> Option<Registration> {
    // Some values follow the field's name after a space, some do not.
    let mut fields = line.strip_prefix("tfd:")?.split_ascii_whitespace();
    let number = fields.next()?.parse().ok()?;
    let events = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
    let data = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
    let of = u64::from_str_radix(fields.find_map(|field| field.strip_prefix("ino:"))?, 16).ok()?;
    (of == inode).then_some(Registration {
        epoll,
        number,
        events,
        data,
    })
}

/// True if another thread of the process is blocked in a call that reads from one of these
/// descriptors, or polls one without an epoll instance.
fn is_waited_for(tid: i32, numbers: &[RawFd]) -> bool {
    let Some(pid) = process::thread_group(tid) else {
        return true;
    };
    let mut others = process::threads(pid).into_iter().filter(|other| *other != tid);
    others.any(|other| {
        process::blocked_in(pid, other)
            .is_some_and(|(call, args, _)| waits(&ThreadMemory::of(other), call, args, numbers))
    })
}

/// True if a call waits for one of these descriptors. If the memory of the call cannot be read, the
/// call may wait, and the result is true.
fn waits(memory: &impl TargetMemory, call: i64, args: [u64; 6], numbers: &[RawFd]) -> bool {
    let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
    match call {
        libc::SYS_read | libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_recvmmsg => {
            numbers.contains(&low(args[0]).cast_signed())
        }
        // `struct pollfd`: the descriptor, and the events.
        libc::SYS_poll | libc::SYS_ppoll => memory
            .read_vec(args[0], usize::try_from(low(args[1])).unwrap_or(0).min(MOST_POLLED) * 8)
            .map_or(true, |bytes| {
                let (polled, _) = bytes.as_chunks::<8>();
                polled
                    .iter()
                    .any(|[a, b, c, d, ..]| numbers.contains(&i32::from_ne_bytes([*a, *b, *c, *d])))
            }),
        // The first of the three bit sets names the descriptors to read.
        libc::SYS_select | libc::SYS_pselect6 if args[1] != 0 => {
            let bytes = usize::try_from(low(args[0])).unwrap_or(0).min(MOST_POLLED).div_ceil(64) * 8;
            memory.read_vec(args[1], bytes).map_or(true, |set| {
                let is_in = |number: &RawFd| {
                    let number = usize::try_from(*number).unwrap_or(usize::MAX);
                    set.get(number / 8).is_some_and(|byte| byte & (1 << (number % 8)) != 0)
                };
                numbers.iter().any(is_in)
            })
        }
        _ => false,
    }
}

/// Registers a file of ours with an epoll instance of the program's as it will be known there, by
/// the number of the registration: our own descriptor of that number steps aside for the moment.
/// This process must have a single thread.
///
/// # Errors
/// Errors of fcntl(2), dup2(2) and epoll_ctl(2); the registration is then not made.
pub fn register(epoll: &OwnedFd, file: BorrowedFd<'_>, registration: &Registration) -> Result<(), Errno> {
    let number = registration.number;
    let above = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, number + 1).map_err(errno_of);
    let (epoll, file) = (above(epoll.as_fd())?, above(file)?);
    // SAFETY: fcntl only duplicates the number, if open.
    let aside = match Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, number + 1) }) {
        Ok(aside) => Some(aside),
        Err(Errno::EBADF) => None,
        Err(errno) => return Err(errno),
    };
    // SAFETY: a file that was open at this number is kept at `aside`, and restored before any other
    // use: there is one thread.
    Errno::result(unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) })?;
    let mut event = libc::epoll_event {
        events: registration.events,
        u64: registration.data,
    };
    // SAFETY: `event` outlives the call, which copies the structure.
    let added =
        Errno::result(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, number, &raw mut event) });
    match aside {
        Some(aside) => {
            // SAFETY: dup3 restores the earlier file, with the flag that all our descriptors have;
            // the copy is ours to close.
            let back = unsafe { libc::dup3(aside, number, libc::O_CLOEXEC) };
            // SAFETY: `aside` was made above, and no other code knows the descriptor.
            unsafe { libc::close(aside) };
            Errno::result(back)?;
        }
        // SAFETY: the number was free, and is ours since dup3.
        None => drop(unsafe { libc::close(number) }),
    }
    added.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::array::Array;

    #[test]
    fn a_registration_is_read_as_the_kernel_writes_it() {
        let line = "tfd:        5 events:       19 data: ffff0000000000aa  pos:0 ino:61af sdev:8";
        let expected = Registration {
            epoll: 4,
            number: 5,
            events: 0x19,
            data: 0xffff_0000_0000_00aa,
        };
        assert_eq!(parse(line, 4, 0x61af), Some(expected));
        assert_eq!(parse(line, 4, 0x61ae), None);
        assert_eq!(parse("pos:\t0", 4, 0x61af), None);
    }

    #[test]
    fn who_waits_for_a_descriptor_is_seen() {
        let mut bytes = vec![0; 64];
        bytes[8..12].copy_from_slice(&7_i32.to_ne_bytes());
        bytes[17] = 0b10;
        let memory = Array::new(bytes);
        let waits =
            |call, args: [u64; 3], number| waits(&memory, call, [args[0], args[1], args[2], 0, 0, 0], &[number]);
        assert!(waits(libc::SYS_recvfrom, [7, 0, 0], 7) && !waits(libc::SYS_recvfrom, [7, 0, 0], 8));
        assert!(waits(libc::SYS_poll, [0, 2, 0], 7) && !waits(libc::SYS_poll, [0, 1, 0], 7));
        assert!(waits(libc::SYS_poll, [1 << 20, 2, 0], 7), "it cannot be read");
        assert!(waits(libc::SYS_select, [10, 16, 0], 9) && !waits(libc::SYS_select, [10, 16, 0], 8));
        assert!(!waits(libc::SYS_select, [10, 0, 16], 9) && !waits(libc::SYS_futex, [7, 7, 7], 7));
    }
}
