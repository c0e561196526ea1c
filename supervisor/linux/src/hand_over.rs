//! Descriptors that a stopped thread hands over (unix(7), SCM_RIGHTS).

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::injected::{Injection, Masks};
use super::memory::{TargetMemory, ThreadMemory};
use super::socket::errno_of;

/// `SCM_MAX_FD` (include/net/scm.h): the most descriptors of one message.
const MOST: usize = 253;

/// The place of a message in the page that a thread has made for it. `struct msghdr` is at its
/// beginning.
const IOVEC: usize = 64;
const BYTE: usize = 80;
const NAME: usize = 96;
const CONTROL: usize = 256;
const PAGE_BYTES: u64 = 4096;

/// Bytes of `struct cmsghdr`.
const CMSGHDR: usize = 16;

/// Makes a stopped thread hand over open descriptors. The thread makes a page and a socket for
/// that, and removes both afterwards.
///
/// # Errors
/// As [`super::duplicates::Duplicates::one`], EINTR if somebody has stopped the process meanwhile.
/// What is said of the thread's signals is to be heeded all the same.
pub(super) fn hand_over(pid: i32, tid: i32, numbers: &[i32]) -> (Result<Vec<OwnedFd>, Errno>, Option<Masks>) {
    let begun = receiver().and_then(|to| Ok((to, Injection::begin(pid, tid)?)));
    let ((receiver, name), mut thread) = match begun {
        Ok(begun) => begun,
        Err(errno) => return (Err(errno), None),
    };
    let sent = send(&mut thread, pid, tid, numbers, (&receiver, &name));
    match thread.end() {
        Ok((masks, true)) => (sent.and(Err(Errno::EINTR)), Some(masks)),
        Ok((masks, false)) => (sent, Some(masks)),
        Err(errno) => (Err(errno), None),
    }
}

fn send(
    thread: &mut Injection,
    pid: i32,
    tid: i32,
    numbers: &[i32],
    to: (&OwnedFd, &[u8]),
) -> Result<Vec<OwnedFd>, Errno> {
    let protection = unsigned(libc::PROT_READ | libc::PROT_WRITE);
    let flags = unsigned(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let page = thread.call(libc::SYS_mmap, [0, PAGE_BYTES, protection, flags, u64::MAX, 0])?;
    let sent = send_from(thread, page, pid, tid, numbers, to);
    thread.call(libc::SYS_munmap, [page, PAGE_BYTES, 0, 0, 0, 0])?;
    sent
}

fn send_from(
    thread: &mut Injection,
    page: u64,
    pid: i32,
    tid: i32,
    numbers: &[i32],
    (receiver, name): (&OwnedFd, &[u8]),
) -> Result<Vec<OwnedFd>, Errno> {
    let kind = unsigned(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
    let socket = thread.call(libc::SYS_socket, [unsigned(libc::AF_UNIX), kind, 0, 0, 0, 0])?;
    let flags = unsigned(imsup_bpf_filters::HANDOVER_FLAG | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    let mut sent = || {
        let mut found = Vec::with_capacity(numbers.len());
        for some in numbers.chunks(MOST) {
            ThreadMemory::of(tid).write(page, &message(page, name, some))?;
            thread.call(libc::SYS_sendmsg, [socket, page, flags, 0, 0, 0])?;
            found.extend(receive(receiver, pid, some.len())?);
        }
        Ok(found)
    };
    let sent = sent();
    thread.call(libc::SYS_close, [socket, 0, 0, 0, 0, 0])?;
    sent
}

fn unsigned(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

/// A socket with a name that the kernel chooses (unix(7), autobind), and that name as `struct
/// sockaddr_un`.
fn receiver() -> Result<(OwnedFd, Vec<u8>), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).map_err(errno_of)?;
    rustix::net::sockopt::set_socket_passcred(&socket, true).map_err(errno_of)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed()).map_err(errno_of)?;
    let name = rustix::net::getsockname(&socket).map_err(errno_of)?;
    let name = SocketAddrUnix::try_from(name).map_err(errno_of)?;
    let name = name.abstract_name().ok_or(Errno::EADDRNOTAVAIL)?;
    let family = u16::try_from(libc::AF_UNIX).unwrap_or(1).to_ne_bytes();
    Ok((socket, [&family, &[0][..], name].concat()))
}

/// The content of the page: a message with one byte and these descriptors.
fn message(page: u64, name: &[u8], numbers: &[i32]) -> Vec<u8> {
    let control_bytes = CMSGHDR + size_of_val(numbers);
    let header = [
        page + NAME as u64,
        name.len() as u64,
        page + IOVEC as u64,
        1,
        page + CONTROL as u64,
        control_bytes as u64,
        0,
    ];
    let mut bytes = vec![0; CONTROL + control_bytes];
    let mut put = |at: usize, some: &[u8]| bytes[at..at + some.len()].copy_from_slice(some);
    put(0, &header.map(u64::to_ne_bytes).concat());
    put(IOVEC, &[page + BYTE as u64, 1].map(u64::to_ne_bytes).concat());
    put(NAME, name);
    put(CONTROL, &(control_bytes as u64).to_ne_bytes());
    put(CONTROL + 8, &libc::SOL_SOCKET.to_ne_bytes());
    put(CONTROL + 12, &libc::SCM_RIGHTS.to_ne_bytes());
    let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
    put(CONTROL + 16, &numbers);
    bytes
}

/// Receives the message of process `pid`. Messages of others to the name, which every process can
/// see, are dropped.
fn receive(socket: &OwnedFd, pid: i32, count: usize) -> Result<Vec<OwnedFd>, Errno> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST), ScmCredentials(1))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::net::recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut control, flags)
            .map_err(errno_of)?;
        let (mut found, mut is_its) = (Vec::new(), false);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(descriptors) => found.extend(descriptors),
                RecvAncillaryMessage::ScmCredentials(sender) => is_its = sender.pid.as_raw_nonzero().get() == pid,
                _ => {}
            }
        }
        match is_its {
            false => {}
            // Not all have found a number here (recvmsg(2), MSG_CTRUNC).
            true if received.flags.contains(ReturnFlags::CTRUNC) || found.len() != count => return Err(Errno::EMFILE),
            true => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anybody may send to a name that /proc/net/unix shows; only the process that is to hand over
    /// is listened to.
    #[test]
    fn what_somebody_else_sends_is_thrown_away() {
        let (receiver, _name) = receiver().unwrap();
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let address = rustix::net::getsockname(&receiver).unwrap();
        let own = std::process::id().cast_signed();
        for (expected, received) in [(own + 1, Err(Errno::EAGAIN)), (own, Ok(0))] {
            rustix::net::sendto(&sender, &[0], rustix::net::SendFlags::empty(), &address).unwrap();
            assert_eq!(receive(&receiver, expected, 0).map(|found| found.len()), received);
        }
    }

    #[test]
    fn a_message_lies_as_the_kernel_reads_it() {
        let page = 0x7000_0000;
        let bytes = message(page, b"\x01\0\0name", &[5, 7]);
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!([word(0), word(8)], [page + NAME as u64, 7], "msg_name, msg_namelen");
        assert_eq!([word(16), word(24)], [page + IOVEC as u64, 1], "msg_iov, msg_iovlen");
        assert_eq!(
            [word(32), word(40)],
            [page + CONTROL as u64, 24],
            "msg_control, msg_controllen"
        );
        assert_eq!([word(64), word(72)], [page + BYTE as u64, 1], "iov_base, iov_len");
        assert_eq!(&bytes[96..103], b"\x01\0\0name");
        assert_eq!(word(256), 24, "cmsg_len");
        let rights = [libc::SOL_SOCKET, libc::SCM_RIGHTS, 5, 7]
            .map(i32::to_ne_bytes)
            .concat();
        assert_eq!(bytes[264..], rights);
        // The largest fits.
        assert!(message(page, &[0; 108], &[0; MOST]).len() as u64 <= PAGE_BYTES);
    }
}
