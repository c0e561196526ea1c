//! The wait of a blocked thread: derived from the system call and the arguments, as listed in
//! syscalls(2).
//!
//! Pure except for the thread's memory behind [`TargetMemory`]. A call outside the table is not
//! guessed at: the host then waits on all sockets, and runs once per `timer_slack`.

use imsup_linux::memory::TargetMemory;
use nix::errno::Errno;
use rustix::event::PollFlags;

use super::arguments::{
    MICROS, NANOS, at, clock, descriptor, futex, futex_unless_private, futexes, is_unix, left, milliseconds, polled,
    relative, selected, shared_futex, watch,
};
use super::wait::{Clock, Deadline, LimitOf, Wait};

/// futex_wait of Linux 6.7, which libc does not name yet.
const SYS_FUTEX_WAIT: i64 = 455;
/// io_pgetevents(2), which the libc crate does not name for x86-64.
const SYS_IO_PGETEVENTS: i64 = 333;
/// tcdrain(3) is this with an argument other than 0 (ioctl_tty(2)).
const TCSBRK: u64 = 0x5409;

/// True if a blocked call may have moved bytes already. An interrupted call would return early with
/// these bytes, though no signal handler ran (write(2), recv(2) with MSG_WAITALL). A lingering
/// close (SO_LINGER) would return early as well, and cannot be made again.
pub fn is_transfer(number: i64, args: &[u64; 6]) -> bool {
    let waits_for_all = |flags: u64| flags & libc::MSG_WAITALL as u64 != 0;
    match number {
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_sendmmsg
        | libc::SYS_sendfile
        | libc::SYS_pwritev2
        | libc::SYS_close
        | libc::SYS_close_range
        | libc::SYS_dup2
        | libc::SYS_dup3 => true,
        libc::SYS_recvfrom | libc::SYS_recvmmsg => waits_for_all(args[3]),
        libc::SYS_recvmsg => waits_for_all(args[2]),
        _ => false,
    }
}

/// The names of the calls that wait for signals only.
pub const WAITS_FOR_SIGNALS: [&str; 3] = ["pause", "rt_sigsuspend", "rt_sigtimedwait"];

/// The wait of a thread that is blocked in call `number` with these arguments. For
/// restart_syscall(2) the caller uses the remembered call instead.
///
/// # Errors
/// EFAULT and similar errors if the thread's memory cannot be read.
pub fn wait_of(number: i64, args: &[u64; 6], memory: &impl TargetMemory) -> Result<Wait, Errno> {
    let reads =
        |call| Wait::on(call, vec![watch(args[0], PollFlags::IN)]).limited(descriptor(args[0]), LimitOf::Receive);
    let writes =
        |call| Wait::on(call, vec![watch(args[0], PollFlags::OUT)]).limited(descriptor(args[0]), LimitOf::Send);
    let nothing = |call| Wait::on(call, Vec::new());
    let epoll = |call, deadline| Wait::on(call, vec![watch(args[0], PollFlags::IN)]).until(deadline);
    let wait = match number {
        libc::SYS_read => reads("read"),
        libc::SYS_readv => reads("readv"),
        libc::SYS_preadv2 => reads("preadv2"),
        libc::SYS_recvfrom => reads("recvfrom"),
        libc::SYS_recvmsg => reads("recvmsg"),
        libc::SYS_recvmmsg => reads("recvmmsg"),
        libc::SYS_accept => reads("accept"),
        libc::SYS_accept4 => reads("accept4"),
        libc::SYS_write => writes("write"),
        libc::SYS_writev => writes("writev"),
        libc::SYS_pwritev2 => writes("pwritev2"),
        libc::SYS_sendto => writes("sendto"),
        libc::SYS_sendmsg => writes("sendmsg"),
        libc::SYS_sendmmsg => writes("sendmmsg"),
        libc::SYS_sendfile => writes("sendfile"),
        // A UNIX socket waits for the listener's queue, and is writable all the time.
        libc::SYS_connect if is_unix(args[1], memory)? => Wait {
            timed_out: Some(-i64::from(libc::EAGAIN)),
            ..Wait::on_unseen("connect").limited(descriptor(args[0]), LimitOf::Send)
        },
        libc::SYS_connect => writes("connect"),
        // The state of the output pipe (full or not) is unknown.
        libc::SYS_splice => reads("splice"),
        libc::SYS_epoll_wait => epoll("epoll_wait", milliseconds(args[3])),
        libc::SYS_epoll_pwait => epoll("epoll_pwait", milliseconds(args[3])),
        libc::SYS_epoll_pwait2 => epoll("epoll_pwait2", relative(args[3], memory)?),
        libc::SYS_poll => Wait::on("poll", polled(args, memory)?).until(milliseconds(args[2])),
        libc::SYS_ppoll => Wait::on("ppoll", polled(args, memory)?)
            .until(left(args[2], memory, NANOS)?)
            .with_left_at(args[2], NANOS),
        libc::SYS_select => Wait::on("select", selected(args, memory)?)
            .until(left(args[4], memory, MICROS)?)
            .with_left_at(args[4], MICROS),
        libc::SYS_pselect6 => Wait::on("pselect6", selected(args, memory)?)
            .until(left(args[4], memory, NANOS)?)
            .with_left_at(args[4], NANOS),
        libc::SYS_nanosleep => nothing("nanosleep")
            .until(relative(args[0], memory)?)
            .overwriting(args[1]),
        libc::SYS_clock_nanosleep => {
            let absolute = args[1] & libc::TIMER_ABSTIME as u64 != 0;
            match absolute {
                true => nothing("clock_nanosleep").until(at(clock(args[0]), args[2], memory)?),
                false => nothing("clock_nanosleep")
                    .until(relative(args[2], memory)?)
                    .overwriting(args[3]),
            }
        }
        libc::SYS_futex => nothing("futex")
            .until(futex(args, memory)?)
            .with_futexes(shared_futex(args)),
        libc::SYS_futex_waitv => nothing("futex_waitv")
            .until(at(clock(args[4]), args[3], memory)?)
            .with_futexes(futexes(args, memory)?),
        SYS_FUTEX_WAIT => nothing("futex_wait")
            .until(at(clock(args[5]), args[4], memory)?)
            .with_futexes(futex_unless_private(args[0], args[1], args[3])),
        libc::SYS_rt_sigtimedwait => nothing("rt_sigtimedwait").until(relative(args[2], memory)?),
        libc::SYS_pause => nothing("pause"),
        libc::SYS_rt_sigsuspend => nothing("rt_sigsuspend"),
        libc::SYS_flock => Wait::on_unseen("flock"),
        libc::SYS_fcntl => Wait::on_unseen("fcntl"),
        // A FIFO whose other end is not open.
        libc::SYS_open => Wait::on_unseen("open"),
        libc::SYS_openat => Wait::on_unseen("openat"),
        libc::SYS_openat2 => Wait::on_unseen("openat2"),
        libc::SYS_semop => Wait::on_unseen("semop"),
        libc::SYS_semtimedop => Wait::on_unseen("semtimedop").until(relative(args[3], memory)?),
        libc::SYS_msgsnd => Wait::on_unseen("msgsnd"),
        libc::SYS_msgrcv => Wait::on_unseen("msgrcv"),
        // These calls may wait for sockets (IOCB_CMD_POLL).
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS => Wait {
            known: false,
            ..Wait::on_unseen("io_getevents").until(relative(args[4], memory)?)
        },
        libc::SYS_wait4 => nothing("wait4"),
        libc::SYS_waitid => nothing("waitid"),
        libc::SYS_mq_timedreceive => Wait::on("mq_timedreceive", vec![watch(args[0], PollFlags::IN)]).until(at(
            Clock::Realtime,
            args[4],
            memory,
        )?),
        libc::SYS_mq_timedsend => {
            Wait::on("mq_timedsend", vec![watch(args[0], PollFlags::OUT)]).until(at(Clock::Realtime, args[4], memory)?)
        }
        _ => Wait::unknown(),
    };
    Ok(Wait {
        timed_out: wait.timed_out.or(timed_out(number)),
        ..wait
    })
}

/// The result of call `number` after a time-out; `None` for a call whose limit the kernel keeps
/// through interruptions.
fn timed_out(number: i64) -> Option<i64> {
    match number {
        libc::SYS_epoll_wait
        | libc::SYS_epoll_pwait
        | libc::SYS_epoll_pwait2
        | libc::SYS_io_getevents
        | SYS_IO_PGETEVENTS => Some(0),
        libc::SYS_connect => Some(-i64::from(libc::EINPROGRESS)),
        libc::SYS_read
        | libc::SYS_readv
        | libc::SYS_preadv2
        | libc::SYS_splice
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwritev2
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_sendmmsg
        | libc::SYS_sendfile
        | libc::SYS_semtimedop
        | libc::SYS_rt_sigtimedwait => Some(-i64::from(libc::EAGAIN)),
        _ => None,
    }
}

/// True if a call may have a time limit that imsup has to enforce, as far as the arguments show. A
/// time limit of a socket does not show in the arguments.
pub fn may_be_told(number: i64, args: &[u64; 6]) -> bool {
    match number {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => milliseconds(args[3]) != Deadline::Never,
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => args[3] != 0,
        libc::SYS_rt_sigtimedwait => args[2] != 0,
        // Only if the memory of the time limit is read-only.
        libc::SYS_ppoll => args[2] != 0,
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS => args[4] != 0,
        _ => timed_out(number).is_some(),
    }
}

/// True if a call that returned EINTR because of an interruption (signal(7)) is begun anew, as if
/// no interruption had happened.
pub fn goes_on(number: i64, args: &[u64; 6]) -> bool {
    match number {
        libc::SYS_semop => true,
        // The time left of these calls could not be written back.
        libc::SYS_ppoll | libc::SYS_pselect6 | libc::SYS_select => true,
        libc::SYS_ioctl => args[1] == TCSBRK && args[2] != 0,
        _ => timed_out(number).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sleep::arguments::{FUTEX_CLOCK_REALTIME, FUTEX_WAIT, FUTEX_WAIT_BITSET};
    use imsup_linux::memory::array::Array;

    const BASE: u64 = 4096;

    fn timespec(seconds: i64, nanos: i64) -> Vec<u8> {
        [seconds.to_ne_bytes(), nanos.to_ne_bytes()].concat()
    }

    fn nowhere() -> Array {
        Array::new(Vec::new())
    }

    fn of(number: i64, args: [u64; 6], memory: Vec<u8>) -> Wait {
        wait_of(number, &args, &Array::at(BASE, memory)).unwrap()
    }

    #[test]
    fn a_read_waits_for_its_descriptor() {
        let wait = of(libc::SYS_read, [7, 0, 0, 0, 0, 0], vec![]);
        assert_eq!(wait.watches, [watch(7, PollFlags::IN)]);
        assert_eq!(wait.deadline, Deadline::Never);
        assert_eq!(wait.limited_by, Some((7, LimitOf::Receive)));
    }

    #[test]
    fn what_may_have_moved_bytes_is_a_transfer() {
        assert!(is_transfer(libc::SYS_write, &[1, 0, 9, 0, 0, 0]));
        assert!(is_transfer(
            libc::SYS_recvfrom,
            &[1, 0, 9, libc::MSG_WAITALL as u64, 0, 0]
        ));
        assert!(!is_transfer(libc::SYS_recvfrom, &[1, 0, 9, 0, 0, 0]));
        assert!(!is_transfer(libc::SYS_read, &[1, 0, 9, 0xffff, 0, 0]));
    }

    #[test]
    fn an_epoll_time_out_counts_from_the_beginning_of_the_call() {
        let wait = of(libc::SYS_epoll_wait, [5, 0, 64, 100, 0, 0], vec![]);
        assert_eq!(wait.deadline, Deadline::After(Duration::from_millis(100)));
        let wait = of(libc::SYS_epoll_wait, [5, 0, 64, 0xffff_ffff, 0, 0], vec![]);
        assert_eq!(wait.deadline, Deadline::Never);
        let wait = of(libc::SYS_epoll_pwait2, [5, 0, 64, BASE, 0, 8], timespec(1, 5));
        assert_eq!(wait.deadline, Deadline::After(Duration::new(1, 5)));
    }

    #[test]
    fn poll_reads_its_array_and_skips_negative_descriptors() {
        let mut bytes = Vec::new();
        for (number, events) in [(3i32, 1u16), (-1, 1), (9, 4)] {
            bytes.extend(number.to_ne_bytes());
            bytes.extend(events.to_ne_bytes());
            bytes.extend([0; 2]);
        }
        let wait = of(libc::SYS_poll, [BASE, 3, 250, 0, 0, 0], bytes);
        assert_eq!(wait.watches, [watch(3, PollFlags::IN), watch(9, PollFlags::OUT)]);
        assert_eq!(wait.deadline, Deadline::After(Duration::from_millis(250)));
    }

    #[test]
    fn select_reads_its_sets_and_what_is_left_of_its_time() {
        let mut bytes = vec![0; 16];
        bytes[8] = 0b0000_0010; // 65
        let mut memory = bytes;
        memory.extend(timespec(2, 500)); // a timeval: 500 µs
        let wait = of(libc::SYS_select, [66, BASE, 0, 0, BASE + 16, 0], memory);
        assert_eq!(wait.watches, [watch(65, PollFlags::IN)]);
        assert_eq!(wait.deadline, Deadline::Left(Duration::new(2, 500_000)));
    }

    #[test]
    fn futexes_are_relative_or_absolute_as_their_operation_says() {
        let with = |operation: u64| of(libc::SYS_futex, [0, operation, 0, BASE, 0, 0], timespec(3, 0)).deadline;
        let three = Duration::from_secs(3);
        assert_eq!(with(FUTEX_WAIT | 128), Deadline::After(three));
        assert_eq!(with(FUTEX_WAIT_BITSET | 128), Deadline::At(Clock::Monotonic, three));
        assert_eq!(
            with(FUTEX_WAIT_BITSET | 128 | FUTEX_CLOCK_REALTIME),
            Deadline::At(Clock::Realtime, three)
        );
        let forever = wait_of(libc::SYS_futex, &[0; 6], &nowhere()).unwrap();
        assert_eq!(forever.deadline, Deadline::Never);
    }

    #[test]
    fn sleeps_may_be_until_a_time() {
        let absolute = [0, 1, BASE, 0, 0, 0];
        assert_eq!(
            of(libc::SYS_clock_nanosleep, absolute, timespec(9, 0)).deadline,
            Deadline::At(Clock::Realtime, Duration::from_secs(9))
        );
        assert_eq!(
            of(libc::SYS_clock_nanosleep, [1, 0, BASE, 0, 0, 0], timespec(9, 0)).deadline,
            Deadline::After(Duration::from_secs(9))
        );
    }

    #[test]
    fn what_is_not_in_the_table_is_not_guessed_at() {
        let wait = of(libc::SYS_keyctl, [3, 2, 0, 0, 0, 0], vec![]);
        assert!(!wait.known);
        assert_eq!(wait.deadline, Deadline::Unknown);
    }

    #[test]
    fn memory_that_is_not_there_is_an_error_and_a_hostile_count_too() {
        assert_eq!(
            wait_of(libc::SYS_poll, &[BASE, 2, 0, 0, 0, 0], &nowhere()),
            Err(Errno::EFAULT)
        );
        assert_eq!(
            wait_of(libc::SYS_poll, &[BASE, u64::MAX, 0, 0, 0, 0], &nowhere()),
            Err(Errno::EINVAL)
        );
    }
}
