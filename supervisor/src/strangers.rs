//! Sockets of other users of the machine at hosts' addresses. The kernel lets any user bind a free
//! address of 127.0.0.0/8, or of a local prefix. Traffic of a program to a host must not go to such
//! sockets.
//!
//! The supervisor asks the kernel for the owner of the answering socket ([`imsup_linux::owner`])
//! before a connection or datagram goes out, at most once a second for an endpoint. The broker is
//! asked about an unknown user.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use imsup_linux::owner::{Owner, Owners};
use imsup_wire::{Endpoint, Transport};

/// The owner of the socket that answers at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no socket.
    Nobody,
    /// A socket of the project or of root; or the kernel does not tell.
    Trusted,
    /// A socket of this user, an outsider to the project.
    Stranger(u32),
    /// A socket of this user. The broker is to say if the user is of the project.
    Unknown(u32),
}

/// The known users, and the endpoints of the latest looks.
#[derive(Debug, Default)]
pub struct Strangers {
    owners: Option<Owners>,
    /// The transports about which the kernel cannot be asked.
    blind: Vec<Transport>,
    /// True after the warning that the kernel could not be asked for a moment.
    said_passing: bool,
    /// The endpoints at which a socket of the project was found, with the time.
    looked_at: HashMap<Endpoint, Instant>,
    /// The broker's word on a user at a host's address, with the time.
    users: HashMap<(u32, Ipv4Addr), (bool, Instant)>,
    warned: BTreeSet<(u32, Endpoint)>,
    /// The users as which the program binds; the broker is told.
    binds_as: BTreeSet<u32>,
}

impl Strangers {
    /// For how long a look is trusted, and that a user is a stranger. A port that is retained
    /// cannot become another user's meanwhile.
    const TRUSTED_FOR: Duration = Duration::from_secs(1);
    /// Endpoints, and users, remembered; beyond that, all are looked at anew.
    const CAPACITY: usize = 256;

    /// The owner of the socket that would receive a connection, or datagram, to `endpoint`.
    pub fn look(&mut self, endpoint: Endpoint) -> Standing {
        let lately = |at: &Instant| at.elapsed() < Self::TRUSTED_FOR;
        if self.looked_at.get(&endpoint).is_some_and(lately) {
            return Standing::Trusted;
        }
        let found = self.ask(endpoint.transport, |owners| owners.of(endpoint));
        let was_told = found.is_some();
        let standing = self.judge(found, *endpoint.address.ip());
        if was_told && standing == Standing::Trusted {
            make_room(&mut self.looked_at);
            self.looked_at.insert(endpoint, Instant::now());
        }
        standing
    }

    /// The owner of the socket at the other end of a connection just made from `client`.
    pub fn look_at_server(&mut self, endpoint: Endpoint, client: std::net::SocketAddrV4) -> Standing {
        let found = self.ask(endpoint.transport, |owners| owners.of_server(endpoint.address, client));
        self.judge(found, *endpoint.address.ip())
    }

    /// The kernel's answer; `None` if the kernel cannot be asked, at all or for now.
    ///
    /// Blocking: for no walk. The kernel finds the two ends of one connection by hash.
    fn ask(
        &mut self,
        transport: Transport,
        question: impl FnOnce(&mut Owners) -> io::Result<Option<Owner>>,
    ) -> Option<Option<Owner>> {
        if self.blind.contains(&transport) {
            return None;
        }
        let owners = match self.owners.take() {
            Some(owners) => Ok(owners),
            None => Owners::open(),
        };
        let answer = owners.and_then(|mut owners| {
            let found = question(&mut owners)?;
            self.owners = Some(owners);
            Ok(found)
        });
        match answer {
            Ok(found) => Some(found),
            Err(error) => {
                self.failed(transport, &error);
                None
            }
        }
    }

    /// The kernel could not be asked. It is not asked again if it lacks the function, or forbids
    /// the question.
    fn failed(&mut self, transport: Transport, error: &io::Error) {
        if is_lasting(error) {
            tracing::warn!(
                %error,
                "the kernel does not say whose {transport} sockets answer (sock_diag(7)): other users' at hosts' addresses are not told apart"
            );
            self.blind.push(transport);
        } else if !std::mem::replace(&mut self.said_passing, true) {
            tracing::warn!(
                %error,
                "the kernel could not be asked whose {transport} socket answers (sock_diag(7)): it was taken for the project's. Said once, though it may \
                 happen again"
            );
        }
    }

    fn judge(&self, found: Option<Option<Owner>>, host: Ipv4Addr) -> Standing {
        match found {
            None => Standing::Trusted,
            Some(None) => Standing::Nobody,
            Some(Some(owner)) => self.of_user(owner.uid, host),
        }
    }

    fn of_user(&self, uid: u32, host: Ipv4Addr) -> Standing {
        if uid == 0 || uid == rustix::process::geteuid().as_raw() {
            return Standing::Trusted;
        }
        match self.users.get(&(uid, host)) {
            Some((true, _)) => Standing::Trusted,
            Some((false, at)) if at.elapsed() < Self::TRUSTED_FOR => Standing::Stranger(uid),
            _ => Standing::Unknown(uid),
        }
    }

    /// The broker has said whether a user is of the project of the host with this address.
    pub fn learn(&mut self, uid: u32, host: Ipv4Addr, is_trusted: bool) {
        make_room(&mut self.users);
        self.users.insert((uid, host), (is_trusted, Instant::now()));
    }

    /// The broker is gone, and so are the sockets that only the broker had.
    pub fn forget(&mut self) {
        self.looked_at.clear();
    }

    /// Says once that a stranger answers at an endpoint.
    pub fn say(&mut self, uid: u32, endpoint: Endpoint) {
        if self.warned.len() < Self::CAPACITY && self.warned.insert((uid, endpoint)) {
            tracing::warn!(
                "imsup: user {uid}, who is not of this project, has a socket at {endpoint}, an address of a host: what is sent there is refused \
                 (ECONNREFUSED). The broker's log names the process. See docs/deviations.md#strangers"
            );
        }
    }

    /// Notes that the program binds as this user. True if the user is new.
    pub fn binds_as(&mut self, uid: u32) -> bool {
        self.binds_as.len() < Self::CAPACITY && self.binds_as.insert(uid)
    }

    /// All users as which the program was seen to bind.
    pub fn all_it_binds_as(&self) -> Vec<u32> {
        self.binds_as.iter().copied().collect()
    }
}

/// Whether a question fails each time so.
fn is_lasting(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EPERM | libc::EACCES)
    )
}

fn make_room<K, V>(known: &mut HashMap<K, V>) {
    if known.len() >= Strangers::CAPACITY {
        known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(127, 77, 5, 8);

    #[test]
    fn the_broker_says_of_a_user_whether_he_is_of_the_hosts_project() {
        let mut strangers = Strangers::default();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(strangers.of_user(own, HOST), Standing::Trusted);
        assert_eq!(strangers.of_user(0, HOST), Standing::Trusted);
        let other = own.wrapping_add(4711);
        assert_eq!(strangers.of_user(other, HOST), Standing::Unknown(other));
        strangers.learn(other, HOST, true);
        assert_eq!(strangers.of_user(other, HOST), Standing::Trusted);
        let elsewhere = Ipv4Addr::new(127, 77, 6, 1);
        assert_eq!(
            strangers.of_user(other, elsewhere),
            Standing::Unknown(other),
            "another project's host"
        );
        strangers.learn(other, HOST, false);
        assert_eq!(strangers.of_user(other, HOST), Standing::Stranger(other));
    }

    #[test]
    fn an_error_that_passes_blinds_nobody() {
        let mut strangers = Strangers::default();
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EAGAIN] {
            let found = strangers.ask(Transport::Tcp, |_| Err(io::Error::from_raw_os_error(errno)));
            assert_eq!(found, None);
            assert_eq!(
                strangers.ask(Transport::Tcp, |_| Ok(None)),
                Some(None),
                "after errno {errno}"
            );
        }
        let denied = |_: &mut Owners| Err(io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(strangers.ask(Transport::Udp, denied), None);
        assert_eq!(strangers.ask(Transport::Udp, |_| Ok(None)), None);
        assert_eq!(
            strangers.ask(Transport::Tcp, |_| Ok(None)),
            Some(None),
            "TCP is another matter"
        );
    }

    #[test]
    fn what_was_trusted_unseen_is_looked_at_anew() {
        let mut strangers = Strangers::default();
        let endpoint = Endpoint::udp(HOST, 9);
        strangers.blind.push(Transport::Udp);
        assert_eq!(strangers.look(endpoint), Standing::Trusted);
        assert!(strangers.looked_at.is_empty());
    }

    #[test]
    fn users_are_asked_for_anew_beyond_those_remembered() {
        let mut strangers = Strangers::default();
        for uid in 1..=Strangers::CAPACITY as u32 + 1 {
            strangers.learn(uid + 100_000, HOST, true);
        }
        assert_eq!(strangers.users.len(), 1);
    }
}
