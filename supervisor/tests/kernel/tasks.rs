//! Descriptors and memory of other processes: pidfd_getfd(2), process_vm_readv(2).

use std::os::fd::{AsFd, AsRawFd};

use imsup_supervisor::kernel::memory::{TargetMemory, ThreadMemory};
use imsup_supervisor::kernel::{socket, task};
use nix::errno::Errno;

use crate::listener;

/// pidfd_open(2), PIDFD_THREAD, and pidfd_getfd(2): a duplicate is the same open file description; what is not open is EBADF,
/// and a pidfd of a process that is gone says ESRCH for ever.
#[test]
fn descriptors_are_duplicated_through_pidfds() {
    let (listener, _) = listener();
    let own = task::open_thread(nix::unistd::gettid().as_raw()).unwrap();
    let duplicate = task::duplicate_from(&own, listener.as_raw_fd()).unwrap();
    assert_eq!(
        socket::cookie(duplicate.as_fd()).unwrap(),
        socket::cookie(listener.as_fd()).unwrap()
    );
    assert_eq!(task::duplicate_from(&own, 1 << 20).map(drop), Err(Errno::EBADF));

    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pidfd = task::open_thread(i32::try_from(child.id()).unwrap()).unwrap();
    child.wait().unwrap();
    assert_eq!(task::duplicate_from(&pidfd, 0).map(drop), Err(Errno::ESRCH));
}

/// process_vm_readv(2): a read that runs into unmapped memory returns what came before; a bad address is EFAULT.
#[test]
fn memory_is_read_as_far_as_it_is_mapped() {
    let memory = ThreadMemory::of(nix::unistd::gettid().as_raw());
    let value = *b"imsup";
    assert_eq!(memory.read_array::<5>(value.as_ptr().addr() as u64), Ok(value));
    assert_eq!(memory.read_array::<5>(0), Err(Errno::EFAULT));
    assert_eq!(memory.read_array::<5>(u64::MAX), Err(Errno::EFAULT));
}
