//! UNIX connections of the whole machine: sock_diag(7), include/uapi/linux/unix_diag.h.

use std::collections::HashSet;
use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::tcp_info::state;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER_BYTES: usize = 16;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_SHUTDOWN: u16 = 6;

/// SHUTDOWN_MASK (include/net/sock.h): also set if the peer has closed the connection.
const BOTH_WAYS: u8 = 3;

/// `struct unix_diag_msg`.
const DIAG_MSG_BYTES: usize = 16;

/// The sockets among these (inode numbers) that are connected with a socket outside of the set. A
/// datagram socket has no connection.
///
/// # Errors
/// Errors of socket(2), send(2) and recv(2), and ENOENT without CONFIG_UNIX_DIAG.
pub fn connected_elsewhere(sockets: &HashSet<u64>) -> io::Result<Vec<u64>> {
    let netlink = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&netlink, &request(), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (count, _) = rustix::net::recv(&netlink, &mut buffer[..], RecvFlags::empty())?;
        let mut bytes = &buffer[..count];
        if bytes.is_empty() {
            return Ok(found);
        }
        while let Some(header) = bytes.first_chunk::<NLMSG_HEADER_BYTES>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let Some(body) = bytes.get(NLMSG_HEADER_BYTES..length) else {
                break;
            };
            match u16::from_ne_bytes([header[4], header[5]]) {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let errno = body.first_chunk().map_or(-libc::EIO, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-errno));
                }
                SOCK_DIAG_BY_FAMILY => {
                    found.extend(
                        connection(body)
                            .filter(|(own, peer)| sockets.contains(own) && !sockets.contains(peer))
                            .map(|(own, _)| own),
                    );
                }
                _ => {}
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// A dump request: `nlmsghdr`, and `unix_diag_req`: family, protocol, padding; states, inode, data
/// to show, cookie.
fn request() -> Vec<u8> {
    let mut body = vec![libc::AF_UNIX as u8, 0, 0, 0];
    body.extend((1_u32 << state::ESTABLISHED).to_ne_bytes());
    body.extend([0; 4]);
    body.extend(UDIAG_SHOW_PEER.to_ne_bytes());
    body.extend([0; 8]);
    let mut frame = Vec::with_capacity(NLMSG_HEADER_BYTES + body.len());
    frame.extend(((NLMSG_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    frame.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    frame.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    frame.extend([0; 8]);
    frame.extend(body);
    frame
}

/// The inode numbers of a stream's two ends; 0 for an end that waits to be accepted.
/// `unix_diag_msg`: family, type, state, padding; inode, cookie; then attributes.
fn connection(body: &[u8]) -> Option<(u64, u64)> {
    let (message, mut attributes) = body.split_first_chunk::<DIAG_MSG_BYTES>()?;
    let is_stream = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET].contains(&i32::from(message[1]));
    is_stream.then_some(())?;
    let inode = u32::from_ne_bytes([message[4], message[5], message[6], message[7]]);
    let (mut peer, mut is_over) = (None, false);
    while let Some(header) = attributes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let payload = attributes.get(4..length)?;
        match u16::from_ne_bytes([header[2], header[3]]) {
            UNIX_DIAG_PEER => peer = payload.first_chunk().map(|peer| u32::from_ne_bytes(*peer)),
            UNIX_DIAG_SHUTDOWN => is_over = payload.first() == Some(&BOTH_WAYS),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    peer.filter(|_| !is_over).map(|peer| (inode.into(), peer.into()))
}
