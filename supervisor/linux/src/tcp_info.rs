//! The kernel's data on a TCP socket: tcp(7), TCP_INFO; include/uapi/linux/tcp.h.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;

use super::socket;

/// The states of a TCP socket (include/net/tcp_states.h).
pub(super) mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
    pub const NEW_SYN_RECV: u8 = 12;
    /// Bound, and nothing else; only in requests and replies of sock_diag(7), since Linux 6.8.
    pub const BOUND_INACTIVE: u8 = 13;
}

/// Up to and with `tcpi_bytes_received` (4.1).
const BYTES: usize = 136;

/// The part of `struct tcp_info` that imsup reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpInfo {
    pub state: u8,
    /// Of a listener: connections that wait to be accepted.
    pub unacked: u32,
    /// For a listener: the backlog.
    pub sacked: u32,
    /// How long ago the last data came.
    pub last_received: Duration,
    /// How long ago something came last: data, an acknowledgement or an end of file
    /// (tcpi_last_data_recv, tcpi_last_ack_recv).
    pub last_heard: Duration,
    /// Bytes received, and bytes sent that were acknowledged.
    pub bytes: u64,
}

impl TcpInfo {
    /// Asks `socket`.
    ///
    /// # Errors
    /// ENOPROTOOPT or EOPNOTSUPP if this is no TCP socket, ENOTSOCK if this is no socket.
    pub(super) fn of(socket: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut bytes = [0; BYTES];
        socket::get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    /// Parses the kernel's layout; missing fields are 0.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
        };
        let long = |at: usize| {
            let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
        };
        Self {
            state: bytes.first().copied().unwrap_or(0),
            unacked: word(24),
            sacked: word(28),
            last_received: Duration::from_millis(word(52).into()),
            last_heard: Duration::from_millis(word(52).min(word(56)).into()),
            bytes: long(120).wrapping_add(long(128)),
        }
    }
}
