//! Sockets of programs that ask a name server over UDP: a socket of the resolvers' namespace
//! ([`crate::resolvers`]) replaces the program's own.
//!
//! Only a socket that the program has just made is replaced: no data waits in the socket, and no
//! thread waits for it except by epoll instances. The new socket is registered with these instances
//! like the old socket (Netty, tokio, asyncio register before they ask). Any other socket is
//! redirected to the address of the project's name server, whose answers most resolvers take.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_wire::Transport;
use nix::errno::Errno;

use super::{Verdict, socket_of};
use crate::host::{Descriptors, Host};
use crate::pending::{PendingCall, Until, Waiting};
use crate::resolvers::{Namespace, Supply};
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::replace::{self, Uses};
use imsup_linux::socket::{self, Family, InetSocket};
use imsup_linux::{inspect, process, settings, source};

/// The longest wait of a query for a socket; the program may do no other work meanwhile. After that
/// time the socket is redirected to the name server unchanged.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The loopback device, the only device of the namespace (drivers/net/loopback.c).
const LOOPBACK_INDEX: u32 = 1;

/// The socket that sends a program's datagrams to the name server.
#[derive(Debug)]
pub(super) enum Asking {
    /// A socket of the resolvers' namespace, in which every name server is reached at its own
    /// address. `None` for the program's own socket; otherwise the socket that is in its place now.
    Anywhere(Option<OwnedFd>),
    /// The program's own socket: queries must be redirected to the name server.
    Redirected,
}

/// Connects a datagram socket to the name server at `server` in the resolvers' namespace; `None` if
/// the socket must be redirected instead.
pub(super) fn connect(
    host: &mut Host,
    call: &Notification,
    own: &OwnedFd,
    kind: &InetSocket,
    server: SocketAddr,
) -> Option<Verdict> {
    match swap(host, call, own, kind, Some(server)) {
        Ok(Asking::Anywhere(Some(_))) => Some(Answer::Value(0).into()),
        Ok(Asking::Anywhere(None)) => {
            if kind.is_unbound() && is_v4(server) {
                // The source tells the name server which host asks.
                let _ = source::bind_source(own.as_fd(), kind.family, host.identity.vip());
            }
            Some(Answer::Continue.into())
        }
        Ok(Asking::Redirected) => None,
        Err(verdict) => Some(verdict),
    }
}

/// The socket from which a program's datagrams reach the name server.
///
/// # Errors
/// The verdict for the call; mostly that the call waits for the broker.
pub(super) fn to_send(
    host: &mut Host,
    call: &Notification,
    own: &OwnedFd,
    kind: &InetSocket,
    servers: impl IntoIterator<Item = SocketAddr>,
) -> Result<Asking, Verdict> {
    // The interface of a link-local address, which the program says with each, is not in the
    // namespace.
    let is_ours = |host: &mut Host| host.resolvers.namespace_of(own.as_fd()) == Namespace::Own;
    if servers.into_iter().any(is_link_local) && is_ours(host) {
        return Ok(Asking::Redirected);
    }
    swap(host, call, own, kind, None)
}

/// Replaces the program's own socket by a socket of the resolvers' namespace, connected to
/// `server`. No replacement if the own socket is already of that namespace, or cannot be replaced.
fn swap(
    host: &mut Host,
    call: &Notification,
    own: &OwnedFd,
    kind: &InetSocket,
    server: Option<SocketAddr>,
) -> Result<Asking, Verdict> {
    match host.resolvers.namespace_of(own.as_fd()) {
        Namespace::Resolvers => return Ok(Asking::Anywhere(None)),
        Namespace::Own | Namespace::Left => {}
        Namespace::Other => return Ok(Asking::Redirected),
    }
    let Some(uses) = replaceable(host, call, own, kind) else {
        return Ok(Asking::Redirected);
    };
    let supply = host.resolvers.take(kind.family);
    if host.resolvers.wants_more() {
        host.link.send(&ToBroker::ResolverSockets, Vec::new());
    }
    let socket = match supply {
        Supply::Socket(socket) => socket,
        Supply::None => return Ok(Asking::Redirected),
        Supply::Awaited if host.link.socket().is_none() => return Ok(Asking::Redirected),
        Supply::Awaited => match pending(host, call) {
            Some(pending) => return Err(Verdict::Pending(Box::new(pending))),
            None => return Ok(Asking::Redirected),
        },
    };
    match install(host, call, own, kind, &socket, server, &uses) {
        Ok(()) => {
            host.resolvers.note_replaced(&uses.numbers);
            host.trace.decided(&"a socket of the resolvers' in its place");
            Ok(Asking::Anywhere(Some(socket)))
        }
        Err(Errno::ENOENT) => Err(Verdict::Done),
        Err(errno) => {
            tracing::debug!(%errno, "a resolver's socket could not be replaced");
            Ok(Asking::Redirected)
        }
    }
}

/// Moves a socket that once asked a name server, and now goes elsewhere, back to our namespace.
/// Returns the replacement and its kind.
pub(super) fn bring_back(
    host: &mut Host,
    call: &Notification,
    own: OwnedFd,
    kind: InetSocket,
) -> (OwnedFd, InetSocket) {
    if kind.transport != Transport::Udp
        || !host.resolvers.has_replaced(call.fd(0))
        || host.resolvers.namespace_of(own.as_fd()) == Namespace::Own
    {
        return (own, kind);
    }
    let domain = match kind.family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let asked = socket::cookie(own.as_fd())
        .map(|cookie| host.sockets.get(cookie).bound)
        .unwrap_or_default();
    // If the program did not bind the socket, its address was chosen here, to ask from the VIP.
    let local = asked.map_or(SocketAddr::new(kind.family.wildcard(), 0), |_| kind.local);
    let made = inspect::as_owner(call.tid, || socket::make(domain, libc::SOCK_DGRAM, 0));
    let replaced = made.and_then(|new| {
        let inode = socket::inode(own.as_fd())?;
        let uses = replace::uses(call.tid, inode).ok_or(Errno::EBUSY)?;
        install(host, call, &own, &InetSocket { local, ..kind }, &new, None, &uses)?;
        host.resolvers.note_back(call.fd(0));
        Ok(new)
    });
    match replaced {
        Ok(new) => match InetSocket::inspect(new.as_fd()) {
            Some(kind) => (new, kind),
            None => (own, kind),
        },
        Err(errno) => {
            tracing::debug!(%errno, "a resolver's socket could not be brought back");
            (own, kind)
        }
    }
}

/// The same, before a call that is left to the kernel.
pub(super) fn bring_back_to_leave(host: &mut Host, call: &Notification) {
    if host.resolvers.has_replaced(call.fd(0))
        && let Ok((socket, kind)) = socket_of(host, call)
    {
        bring_back(host, call, socket, kind);
    }
}

/// The uses of the program's socket; `None` if the program has not just made the socket, or if the
/// socket may have invisible uses.
fn replaceable(host: &Host, call: &Notification, own: &OwnedFd, kind: &InetSocket) -> Option<Uses> {
    let socket = own.as_fd();
    if socket::peer_address(socket).is_ok() || socket::is_readable(socket) || socket::is_bound_to_device(socket) {
        return None;
    }
    // Other programs may send to a port that the program chose.
    let is_chosen = kind.local_v4().is_some_and(|local| host.identity.owns(*local.ip()));
    let is_fresh = || socket::cookie(socket).is_ok_and(|cookie| host.resolvers.is_bound_lately(cookie));
    if is_chosen && !is_fresh() {
        return None;
    }
    let uses = replace::uses(call.tid, socket::inode(socket).ok()?)?;
    uses.numbers.contains(&call.fd(0)).then_some(uses)
}

/// Prepares a socket like the program's own, and puts the socket in the place of the program's own.
fn install(
    host: &mut Host,
    call: &Notification,
    own: &OwnedFd,
    kind: &InetSocket,
    new: &OwnedFd,
    server: Option<SocketAddr>,
    uses: &Uses,
) -> Result<(), Errno> {
    let (number, vip) = (call.fd(0), host.identity.vip());
    settings::copy(own.as_fd(), new.as_fd())?;
    if kind.family == Family::V6 && socket::is_v6only(own.as_fd()) {
        socket::set_v6only(new.as_fd())?;
    }
    // The source tells the name server which host asks. Datagrams without a connection have the
    // source in their control data.
    let from_vip = server.is_some_and(is_v4);
    let asked = socket::cookie(own.as_fd())
        .map(|cookie| host.sockets.get(cookie).bound)
        .unwrap_or_default();
    let at_wildcard = asked.unwrap_or(kind.local).ip().is_unspecified();
    match kind.local.port() {
        0 if from_vip => source::bind_source(new.as_fd(), kind.family, vip)?,
        0 => {}
        port if at_wildcard => {
            let ip = if from_vip { vip } else { Ipv4Addr::UNSPECIFIED };
            let address = |port| match (kind.family, from_vip) {
                (Family::V6, false) => SocketAddr::new(kind.family.wildcard(), port),
                _ => kind.family.form(SocketAddrV4::new(ip, port)),
            };
            match socket::bind(new.as_fd(), address(port)) {
                // Another host's resolver has the port.
                Err(Errno::EADDRINUSE) => socket::bind(new.as_fd(), address(0))?,
                result => result?,
            }
        }
        port => match socket::bind(new.as_fd(), kind.local) {
            Err(Errno::EADDRINUSE) if port != 0 => socket::bind(new.as_fd(), SocketAddr::new(kind.local.ip(), 0))?,
            result => result?,
        },
    }
    if let Some(server) = server {
        socket::connect(new.as_fd(), in_namespace(server))?;
    }
    let cookie = socket::cookie(own.as_fd());
    let is_still_there = match host.socket(call.tid, number) {
        Ok(now) => socket::cookie(now.as_fd()) == cookie,
        Err(_) => false,
    };
    if !is_still_there {
        return Err(Errno::EBADF);
    }
    // If the replacement fails, these go with the new socket.
    for registration in &uses.registrations {
        let epoll = host.duplicate(call.tid, registration.epoll)?;
        replace::register(&epoll, new.as_fd(), registration)?;
    }
    for number in &uses.numbers {
        let cloexec = process::is_cloexec(call.tid, *number);
        host.listener.replace_fd(call.id, *number, new.as_fd(), cloexec)?;
    }
    remember(host, own, kind, new, from_vip);
    Ok(())
}

/// A server's address as reached in the namespace.
fn in_namespace(server: SocketAddr) -> SocketAddr {
    match server {
        SocketAddr::V6(v6) if is_link_local(server) => {
            SocketAddrV6::new(*v6.ip(), v6.port(), v6.flowinfo(), LOOPBACK_INDEX).into()
        }
        _ => server,
    }
}

fn is_link_local(server: SocketAddr) -> bool {
    matches!(server, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local())
}

fn is_v4(server: SocketAddr) -> bool {
    server.ip().to_canonical().is_ipv4()
}

/// Transfers the remembered state of the program's own socket to the new socket.
fn remember(host: &mut Host, own: &OwnedFd, kind: &InetSocket, new: &OwnedFd, from_vip: bool) {
    if let (Ok(old), Ok(cookie)) = (socket::cookie(own.as_fd()), socket::cookie(new.as_fd())) {
        let mut bound = host.sockets.get(old).bound;
        if from_vip && bound.is_none() && !kind.is_unbound() && kind.local.ip().is_unspecified() {
            bound = Some(SocketAddr::new(kind.local.ip(), 0));
        }
        host.sockets.update(cookie, |entry| entry.bound = bound);
    }
    host.give_up_copy(own.as_fd());
    if let Descriptors::Mirrored(mirror) = &mut host.descriptors
        && let (Ok(inode), Ok(copy)) = (socket::inode(new.as_fd()), socket::duplicate(new))
    {
        mirror.keep(inode, copy);
    }
}

/// Keeps the call pending for the broker, which has, or will start, the process that makes sockets;
/// `None` if the call has waited long enough.
fn pending(host: &Host, call: &Notification) -> Option<PendingCall> {
    let now = Instant::now();
    let anew = host.begun_anew.filter(|(anew, _)| *anew == call.id);
    let since = anew.map_or(now, |(_, since)| since);
    let deadline = since + TIMEOUT;
    (now < deadline).then_some(PendingCall {
        tid: call.tid,
        since,
        deadline,
        // The call is begun anew at the deadline.
        timeout_errno: Errno::EAGAIN as i32,
        waiting: Waiting::Anew {
            call: *call,
            until: Until::ResolverSockets,
        },
    })
}
