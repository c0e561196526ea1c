//! The holders of a socket: proc_pid_fd(5), unshare(2), unix(7), kcmp(2).

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use imsup_linux::holders::{Place, Search};
use imsup_linux::{process, socket};
use nix::sched::{CloneFlags, unshare};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::listener;
use super::script::until;

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

fn find(inode: u64, pid: i32) -> Option<Place> {
    let mut search = Search::among([pid], [inode]);
    assert!(search.step(usize::MAX));
    search.place(inode)
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
    let place = Place { tid: pid, number: 1 };
    assert_eq!(find(inode, pid), Some(place));
    assert!(place.has(inode) && !Place { number: 0, ..place }.has(inode));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(find(inode, pid).is_none() && !place.has(inode));
}

/// A process that cannot be inspected may hold the socket only if the process belongs to the
/// program. A process outside of the program has reused the pid of an ended process.
#[test]
fn a_stranger_that_cannot_be_looked_into_has_nothing_of_the_programs() {
    let (socket, _) = listener();
    let inode = socket::inode(socket.as_fd()).unwrap();
    // To an ordinary user the descriptor is hidden, since the process is root's; root sees that the
    // descriptor is another file.
    assert!(!Place { tid: 1, number: 0 }.may_have(inode));
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id().cast_signed();
    assert!(process::may_be_descendant(pid) && process::may_be_descendant(own_pid()));
    assert!(!process::may_be_descendant(1));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(!process::may_be_descendant(pid));
}

/// One walk covers all sockets, in slices no longer than requested.
#[test]
fn a_search_is_one_walk_in_slices_for_all_sockets() {
    let sockets: Vec<_> = (0..200).map(|_| listener().0).collect();
    let inode = |socket: &std::net::TcpListener| socket::inode(socket.as_fd()).unwrap();
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut search = Search::among([child.id().cast_signed(), own_pid()], sockets.iter().map(inode));
    let slices = (1..).find(|_| search.step(16)).unwrap();
    assert!((200 / 16..1000).contains(&slices), "{slices}");
    for socket in &sockets {
        let place = search.place(inode(socket)).expect("it is open");
        assert_eq!(place.number, socket.as_raw_fd());
    }
    assert!(!search.is_hidden_from());
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// A thread's descriptor table may be its own; /proc/PID/fd shows the table of the first thread.
#[test]
fn a_socket_that_only_a_thread_has_is_found() {
    let (socket, _) = listener();
    let (inode, number) = (socket::inode(socket.as_fd()).unwrap(), socket.as_raw_fd());
    let (ready, is_ready) = crossbeam_channel::unbounded();
    let (done, is_done) = crossbeam_channel::unbounded::<()>();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_FILES).unwrap();
        ready.send(nix::unistd::gettid().as_raw()).unwrap();
        let _ = is_done.recv();
    });
    let tid = is_ready.recv().unwrap();
    let of_thread = Place { tid, number };
    assert_eq!(of_thread.of_process(inode), Place { tid: own_pid(), number });
    drop(socket);
    assert_eq!(find(inode, own_pid()), Some(of_thread));
    assert_eq!(of_thread.of_process(inode), of_thread);
    drop(done);
    thread.join().unwrap();
    // A thread can be joined a little before its descriptors are closed (kernel/exit.c, do_exit:
    // exit_mm, then exit_files).
    until("its end", || find(inode, own_pid()).is_none());
}

/// Descriptors in transit are in no table. A socket that was closed lives on in transit, and is
/// found after arrival.
#[test]
fn a_socket_under_way_between_processes_is_not_found_before_it_has_come() {
    let (socket, address) = listener();
    let inode = socket::inode(socket.as_fd()).unwrap();
    let (to, from) = UnixStream::pair().unwrap();
    send(to.as_fd(), socket.as_fd());
    drop(socket);
    assert_eq!(find(inode, own_pid()), None);
    std::net::TcpStream::connect(address).expect("it listens");
    let number = receive(from.as_fd());
    let place = Place {
        tid: own_pid(),
        number: number.as_raw_fd(),
    };
    assert_eq!(find(inode, own_pid()), Some(place));
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
