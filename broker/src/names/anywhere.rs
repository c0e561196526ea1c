//! A socket of the name server in a namespace in which every address is local
//! ([`crate::resolvers`]): answers come from the address that was asked.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
};

/// The address that was asked, according to the kernel (IP_PKTINFO in ip(7), IPV6_PKTINFO in
/// ipv6(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    V4(libc::in_addr),
    /// With the interface of arrival, which link-local addresses need.
    V6(libc::in6_addr, u32),
}

impl Asked {
    /// The address; `None` for an address with an interface, which is not that of this namespace.
    pub(super) fn address(self) -> Option<IpAddr> {
        match self {
            Self::V4(address) => Some(Ipv4Addr::from(address.s_addr.to_ne_bytes()).into()),
            Self::V6(address, _) => {
                let address = Ipv6Addr::from(address.s6_addr);
                (!address.is_unicast_link_local()).then_some(address.into())
            }
        }
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct Anywhere(OwnedFd);

impl Anywhere {
    /// # Errors
    /// fcntl(2).
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(socket))
    }

    /// The next query's length, the client, and the asked address; `None` if no query has come.
    ///
    /// # Errors
    /// Errors of recvmsg(2).
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr, Asked)>> {
        let mut space = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
        loop {
            let mut vectors = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::empty();
            let message = match recvmsg::<SockaddrStorage>(self.0.as_raw_fd(), &mut vectors, Some(&mut space), flags) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(None),
                // The client of an earlier answer was gone.
                Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let asked = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => Some(Asked::V4(info.ipi_addr)),
                ControlMessageOwned::Ipv6PacketInfo(info) => Some(Asked::V6(info.ipi6_addr, info.ipi6_ifindex)),
                _ => None,
            });
            if let (Some(client), Some(asked)) = (message.address.as_ref().and_then(address), asked) {
                return Ok(Some((message.bytes, client, asked)));
            }
        }
    }

    /// Answers a client from the address that was asked. A client with a full buffer asks again.
    pub(super) fn send(&self, answer: &[u8], client: SocketAddr, asked: Asked) {
        let vectors = [IoSlice::new(answer)];
        let to = SockaddrStorage::from(client);
        let send = |control| {
            sendmsg(
                self.0.as_raw_fd(),
                &vectors,
                &[control],
                MsgFlags::MSG_NOSIGNAL,
                Some(&to),
            )
        };
        let sent = match asked {
            Asked::V4(ipi_spec_dst) => send(ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst,
                ipi_addr: libc::in_addr { s_addr: 0 },
            })),
            Asked::V6(ipi6_addr, ipi6_ifindex) => send(ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
                ipi6_addr,
                ipi6_ifindex,
            })),
        };
        if let Err(errno) = sent {
            tracing::debug!(%errno, %client, "an answer could not be sent");
        }
    }
}

impl AsRawFd for Anywhere {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().copied();
    let v6 = storage.as_sockaddr_in6().copied();
    v4.map(|v4: SockaddrIn| SocketAddr::V4(v4.into()))
        .or_else(|| v6.map(|v6: SockaddrIn6| SocketAddr::V6(v6.into())))
}
