//! One-shot polls that also see events consumed at once: io_submit(2), IOCB_CMD_POLL (Linux 4.18;
//! fs/aio.c).
//!
//! poll(2) and epoll(7) ask a socket for its state when they return, so a connection that was
//! accepted meanwhile, or a datagram that was read, leaves no trace. A poll of Linux AIO completes
//! while the socket's waiters are being woken (aio_poll_wake), in the context of the sender, before
//! any reader runs. A completed poll is no longer armed.

use std::collections::HashMap;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use rustix::event::{EventfdFlags, PollFlags, eventfd};

use super::syscall::syscall;

/// `IOCB_CMD_POLL` and `IOCB_FLAG_RESFD` (include/uapi/linux/aio_abi.h).
const IOCB_CMD_POLL: u16 = 5;
const IOCB_FLAG_RESFD: u32 = 1;

/// Events that are read at once.
const BATCH: usize = 16;

/// The time that [`Polls::disarm`] waits for the kernel to give a poll up: a work queue does that,
/// in some 10 us.
const DISARM_TIMEOUT: Duration = Duration::from_millis(20);

/// `struct iocb` of a little-endian machine.
#[repr(C)]
#[derive(Debug, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct IoEvent {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// A completed poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The tag of the poll.
    pub tag: u64,
    /// The events. Never empty.
    pub events: PollFlags,
}

/// A context of Linux AIO, and its armed polls.
///
/// An armed poll is a reference to the open file description, like a duplicate: a socket is not
/// closed while a poll is armed on it, so a listener goes on listening and its port stays bound.
#[derive(Debug)]
pub struct Polls {
    context: libc::c_ulong,
    /// Readable once a poll has completed, if requested.
    eventfd: Option<OwnedFd>,
    /// The armed polls by tag. The kernel knows them by their addresses (io_cancel(2)).
    armed: HashMap<u64, Box<Iocb>>,
    capacity: usize,
}

impl Polls {
    /// A context for `capacity` polls at a time. That many are taken from fs.aio-max-nr, which is
    /// 65,536 for the whole machine. The call takes 30 us.
    ///
    /// # Errors
    /// EAGAIN if fs.aio-max-nr is exhausted, ENOSYS without CONFIG_AIO, ENOMEM.
    pub fn new(capacity: u16) -> Result<Self, Errno> {
        let capacity = capacity.max(1);
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes one aio_context_t, which is an unsigned long that must be 0
        // before.
        unsafe { syscall!(libc::SYS_io_setup, libc::c_uint::from(capacity), &raw mut context) }?;
        Ok(Self {
            context,
            eventfd: None,
            armed: HashMap::new(),
            capacity: capacity.into(),
        })
    }

    /// The same, with a descriptor ([`AsFd`]) that polls readable once a poll has completed, until
    /// [`Polls::take`].
    ///
    /// # Errors
    /// As [`Polls::new`]; EMFILE.
    pub fn with_eventfd(capacity: u16) -> Result<Self, Errno> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
        let mut polls = Self::new(capacity)?;
        polls.eventfd = Some(eventfd);
        Ok(polls)
    }

    /// How many polls may be armed at a time.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether a poll with this tag is armed, as far as [`Polls::take`] has said.
    pub fn is_armed(&self, tag: u64) -> bool {
        self.armed.contains_key(&tag)
    }

    /// Arms a poll, unless a poll with this tag is armed. An event that is ready already completes
    /// the poll at once.
    ///
    /// # Errors
    /// EAGAIN if the context is full; EINVAL if the file cannot be polled; EBADF.
    pub fn arm(&mut self, fd: BorrowedFd<'_>, events: PollFlags, tag: u64) -> Result<(), Errno> {
        if self.is_armed(tag) {
            return Ok(());
        }
        if self.armed.len() >= self.capacity {
            return Err(Errno::EAGAIN);
        }
        let eventfd = self.eventfd.as_ref().map(|eventfd| eventfd.as_raw_fd().cast_unsigned());
        let mut iocb = Box::new(Iocb {
            data: tag,
            opcode: IOCB_CMD_POLL,
            descriptor: fd.as_raw_fd().cast_unsigned(),
            buffer: events.bits().into(),
            flags: if eventfd.is_some() { IOCB_FLAG_RESFD } else { 0 },
            eventfd: eventfd.unwrap_or(0),
            ..Iocb::default()
        });
        let mut list: [*mut Iocb; 1] = [&raw mut *iocb];
        // SAFETY: the context is ours until it is dropped; the list has one pointer to an iocb,
        // which the kernel reads, and whose `key` it writes, before io_submit returns. It keeps the
        // address, as a name only.
        unsafe { syscall!(libc::SYS_io_submit, self.context, 1, list.as_mut_ptr()) }?;
        self.armed.insert(tag, iocb);
        Ok(())
    }

    /// Gives up the poll with this tag. True if it was armed and had not completed; the reference
    /// to its file is gone some microseconds later.
    pub fn disarm(&mut self, tag: u64) -> bool {
        let Some(iocb) = self.armed.get(&tag) else { return false };
        let mut event = MaybeUninit::<IoEvent>::uninit();
        // SAFETY: the context is ours, the iocb is the one that was submitted and lives; the kernel
        // (4.18 and later) reports by the ring, not in `event`.
        let cancelled = unsafe { syscall!(libc::SYS_io_cancel, self.context, &raw const **iocb, event.as_mut_ptr()) };
        // EINPROGRESS: the poll ends with an event. EINVAL: it has ended before.
        let in_progress = cancelled != Err(Errno::EINVAL);
        let mut all = true;
        while all && self.is_armed(tag) {
            all = self.read(1, DISARM_TIMEOUT).is_ok_and(|read| !read.is_empty());
        }
        in_progress
    }

    /// The polls completed since the last call.
    ///
    /// # Errors
    /// Errors of io_getevents(2) for a live context: none known.
    pub fn take(&mut self) -> Result<Vec<Completed>, Errno> {
        if let Some(eventfd) = &self.eventfd {
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
        let mut completed = Vec::new();
        loop {
            let read = self.read(0, Duration::ZERO)?;
            let count = read.len();
            // A poll that was given up reports no events.
            completed.extend(read.into_iter().filter(|one| !one.events.is_empty()));
            if count < BATCH {
                return Ok(completed);
            }
        }
    }

    /// Reads up to [`BATCH`] events, and waits for at least `least`.
    fn read(&mut self, least: usize, timeout: Duration) -> Result<Vec<Completed>, Errno> {
        let mut events = [MaybeUninit::<IoEvent>::uninit(); BATCH];
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the context is ours; the kernel writes at most BATCH events, and says how many;
        // `timeout` outlives the call.
        let count = unsafe {
            syscall!(
                libc::SYS_io_getevents,
                self.context,
                least,
                BATCH,
                events.as_mut_ptr(),
                &raw const timeout
            )
        }?;
        let count = usize::try_from(count).unwrap_or(0).min(BATCH);
        let mut completed = Vec::with_capacity(count);
        for event in &events[..count] {
            // SAFETY: the kernel has written the first `count` events.
            let event = unsafe { event.assume_init() };
            self.armed.remove(&event.data);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the events of poll(2) are the low 16 bits"
            )]
            let events = PollFlags::from_bits_retain(event.result as u16);
            completed.push(Completed {
                tag: event.data,
                events,
            });
        }
        Ok(completed)
    }
}

/// Readable once a poll has completed.
///
/// # Panics
/// If not made by [`Polls::with_eventfd`].
impl AsFd for Polls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_ref().expect("made with an eventfd").as_fd()
    }
}

/// io_destroy(2) waits for two RCU grace periods, 31 ms (measured), which no loop can spare: a
/// thread does. Polls that are still armed are given up first, so that their files are closed at
/// once.
impl Drop for Polls {
    fn drop(&mut self) {
        self.cancel_all();
        let context = self.context;
        let thread = std::thread::Builder::new()
            .name("aio-destroy".to_owned())
            .stack_size(16 * 1024)
            .spawn(move || destroy(context));
        if thread.is_err() {
            // Rather late than never: contexts are few.
            destroy(context);
        }
    }
}

fn destroy(context: libc::c_ulong) {
    // SAFETY: the context is its owner's, who uses it no more.
    let _ = unsafe { syscall!(libc::SYS_io_destroy, context) };
}

impl Polls {
    fn cancel_all(&self) {
        for iocb in self.armed.values() {
            let mut event = MaybeUninit::<IoEvent>::uninit();
            // SAFETY: as in `disarm`.
            let _ = unsafe { syscall!(libc::SYS_io_cancel, self.context, &raw const **iocb, event.as_mut_ptr()) };
        }
    }

    /// Leaves the context to a process that shares our memory and nothing else, and ends with it.
    /// For a process that is about to end: the last process with the memory waits for its contexts
    /// to be destroyed (fs/aio.c, exit_aio), and its waiting parent would wait as well.
    pub fn leave(self) {
        self.cancel_all();
        let polls = ManuallyDrop::new(self);
        let stack = Box::leak(vec![0_u8; LAST_STACK_BYTES].into_boxed_slice());
        let top = stack.as_mut_ptr_range().end;
        let context = std::ptr::without_provenance_mut::<libc::c_void>(polls.context as usize);
        // SAFETY: the stack is never freed, and aligned by clone(3); `destroy_and_end` makes system
        // calls only, so it does not mind that it shares our memory while we end. Without
        // CLONE_FILES it has copies of our descriptors, which it closes.
        let made = unsafe { libc::clone(destroy_and_end, top.cast(), libc::CLONE_VM, context) };
        if made < 0 {
            destroy(polls.context);
        }
    }
}

/// More than two system calls need.
const LAST_STACK_BYTES: usize = 16 * 1024;

extern "C" fn destroy_and_end(context: *mut libc::c_void) -> libc::c_int {
    // SAFETY: close_range takes three integers; the descriptors are copies that nobody uses.
    let _ = unsafe { syscall!(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    destroy(context.addr() as libc::c_ulong);
    0
}
