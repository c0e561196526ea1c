//! The arguments of calls that wait, read: descriptors, times and futexes, which lie in the
//! thread's memory in part.

use std::time::Duration;

use imsup_linux::memory::TargetMemory;
use nix::errno::Errno;
use rustix::event::PollFlags;

use super::wait::{Clock, Deadline, Futex, Watch};

/// Descriptors read from a poll(2) array or a select(2) set at most; the kernel's own bound is
/// RLIMIT_NOFILE.
const MAX_DESCRIPTORS: usize = 1 << 20;
/// The bits of the command in a futex operation (`FUTEX_CMD_MASK`, futex(2)).
const FUTEX_COMMAND: u64 = 127;
/// `FUTEX_PRIVATE_FLAG`, and the same of futex_waitv(2).
const FUTEX_PRIVATE: u64 = 128;
pub(super) const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
pub(super) const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_WAIT_REQUEUE_PI: u64 = 11;
const FUTEX_LOCK_PI2: u64 = 13;
pub(super) const FUTEX_CLOCK_REALTIME: u64 = 256;
/// `FUTEX_WAITV_MAX`, and the bytes of a `struct futex_waitv` (linux/futex.h).
const MAX_FUTEXES: u64 = 128;
const FUTEX_WAITV_BYTES: u64 = 24;

/// Whether a socket address in a thread's memory is of a UNIX socket.
pub(super) fn is_unix(address: u64, memory: &impl TargetMemory) -> Result<bool, Errno> {
    let family: [u8; 2] = memory.read_array(address)?;
    Ok(i32::from(u16::from_ne_bytes(family)) == libc::AF_UNIX)
}

pub(super) fn descriptor(number: u64) -> i32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an int argument is the register's low half"
    )]
    let number = number as i32;
    number
}

pub(super) fn watch(number: u64, events: PollFlags) -> Watch {
    Watch {
        number: descriptor(number),
        events,
    }
}

/// A time-out in milliseconds; a negative value means no time-out.
pub(super) fn milliseconds(argument: u64) -> Deadline {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an int argument is the register's low half"
    )]
    let count = argument as i32;
    u64::try_from(count).map_or(Deadline::Never, |count| Deadline::After(Duration::from_millis(count)))
}

pub(super) const NANOS: u64 = 1;
pub(super) const MICROS: u64 = 1000;

/// A `timespec` (unit 1 ns) or `timeval` (unit 1 µs); `None` if the pointer is null.
pub(super) fn time(address: u64, memory: &impl TargetMemory, unit: u64) -> Result<Option<Duration>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let bytes: [u8; 16] = memory.read_array(address)?;
    let field = |at: usize| i64::from_ne_bytes(std::array::from_fn(|position| bytes[at + position]));
    let seconds = u64::try_from(field(0)).unwrap_or(0);
    let fraction = u64::try_from(field(8)).unwrap_or(0).saturating_mul(unit);
    Ok(Some(
        Duration::from_secs(seconds).saturating_add(Duration::from_nanos(fraction)),
    ))
}

pub(super) fn relative(address: u64, memory: &impl TargetMemory) -> Result<Deadline, Errno> {
    Ok(time(address, memory, NANOS)?.map_or(Deadline::Never, Deadline::After))
}

pub(super) fn left(address: u64, memory: &impl TargetMemory, unit: u64) -> Result<Deadline, Errno> {
    Ok(time(address, memory, unit)?.map_or(Deadline::Never, Deadline::Left))
}

pub(super) fn at(clock: Clock, address: u64, memory: &impl TargetMemory) -> Result<Deadline, Errno> {
    Ok(time(address, memory, NANOS)?.map_or(Deadline::Never, |time| Deadline::At(clock, time)))
}

pub(super) fn clock(id: u64) -> Clock {
    #[expect(clippy::cast_possible_truncation, reason = "clockid_t is an int")]
    match id as i32 {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_TAI => Clock::Realtime,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => Clock::Boottime,
        _ => Clock::Monotonic,
    }
}

pub(super) fn futex(args: &[u64; 6], memory: &impl TargetMemory) -> Result<Deadline, Errno> {
    let realtime = args[1] & FUTEX_CLOCK_REALTIME != 0;
    let of = |realtime| if realtime { Clock::Realtime } else { Clock::Monotonic };
    match args[1] & FUTEX_COMMAND {
        FUTEX_WAIT => relative(args[3], memory),
        FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI | FUTEX_LOCK_PI2 => at(of(realtime), args[3], memory),
        FUTEX_LOCK_PI => at(Clock::Realtime, args[3], memory),
        _ => Ok(Deadline::Unknown),
    }
}

/// The futex of futex(2); empty if the futex is private.
pub(super) fn shared_futex(args: &[u64; 6]) -> Vec<Futex> {
    match args[1] & FUTEX_COMMAND {
        FUTEX_WAIT | FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI => futex_unless_private(args[0], args[2], args[1]),
        FUTEX_LOCK_PI | FUTEX_LOCK_PI2 if args[1] & FUTEX_PRIVATE == 0 => vec![Futex {
            address: args[0],
            value: None,
        }],
        _ => Vec::new(),
    }
}

pub(super) fn futex_unless_private(address: u64, value: u64, flags: u64) -> Vec<Futex> {
    #[expect(clippy::cast_possible_truncation, reason = "futexes have 32 bits")]
    let value = Some(value as u32);
    match flags & FUTEX_PRIVATE {
        0 => vec![Futex { address, value }],
        _ => Vec::new(),
    }
}

/// The futexes of futex_waitv(2) that are not private: `struct futex_waitv` is value, address,
/// flags.
pub(super) fn futexes(args: &[u64; 6], memory: &impl TargetMemory) -> Result<Vec<Futex>, Errno> {
    let mut found = Vec::new();
    for position in 0..args[1].min(MAX_FUTEXES) {
        let entry: [u8; 20] = memory.read_array(args[0] + position * FUTEX_WAITV_BYTES)?;
        let field = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| entry[at + byte]));
        let flags = u32::from_ne_bytes(std::array::from_fn(|byte| entry[16 + byte]));
        found.extend(futex_unless_private(field(8), field(0), flags.into()));
    }
    Ok(found)
}

/// The array of poll(2): `struct pollfd` is descriptor, events, revents. A negative descriptor is
/// skipped.
pub(super) fn polled(args: &[u64; 6], memory: &impl TargetMemory) -> Result<Vec<Watch>, Errno> {
    const POLLFD_BYTES: usize = 8;
    let count = usize::try_from(args[1]).unwrap_or(usize::MAX);
    if count > MAX_DESCRIPTORS {
        return Err(Errno::EINVAL);
    }
    let bytes = memory.read_vec(args[0], count * POLLFD_BYTES)?;
    let entries = bytes.chunks_exact(POLLFD_BYTES).map(|entry| Watch {
        number: i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]),
        events: PollFlags::from_bits_retain(u16::from_ne_bytes([entry[4], entry[5]])),
    });
    Ok(entries.filter(|watch| watch.number >= 0).collect())
}

/// The sets of select(2): reading, writing, exceptional conditions.
pub(super) fn selected(args: &[u64; 6], memory: &impl TargetMemory) -> Result<Vec<Watch>, Errno> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an int argument is the register's low half"
    )]
    let count = usize::try_from(args[0] as i32).map_err(|_| Errno::EINVAL)?;
    if count > MAX_DESCRIPTORS {
        return Err(Errno::EINVAL);
    }
    let mut watches = Vec::new();
    for (address, events) in [
        (args[1], PollFlags::IN),
        (args[2], PollFlags::OUT),
        (args[3], PollFlags::PRI),
    ] {
        if address == 0 {
            continue;
        }
        // Sets are made of longs: whole words are there.
        let bytes = memory.read_vec(address, count.div_ceil(64) * 8)?;
        let set = (0..count).filter(|number| bytes[number / 8] & (1 << (number % 8)) != 0);
        watches.extend(set.filter_map(|number| {
            Some(Watch {
                number: i32::try_from(number).ok()?,
                events,
            })
        }));
    }
    Ok(watches)
}
