//! Capabilities and filters of a single thread: capabilities(7), seccomp(2),
//! PR_SET_NO_NEW_PRIVS(2const).

use std::os::fd::AsFd;
use std::process::Command;

use imsup_linux::confinement::confine_helper;
use imsup_linux::socket;
use nix::libc;
use rustix::thread::{CapabilitySet, capabilities};

use crate::listener;

/// The restrictions apply to the calling thread and to threads started later. Other threads of the
/// process, and programs that these execute, are unaffected.
#[test]
fn a_confined_thread_can_do_its_work_and_nothing_to_others_and_other_threads_are_as_before() {
    let before = capabilities(None).unwrap();
    let target = nix::unistd::Pid::this();
    std::thread::spawn(move || {
        confine_helper("the test", CapabilitySet::empty());
        let now = capabilities(None).unwrap();
        assert!(now.effective.is_empty() && now.permitted.is_empty() && now.inheritable.is_empty());
        let refused = |what: &str, result: nix::Result<()>| assert_eq!(result, Err(nix::errno::Errno::EPERM), "{what}");
        refused("kill(2)", nix::sys::signal::kill(target, None));
        refused(
            "ptrace(2)",
            nix::sys::ptrace::seize(target, nix::sys::ptrace::Options::empty()),
        );
        refused("unshare(2)", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER));
        // The thread's own: setuid(3) asks the other threads to follow.
        let same = rustix::thread::set_thread_uid(rustix::process::getuid());
        assert_eq!(same, Err(rustix::io::Errno::PERM), "setuid(2)");
        let executed = Command::new("true").status().expect_err("execve(2) is refused");
        assert_eq!(executed.raw_os_error(), Some(libc::EPERM));
        // The work of a name server or a relay.
        let (socket, address) = listener();
        let connected = std::thread::spawn(move || std::net::TcpStream::connect(address).unwrap());
        socket.accept().unwrap();
        drop(connected.join().unwrap());
        assert!(socket::inode(socket.as_fd()).is_ok());
        std::fs::read("/etc/resolv.conf").unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(capabilities(None).unwrap(), before);
    assert!(!rustix::thread::no_new_privs().unwrap());
    assert!(Command::new("true").status().unwrap().success());
}
