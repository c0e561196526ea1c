//! Starting a program under a notify filter: fork(2), seccomp(2), execve(2).
//!
//! After the filter is installed, the child may only make untrapped calls, since there is no reply
//! to trapped calls yet. The child sends the listener over a socket (SCM_RIGHTS, by sendmsg(2) with
//! a flag that the filter lets through). The parent lets the child execute as soon as the parent is
//! ready to reply.

mod child;
#[cfg(test)]
mod tests;
mod work;

use std::ffi::CString;
use std::io::{IoSliceMut, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork};
use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::notify::Listener;
use super::root::ids::IdsError;
use super::root::{self, FailedStep, Place, Root};
use super::single_thread::SingleThread;
use super::socket::errno_of;
use super::syscall::syscall;
pub use child::knows_wait_killable;
pub use work::work_in;

/// clone3(2), 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The user and groups that a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: Uid,
    /// The primary group.
    pub gid: Gid,
    /// The supplementary groups.
    pub groups: Vec<Gid>,
}

/// The program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// The command and arguments; the command is looked up in PATH.
    pub command: &'a [CString],
    /// The environment, as `NAME=VALUE`; `None` for our own.
    pub environment: Option<&'a [CString]>,
    /// Another user; `None` for our own.
    pub credentials: Option<&'a Credentials>,
    /// True if the program leads a session of its own, away from any terminal.
    pub new_session: bool,
    /// The signal mask at the start.
    pub signals: SigSet,
    /// The soft limit of descriptors at the start (RLIMIT_NOFILE); `None` for our own. A broker
    /// raises its own limit. This must stay hidden from programs that use select(2), or that close
    /// all descriptors up to the limit.
    pub descriptor_limit: Option<u64>,
    /// The directory of the cgroup to start the program in; `None` for our own.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether to set no-new-privs, which a filter needs unless we have CAP_SYS_ADMIN.
    pub no_new_privs: bool,
    /// Its files and namespaces.
    pub place: Place<'a>,
}

/// Why a program could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No process could be made.
    #[error("cannot start a process: {0}")]
    Fork(#[source] Errno),
    /// A filter with a listener is already in the chain.
    #[error(
        "another seccomp listener already supervises this process, and the kernel allows one (EBUSY): \
         imsup cannot run inside imsup, nor inside a container runtime that uses seccomp notification"
    )]
    ListenerExists,
    /// The kernel does not know user notification, or not the flags needed.
    #[error(
        "this kernel does not offer seccomp user notification as imsup needs it ({0}); \
         Linux 5.19 or newer is needed, `imsup doctor` shows what is there"
    )]
    Unsupported(#[source] Errno),
    /// The child ended or misbehaved before the execve(2).
    #[error("the child could not be prepared: {0}")]
    Child(#[source] Errno),
    /// The child did not get its ids.
    #[error(transparent)]
    Ids(#[from] IdsError),
    /// The root could not be made.
    #[error("its root could not be made: {step}: {}", .errno.desc())]
    Root {
        /// What failed.
        step: String,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl SpawnError {
    /// The errno of the error.
    pub fn errno(&self) -> Errno {
        match self {
            Self::ListenerExists => Errno::EBUSY,
            Self::Fork(errno) | Self::Unsupported(errno) | Self::Child(errno) | Self::Root { errno, .. } => *errno,
            Self::Ids(_) => Errno::EPERM,
        }
    }
}

/// A child that waits to be told to execute.
#[derive(Debug)]
pub struct Prepared {
    pid: Pid,
    listener: OwnedFd,
    go: PipeWriter,
    report: UnixStream,
}

/// Makes the child, with the filter. The kernel kills the child when the calling thread ends
/// (PR_SET_PDEATHSIG(2const)).
///
/// # Errors
/// Any [`SpawnError`]; no child is left then.
pub fn prepare(program: &Program<'_>, filter: &[libc::sock_filter], _: &SingleThread) -> Result<Prepared, SpawnError> {
    let no_descriptors = |error: std::io::Error| SpawnError::Fork(errno_from(&error));
    let (mut report, child_report) = UnixStream::pair().map_err(no_descriptors)?;
    let (child_go, mut go) = std::io::pipe().map_err(no_descriptors)?;
    let mut execution = child::Execution::of(program);
    let namespaces = program.place.root().map_or(0, Root::namespaces);
    // SAFETY: the child does only what is async-signal-safe ([`child`]). There is no other thread
    // either (the token).
    match unsafe { fork_into(program.cgroup, namespaces) }.map_err(SpawnError::Fork)? {
        ForkResult::Child => {
            drop((report, go));
            // SAFETY: `execution` was made of `program` above.
            let code = unsafe { child::run(program, &mut execution, filter, child_report, child_go) };
            // SAFETY: _exit runs no destructors, as required in a forked child that could not
            // execute.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            drop((child_report, child_go));
            let child = match program.place {
                Place::Machine => child,
                Place::Root(root) => give_ids(child, root, &mut go)?,
                Place::Beside(_) => find_sibling(child, &mut report, &mut go)?,
            };
            match take_listener(&mut report, program.place) {
                Ok(listener) => Ok(Prepared {
                    pid: child,
                    listener,
                    go,
                    report,
                }),
                Err(error) => {
                    // The child reads end of file instead of the word to go on, and exits.
                    drop(go);
                    let _ = nix::sys::wait::waitpid(child, None);
                    Err(error)
                }
            }
        }
    }
}

/// Sets the ids of a child with a user namespace of its own, which waits for them.
fn give_ids(child: Pid, root: &Root, go: &mut PipeWriter) -> Result<Pid, SpawnError> {
    if root.has_own_users() {
        if let Err(error) = root::ids::set(child, root.ids()) {
            // It waits for its ids, and has done nothing yet.
            let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(child, None);
            return Err(error.into());
        }
        // A child that has ended is seen at the next read.
        let _ = go.write_all(&[1]);
    }
    Ok(child)
}

/// The process that a child has made in the namespaces of another, and which waits; the child ends.
fn find_sibling(child: Pid, report: &mut UnixStream, go: &mut PipeWriter) -> Result<Pid, SpawnError> {
    let mut bytes = [0; child::REPORT_BYTES];
    let read = report.read_exact(&mut bytes);
    let _ = nix::sys::wait::waitpid(child, None);
    read.map_err(|error| SpawnError::Child(errno_from(&error)))?;
    match child::parse_report(bytes) {
        [0, pid] => {
            let _ = go.write_all(&[1]);
            Ok(Pid::from_raw(pid))
        }
        [errno, _] => Err(SpawnError::Root {
            step: "entering the namespaces of its host".to_owned(),
            errno: Errno::from_raw(errno),
        }),
    }
}

impl Prepared {
    /// The child's process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The listener of the child's calls.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Lets the child execute, and waits for the execve(2).
    ///
    /// # Errors
    /// Errors of execve(2); the child has then exited and is to be reaped.
    pub fn execute(mut self) -> Result<Listener, Errno> {
        let listener = Listener::new(self.listener);
        self.go.write_all(&[1]).map_err(|error| errno_from(&error))?;
        match read_number(&mut self.report) {
            // Executed: the child's end is close-on-exec.
            None => Ok(listener),
            Some(errno) => Err(Errno::from_raw(errno)),
        }
    }
}

/// fork(2), in a cgroup and in new namespaces. Moving a process to the cgroup later costs up to
/// 8 ms: the kernel waits for all processors to pass a quiescent state before a process may change
/// its cgroup (kernel/cgroup/cgroup.c, cgroup_attach_lock; measured). A process started in the
/// cgroup costs no extra time.
///
/// # Safety
/// As fork(2): the child does only async-signal-safe work until execve(2).
unsafe fn fork_into(cgroup: Option<BorrowedFd<'_>>, namespaces: libc::c_int) -> Result<ForkResult, Errno> {
    let Some(cgroup) = cgroup else {
        // SAFETY: as the caller says.
        return unsafe { fork_with(namespaces) };
    };
    // SAFETY: `clone_args` is plain numbers, for which zero means that the feature is not used
    // (clone3(2)).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP | u64::from(namespaces.cast_unsigned());
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM this is fork(2): the child has a copy of our memory and of the
    // calling stack. Our C library's cached thread id is stale in the child, which does not matter
    // to any function called before execve(2).
    let pid = unsafe { syscall!(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        // What Docker's default profile says to all but CAP_SYS_ADMIN, since a filter cannot see
        // clone3's flags. SAFETY: as the caller says.
        Err(Errno::ENOSYS) => unsafe { fork_and_move(cgroup, namespaces) },
        pid => forked(pid),
    }
}

/// fork(2), in new namespaces.
///
/// # Safety
/// As fork(2).
unsafe fn fork_with(namespaces: libc::c_int) -> Result<ForkResult, Errno> {
    if namespaces == 0 {
        // SAFETY: as the caller says.
        return unsafe { fork() };
    }
    // SAFETY: without CLONE_VM and without a stack this is fork(2), as in `fork_into`.
    forked(unsafe { syscall!(libc::SYS_clone, namespaces | libc::SIGCHLD, 0, 0, 0, 0) })
}

fn forked(pid: Result<libc::c_long, Errno>) -> Result<ForkResult, Errno> {
    Ok(match pid? {
        0 => ForkResult::Child,
        pid => ForkResult::Parent {
            child: Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?),
        },
    })
}

/// fork(2), and the child moves itself into a cgroup.
///
/// # Safety
/// As fork(2).
unsafe fn fork_and_move(cgroup: BorrowedFd<'_>, namespaces: libc::c_int) -> Result<ForkResult, Errno> {
    let processes = rustix::fs::openat(cgroup, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let processes = processes.map_err(errno_of)?;
    // SAFETY: as the caller says.
    let forked = unsafe { fork_with(namespaces) }?;
    if matches!(forked, ForkResult::Child) {
        // 0 is the writer itself (cgroups(7)). A program outside of its cgroup would not be found,
        // so the program must not run.
        let moved = rustix::io::write(&processes, b"0").map_err(errno_of);
        if moved.is_err() {
            // SAFETY: _exit runs no destructors, as required in a forked child that could not be
            // moved.
            unsafe { libc::_exit(127) }
        }
    }
    Ok(forked)
}

fn take_listener(report: &mut UnixStream, place: Place<'_>) -> Result<OwnedFd, SpawnError> {
    let mut bytes = [0; child::REPORT_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut data = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(&*report, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let received = received.map_err(|errno| SpawnError::Child(errno_of(errno)))?;
    if received.bytes != bytes.len() {
        return Err(SpawnError::Child(Errno::ECHILD));
    }
    let listener = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let [errno, step] = child::parse_report(bytes);
    let errno = Errno::from_raw(errno);
    match (listener, errno) {
        (Some(listener), _) => Ok(listener),
        (None, errno) if step >= 0 => {
            let number = step.cast_unsigned();
            Err(SpawnError::Root {
                step: place
                    .root()
                    .map_or_else(String::new, |root| root.describe(FailedStep { number, errno })),
                errno,
            })
        }
        (None, Errno::EBUSY) => Err(SpawnError::ListenerExists),
        (None, errno @ (Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP)) => Err(SpawnError::Unsupported(errno)),
        (None, errno) => Err(SpawnError::Child(errno)),
    }
}

/// Tries in a child whether a filter with a listener can be installed, with every flag that imsup
/// uses.
///
/// # Errors
/// Any [`SpawnError`].
pub fn try_listener(filter: &[libc::sock_filter]) -> Result<(), SpawnError> {
    let program = Program {
        command: &[],
        environment: None,
        credentials: None,
        new_session: false,
        descriptor_limit: None,
        signals: SigSet::empty(),
        cgroup: None,
        no_new_privs: true,
        place: Place::Machine,
    };
    let thread = SingleThread::prove().map_err(SpawnError::Fork)?;
    let prepared = prepare(&program, filter, &thread)?;
    let pid = prepared.pid();
    let _ = prepared.execute();
    let _ = nix::sys::wait::waitpid(pid, None);
    Ok(())
}

fn read_number(socket: &mut UnixStream) -> Option<i32> {
    child::read_report(socket).map(|[errno, _]| errno)
}

fn errno_from(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
