//! Seccomp user notifications: seccomp_unotify(2).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::watchdog;

/// `struct seccomp_notif` with `seccomp_data`, as in include/uapi/linux/seccomp.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct RawNotification {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    instruction_pointer: u64,
    args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
#[derive(Default)]
pub struct RawResponse {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
pub struct RawAddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

const USER_NOTIF_FLAG_CONTINUE: u32 = 1;
const ADDFD_FLAG_SETFD: u32 = 1;
const ADDFD_FLAG_SEND: u32 = 2;
const USER_NOTIF_FD_SYNC_WAKE_UP: u64 = 1;

/// Never visible in user space: makes the kernel deliver a pending signal, and then restart the
/// call or fail with EINTR, depending on SA_RESTART (include/linux/errno.h).
const ERESTARTSYS: i32 = 512;

mod ioctl {
    use super::{RawAddFd, RawNotification, RawResponse};

    const MAGIC: u8 = b'!';
    nix::ioctl_readwrite!(recv, MAGIC, 0, RawNotification);
    nix::ioctl_readwrite!(send, MAGIC, 1, RawResponse);
    nix::ioctl_write_ptr!(id_valid, MAGIC, 2, u64);
    nix::ioctl_write_ptr!(addfd, MAGIC, 3, RawAddFd);
    // SECCOMP_IOCTL_NOTIF_SET_FLAGS is declared _IOW(u64), but takes the argument by value
    // (kernel/seccomp.c).
    nix::ioctl_write_int_bad!(set_flags, nix::request_code_write!(MAGIC, 4, 8));
}

/// The id of a notification, unique for the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NotificationId(u64);

impl NotificationId {
    /// The number, as a key.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A trapped system call.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// Its identity.
    pub id: NotificationId,
    /// The calling thread.
    pub tid: i32,
    /// The system call's number.
    pub number: i32,
    /// The arguments of the call, as in the registers.
    pub args: [u64; 6],
}

impl Notification {
    /// Argument `index` as a descriptor number (the kernel looks at the low 32 bits only).
    pub fn fd(&self, index: usize) -> RawFd {
        self.int(index)
    }

    /// Argument `index` as an `int`.
    pub fn int(&self, index: usize) -> i32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an int argument is the register's low half"
        )]
        let low = self.args[index] as i32;
        low
    }
}

/// How a trapped call is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The kernel carries out the call as the program made it.
    Continue,
    /// The call returns this value.
    Value(i64),
    /// The call fails with this errno.
    Errno(i32),
    /// The call is interrupted by a signal that is pending for the thread.
    Interrupted,
}

impl From<Result<(), Errno>> for Answer {
    fn from(result: Result<(), Errno>) -> Self {
        result.map_or_else(Self::errno, |()| Self::Value(0))
    }
}

impl Answer {
    /// Failure with this errno.
    pub fn errno(errno: Errno) -> Self {
        Self::Errno(errno as i32)
    }
}

/// The descriptor on which a filter's notifications arrive.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// The listener, with synchronous wake-ups if the kernel supports these (6.6). A notification
    /// then costs about 4 µs instead of 37, because waker and sleeper share a processor.
    pub fn new(fd: OwnedFd) -> Self {
        // SAFETY: the request takes the argument by value and touches none of our memory. Failure
        // means an older kernel.
        let _ = unsafe { ioctl::set_flags(fd.as_raw_fd(), USER_NOTIF_FD_SYNC_WAKE_UP as libc::c_int) };
        Self { fd }
    }

    /// The next notification; `None` if the notification has vanished. RECV blocks regardless of
    /// O_NONBLOCK, so poll first.
    ///
    /// # Errors
    /// Errors of ioctl(2), except ENOENT (the caller was killed meanwhile) and EINTR, for which the
    /// result is `None`.
    pub fn receive(&self) -> Result<Option<Notification>, Errno> {
        let mut raw = RawNotification::default();
        // SAFETY: `raw` is a zeroed `struct seccomp_notif`, as RECV demands, and outlives the call.
        match unsafe { ioctl::recv(self.fd.as_raw_fd(), &raw mut raw) } {
            // An interrupted RECV may return success with id 0.
            Ok(_) if raw.id == 0 => Ok(None),
            Ok(_) => Ok(Some(Notification {
                id: NotificationId(raw.id),
                tid: raw.pid.cast_signed(),
                number: raw.nr,
                args: raw.args,
            })),
            Err(Errno::ENOENT | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// True if the call still waits for a reply. Thread id and descriptors of the caller are then
    /// unchanged.
    pub fn is_valid(&self, id: NotificationId) -> bool {
        // SAFETY: the pointer is to a u64 that outlives the call.
        uninterrupted(|| unsafe { ioctl::id_valid(self.fd.as_raw_fd(), &raw const id.0) }).is_ok()
    }

    /// Replies to a call. ENOENT is ignored: the caller is gone.
    ///
    /// # Errors
    /// Errors of ioctl(2).
    pub fn answer(&self, id: NotificationId, answer: Answer) -> Result<(), Errno> {
        let mut raw = RawResponse {
            id: id.0,
            ..RawResponse::default()
        };
        match answer {
            Answer::Continue => raw.flags = USER_NOTIF_FLAG_CONTINUE,
            Answer::Value(value) => raw.val = value,
            Answer::Errno(errno) => raw.error = -errno,
            Answer::Interrupted => raw.error = -ERESTARTSYS,
        }
        // SAFETY: `raw` is a `struct seccomp_notif_resp` that outlives the call.
        match uninterrupted(|| unsafe { ioctl::send(self.fd.as_raw_fd(), &raw mut raw) }) {
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Replaces the caller's descriptor `number` by a duplicate of `file`. The call still waits for
    /// a reply.
    ///
    /// # Errors
    /// ENOENT if the caller is gone, EBADF if `number` cannot be a descriptor.
    pub fn replace_fd(
        &self,
        id: NotificationId,
        number: RawFd,
        file: BorrowedFd<'_>,
        cloexec: bool,
    ) -> Result<(), Errno> {
        let newfd = u32::try_from(number).map_err(|_| Errno::EBADF)?;
        self.add(id, ADDFD_FLAG_SETFD, newfd, file, cloexec).map(drop)
    }

    /// Gives the caller a duplicate of `file`, and returns the caller's descriptor number. The call
    /// still waits for a reply.
    ///
    /// # Errors
    /// ENOENT if the caller is gone, EMFILE if the caller has no free descriptor number.
    pub fn give_fd(&self, id: NotificationId, file: BorrowedFd<'_>, cloexec: bool) -> Result<RawFd, Errno> {
        self.add(id, 0, 0, file, cloexec)
    }

    /// Gives the caller a duplicate of `file`, and replies with the descriptor number as the call's
    /// result, in one step.
    ///
    /// # Errors
    /// ENOENT if the caller is gone, EMFILE if the caller has no free descriptor number.
    pub fn answer_with_fd(&self, id: NotificationId, file: BorrowedFd<'_>, cloexec: bool) -> Result<(), Errno> {
        self.add(id, ADDFD_FLAG_SEND, 0, file, cloexec).map(drop)
    }

    fn add(
        &self,
        id: NotificationId,
        flags: u32,
        newfd: u32,
        file: BorrowedFd<'_>,
        cloexec: bool,
    ) -> Result<RawFd, Errno> {
        let raw = RawAddFd {
            id: id.0,
            flags,
            srcfd: file.as_raw_fd().cast_unsigned(),
            newfd,
            newfd_flags: if cloexec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        // ADDFD waits for the caller. With FLAG_SEND, one that a signal interrupts has answered the
        // call already, with 0 and no descriptor (kernel/seccomp.c, seccomp_notify_addfd). SAFETY:
        // `raw` is a `struct seccomp_notif_addfd` that outlives the call, and `file` is open.
        watchdog::wait_for(|| unsafe { ioctl::addfd(self.fd.as_raw_fd(), &raw const raw) })
    }
}

/// SEND and ID_VALID wait for the listener's lock until a signal comes (kernel/seccomp.c,
/// mutex_lock_interruptible), and [`watchdog`] sends some. Nothing has happened then.
fn uninterrupted(mut call: impl FnMut() -> Result<libc::c_int, Errno>) -> Result<libc::c_int, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
