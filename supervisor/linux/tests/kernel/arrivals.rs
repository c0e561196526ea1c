//! Arrivals at sockets, reported without a reference to the sockets: epoll(7), io_submit(2);
//! fs/eventpoll.c, ep_eventpoll_poll.

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use imsup_linux::arrivals::Arrivals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::script::until;
use crate::{A, listener};

fn is_told(arrivals: &Arrivals) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(arrivals, PollFlags::IN)], Some(&at_once)).unwrap() == 1
}

/// Of all arrivals, only the first costs a wake.
#[test]
fn one_poll_tells_of_many_sockets_and_once() {
    let (listener, address) = listener();
    let datagrams = UdpSocket::bind((A, 0)).unwrap();
    let mut arrivals = Arrivals::new().unwrap();
    arrivals.add(listener.as_fd(), 1).unwrap();
    arrivals.add(datagrams.as_fd(), 2).unwrap();
    arrivals.arm().unwrap();
    assert!(!is_told(&arrivals) && arrivals.is_armed());
    let _client = TcpStream::connect(address).unwrap();
    assert!(is_told(&arrivals));
    assert_eq!(arrivals.take(), [1]);
    assert!(!is_told(&arrivals) && !arrivals.is_armed());
    datagrams.send_to(b"x", datagrams.local_addr().unwrap()).unwrap();
    assert!(!is_told(&arrivals), "it is not armed");
    assert_eq!(arrivals.take(), [2], "the other was told of");
    arrivals.arm().unwrap();
    assert!(!is_told(&arrivals));
    arrivals.again(listener.as_fd(), 1).unwrap();
    assert!(is_told(&arrivals), "somebody waits in it still");
    assert_eq!(arrivals.take(), [1]);
    listener.accept().unwrap();
    datagrams.recv(&mut [0; 1]).unwrap();
    arrivals.again(listener.as_fd(), 1).unwrap();
    arrivals.again(datagrams.as_fd(), 2).unwrap();
    arrivals.arm().unwrap();
    assert!(!is_told(&arrivals) && arrivals.take().is_empty());
    assert!(arrivals.is_armed());
}

/// A socket is closed with its last descriptor, though watched by an armed poll: waiting
/// connections are reset, and the port is free.
#[test]
fn what_is_watched_is_not_kept_open() {
    let (listener, address) = listener();
    let mut arrivals = Arrivals::new().unwrap();
    arrivals.add(listener.as_fd(), 1).unwrap();
    arrivals.arm().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    arrivals.take();
    listener.accept().unwrap();
    arrivals.arm().unwrap();
    let mut waiting = TcpStream::connect(address).unwrap();
    drop(listener);
    assert!(waiting.read(&mut [0; 1]).is_err(), "it was reset");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "it was accepted, and closed");
    until("the port to be free", || TcpListener::bind(address).is_ok());
    assert!(arrivals.take().is_empty());
}

/// epoll(7), Q6: a registration lives as long as the open file description, so the registration is
/// deleted before the descriptor is closed.
#[test]
fn what_was_taken_out_is_told_no_more() {
    let (listener, address) = listener();
    let copy = listener.try_clone().unwrap();
    let mut arrivals = Arrivals::new().unwrap();
    arrivals.add(listener.as_fd(), 1).unwrap();
    arrivals.remove(listener.as_fd());
    drop(listener);
    arrivals.arm().unwrap();
    let _client = TcpStream::connect(address).unwrap();
    assert!(!is_told(&arrivals) && arrivals.take().is_empty());
    copy.accept().unwrap();
}
