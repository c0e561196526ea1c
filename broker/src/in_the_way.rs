//! The socket that keeps a host's port from imsup, in words for people.
//!
//! Blocking: before the loop, for a start that may fail.

use std::fmt;

use imsup_linux::occupants::{self, Occupant, Occupation};
use imsup_wire::{Endpoint, Transport};

use crate::holder;

/// A socket that has an endpoint.
#[derive(Debug)]
pub struct InTheWay {
    transport: Transport,
    occupant: Occupant,
    /// The process that has the socket.
    process: Option<(u32, String)>,
}

impl InTheWay {
    /// The socket that is most likely in the way: a socket of a process rather than another.
    /// `None` if the kernel shows no socket there.
    pub(crate) fn at(endpoint: Endpoint) -> Option<Self> {
        let found = occupants::at(endpoint).unwrap_or_default().into_iter();
        let mut all: Vec<Self> = found
            .map(|occupant| Self {
                transport: endpoint.transport,
                process: holder::process(occupant.inode),
                occupant,
            })
            .collect();
        all.sort_by_key(|one| !one.is_of_a_process());
        all.into_iter().next()
    }

    /// Whether a process was found. Other sockets may go away: sockets of a process that ends, and
    /// connections that the kernel keeps for a while.
    pub(crate) fn is_of_a_process(&self) -> bool {
        self.process.is_some()
    }

    fn remedy(&self) -> &'static str {
        match self.occupant.occupation {
            Occupation::Closed { .. } => "wait a minute",
            _ => "end what uses it",
        }
    }
}

impl fmt::Display for InTheWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Occupation::Closed { peer, state } = self.occupant.occupation {
            return write!(
                f,
                "a connection with {peer} that was closed within the last minute ({state})"
            );
        }
        write!(f, "{}", holder::user(self.occupant.uid))?;
        if let Some((pid, program)) = &self.process {
            write!(f, ", process {pid} ({program})")?;
        }
        match (self.occupant.occupation, self.transport) {
            (Occupation::Open, Transport::Tcp) => f.write_str(", which listens")?,
            (Occupation::Open, Transport::Udp) => f.write_str(", which receives")?,
            (Occupation::Bound, _) => f.write_str(", which has bound it and does not listen")?,
            (Occupation::Connected { peer } | Occupation::Closed { peer, .. }, _) => {
                write!(f, ", which has a connection with {peer}")?;
            }
        }
        match self.occupant.local {
            local if local.is_unspecified() => write!(f, " on {local}, which is every address"),
            _ => Ok(()),
        }
    }
}

/// `in use by user mallory (1001), process 4711 (nc), which listens: end what uses it`.
pub(crate) fn in_use(by: Option<&InTheWay>) -> String {
    match by {
        Some(by) => format!("in use by {by}: {}", by.remedy()),
        None => "in use by a socket that the kernel does not show: end what uses it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn said(transport: Transport, local: &str, occupation: Occupation, process: Option<(u32, &str)>) -> String {
        in_use(Some(&InTheWay {
            transport,
            occupant: Occupant {
                local: local.parse().unwrap(),
                occupation,
                // An id without a name.
                uid: 3_999_999_999,
                inode: 0,
            },
            process: process.map(|(pid, program)| (pid, program.to_owned())),
        }))
    }

    #[test]
    fn each_state_has_words_and_a_remedy() {
        let own = "127.97.202.5";
        let peer = "127.0.0.1:4711".parse().unwrap();
        let nc = Some((4711, "nc"));
        let user = "in use by user 3999999999";
        assert_eq!(
            said(Transport::Tcp, own, Occupation::Open, nc),
            format!("{user}, process 4711 (nc), which listens: end what uses it")
        );
        assert_eq!(
            said(Transport::Tcp, "::", Occupation::Open, None),
            format!("{user}, which listens on ::, which is every address: end what uses it")
        );
        assert_eq!(
            said(Transport::Udp, own, Occupation::Open, None),
            format!("{user}, which receives: end what uses it")
        );
        assert_eq!(
            said(Transport::Tcp, own, Occupation::Bound, nc),
            format!("{user}, process 4711 (nc), which has bound it and does not listen: end what uses it")
        );
        assert_eq!(
            said(Transport::Tcp, own, Occupation::Connected { peer }, nc),
            format!("{user}, process 4711 (nc), which has a connection with 127.0.0.1:4711: end what uses it")
        );
        let state = "TIME_WAIT";
        assert_eq!(
            said(Transport::Tcp, own, Occupation::Closed { peer, state }, None),
            "in use by a connection with 127.0.0.1:4711 that was closed within the last minute (TIME_WAIT): wait a minute"
        );
    }

    #[test]
    fn a_process_is_named_before_a_connection_that_was_closed() {
        let listener = std::net::TcpListener::bind("127.97.202.6:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let endpoint = Endpoint::tcp(Ipv4Addr::new(127, 97, 202, 6), address.port());
        drop(listener.accept().unwrap());
        let found = InTheWay::at(endpoint).unwrap();
        assert_eq!(found.occupant.local, IpAddr::V4(*endpoint.address.ip()));
        assert_eq!(found.process.as_ref().map(|(pid, _)| *pid), Some(std::process::id()));
        assert_eq!(found.occupant.occupation, Occupation::Open);
        drop((listener, client));
        let found = InTheWay::at(endpoint).unwrap();
        assert!(!found.is_of_a_process(), "{found}");
        let nobodys = Endpoint::tcp(Ipv4Addr::new(127, 97, 202, 7), address.port());
        assert!(InTheWay::at(nobodys).is_none());
    }
}
