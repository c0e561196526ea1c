//! bind(2).

mod install;
mod machine_local;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use imsup_protocol::ToBroker;
use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

pub use self::install::keep_claimed;
use self::install::{beside_published, install};
pub(super) use self::machine_local::is_bound_machine_local;
use self::machine_local::{bind_machine_local, forget_native, is_beside_machine_local};
use super::{Sockaddr, Verdict, conflict, leave, read_sockaddr, socket_of, vet};
use crate::host::bound;
use crate::host::closed_listeners::{self, Vetted};
use crate::host::{Descriptors, Host};
use crate::identity::{BindAddress, Identity};
use crate::pending::{BindStage, PendingBind, PendingCall, Waiting};
use crate::unhonoured::Unhonoured;
use imsup_linux::guard;
use imsup_linux::holders::Place;
use imsup_linux::memory::ThreadMemory;
use imsup_linux::notify::{Answer, Notification, NotificationId};
use imsup_linux::privileges;
use imsup_linux::socket::{self, Family, InetSocket, as_v4};

/// The first port that any user may bind (ip(7), ip_unprivileged_port_start).
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Sockets retained at most.
const MAX_RETAINED: usize = 1024;

/// The treatment of a bind.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Left to the kernel unchanged.
    Native,
    /// Fails.
    Refuse(Errno),
    /// Fails: the port needs a privilege that the program has not.
    Privileged,
    /// Answered, and carried out when the program listens or asks for its address: the wildcard
    /// with port 0, TCP. A program that then connects out of the planes must not be bound to an
    /// address in the planes.
    Later,
    /// Carried out here, on the requested address of the machine and a port that the kernel
    /// chooses, so that no two hosts clash. For the UDP wildcard, which may send to hosts and out
    /// of the planes by turns. For UDP localhost, so that its datagrams have the source that the
    /// program expects. For `::1`, which has no equivalent in the planes.
    MachineLocal,
    /// Carried out here.
    At(Endpoint),
}

/// Handles bind(2).
pub(super) fn bind(host: &mut Host, call: &Notification) -> Verdict {
    let address = match read_sockaddr(ThreadMemory::of(call.tid), call.args[1], call.args[2]) {
        Ok(Sockaddr::Inet(address)) => address,
        Ok(Sockaddr::Unspecified | Sockaddr::Other) => return Answer::Continue.into(),
        Err(why) => return leave(host, call, why),
    };
    let (socket, kind) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    host.make_way(socket.as_fd(), address.port());
    let v6only = kind.family == Family::V6 && socket::is_v6only(socket.as_fd());
    let plan = match decide(&host.identity, &kind, address, v6only) {
        // The holder of the port is on the machine's own address. A bind there conflicts with the
        // holder as natively, or shares the port.
        Plan::At(_) if is_beside_machine_local(host, &kind, address) => Plan::MachineLocal,
        Plan::At(mut endpoint)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && !v6only
                && conflict::is_beside_v4(host, socket.as_fd(), endpoint) =>
        {
            endpoint.address.set_ip(host.identity.v6_shadow());
            Plan::At(endpoint)
        }
        plan => plan,
    };
    let plan = match plan {
        Plan::At(_) | Plan::MachineLocal if !privileges::may_bind(call.tid, address.port()) => Plan::Privileged,
        plan => plan,
    };
    host.trace.decided(&plan);
    match plan {
        Plan::Native => Answer::Continue.into(),
        Plan::Refuse(errno) => {
            host.warned.once(call.tid, Unhonoured::ForeignBind);
            errno.into()
        }
        Plan::Privileged => Errno::EACCES.into(),
        Plan::Later => later(host, &socket, address),
        Plan::MachineLocal => bind_machine_local(host, &socket, kind.transport, address, v6only).into(),
        Plan::At(endpoint) => {
            let pending = PendingBind {
                socket,
                number: call.fd(0),
                endpoint,
                family: kind.family,
                asked: address,
                stage: BindStage::Claim,
            };
            at(host, call, pending)
        }
    }
}

fn decide(identity: &Identity, socket: &InetSocket, address: SocketAddr, v6only: bool) -> Plan {
    let fits = matches!(
        (socket.family, address),
        (Family::V4, SocketAddr::V4(_)) | (Family::V6, SocketAddr::V6(_))
    );
    // A second bind is EINVAL, which the kernel says itself.
    if !fits || !socket.is_unbound() {
        return Plan::Native;
    }
    // An IPv6-only socket refuses v4-mapped addresses.
    if v6only && as_v4(address).is_some_and(|v4| !v4.ip().is_unspecified()) {
        return Plan::Native;
    }
    let ip = match identity.bind_address(address, v6only) {
        BindAddress::Foreign => return Plan::Native,
        BindAddress::NotAvailable => return Plan::Refuse(Errno::EADDRNOTAVAIL),
        BindAddress::Own(ip) => ip,
    };
    if address.port() == 0 {
        let is_any = address.ip().is_unspecified();
        let is_v6_localhost = address.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST);
        let is_localhost = is_v6_localhost || as_v4(address).is_some_and(|v4| *v4.ip() == Ipv4Addr::LOCALHOST);
        match socket.transport {
            Transport::Tcp if is_any => return Plan::Later,
            Transport::Tcp if is_v6_localhost => return Plan::MachineLocal,
            Transport::Udp if is_any || is_localhost => return Plan::MachineLocal,
            _ => {}
        }
    }
    Plan::At(Endpoint {
        transport: socket.transport,
        address: SocketAddrV4::new(ip, address.port()),
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("left to the kernel"),
            Self::Refuse(_) => f.write_str("another host's address"),
            Self::Privileged => f.write_str("a port for which the program lacks the privilege"),
            Self::Later => f.write_str("put off until its use is known"),
            Self::MachineLocal => f.write_str("the machine's own address"),
            Self::At(endpoint) => endpoint.fmt(f),
        }
    }
}

fn later(host: &mut Host, socket: &OwnedFd, asked: SocketAddr) -> Verdict {
    let Ok(cookie) = socket::cookie(socket.as_fd()) else {
        return Answer::Continue.into();
    };
    if host.sockets.get(cookie).bind_later {
        return Errno::EINVAL.into();
    }
    host.sockets.update(cookie, |entry| {
        entry.bound = Some(asked);
        entry.bind_later = true;
    });
    Answer::Value(0).into()
}

/// Binds a socket to the host's VIP and a port that the kernel chooses: the bind that
/// [`Plan::Later`] put off, or the implicit bind of listen(2).
///
/// # Errors
/// Errors of bind(2).
pub(super) fn bind_wildcard_now(host: &mut Host, socket: &OwnedFd, family: Family) -> Result<(), Errno> {
    let v6only = family == Family::V6 && socket::is_v6only(socket.as_fd());
    let ip = if v6only {
        host.identity.v6_shadow()
    } else {
        host.identity.vip()
    };
    bind_in_plane(socket.as_fd(), family, SocketAddrV4::new(ip, 0))?;
    forget_native(host, socket);
    if let Some(kind) = InetSocket::inspect(socket.as_fd()) {
        bound::note(host, socket.as_fd(), kind.transport, family.wildcard());
    }
    Ok(())
}

fn at(host: &mut Host, call: &Notification, mut bind: PendingBind) -> Verdict {
    let v6only = bind.family == Family::V6 && socket::is_v6only(bind.socket.as_fd());
    if conflict::is_taken(host, bind.socket.as_fd(), bind.endpoint.transport, bind.asked, v6only) {
        return Errno::EADDRINUSE.into();
    }
    set_misfits_apart(host, &bind);
    if host.retained.is_waiting(bind.endpoint) {
        return install(host, call.id, call.tid, &bind).into();
    }
    // imsup too closes the sockets that the program has closed at this address, so that the kernel
    // alone decides.
    bind.stage = match closed_listeners::vet(host, bind.endpoint) {
        Vetted::Settled => match bind_own(host, call.tid, &bind) {
            Ok(()) => {
                note_fresh(host, &bind);
                return Answer::Value(0).into();
            }
            Err(Errno::EADDRINUSE) if host.sees_all_listeners() => {
                ask(host, call.id, &bind);
                BindStage::Claim
            }
            Err(errno) => return errno.into(),
        },
        Vetted::Closing => BindStage::Closing,
        Vetted::Search(number) => BindStage::Search(number),
    };
    let now = Instant::now();
    Verdict::Pending(Box::new(PendingCall {
        tid: call.tid,
        since: now,
        deadline: now + host.hold_timeout,
        timeout_errno: Errno::EADDRINUSE as i32,
        waiting: Waiting::Bind(bind),
    }))
}

/// Takes out the retained AF_INET6 listeners if a program of AF_INET binds. The program keeps its
/// own listener, and connections that wait in the retained listeners are handed over
/// ([`crate::handover`]).
fn set_misfits_apart(host: &mut Host, bind: &PendingBind) {
    if bind.endpoint.transport != Transport::Tcp || !host.handovers.are_possible() {
        return;
    }
    host.handovers.bound_anew(bind.endpoint);
    if bind.family == Family::V6 {
        for retained in host.handovers.take_back(bind.endpoint) {
            keep_claimed(host, retained);
        }
        return;
    }
    let is_v6 = |socket: &OwnedFd| InetSocket::inspect(socket.as_fd()).is_some_and(|kind| kind.family == Family::V6);
    for retained in host.retained.remove_waiting(bind.endpoint, is_v6) {
        host.handovers.add(bind.endpoint, retained);
    }
}

/// Binds the program's own socket. A failure restores the socket's options: the program may try
/// another port.
fn bind_own(host: &mut Host, tid: i32, bind: &PendingBind) -> Result<(), Errno> {
    let socket = bind.socket.as_fd();
    if let Err(errno) = host.handovers.share(bind.endpoint, socket) {
        tracing::warn!(endpoint = %bind.endpoint, %errno, "a listener that is retained is in the program's way");
    }
    // A listener is closed to other machines at listen(2).
    let is_kept =
        bind.endpoint.transport == Transport::Udp && guard::keep_neighbours_out(socket, *bind.endpoint.address.ip());
    if let Err(errno) = bind_in_plane(socket, bind.family, bind.endpoint.address) {
        host.handovers.share_no_more(socket);
        if is_kept {
            guard::let_neighbours_in(socket);
        }
        return Err(errno);
    }
    if !socket::may_share(socket, bind.endpoint.transport) {
        host.closed_listeners.bound_alone(bind.endpoint);
    }
    bound(host, tid, &bind.socket, bind);
    Ok(())
}

/// Binds a socket to an address in the planes, which are IPv4, even if the socket is IPv6 only.
fn bind_in_plane(socket: BorrowedFd<'_>, family: Family, address: SocketAddrV4) -> Result<(), Errno> {
    let v6only = family == Family::V6 && socket::is_v6only(socket);
    if v6only {
        socket::clear_v6only(socket)?;
    }
    let result = socket::bind(socket, family.form(address));
    if result.is_err() && v6only {
        socket::set_v6only(socket)?;
    }
    result
}

/// Asks the broker for the holder of an address: the program itself, or the broker.
fn ask(host: &mut Host, id: NotificationId, bind: &PendingBind) {
    let claim = ToBroker::Claim {
        id: id.number(),
        endpoint: bind.endpoint,
    };
    host.link.send(&claim, Vec::new());
}

/// The broker has closed a socket, or a search is over: goes on with a bind that waits for that
/// event. `None` if the bind goes on waiting.
pub fn bind_again(host: &mut Host, id: NotificationId, pending: &mut PendingCall) -> Option<Answer> {
    let tid = pending.tid;
    let Waiting::Bind(bind) = &mut pending.waiting else {
        return None;
    };
    let endpoint = bind.endpoint;
    match bind.stage {
        BindStage::Claim => return None,
        BindStage::Closing if host.closed_listeners.is_closing(endpoint) => return None,
        BindStage::Search(number) | BindStage::LastSearch(number) if !host.closed_listeners.has_searched(number) => {
            return None;
        }
        _ => {}
    }
    if !host.listener.is_valid(id) {
        return Some(Answer::Continue);
    }
    set_misfits_apart(host, bind);
    match bind.stage {
        BindStage::Search(_) if host.retained.is_waiting(endpoint) => return Some(install(host, id, tid, bind)),
        BindStage::Search(_) if host.closed_listeners.is_closing(endpoint) => {
            bind.stage = BindStage::Closing;
            return None;
        }
        BindStage::LastSearch(_) if host.retained.knows(endpoint) => return Some(Answer::errno(Errno::EADDRINUSE)),
        BindStage::LastSearch(_) => {}
        BindStage::Claim | BindStage::Closing | BindStage::Search(_) => match bind_own(host, tid, bind) {
            Err(Errno::EADDRINUSE) => {}
            result => return Some(result.into()),
        },
    }
    if bind.stage == BindStage::Closing {
        // The program may have the socket at another place.
        bind.stage = BindStage::LastSearch(host.closed_listeners.search());
        return None;
    }
    bind.stage = BindStage::Claim;
    ask(host, id, bind);
    if host.link.socket().is_none() {
        return Some(claimed(host, id, pending, None));
    }
    None
}

/// The broker answered a [`ToBroker::Claim`].
pub fn claimed(host: &mut Host, id: NotificationId, pending: &PendingCall, found: Option<OwnedFd>) -> Answer {
    let Waiting::Bind(bind) = &pending.waiting else {
        return Answer::Continue;
    };
    if let Some(socket) = found {
        keep_claimed(host, socket);
    }
    if !host.listener.is_valid(id) {
        return Answer::Continue;
    }
    set_misfits_apart(host, bind);
    if !host.retained.is_waiting(bind.endpoint) && host.handovers.share(bind.endpoint, bind.socket.as_fd()) == Ok(true)
    {
        return bind_own(host, pending.tid, bind).into();
    }
    match install(host, id, pending.tid, bind) {
        Answer::Errno(errno) if errno == Errno::EADDRINUSE as i32 && !host.retained.knows(bind.endpoint) => {
            beside_published(host, pending.tid, bind)
        }
        answer => answer,
    }
}

/// A datagram socket at a port that was neither declared nor in use before may be a socket for a
/// query to a name server.
fn note_fresh(host: &mut Host, bind: &PendingBind) {
    if bind.endpoint.transport == Transport::Udp
        && bind.endpoint.address.port() >= FIRST_UNPRIVILEGED
        && let Ok(cookie) = socket::cookie(bind.socket.as_fd())
    {
        host.resolvers.note_bind(cookie);
    }
}

/// Remembers the requested address. A datagram socket receives from now on.
fn bound(host: &mut Host, tid: i32, socket: &OwnedFd, bind: &PendingBind) {
    host.note_step();
    vet::note_user(host, socket);
    if let Descriptors::Mirrored(mirror) = &mut host.descriptors {
        mirror.bound_to_localhost |= *bind.endpoint.address.ip() != host.identity.vip();
    }
    if let Ok(cookie) = socket::cookie(socket.as_fd()) {
        host.sockets.update(cookie, |entry| entry.bound = Some(bind.asked));
    }
    if bind.endpoint.transport == Transport::Udp {
        host.has_bound_datagrams = true;
    }
    forget_native(host, socket);
    bound::note(host, socket.as_fd(), bind.endpoint.transport, bind.asked.ip());
    if bind.endpoint.transport != Transport::Udp {
        return;
    }
    if bind.endpoint.address.port() == 0 {
        // The v4-mapped wildcard: its port alone is not to be retained.
        let local = socket::local_address(socket.as_fd()).and_then(as_v4);
        if let (Some(local), Some(wildcard)) = (local, wildcard_of(bind.asked)) {
            let endpoint = Endpoint::udp(*local.ip(), local.port());
            note_listen_target(host, endpoint, Some(wildcard));
        }
        return;
    }
    let place = Place {
        tid,
        number: bind.number,
    };
    retain(host, bind.endpoint, socket, wildcard_of(bind.asked), 0, place);
}

/// The wildcard of an address, in the family of the traffic that it takes: the v4-mapped wildcard
/// takes IPv4 only. `None` if the address is no wildcard.
pub(super) fn wildcard_of(asked: SocketAddr) -> Option<IpAddr> {
    match asked.ip() {
        IpAddr::V6(v6) if v6.is_unspecified() => Some(v6.into()),
        ip => as_v4(SocketAddr::new(ip, 0))
            .map(|v4| IpAddr::V4(*v4.ip()))
            .filter(IpAddr::is_unspecified),
    }
}

/// Remembers the endpoint on which the program listens for a wildcard, or for its own localhost.
pub(super) fn note_listen_target(host: &mut Host, endpoint: Endpoint, wildcard: Option<IpAddr>) {
    if wildcard.is_some() || *endpoint.address.ip() != host.identity.vip() {
        let is_bound = |known| socket::probe(known) == Err(Errno::EADDRINUSE);
        host.retained.note_listen_target(endpoint, wildcard, is_bound);
    }
}

/// Hands a socket that now listens, or receives datagrams, to the broker.
pub(super) fn retain(
    host: &mut Host,
    endpoint: Endpoint,
    socket: &OwnedFd,
    wildcard: Option<IpAddr>,
    backlog: i32,
    place: Place,
) {
    // A command of `imsup exec` is never booted: its sockets end with the command, and the next
    // command may have the port.
    if !host.sees_all_listeners() {
        return;
    }
    note_listen_target(host, endpoint, wildcard);
    // The broker retains as many sockets of one host. More sockets would use up the descriptors by
    // which all calls are carried out, since the program's close(2) is not seen.
    if host.retained.count() >= MAX_RETAINED {
        tracing::debug!(%endpoint, "too many sockets; this one is not retained");
        return;
    }
    let duplicates = (|| {
        let inode = socket::inode(socket.as_fd())?;
        Ok::<_, Errno>((inode, socket::duplicate(socket)?, socket::duplicate(socket)?))
    })();
    match duplicates {
        // Some servers connect their socket to a client and bind another socket for the next
        // client. One of the sockets keeps the port.
        Ok((inode, ..)) if endpoint.transport == Transport::Udp && host.retained.has_another(endpoint, inode) => {}
        Ok((inode, ours, brokers)) => {
            // A second listen changes the backlog only.
            if host
                .retained
                .add_listening(endpoint, ours, inode, backlog, place.of_process(inode))
            {
                if let Some(socket) = host.retained.by_inode(inode) {
                    host.closed_listeners.watch(socket.as_fd(), inode);
                }
                host.announce(endpoint, brokers);
                // The retained duplicate stands for a copy.
                host.give_up_copy(socket.as_fd());
            }
        }
        Err(errno) => {
            tracing::warn!(%endpoint, %errno, "a socket could not be retained: the host will not be woken by it")
        }
    }
}

/// The endpoint of a socket in the planes; `None` for a socket elsewhere.
pub(super) fn endpoint_of(identity: &Identity, socket: &InetSocket) -> Option<Endpoint> {
    let address = socket.local_v4()?;
    let own = identity.owns(*address.ip());
    (own && *address.ip() != Ipv4Addr::UNSPECIFIED).then_some(Endpoint {
        transport: socket.transport,
        address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::identity;

    fn plan(family: Family, local: &str, to: &str, v6only: bool) -> Plan {
        plan_for(Transport::Tcp, family, local, to, v6only)
    }

    fn plan_for(transport: Transport, family: Family, local: &str, to: &str, v6only: bool) -> Plan {
        let socket = InetSocket {
            family,
            transport,
            local: local.parse().unwrap(),
        };
        decide(&identity(), &socket, to.parse().unwrap(), v6only)
    }

    fn at(text: &str) -> Plan {
        Plan::At(Endpoint {
            transport: Transport::Tcp,
            address: text.parse().unwrap(),
        })
    }

    #[test]
    fn every_host_has_its_own_wildcard_and_localhost() {
        let (v4, v6) = ("0.0.0.0:0", "[::]:0");
        assert_eq!(plan(Family::V4, v4, "0.0.0.0:80", false), at("127.77.5.7:80"));
        assert_eq!(plan(Family::V6, v6, "[::]:80", false), at("127.77.5.7:80"));
        assert_eq!(plan(Family::V6, v6, "[::]:80", true), at("127.79.5.7:80"));
        assert_eq!(plan(Family::V4, v4, "127.0.0.1:6379", false), at("127.78.5.7:6379"));
        assert_eq!(plan(Family::V6, v6, "[::1]:6379", true), at("127.79.5.7:6379"));
        assert_eq!(plan(Family::V4, v4, "127.0.0.1:0", false), at("127.78.5.7:0"));
    }

    #[test]
    fn what_is_not_known_yet_is_put_off() {
        assert_eq!(plan(Family::V4, "0.0.0.0:0", "0.0.0.0:0", false), Plan::Later);
        assert_eq!(plan(Family::V6, "[::]:0", "[::]:0", false), Plan::Later);
        let udp = |family, any| plan_for(Transport::Udp, family, any, any, false);
        assert_eq!(udp(Family::V4, "0.0.0.0:0"), Plan::MachineLocal);
        assert_eq!(udp(Family::V6, "[::]:0"), Plan::MachineLocal);
    }

    #[test]
    fn ports_of_the_kernels_choice_need_no_address_of_their_own() {
        let on = |transport, family, to| {
            plan_for(
                transport,
                family,
                if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" },
                to,
                false,
            )
        };
        assert_eq!(on(Transport::Udp, Family::V4, "127.0.0.1:0"), Plan::MachineLocal);
        assert_eq!(
            on(Transport::Udp, Family::V6, "[::ffff:127.0.0.1]:0"),
            Plan::MachineLocal
        );
        assert_eq!(on(Transport::Udp, Family::V6, "[::1]:0"), Plan::MachineLocal);
        assert_eq!(on(Transport::Tcp, Family::V6, "[::1]:0"), Plan::MachineLocal);
        assert_eq!(on(Transport::Tcp, Family::V4, "127.0.0.1:0"), at("127.78.5.7:0"));
        assert_ne!(on(Transport::Udp, Family::V4, "127.0.0.1:53"), Plan::MachineLocal);
        assert_ne!(on(Transport::Udp, Family::V4, "127.77.5.7:0"), Plan::MachineLocal);
    }

    #[test]
    fn the_kernel_says_what_is_wrong() {
        assert_eq!(
            plan(Family::V4, "127.77.5.7:80", "0.0.0.0:81", false),
            Plan::Native,
            "bound already"
        );
        assert_eq!(
            plan(Family::V4, "0.0.0.0:0", "[::]:80", false),
            Plan::Native,
            "the family does not fit"
        );
        assert_eq!(
            plan(Family::V6, "[::]:0", "[::ffff:127.0.0.1]:80", true),
            Plan::Native,
            "IPv6 only"
        );
        assert_eq!(
            plan(Family::V4, "0.0.0.0:0", "127.77.5.8:80", false),
            Plan::Refuse(Errno::EADDRNOTAVAIL),
            "another host's address"
        );
    }
}
