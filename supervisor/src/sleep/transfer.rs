//! Transfers that were cut short: an interrupted call that had moved data returns the amount moved,
//! though no signal handler ran (write(2), recvmmsg(2)).
//!
//! A host with a thread in a transfer is left alone, as far as the transfer can be seen before a
//! stop. Two kinds of calls are made to go on with the rest: calls entered in between, and calls
//! that mostly have moved no data yet (recvmmsg). The program sees the sum
//! ([`imsup_linux::carry`]).

use std::os::fd::AsFd;

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use imsup_linux::carry::{Carry, Patch};
use imsup_linux::duplicates::Duplicates;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::stopped::{At, StoppedThread};
use imsup_linux::{process, signals, socket};

/// Bytes of `struct mmsghdr`, of `struct iovec` and of `struct io_event`.
const MMSGHDR: u64 = 64;
const IOVEC: usize = 16;
const IO_EVENT: u64 = 32;
/// `UIO_MAXIOV`.
const MAX_IOVECS: u64 = 1024;
/// io_pgetevents(2), which the libc crate does not name for x86-64.
const SYS_IO_PGETEVENTS: i64 = 333;
/// ERESTARTSYS and EINTR, which an interrupted recvmmsg(2) leaves as the error of the socket
/// (net/socket.c, do_recvmmsg).
const INTERRUPTED: [i32; 2] = [512, libc::EINTR];

/// The rest of a call.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    args: [u64; 6],
    patches: Vec<Patch>,
    /// How many of the counted messages are made again, since the last counted message was sent in
    /// part. `counted` is the address and the value of the count of that part.
    again: i64,
    counted: Option<(u64, u32)>,
}

/// How a thread goes on that was stopped when the call had just returned less than requested;
/// `None` if the call was not cut short.
pub fn cut_short(thread: &StoppedThread, duplicates: &Duplicates<'_>) -> Option<Carry> {
    let StoppedThread { pid, tid, at } = *thread;
    let At::Completed { number, args, result } = at else {
        return None;
    };
    let done = u64::try_from(result).ok().filter(|done| *done > 0)?;
    let rest = rest(number, &args, done, &ThreadMemory::of(tid)).ok().flatten()?;
    // A signal handler that is about to run cuts the call short natively.
    if signals::interrupts(tid) || !would_go_on(duplicates, pid, number, &args) {
        return None;
    }
    Some(Carry {
        pid,
        tid,
        done: result,
        base: result - rest.again,
        counted: rest.counted,
        args: rest.args,
        patches: rest.patches,
    })
}

/// The rest of a call that has moved `done` bytes, messages or events; `None` if the call is over
/// with that.
fn rest(number: i64, args: &[u64; 6], done: u64, memory: &impl TargetMemory) -> Result<Option<Rest>, Errno> {
    let mut rest = *args;
    let mut patches = Vec::new();
    let waits_for_all = |flags: u64| flags & libc::MSG_WAITALL as u64 != 0;
    let waits = |flags: u64| flags & libc::MSG_DONTWAIT as u64 == 0;
    let more = match number {
        libc::SYS_write => skip_bytes(&mut rest, done),
        libc::SYS_sendto if waits(args[3]) => skip_bytes(&mut rest, done),
        libc::SYS_recvfrom if waits_for_all(args[3]) && waits(args[3]) => skip_bytes(&mut rest, done),
        libc::SYS_writev => skip_iovecs(args[1], args[2], done, memory, &mut patches)?,
        libc::SYS_pwritev2 if args[5] & libc::RWF_NOWAIT as u64 == 0 => {
            skip_iovecs(args[1], args[2], done, memory, &mut patches)?
        }
        libc::SYS_sendmsg if waits(args[2]) => skip_message(args[1], true, done, memory, &mut patches)?,
        libc::SYS_recvmsg if waits_for_all(args[2]) && waits(args[2]) => {
            skip_message(args[1], false, done, memory, &mut patches)?
        }
        libc::SYS_sendfile => {
            rest[3] = args[3].saturating_sub(done);
            rest[3] > 0
        }
        libc::SYS_recvmmsg if waits(args[3]) && args[3] & libc::MSG_WAITFORONE as u64 == 0 => {
            rest[1] = args[1] + done * MMSGHDR;
            rest[2] = u64::from(low_half(args[2])).saturating_sub(done);
            rest[2] > 0
        }
        libc::SYS_sendmmsg if waits(args[3]) => return skip_messages(args, done, memory),
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS => {
            rest[1] = args[1].saturating_sub(done);
            rest[2] = args[2].saturating_sub(done);
            rest[3] = args[3] + done * IO_EVENT;
            args[1].cast_signed() > done.cast_signed()
        }
        _ => false,
    };
    Ok(more.then_some(Rest {
        args: rest,
        patches,
        again: 0,
        counted: None,
    }))
}

fn low_half(argument: u64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an int argument is the register's low half"
    )]
    let half = argument as u32;
    half
}

/// Skips the moved bytes of a buffer. The buffer and the length are the second and third argument.
fn skip_bytes(args: &mut [u64; 6], done: u64) -> bool {
    args[1] += done;
    args[2] = args[2].saturating_sub(done);
    args[2] > 0
}

/// Skips the moved bytes in an array of `struct iovec`: address and length each. Vectors that were
/// moved whole have length 0 afterwards.
fn skip_iovecs(
    address: u64,
    count: u64,
    done: u64,
    memory: &impl TargetMemory,
    patches: &mut Vec<Patch>,
) -> Result<bool, Errno> {
    if count > MAX_IOVECS {
        return Err(Errno::EINVAL);
    }
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let before = memory.read_vec(address, count * IOVEC)?;
    let mut now = before.clone();
    let (mut left, mut more) = (done, 0);
    for entry in now.chunks_exact_mut(IOVEC) {
        let field = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| entry[at + byte]));
        let (base, length) = (field(0), field(8));
        let skipped = left.min(length);
        left -= skipped;
        more += length - skipped;
        entry[..8].copy_from_slice(&(base + skipped).to_ne_bytes());
        entry[8..].copy_from_slice(&(length - skipped).to_ne_bytes());
    }
    patches.push(Patch {
        address,
        now,
        afterwards: before,
    });
    Ok(more > 0)
}

/// The same for a `struct msghdr`. Control data (SCM_RIGHTS) has gone with the first bytes.
fn skip_message(
    address: u64,
    sends: bool,
    done: u64,
    memory: &impl TargetMemory,
    patches: &mut Vec<Patch>,
) -> Result<bool, Errno> {
    const IOV: u64 = 16;
    const CONTROL_LENGTH: u64 = 40;
    let fields: [u8; 16] = memory.read_array(address + IOV)?;
    let field = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| fields[at + byte]));
    if sends {
        let length: [u8; 8] = memory.read_array(address + CONTROL_LENGTH)?;
        if length != [0; 8] {
            patches.push(Patch {
                address: address + CONTROL_LENGTH,
                now: vec![0; 8],
                afterwards: length.to_vec(),
            });
        }
    }
    skip_iovecs(field(0), field(8), done, memory, patches)
}

/// The rest of sendmmsg(2): the rest of the last counted message, and then the remaining messages.
fn skip_messages(args: &[u64; 6], done: u64, memory: &impl TargetMemory) -> Result<Option<Rest>, Errno> {
    /// The offset of `msg_len` in `struct mmsghdr`.
    const LENGTH: u64 = 56;
    let mut rest = *args;
    let mut patches = Vec::new();
    let last = args[1] + (done - 1) * MMSGHDR;
    let sent = u32::from_ne_bytes(memory.read_array(last + LENGTH)?);
    let in_part = skip_message(last, true, sent.into(), memory, &mut patches)?;
    let skipped = if in_part { done - 1 } else { done };
    rest[1] = args[1] + skipped * MMSGHDR;
    rest[2] = u64::from(low_half(args[2])).saturating_sub(skipped);
    Ok((rest[2] > 0).then_some(Rest {
        args: rest,
        patches: if in_part { patches } else { Vec::new() },
        again: i64::from(in_part),
        counted: in_part.then_some((last + LENGTH, sent)),
    }))
}

/// True if the call would have waited for more: calls wait on this kind of descriptor, and no event
/// on the descriptor ends the call.
fn would_go_on(duplicates: &Duplicates<'_>, pid: i32, number: i64, args: &[u64; 6]) -> bool {
    if [libc::SYS_io_getevents, SYS_IO_PGETEVENTS].contains(&number) {
        return true;
    }
    let Ok(fd) = i32::try_from(low_half(args[0])) else {
        return false;
    };
    let waits = process::is_terminal(pid, fd) || process::is_pipe_or_socket(pid, fd);
    if !waits || process::is_nonblocking(pid, fd) {
        return false;
    }
    let Ok(duplicate) = duplicates.one(pid, fd) else {
        return false;
    };
    match number {
        libc::SYS_recvmmsg => socket::take_error(duplicate.as_fd()).is_ok_and(|error| INTERRUPTED.contains(&error)),
        libc::SYS_recvfrom | libc::SYS_recvmsg => {
            socket::is_stream(duplicate.as_fd()) && !has(duplicate.as_fd(), PollFlags::ERR)
        }
        _ => !has(duplicate.as_fd(), PollFlags::ERR | PollFlags::HUP),
    }
}

fn has(fd: std::os::fd::BorrowedFd<'_>, events: PollFlags) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    poll(&mut polled, Some(&at_once)).is_ok_and(|_| polled[0].revents().intersects(events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use imsup_linux::memory::array::Array;

    const BASE: u64 = 4096;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn of(number: i64, args: [u64; 6], done: u64, memory: &[u64]) -> Option<Rest> {
        rest(number, &args, done, &Array::at(BASE, words(memory))).unwrap()
    }

    #[test]
    fn a_write_goes_on_with_the_bytes_that_are_left() {
        let rest = of(libc::SYS_write, [4, 1000, 50, 0, 0, 0], 20, &[]).unwrap();
        assert_eq!((rest.args, rest.patches), ([4, 1020, 30, 0, 0, 0], vec![]));
        assert_eq!(of(libc::SYS_write, [4, 1000, 50, 0, 0, 0], 50, &[]), None);
        let at_once = libc::MSG_DONTWAIT as u64;
        assert_eq!(of(libc::SYS_sendto, [4, 1000, 50, at_once, 0, 0], 20, &[]), None);
        assert_eq!(of(libc::SYS_recvfrom, [4, 1000, 50, 0, 0, 0], 20, &[]), None);
        assert_eq!(of(libc::SYS_read, [4, 1000, 50, 0, 0, 0], 20, &[]), None);
    }

    #[test]
    fn vectors_are_skipped_and_put_back() {
        let vectors = [100, 5, 200, 10, 300, 7];
        let rest = of(libc::SYS_writev, [4, BASE, 3, 0, 0, 0], 8, &vectors).unwrap();
        assert_eq!(rest.args, [4, BASE, 3, 0, 0, 0]);
        let patch = Patch {
            address: BASE,
            now: words(&[105, 0, 203, 7, 300, 7]),
            afterwards: words(&vectors),
        };
        assert_eq!(rest.patches, [patch]);
        assert_eq!(of(libc::SYS_writev, [4, BASE, 3, 0, 0, 0], 22, &vectors), None);
        let pwritev2 = |flags: i32| of(libc::SYS_pwritev2, [4, BASE, 3, 0, 0, flags as u64], 8, &vectors);
        assert!(pwritev2(0).is_some());
        assert_eq!(pwritev2(libc::RWF_NOWAIT), None, "it is not to wait for the rest");
    }

    #[test]
    fn what_goes_beside_a_message_goes_once() {
        // Name, length of the name, vectors, number of vectors, control data, length of the control
        // data, flags; one vector.
        let message = [0, 0, BASE + 56, 1, 9000, 24, 0, 100, 10];
        let rest = of(libc::SYS_sendmsg, [4, BASE, 0, 0, 0, 0], 4, &message).unwrap();
        assert_eq!(
            rest.patches,
            [
                Patch {
                    address: BASE + 40,
                    now: words(&[0]),
                    afterwards: words(&[24]),
                },
                Patch {
                    address: BASE + 56,
                    now: words(&[104, 6]),
                    afterwards: words(&[100, 10]),
                }
            ]
        );
    }

    #[test]
    fn a_message_that_was_sent_in_part_is_made_again_and_counted_once() {
        // Two messages with one vector each: 10 bytes, and 20 bytes of which 7 were sent.
        let message = |vectors: u64, sent: u64| [0, 0, vectors, 1, 0, 0, 0, sent];
        let vectors = [100, 10, 200, 20];
        let memory = |sent| [&message(BASE + 128, 10)[..], &message(BASE + 144, sent), &vectors].concat();
        let args = [4, BASE, 2, 0, 0, 0];
        let rest = of(libc::SYS_sendmmsg, args, 2, &memory(7)).unwrap();
        assert_eq!((rest.args, rest.again), ([4, BASE + 64, 1, 0, 0, 0], 1));
        assert_eq!(rest.counted, Some((BASE + 64 + 56, 7)));
        assert_eq!(rest.patches[0].now, words(&[207, 13]));
        assert_eq!(of(libc::SYS_sendmmsg, args, 2, &memory(20)), None);
        let rest = of(libc::SYS_sendmmsg, args, 1, &memory(0)).unwrap();
        assert_eq!(
            (rest.args, rest.again, rest.counted),
            ([4, BASE + 64, 1, 0, 0, 0], 0, None)
        );
    }

    #[test]
    fn messages_and_events_are_counted() {
        let rest = of(libc::SYS_recvmmsg, [4, 1000, 10, 0, 0, 0], 3, &[]).unwrap();
        assert_eq!(rest.args, [4, 1000 + 3 * 64, 7, 0, 0, 0]);
        let one = libc::MSG_WAITFORONE as u64;
        assert_eq!(of(libc::SYS_recvmmsg, [4, 1000, 10, one, 0, 0], 3, &[]), None);
        let rest = of(libc::SYS_io_getevents, [4, 2, 8, 1000, 0, 0], 1, &[]).unwrap();
        assert_eq!(rest.args, [4, 1, 7, 1032, 0, 0]);
        assert_eq!(of(libc::SYS_io_getevents, [4, 2, 8, 1000, 0, 0], 2, &[]), None);
    }
}
