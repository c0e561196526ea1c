//! Who has a socket: proc_pid_fd(5), unshare(2), unix(7).

use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use imsup_supervisor::kernel::holders::{self, Holder};
use imsup_supervisor::kernel::socket;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::listener;

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

#[test]
fn a_socket_is_found_at_the_process_that_has_it_until_that_ends() {
    let (socket, _) = listener();
    let inode = socket::inode(socket.as_fd()).unwrap();
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::from(OwnedFd::from(socket)))
        .spawn()
        .unwrap();
    let pid = child.id().cast_signed();
    assert_eq!(holders::find(inode, &[pid]), Holder::At { pid, number: 1 });
    assert!(holders::is_at(pid, 1, inode) && !holders::is_at(pid, 0, inode));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(holders::find(inode, &[pid]), Holder::Nobody);
}

/// A thread's descriptors may be its own; /proc/PID/fd shows those of the first thread.
#[test]
fn a_socket_that_only_a_thread_has_is_found() {
    let (socket, _) = listener();
    let (inode, number) = (socket::inode(socket.as_fd()).unwrap(), socket.as_raw_fd());
    let (ready, is_ready) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_FILES).unwrap();
        ready.send(nix::unistd::gettid().as_raw()).unwrap();
        let _ = is_done.recv();
    });
    let tid = is_ready.recv().unwrap();
    drop(socket);
    assert_eq!(holders::find(inode, &[own_pid()]), Holder::At { pid: tid, number });
    drop(done);
    thread.join().unwrap();
    // Another test may have descriptors under way.
    assert!(!matches!(holders::find(inode, &[own_pid()]), Holder::At { .. }));
}

/// Descriptors under way are in no table (Linux 5.11; net/unix/af_unix.c, unix_show_fdinfo: scm_fds).
#[test]
fn a_socket_under_way_between_processes_may_be_anybodys() {
    let (socket, _) = listener();
    let inode = socket::inode(socket.as_fd()).unwrap();
    let (to, from) = UnixStream::pair().unwrap();
    send(to.as_fd(), socket.as_fd());
    drop(socket);
    assert_eq!(holders::find(inode, &[own_pid()]), Holder::Unknown);
    let received = receive(from.as_fd());
    let number = received.as_raw_fd();
    assert_eq!(
        holders::find(inode, &[own_pid()]),
        Holder::At { pid: own_pid(), number }
    );
}

fn send(over: BorrowedFd<'_>, fd: BorrowedFd<'_>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(over, &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
}

fn receive(over: BorrowedFd<'_>) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [std::io::IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(over, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.expect("a descriptor")
}

/// shutdown(2) of a listener: what waits in it is reset; it may listen again (net/ipv4/af_inet.c, inet_shutdown), and stays bound where it asked for its port
/// by number (SOCK_BINDPORT_LOCK; net/ipv4/tcp.c, tcp_set_state).
#[test]
fn a_listener_that_is_stopped_refuses_stays_bound_and_listens_again() {
    let (chosen, address) = listener();
    drop(chosen);
    let listener = TcpListener::bind(address).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    socket::stop_listening(listener.as_fd()).unwrap();
    let reset = client.read(&mut [0]).unwrap_err();
    assert_eq!(reset.raw_os_error(), Some(Errno::ECONNRESET as i32));
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ECONNREFUSED as i32));
    socket::stop_listening(listener.as_fd()).unwrap();
    assert_eq!(listener.local_addr().unwrap(), address);
    socket::listen(listener.as_fd(), 5).unwrap();
    TcpStream::connect(address).unwrap();
    listener.accept().unwrap();
}
