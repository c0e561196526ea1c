//! The work of a forked child before execve(2): async-signal-safe calls only (fork(2),
//! signal-safety(7)).
//!
//! Another thread of the parent may have been in any code at the fork, and does not exist in the
//! child. A lock of this thread stays held for ever, including the allocator's. So this code does
//! not allocate, lock or panic. Memory is allocated before the fork ([`Execution`]). The C
//! library's setgroups(3) and setresuid(3) would ask the other threads to follow (nptl(7)), so the
//! child makes the system calls directly.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsString, c_char};
use std::io::{IoSlice, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigmaskHow, Signal, pthread_sigmask};
use nix::unistd::setsid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Gid, Uid};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::{Credentials, Program};
use crate::dispositions;
use crate::root::{self, FailedStep, Join, Root, Slots};
use crate::socket::errno_of;
use crate::syscall::syscall;

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
const FILTER_FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
/// 5.19: once we have received a call, only a fatal signal interrupts the call. Go signals itself
/// every 10 ms and would otherwise never finish a call.
const FILTER_FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// Where programs are looked up if there is no PATH: `_CS_PATH` of glibc (confstr(3)).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// The arguments of execve(2), made before the fork.
pub(super) struct Execution {
    /// The files that the name may mean, in the order of PATH.
    candidates: Vec<CString>,
    /// Each list ends with a null pointer, and borrows its strings from the program.
    arguments: Vec<*const c_char>,
    environment: Option<Vec<*const c_char>>,
    groups: Vec<libc::gid_t>,
    /// Mounts on their way into the root.
    slots: Option<Slots>,
}

impl Execution {
    /// Of a program that outlives this.
    pub(super) fn of(program: &Program<'_>) -> Self {
        fn pointers<S: AsRef<CStr>>(strings: &[S]) -> Vec<*const c_char> {
            let pointers = strings.iter().map(|string| string.as_ref().as_ptr());
            pointers.chain([std::ptr::null()]).collect()
        }
        Self {
            candidates: candidates(program),
            arguments: pointers(program.command),
            environment: program.environment.map(pointers),
            groups: program.credentials.map_or_else(Vec::new, |credentials| {
                credentials.groups.iter().map(|group| group.as_raw()).collect()
            }),
            slots: program.place.root().map(Root::slots),
        }
    }

    /// execvpe(3), but PATH is the program's own; it returns only if that fails.
    ///
    /// # Safety
    /// The program that this was made of is there still.
    unsafe fn execute(&self) -> Errno {
        let mut failed = Errno::ENOENT;
        for candidate in &self.candidates {
            // SAFETY: all pointers are to strings of the program, which end with NUL, and each list
            // ends with a null pointer. The file has a slash in its name, so nothing is looked up.
            // Neither function of glibc (2.24 and later, posix/execvpe.c) or musl allocates.
            unsafe {
                match &self.environment {
                    Some(environment) => {
                        libc::execvpe(candidate.as_ptr(), self.arguments.as_ptr(), environment.as_ptr())
                    }
                    None => libc::execvp(candidate.as_ptr(), self.arguments.as_ptr()),
                }
            };
            match Errno::last() {
                // It may be another's file: the next directory is tried, and this is said at the
                // end.
                Errno::EACCES => failed = Errno::EACCES,
                Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENODEV | Errno::ETIMEDOUT => {}
                errno => return errno,
            }
        }
        failed
    }
}

/// The files that a program's name may mean (execvp(3)): the name itself if there is a slash in it,
/// else a file in each directory of the PATH that the program is given.
fn candidates(program: &Program<'_>) -> Vec<CString> {
    let Some(name) = program.command.first().filter(|name| !name.is_empty()) else {
        return Vec::new();
    };
    if name.as_bytes().contains(&b'/') {
        return vec![name.clone()];
    }
    let given = program.environment.map(|environment| {
        let mut paths = environment
            .iter()
            .filter_map(|line| line.as_bytes().strip_prefix(b"PATH="));
        paths.next().map(<[u8]>::to_vec)
    });
    let path = given.unwrap_or_else(|| std::env::var_os("PATH").map(OsString::into_vec));
    let path = path.unwrap_or_else(|| DEFAULT_PATH.to_vec());
    let file = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        CString::new([directory, b"/", name.as_bytes()].concat())
    };
    path.split(|byte| *byte == b':').flat_map(file).collect()
}

/// The child's work up to `execve`. On failure, the result is the child's exit status.
///
/// # Safety
/// `execution` is of `program`.
pub(super) unsafe fn run(
    program: &Program<'_>,
    execution: &mut Execution,
    filter: &[libc::sock_filter],
    mut report: UnixStream,
    mut go: PipeReader,
) -> i32 {
    if let Some(join) = program.place.join() {
        // SAFETY: as the caller says.
        if let Err(code) = unsafe { move_beside(join, &mut report) } {
            return code;
        }
        if !is_told(&mut go) {
            return 127;
        }
    }
    if let Err(failed) = enter_root(program, execution, &mut go) {
        let _ = report.write_all(&report_of(failed.errno as i32, Some(failed.number)));
        return 127;
    }
    // SAFETY: as the caller says.
    let Err(errno) = unsafe { become_program(program, execution, filter, &report, &mut go) };
    let _ = report.write_all(&report_of(errno as i32, None));
    127
}

/// The length of a report to the parent.
pub(super) const REPORT_BYTES: usize = 8;

/// An errno, 0 for none, and the step to the root that failed with it.
pub(super) fn report_of(errno: i32, step: Option<u32>) -> [u8; REPORT_BYTES] {
    let step = step.map_or(-1, u32::cast_signed);
    let ([a, b, c, d], [e, f, g, h]) = (errno.to_ne_bytes(), step.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

/// The errno of a report, and the step, negative for none.
pub(super) fn parse_report([a, b, c, d, e, f, g, h]: [u8; REPORT_BYTES]) -> [i32; 2] {
    [i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])]
}

/// Enters another process's namespaces and goes on in a sibling, since only a new process is in a
/// joined pid namespace. `Err` is the exit status of the process that was left, which has told its
/// parent the sibling's pid.
///
/// # Safety
/// As [`run`].
unsafe fn move_beside(join: &Join<'_>, report: &mut UnixStream) -> Result<(), i32> {
    // SAFETY: as the caller says.
    let forked = join.enter().and_then(|()| unsafe { root::fork_sibling() });
    match forked {
        Ok(0) => Ok(()),
        Ok(pid) => {
            let pid = u32::try_from(pid).ok();
            let _ = report.write_all(&report_of(0, pid));
            Err(0)
        }
        Err(errno) => {
            let _ = report.write_all(&report_of(errno as i32, None));
            Err(127)
        }
    }
}

/// The next report; `None` at the end.
pub(super) fn read_report(socket: &mut UnixStream) -> Option<[i32; 2]> {
    let mut bytes = [0; REPORT_BYTES];
    socket.read_exact(&mut bytes).ok()?;
    Some(parse_report(bytes))
}

/// Enters the program's root, if it has one.
fn enter_root(program: &Program<'_>, execution: &mut Execution, go: &mut PipeReader) -> Result<(), FailedStep> {
    let (Some(root), Some(slots)) = (program.place.root(), &mut execution.slots) else {
        return Ok(());
    };
    enter_root_of(root, slots, go)
}

/// Waits for the ids of the root's user namespace, if it has one, and enters the root.
pub(super) fn enter_root_of(root: &Root, slots: &mut Slots, go: &mut PipeReader) -> Result<(), FailedStep> {
    if root.has_own_users() && !is_told(go) {
        return Err(FailedStep {
            number: 0,
            errno: Errno::ECANCELED,
        });
    }
    root.enter(slots)
}

/// Waits for a byte; false if the parent is gone or has given up.
fn is_told(go: &mut PipeReader) -> bool {
    go.read(&mut [0]).unwrap_or(0) > 0
}

/// Whether the parent is gone, which holds the other end until the child has executed.
fn is_orphan(go: &PipeReader) -> Result<bool, Errno> {
    let mut polled = [PollFd::new(go, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::default())).map_err(errno_of)?;
    Ok(polled.iter().any(|polled| polled.revents().contains(PollFlags::HUP)))
}

/// # Safety
/// As [`run`].
unsafe fn become_program(
    program: &Program<'_>,
    execution: &Execution,
    filter: &[libc::sock_filter],
    report: &UnixStream,
    go: &mut PipeReader,
) -> Result<Infallible, Errno> {
    if program.new_session {
        setsid()?;
    }
    if program.no_new_privs {
        prctl::set_no_new_privs()?;
    }
    let listener = install(filter);
    send_listener(report, listener.as_ref().map_err(|errno| *errno))?;
    drop(listener?);
    if !is_told(go) {
        return Err(Errno::ECANCELED);
    }
    if let Some(credentials) = program.credentials.filter(|_| program.place.root().is_some()) {
        hand_output_over(credentials);
    }
    program.place.limit_capabilities()?;
    if let Some(credentials) = program.credentials {
        take_on(credentials, &execution.groups)?;
    }
    if let Some(soft) = program.descriptor_limit {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?;
    }
    // After the change of user, which clears the signal (PR_SET_PDEATHSIG(2const)).
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if is_orphan(go)? {
        return Err(Errno::ESRCH);
    }
    program.place.enter_working_dir()?;
    dispositions::set_a_programs()?;
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&program.signals), None)?;
    // SAFETY: as the caller says.
    Err(unsafe { execution.execute() })
}

/// Gives the pipes of standard output and error to the program's user, who may then open them by
/// their names (/dev/stdout; proc(5), /proc/PID/fd), as under docker (runc, fixStdioPermissions). The
/// files that only a user of the machine has stay as they are.
fn hand_output_over(credentials: &Credentials) {
    for fd in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let is_pipe = rustix::fs::fstat(fd).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Fifo);
        if is_pipe {
            // Where it is not allowed, the user has no name for the pipe, and nothing else is lost.
            let (uid, gid) = (credentials.uid.as_raw(), credentials.gid.as_raw());
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        }
    }
}

/// Becomes another user: setgroups(2), setresgid(2), setresuid(2), of this thread, the only thread
/// of the process.
fn take_on(credentials: &Credentials, groups: &[libc::gid_t]) -> Result<(), Errno> {
    let (gid, uid) = (credentials.gid.as_raw(), credentials.uid.as_raw());
    // SAFETY: the kernel reads as many groups as there are.
    unsafe { syscall!(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }?;
    // SAFETY: both take three integers.
    unsafe {
        syscall!(libc::SYS_setresgid, gid, gid, gid)?;
        syscall!(libc::SYS_setresuid, uid, uid, uid)?;
    }
    Ok(())
}

/// Sends the listener to the parent, or the errno for which there is none.
fn send_listener(report: &UnixStream, listener: Result<&OwnedFd, Errno>) -> Result<(), Errno> {
    let errno = report_of(listener.err().map_or(0, |errno| errno as i32), None);
    let borrowed = [listener.map_or(report.as_fd(), AsFd::as_fd)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if listener.is_ok() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::from_bits_retain(imsup_bpf_filters::HANDOVER_FLAG.cast_unsigned());
    rustix::net::sendmsg(report, &[IoSlice::new(&errno)], &mut control, flags)
        .map(drop)
        .map_err(errno_of)
}

/// Installs the filter for this thread and returns the filter's listener.
fn install(filter: &[libc::sock_filter]) -> Result<OwnedFd, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let number = seccomp(
        FILTER_FLAG_NEW_LISTENER | FILTER_FLAG_WAIT_KILLABLE_RECV,
        &raw const program,
    )?;
    // SAFETY: the kernel has just made this descriptor for us; it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn seccomp(flags: libc::c_ulong, program: *const libc::sock_fprog) -> Result<i32, Errno> {
    // SAFETY: the kernel copies the program, or returns EFAULT for a null pointer; the kernel
    // writes no memory.
    let result = unsafe { syscall!(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program) };
    i32::try_from(result?).map_err(|_| Errno::EBADF)
}

/// True if the kernel knows `WAIT_KILLABLE_RECV`. With an unknown flag the kernel returns EINVAL
/// before it reads the program, and EFAULT otherwise (kernel/seccomp.c, seccomp_set_mode_filter).
pub fn knows_wait_killable() -> bool {
    seccomp(
        FILTER_FLAG_NEW_LISTENER | FILTER_FLAG_WAIT_KILLABLE_RECV,
        std::ptr::null(),
    ) == Err(Errno::EFAULT)
}
