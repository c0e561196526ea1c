//! Names of the stored descriptors. Pure, but for the inode of a socket, which distinguishes
//! several sockets at the same address.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use imsup_wire::{Endpoint, Transport};

use crate::sockets;

/// The kind of a stored descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The cluster, in a file of memory.
    Cluster,
    /// A socket that claims a block of addresses for the project, or a socket of the project's name
    /// server.
    Block(Transport, SocketAddrV4),
    /// A retained socket.
    Retained {
        /// The address to which the socket is bound.
        endpoint: Endpoint,
        /// Made for a caller that could not wait.
        tentative: bool,
    },
    /// A published port: that of the host with this address, by its place in the host's list.
    Published {
        /// The host's address.
        vip: Ipv4Addr,
        /// Its place.
        place: usize,
    },
    /// The read end of the pipe to which the program of the host with this address prints.
    Output {
        /// The host's address.
        vip: Ipv4Addr,
    },
    /// A socket of the name server's in a namespace for resolvers.
    Resolvers {
        /// The number of the namespace: the project's later namespaces have higher numbers.
        namespace: u32,
    },
}

impl What {
    /// The name of a descriptor: at most 255 bytes, without control characters and colons
    /// (sd_pid_notify_with_fds(3)).
    pub(super) fn name(self, fd: &OwnedFd) -> String {
        format!("{self} {}", sockets::inode(fd).unwrap_or_default())
    }

    /// The kind that a name stands for; `None` for unknown names of another broker.
    pub(super) fn of(name: &str) -> Option<Self> {
        let (what, _inode) = name.rsplit_once(' ')?;
        let words: Vec<&str> = what.split(' ').collect();
        let transport = |word: &str| match word {
            "tcp" => Some(Transport::Tcp),
            "udp" => Some(Transport::Udp),
            _ => None,
        };
        let at = |ip: &str, port: &str| Some(SocketAddrV4::new(ip.parse().ok()?, port.parse().ok()?));
        Some(match words[..] {
            ["cluster"] => Self::Cluster,
            ["resolvers", namespace] => Self::Resolvers {
                namespace: namespace.parse().ok()?,
            },
            ["block", kind, ip, port] => Self::Block(transport(kind)?, at(ip, port)?),
            ["output", ip] => Self::Output { vip: ip.parse().ok()? },
            ["published", ip, place] => Self::Published {
                vip: ip.parse().ok()?,
                place: place.parse().ok()?,
            },
            ["tentative", kind, ip, port] | [kind, ip, port] => Self::Retained {
                endpoint: Endpoint {
                    transport: transport(kind)?,
                    address: at(ip, port)?,
                },
                tentative: words.len() == 4,
            },
            _ => return None,
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |transport| match transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Block(transport, at) => write!(f, "block {} {} {}", word(*transport), at.ip(), at.port()),
            Self::Retained { endpoint, tentative } => {
                let prefix = if *tentative { "tentative " } else { "" };
                let (kind, at) = (word(endpoint.transport), endpoint.address);
                write!(f, "{prefix}{kind} {} {}", at.ip(), at.port())
            }
            Self::Resolvers { namespace } => write!(f, "resolvers {namespace}"),
            Self::Output { vip } => write!(f, "output {vip}"),
            Self::Published { vip, place } => write!(f, "published {vip} {place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let fd: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let vip = Ipv4Addr::new(127, 77, 3, 2);
        for (what, text) in [
            (What::Cluster, "cluster"),
            (
                What::Block(Transport::Udp, SocketAddrV4::new(Ipv4Addr::new(127, 78, 3, 0), 1053)),
                "block udp 127.78.3.0 1053",
            ),
            (
                What::Retained {
                    endpoint: Endpoint::tcp(vip, 6379),
                    tentative: false,
                },
                "tcp 127.77.3.2 6379",
            ),
            (
                What::Retained {
                    endpoint: Endpoint::udp(vip, 514),
                    tentative: true,
                },
                "tentative udp 127.77.3.2 514",
            ),
            (What::Published { vip, place: 2 }, "published 127.77.3.2 2"),
            (What::Resolvers { namespace: 3 }, "resolvers 3"),
            (What::Output { vip }, "output 127.77.3.2"),
        ] {
            assert_eq!(what.to_string(), text);
            let name = what.name(&fd);
            assert!(name.len() <= 255 && !name.contains([':', '\n']), "{name}");
            assert_eq!(What::of(&name), Some(what), "{name}");
        }
        for name in [
            "",
            "cluster",
            "x 1",
            "tcp 127.77.3.2 7",
            "sctp 127.77.3.2 80 7",
            "tcp 1.2.3.4 99999 7",
        ] {
            assert_eq!(What::of(name), None, "{name}");
        }
    }
}
