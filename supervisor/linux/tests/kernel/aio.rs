//! Polls that see events consumed at once: io_submit(2), IOCB_CMD_POLL; fs/aio.c, aio_poll_wake.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use imsup_linux::aio::{Completed, Polls};
use nix::errno::Errno;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::script::until;
use crate::{A, listener};

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

fn is_readable(fd: impl AsFd) -> bool {
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&AT_ONCE)).unwrap() == 1
}

fn tags(completed: &[Completed]) -> Vec<u64> {
    completed.iter().map(|one| one.tag).collect()
}

/// A connection that was accepted, and has ended, before the first look.
#[test]
fn a_connection_that_came_and_went_completes_a_poll() {
    let (listener, address) = listener();
    let mut polls = Polls::new(4).unwrap();
    polls.arm(listener.as_fd(), PollFlags::IN, 7).unwrap();
    assert!(polls.take().unwrap().is_empty(), "nobody has come");
    assert!(polls.is_armed(7));
    let client = TcpStream::connect(address).unwrap();
    drop(listener.accept().unwrap());
    drop(client);
    assert!(!is_readable(&listener), "poll(2) sees nothing of it");
    let completed = polls.take().unwrap();
    assert_eq!(tags(&completed), [7]);
    assert!(completed[0].events.contains(PollFlags::IN));
    assert!(!polls.is_armed(7), "it says so once");
    // Armed anew, the poll reports no earlier events.
    polls.arm(listener.as_fd(), PollFlags::IN, 7).unwrap();
    assert!(polls.take().unwrap().is_empty());
}

/// The poll sees every datagram, though a reader in recv(2) takes each at once, and sees no
/// datagram that the socket sends.
#[test]
fn a_datagram_that_was_read_at_once_completes_a_poll_and_a_sent_one_does_not() {
    let receiver = UdpSocket::bind((A, 0)).unwrap();
    let address = receiver.local_addr().unwrap();
    let sender = UdpSocket::bind((A, 0)).unwrap();
    let mut polls = Polls::new(1).unwrap();
    let reader = receiver.try_clone().unwrap();
    let (said, heard) = crossbeam_channel::unbounded();
    let reading = std::thread::spawn(move || {
        while reader.recv(&mut [0; 8]).unwrap() > 0 {
            said.send(()).unwrap();
        }
    });
    for number in 0..5000 {
        polls.arm(receiver.as_fd(), PollFlags::IN, number).unwrap();
        sender.send_to(b"x", address).unwrap();
        heard.recv().unwrap();
        assert_eq!(tags(&polls.take().unwrap()), [number]);
    }
    polls.arm(receiver.as_fd(), PollFlags::IN, 1).unwrap();
    for _ in 0..100 {
        receiver.send_to(b"x", sender.local_addr().unwrap()).unwrap();
        sender.recv(&mut [0; 8]).unwrap();
    }
    assert!(polls.take().unwrap().is_empty(), "it has only sent");
    sender.send_to(b"", address).unwrap();
    reading.join().unwrap();
}

/// net/core/sock.c, sock_def_readable: an arrival also wakes with EPOLLPRI, for which no queue is
/// ever ready. A waiting connection or datagram therefore reports no event, and a new arrival does.
/// The same through an epoll instance, which has no reference to a socket (fs/eventpoll.c).
#[test]
fn a_poll_for_epollpri_says_only_what_comes_and_an_epoll_instance_passes_it_on() {
    let (listener, address) = listener();
    let receiver = UdpSocket::bind((A, 0)).unwrap();
    let datagrams = receiver.local_addr().unwrap();
    let sender = UdpSocket::bind((A, 0)).unwrap();
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, &listener, EventData::new_u64(1), EventFlags::PRI).unwrap();
    epoll::add(&epoll, &receiver, EventData::new_u64(2), EventFlags::PRI).unwrap();
    let waiting = TcpStream::connect(address).unwrap();
    sender.send_to(b"x", datagrams).unwrap();
    let mut polls = Polls::new(1).unwrap();
    let comes: [(&str, &dyn Fn()); 3] = [
        ("a connection", &|| {
            drop(TcpStream::connect(address).unwrap());
        }),
        ("a connection that is accepted", &|| {
            let client = TcpStream::connect(address).unwrap();
            drop(listener.accept().unwrap());
            drop(client);
        }),
        ("a datagram", &|| {
            sender.send_to(b"y", datagrams).unwrap();
        }),
    ];
    for _ in 0..3 {
        for (what, come) in comes {
            polls.arm(epoll.as_fd(), PollFlags::IN, 7).unwrap();
            assert!(polls.take().unwrap().is_empty(), "what waits is not told");
            drop(listener.accept().unwrap());
            receiver.send_to(b"z", sender.local_addr().unwrap()).unwrap();
            assert!(polls.take().unwrap().is_empty(), "nor what is taken or sent");
            drop(TcpStream::connect(address).unwrap());
            assert_eq!(tags(&polls.take().unwrap()), [7]);
            polls.arm(epoll.as_fd(), PollFlags::IN, 7).unwrap();
            come();
            assert_eq!(tags(&polls.take().unwrap()), [7], "{what}");
        }
    }
    drop((listener, waiting));
    until("its end", || TcpListener::bind(address).is_ok());
}

/// An event that is ready already completes a poll at once, and the eventfd becomes readable.
#[test]
fn an_eventfd_says_that_a_poll_has_completed() {
    let (listener, address) = listener();
    let mut polls = Polls::with_eventfd(2).unwrap();
    polls.arm(listener.as_fd(), PollFlags::IN, 1).unwrap();
    assert!(!is_readable(&polls));
    let _client = TcpStream::connect(address).unwrap();
    assert!(is_readable(&polls));
    assert_eq!(tags(&polls.take().unwrap()), [1]);
    assert!(!is_readable(&polls), "once it was taken, no more");
    polls.arm(listener.as_fd(), PollFlags::IN, 2).unwrap();
    assert!(is_readable(&polls), "somebody still waits to be accepted");
    assert_eq!(tags(&polls.take().unwrap()), [2]);
}

/// fs/aio.c, aio_poll: the request has a reference to the file. A listener whose descriptors are
/// all closed goes on listening while a poll is armed, and ends once the poll has completed or was
/// given up.
#[test]
fn an_armed_poll_keeps_its_file_open() {
    for comes in [true, false] {
        let (listener, address) = listener();
        let mut polls = Polls::new(1).unwrap();
        polls.arm(listener.as_fd(), PollFlags::IN, 1).unwrap();
        drop(listener);
        if comes {
            let mut client = TcpStream::connect(address).expect("it listens still");
            assert_eq!(tags(&polls.take().unwrap()), [1]);
            until("its reset", || client.write_all(b"x").is_err());
        } else {
            assert!(polls.disarm(1), "nobody came");
            assert!(polls.take().unwrap().is_empty(), "to give up is no event");
        }
        until("its end", || TcpListener::bind(address).is_ok());
    }
}

/// Also if the context is dropped with armed polls, long before io_destroy(2) has come to its end.
#[test]
fn a_dropped_context_keeps_nothing_open() {
    let (listener, address) = listener();
    let mut polls = Polls::new(1).unwrap();
    polls.arm(listener.as_fd(), PollFlags::IN, 1).unwrap();
    drop(listener);
    drop(polls);
    until("its end", || TcpListener::bind(address).is_ok());
}

/// clone(2), CLONE_VM: nor if the context was left to another process, whose end is not awaited.
#[test]
fn a_context_that_was_left_keeps_nothing_open() {
    let (listener, address) = listener();
    let mut polls = Polls::new(1).unwrap();
    polls.arm(listener.as_fd(), PollFlags::IN, 1).unwrap();
    polls.leave();
    drop(listener);
    until("its end", || TcpListener::bind(address).is_ok());
}

/// io_setup(2): a context has room for the requested number of polls, and gives the room back.
#[test]
fn a_context_is_bounded() {
    let (listener, _) = listener();
    let mut polls = Polls::new(2).unwrap();
    for tag in 0..2 {
        polls.arm(listener.as_fd(), PollFlags::IN, tag).unwrap();
    }
    assert_eq!(polls.arm(listener.as_fd(), PollFlags::IN, 2), Err(Errno::EAGAIN));
    polls.arm(listener.as_fd(), PollFlags::IN, 1).expect("armed already");
    assert!(polls.disarm(0) && !polls.disarm(0));
    polls.arm(listener.as_fd(), PollFlags::IN, 2).unwrap();
    assert!(!polls.is_armed(0) && polls.is_armed(1) && polls.is_armed(2));
}
