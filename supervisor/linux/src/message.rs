//! Messages of sendmsg(2) and sendmmsg(2) as laid out in a program's memory, and sending messages
//! on behalf of the program: recvmsg(2), cmsg(3), ip(7).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::memory::TargetMemory;
use super::socket::encode_address;
use super::syscall::syscall;

/// The most messages of one sendmmsg(2), and the most vectors of one message (UIO_MAXIOV,
/// include/uapi/linux/uio.h).
pub const MAX_VECTORS: u64 = 1024;

/// The longest datagram that the kernel considers (net/ipv4/udp.c, udp_sendmsg). The kernel itself
/// refuses datagrams too long for the route.
pub const MAX_DATAGRAM_BYTES: u64 = 0xffff;

/// Most control data of a message carried out here. The kernel's own bound is net.core.optmem_max,
/// 20 KiB or 128.
const MAX_CONTROL_BYTES: u64 = 64 << 10;

/// `struct msghdr` of 64-bit programs: a pointer and an `int`, two pointers, each with a `size_t`,
/// and an `int`.
const HEADER_BYTES: usize = 56;
/// `struct mmsghdr`: a `struct msghdr`, and the number of bytes sent.
const ENTRY_BYTES: usize = 64;
const SENT_AT: u64 = 56;
/// `struct iovec`.
const VECTOR_BYTES: usize = 16;
/// `struct cmsghdr`: a `size_t` and two `int`s. The data after the header is aligned to 8 bytes.
const CONTROL_HEADER_BYTES: usize = 16;
const CONTROL_ALIGNMENT: usize = 8;

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The address of the destination; 0 if there is none.
    pub name: u64,
    /// The length of the destination, an `int` to the kernel.
    pub name_bytes: u32,
    vectors: u64,
    vector_count: u64,
    control: u64,
    control_bytes: u64,
}

impl Header {
    /// The header at `address`.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read(memory: &impl TargetMemory, address: u64) -> Result<Self, Errno> {
        Ok(Self::parse(&memory.read_array::<HEADER_BYTES>(address)?))
    }

    /// The first `count` headers of the `struct mmsghdr`s at `address`, of which there are no more
    /// than [`MAX_VECTORS`].
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_many(memory: &impl TargetMemory, address: u64, count: u32) -> Result<Vec<Self>, Errno> {
        let count = u64::from(count).min(MAX_VECTORS);
        let length = usize::try_from(count).map_err(|_| Errno::EFAULT)? * ENTRY_BYTES;
        let bytes = memory.read_vec(address, length)?;
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        Ok(entries
            .iter()
            .filter_map(|entry| entry.first_chunk::<HEADER_BYTES>())
            .map(Self::parse)
            .collect())
    }

    fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at| words(bytes, at);
        #[expect(clippy::cast_possible_truncation, reason = "an int, and padding above it")]
        let name_bytes = word(8) as u32;
        Self {
            name: word(0),
            name_bytes,
            vectors: word(16),
            vector_count: word(24),
            control: word(32),
            control_bytes: word(40),
        }
    }

    /// The bytes that are to be sent.
    ///
    /// # Errors
    /// EFAULT; EMSGSIZE if the payload is longer than a datagram.
    pub fn payload(&self, memory: &impl TargetMemory) -> Result<Vec<u8>, Errno> {
        if self.vector_count > MAX_VECTORS {
            return Err(Errno::EMSGSIZE);
        }
        let count = usize::try_from(self.vector_count).map_err(|_| Errno::EMSGSIZE)?;
        let vectors = memory.read_vec(self.vectors, count * VECTOR_BYTES)?;
        let (vectors, _) = vectors.as_chunks::<VECTOR_BYTES>();
        let mut payload = Vec::new();
        for vector in vectors {
            let (base, length) = (words(vector, 0), words(vector, 8));
            let have = u64::try_from(payload.len()).map_err(|_| Errno::EMSGSIZE)?;
            if length > MAX_DATAGRAM_BYTES - have {
                return Err(Errno::EMSGSIZE);
            }
            let length = usize::try_from(length).map_err(|_| Errno::EMSGSIZE)?;
            payload.extend(memory.read_vec(base, length)?);
        }
        Ok(payload)
    }

    /// Whether there is any ancillary data.
    pub fn has_control(&self) -> bool {
        self.control != 0 && self.control_bytes != 0
    }

    /// The ancillary data.
    ///
    /// # Errors
    /// EFAULT; ENOBUFS if the control data is longer than imsup carries.
    pub fn control(&self, memory: &impl TargetMemory) -> Result<Vec<u8>, Errno> {
        if self.control_bytes > MAX_CONTROL_BYTES {
            return Err(Errno::ENOBUFS);
        }
        let length = usize::try_from(self.control_bytes).map_err(|_| Errno::ENOBUFS)?;
        memory.read_vec(self.control, length)
    }
}

/// Writes the number of bytes sent for message `index` of the messages at `address`.
///
/// # Errors
/// EFAULT.
pub fn write_sent(memory: &impl TargetMemory, address: u64, index: u64, bytes: usize) -> Result<(), Errno> {
    let at = address.wrapping_add(index * ENTRY_BYTES as u64 + SENT_AT);
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    memory.write(at, &bytes.to_ne_bytes())
}

fn words(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    u64::from_ne_bytes(word.unwrap_or_default())
}

/// `control` with a source address (IP_PKTINFO, ip(7)), unless `control` has a source address. Also
/// for AF_INET6 sockets, whose v4-mapped datagrams are sent by udp_sendmsg (net/ipv6/udp.c).
/// Ill-formed control data is left unchanged, for the kernel to refuse.
pub fn with_source(mut control: Vec<u8>, source: Ipv4Addr) -> Vec<u8> {
    let mut end = 0;
    while let Some(header) = control.get(end..end + CONTROL_HEADER_BYTES) {
        let length = usize::try_from(words(header, 0)).unwrap_or(usize::MAX);
        let kind = words(header, 8);
        let data = end
            .checked_add(length)
            .and_then(|next| control.get(end + CONTROL_HEADER_BYTES..next));
        match data {
            None => return control,
            Some(data) if has_source(kind, data) => return control,
            Some(_) => end += length.next_multiple_of(CONTROL_ALIGNMENT),
        }
    }
    control.resize(end, 0);
    // `struct in_pktinfo`: the interface's index, the local address, and the header's destination.
    let length = CONTROL_HEADER_BYTES as u64 + 12;
    control.extend(length.to_ne_bytes());
    control.extend(libc::IPPROTO_IP.to_ne_bytes());
    control.extend(libc::IP_PKTINFO.to_ne_bytes());
    control.extend([0; 4]);
    control.extend(source.octets());
    control.extend([0; 4]);
    control.extend([0; 4]);
    control
}

/// The level and the type of control data as laid out in the header.
fn kind_of(level: i32, name: i32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&level.to_ne_bytes());
    bytes[4..].copy_from_slice(&name.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// True if control data of this kind contains a source address. `kind` is the level, with the type
/// in the upper half.
fn has_source(kind: u64, data: &[u8]) -> bool {
    if kind == kind_of(libc::IPPROTO_IP, libc::IP_PKTINFO) {
        return data.get(4..8).is_some_and(|address| address != [0; 4]);
    }
    if kind == kind_of(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) {
        let address = data.first_chunk::<16>().copied().map(Ipv6Addr::from);
        return address.is_some_and(|address| !address.is_unspecified());
    }
    false
}

/// Replaces the IPv6 source address of the control data (IPV6_PKTINFO, ipv6(7)) by this IPv4
/// address, v4-mapped. This applies to `::1` and to `::` (an interface alone). Datagrams to `::1`
/// are carried by IPv4, and net/ipv4/ip_sockglue.c, ip_cmsg_send, takes no other source. False if
/// there is no source of this kind.
pub fn map_loopback_source(control: &mut [u8], source: Ipv4Addr) -> bool {
    let mut at = 0;
    while let Some(header) = control.get(at..at + CONTROL_HEADER_BYTES) {
        let length = usize::try_from(words(header, 0)).unwrap_or(usize::MAX);
        let is_source = words(header, 8) == kind_of(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
        let data = at
            .checked_add(length)
            .and_then(|end| control.get_mut(at + CONTROL_HEADER_BYTES..end));
        // The kernel refuses ill-formed control data, which includes a length below that of the
        // header.
        let Some(data) = data else { return false };
        if is_source
            && let Some(address) = data.first_chunk_mut::<16>()
            && [Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED].contains(&Ipv6Addr::from(*address))
        {
            *address = source.to_ipv6_mapped().octets();
            return true;
        }
        at += length.next_multiple_of(CONTROL_ALIGNMENT);
    }
    false
}

/// A copy of a payload that the kernel may read after the call (MSG_ZEROCOPY). The copy has pages
/// of its own, which the kernel keeps after munmap(2).
struct Pages {
    at: *mut libc::c_void,
    length: usize,
}

impl Pages {
    /// # Errors
    /// Errors of mmap(2).
    fn copy(payload: &[u8]) -> Result<Self, Errno> {
        let length = payload.len().max(1);
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory that
        // is in use.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // SAFETY: the mapping is at least as long as the payload, and no other code knows the
        // mapping.
        unsafe { std::ptr::copy_nonoverlapping(payload.as_ptr(), at.cast(), payload.len()) };
        Ok(Self { at, length })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into the mapping is left.
        unsafe { libc::munmap(self.at, self.length) };
    }
}

/// sendmsg(2), which must not wait and raises no signal here.
///
/// # Errors
/// Errors of sendmsg(2).
pub fn send(
    socket: BorrowedFd<'_>,
    payload: &[u8],
    control: &[u8],
    to: Option<SocketAddr>,
    flags: i32,
) -> Result<usize, Errno> {
    let name = to.map(encode_address).unwrap_or_default();
    let pages = match flags & libc::MSG_ZEROCOPY {
        0 => None,
        _ => Some(Pages::copy(payload)?),
    };
    let vector = libc::iovec {
        iov_base: match &pages {
            Some(pages) => pages.at,
            None => payload.as_ptr().cast_mut().cast(),
        },
        iov_len: payload.len(),
    };
    // SAFETY: `struct msghdr` is plain data; all zeroes are an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    if !name.is_empty() {
        message.msg_name = name.as_ptr().cast_mut().cast();
        message.msg_namelen = libc::socklen_t::try_from(name.len()).map_err(|_| Errno::EINVAL)?;
    }
    message.msg_iov = (&raw const vector).cast_mut();
    message.msg_iovlen = 1;
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        // musl has a 32-bit length and padding, which is zero, where the kernel has 64 bits.
        message.msg_controllen = control.len() as _;
    }
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // Not by the C library's sendmsg, since musl's takes at most 1040 bytes of control data.
    // SAFETY: name, vector, payload and control have the lengths that `message` says, and outlive
    // the call, which writes to none of them.
    let count = unsafe { syscall!(libc::SYS_sendmsg, socket.as_raw_fd(), &raw const message, flags) }?;
    usize::try_from(count).map_err(|_| Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::array::Array;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 77, 5, 7);

    fn control(level: i32, name: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (CONTROL_HEADER_BYTES as u64 + data.len() as u64).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(name.to_ne_bytes());
        bytes.extend(data);
        bytes
    }

    fn source() -> Vec<u8> {
        let mut bytes = control(
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            &[0, 0, 0, 0, 127, 77, 5, 7, 0, 0, 0, 0],
        );
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn a_source_is_added_to_what_there_is() {
        assert_eq!(with_source(Vec::new(), SOURCE), source());
        let segment = control(libc::SOL_UDP, libc::UDP_SEGMENT, &[0, 5]);
        let mut expected = segment.clone();
        expected.resize(24, 0);
        expected.extend(source());
        assert_eq!(with_source(segment.clone(), SOURCE), expected, "padded");
        let mut with_rest = segment;
        with_rest.resize(24, 0);
        with_rest.extend([9; 15]);
        assert_eq!(with_source(with_rest, SOURCE), expected, "what is no header is none");
        let interface_only = control(
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        assert!(with_source(interface_only, SOURCE).ends_with(&source()));
    }

    #[test]
    fn the_programs_own_source_counts() {
        let own = control(
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            &[0, 0, 0, 0, 127, 77, 5, 9, 0, 0, 0, 0],
        );
        assert_eq!(with_source(own.clone(), SOURCE), own);
        let mapped = Ipv4Addr::new(127, 77, 5, 9).to_ipv6_mapped().octets();
        let own = control(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[&mapped[..], &[0; 4]].concat());
        assert_eq!(with_source(own.clone(), SOURCE), own);
    }

    #[test]
    fn the_source_loopback_is_mapped() {
        let pktinfo = |ip: Ipv6Addr| {
            control(
                libc::IPPROTO_IPV6,
                libc::IPV6_PKTINFO,
                &[&ip.octets()[..], &[1, 0, 0, 0]].concat(),
            )
        };
        let segment = [control(libc::SOL_UDP, libc::UDP_SEGMENT, &[0, 5]), vec![0; 6]].concat();
        let mut both = [segment.clone(), pktinfo(Ipv6Addr::LOCALHOST)].concat();
        assert!(map_loopback_source(&mut both, SOURCE));
        assert_eq!(both, [segment, pktinfo(SOURCE.to_ipv6_mapped())].concat());
        let mut any = pktinfo(Ipv6Addr::UNSPECIFIED);
        assert!(map_loopback_source(&mut any, SOURCE), "an interface alone");
        assert_eq!(any, pktinfo(SOURCE.to_ipv6_mapped()));
        let mut other = pktinfo(SOURCE.to_ipv6_mapped());
        assert!(!map_loopback_source(&mut other, Ipv4Addr::LOCALHOST));
        assert_eq!(other, pktinfo(SOURCE.to_ipv6_mapped()));
        for length in [0_u64, 15, 17, 4096, u64::MAX] {
            let mut bytes = control(libc::SOL_SOCKET, 1, &[]);
            bytes[..8].copy_from_slice(&length.to_ne_bytes());
            assert!(!map_loopback_source(&mut bytes, SOURCE), "{length}");
        }
    }

    #[test]
    fn ill_formed_control_data_is_the_kernels_to_refuse() {
        for length in [0_u64, 15, 17, 4096, u64::MAX] {
            let mut bytes = control(libc::SOL_SOCKET, 1, &[]);
            bytes[..8].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(with_source(bytes.clone(), SOURCE), bytes, "{length}");
        }
    }

    #[test]
    fn payloads_are_gathered_and_bounded() {
        let mut bytes = vec![0; 256];
        bytes[..10].copy_from_slice(b"helloworld");
        for (at, word) in [
            (16, 5_u64),
            (24, 5),
            (32, 0),
            (40, 5),
            (48, 0),
            (56, MAX_DATAGRAM_BYTES),
        ] {
            bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        }
        let header = |vectors, vector_count| Header {
            name: 0,
            name_bytes: 0,
            vectors,
            vector_count,
            control: 0,
            control_bytes: 0,
        };
        let memory = Array::new(bytes);
        assert_eq!(header(16, 2).payload(&memory).unwrap(), b"worldhello");
        assert_eq!(header(16, 0).payload(&memory).unwrap(), b"");
        assert_eq!(header(16, 3).payload(&memory), Err(Errno::EMSGSIZE));
        assert_eq!(header(16, MAX_VECTORS + 1).payload(&memory), Err(Errno::EMSGSIZE));
        assert_eq!(header(16, 1024).payload(&memory), Err(Errno::EFAULT));
        assert_eq!(header(16, u64::MAX).payload(&memory), Err(Errno::EMSGSIZE));
    }
}
