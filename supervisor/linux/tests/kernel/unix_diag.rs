//! Peers of UNIX sockets: sock_diag(7), UNIX_DIAG_PEER; net/unix/diag.c.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use imsup_linux::{socket, unix_diag};

use crate::script::until;

fn inode(socket: impl AsFd) -> u64 {
    socket::inode(socket.as_fd()).unwrap()
}

/// A connection between two sockets of the set does not count, and a datagram socket has no
/// connection.
#[test]
fn a_unix_connection_is_told_by_its_peer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    let datagrams = UnixDatagram::pair().unwrap();
    let own: HashSet<u64> = [inode(&client), inode(&one), inode(&other), inode(&datagrams.0)].into();
    let elsewhere = || unix_diag::connected_elsewhere(&own).unwrap();
    assert_eq!(elsewhere(), [inode(&client)], "it waits to be accepted");
    let server = listener.accept().unwrap().0;
    assert_eq!(elsewhere(), [inode(&client)]);
    assert_eq!(
        unix_diag::connected_elsewhere(&[inode(&server)].into()).unwrap(),
        [inode(&server)]
    );
    drop(server);
    until("its peer to have closed it", || elsewhere().is_empty());
}
