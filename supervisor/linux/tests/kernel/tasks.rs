//! Descriptors and memory of other processes: pidfd_getfd(2), process_vm_readv(2).

use std::os::fd::{AsFd, AsRawFd};

use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::{pidfd, socket, task};
use nix::errno::Errno;

use crate::listener;
use crate::script::Script;

/// pidfd_open(2), PIDFD_THREAD, and pidfd_getfd(2): a duplicate is the same open file description;
/// what is not open is EBADF, and a pidfd of a process that is gone says ESRCH for ever.
#[test]
fn descriptors_are_duplicated_through_pidfds() {
    let (listener, _) = listener();
    let own = task::open_thread(nix::unistd::gettid().as_raw()).unwrap();
    let duplicate = pidfd::duplicate_from(&own, listener.as_raw_fd()).unwrap();
    assert_eq!(
        socket::cookie(duplicate.as_fd()).unwrap(),
        socket::cookie(listener.as_fd()).unwrap()
    );
    assert_eq!(pidfd::duplicate_from(&own, 1 << 20).map(drop), Err(Errno::EBADF));

    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pidfd = task::open_thread(i32::try_from(child.id()).unwrap()).unwrap();
    child.wait().unwrap();
    assert_eq!(pidfd::duplicate_from(&pidfd, 0).map(drop), Err(Errno::ESRCH));
}

/// proc_pid_mem(5), fs/proc/base.c (mem_rw): the file, too, reads as far as memory is mapped; a bad
/// address is EIO, or EINVAL beyond the largest offset. It writes through read-only mappings
/// (mm/gup.c, FOLL_FORCE), which we do not.
#[test]
fn memory_is_read_and_written_through_its_file() {
    let mut script = Script::start(
        "
import mmap
PAGE = mmap.PAGESIZE
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(None, ctypes.c_size_t(3 * PAGE), 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0))
ctypes.memmove(at, b'imsup', 5)
libc.munmap(ctypes.c_void_p(at + 2 * PAGE), ctypes.c_size_t(PAGE))
libc.mprotect(ctypes.c_void_p(at + PAGE), ctypes.c_size_t(PAGE), 1)",
    );
    let line = script.ask("at, PAGE");
    let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
    let (at, page) = (numbers[0], numbers[1]);
    let memory = ThreadMemory::by_file(script.pid());
    assert_eq!(memory.read_array::<5>(at), Ok(*b"imsup"));
    memory.write(at + 1, b"nsu").unwrap();
    assert_eq!(memory.read_array::<5>(at), Ok(*b"insup"));
    let mut buffer = [0; 16];
    assert_eq!(
        memory.read(at + 2 * page - 6, &mut buffer),
        Ok(6),
        "as far as it is mapped"
    );
    for unmapped in [0, at + 2 * page, u64::MAX] {
        assert_eq!(memory.read_array::<5>(unmapped), Err(Errno::EFAULT));
        assert_eq!(memory.write(unmapped, b"x"), Err(Errno::EFAULT));
    }
    for read_only in [at + page, at + page - 1] {
        assert_eq!(memory.write(read_only, b"gone"), Err(Errno::EFAULT));
    }
    assert_eq!(memory.read_array::<4>(at + page), Ok([0; 4]));
}

/// setfsuid(2) of root: for the kernel's checks of /proc the process is of this user, and no longer
/// dumpable (kernel/cred.c, commit_creds), a flag that is restored by hand. For another user
/// setfsuid changes nothing, nor does the restoration.
#[test]
fn the_file_system_user_is_taken_on_and_given_back() {
    const PR_GET_DUMPABLE: i64 = 3;
    let mut script = Script::start("");
    let root = nix::unistd::geteuid().is_root();
    let uids = "open('/proc/self/status').read().split('Uid:')[1].split()[:4]";
    let own = nix::unistd::geteuid().as_raw().to_string();
    let dumpable = format!("call({}, {PR_GET_DUMPABLE})[0]", libc::SYS_prctl);
    assert_eq!(script.ask(&dumpable), "1");
    script.tell("libc.setfsgid(4711); libc.setfsuid(4711)");
    let taken = if root { "4711" } else { &own };
    assert_eq!(script.ask(&format!("*{uids}")), format!("{own} {own} {own} {taken}"));
    if root {
        assert_ne!(script.ask(&dumpable), "1", "fs.suid_dumpable, which is 0 or 2");
        // The process's files in /proc are root's now, and this process could not read these files
        // without CAP_SYS_PTRACE.
    } else {
        assert_eq!(script.ask(&dumpable), "1");
    }
    script.tell("libc.setfsuid(0); libc.setfsgid(0); libc.prctl(4, 1)");
    assert_eq!(script.ask(&dumpable), "1");
}

/// process_vm_readv(2): a read that reaches unmapped memory returns the bytes before; a bad address
/// is EFAULT.
#[test]
fn memory_is_read_as_far_as_it_is_mapped() {
    let memory = ThreadMemory::of(nix::unistd::gettid().as_raw());
    let value = *b"imsup";
    assert_eq!(memory.read_array::<5>(value.as_ptr().addr() as u64), Ok(value));
    assert_eq!(memory.read_array::<5>(0), Err(Errno::EFAULT));
    assert_eq!(memory.read_array::<5>(u64::MAX), Err(Errno::EFAULT));
}
