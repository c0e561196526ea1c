//! sendto(2), sendmsg(2) and sendmmsg(2) with a destination.
//!
//! A datagram to a host comes from the sender's VIP. A socket that is bound to the VIP sends
//! natively. An unbound socket, or a socket bound to the wildcard and a port of the kernel's
//! choice, stays on the machine's wildcard. There, such a socket reaches the outside world too. The
//! supervisor sends the socket's datagrams to hosts on behalf of the program, with their source as
//! control data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use imsup_bpf_filters::{Handler, handler_of};
use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use super::datagram::{Plan, decide, is_at_wildcard_alone, is_bound};
use super::home::{is_native, is_on_planes, is_on_v6, move_home};
use super::redirect::ask_for_datagram;
use super::resolver::{self, Asking};
use super::{MAX_SOCKADDR_BYTES, Verdict, leave, read_sockaddr, socket_of, takes_v4, vet};
use crate::host::Host;
use crate::identity::Destination;
use crate::pending::{PendingCall, Waiting};
use crate::questions::is_projects;
use crate::unhonoured::Unhonoured;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::message::{self, Header};
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::socket::{self, Family, InetSocket, as_v4};

/// A call's datagrams.
struct Outgoing {
    datagrams: Vec<Datagram>,
    flags: i32,
    /// The address of the `struct mmsghdr`s that report the number of bytes sent of each message
    /// (sendmmsg).
    entries: Option<u64>,
}

/// A datagram as given by the program.
struct Datagram {
    /// True if the datagram has a destination.
    is_named: bool,
    /// The destination, if an IPv4 or IPv6 address.
    to: Option<SocketAddr>,
    body: Body,
}

/// The place of a datagram's bytes.
enum Body {
    /// In a single buffer (sendto).
    Buffer { at: u64, bytes: u64 },
    /// In a message's vectors.
    Message(Header),
}

impl Body {
    /// The bytes and the control data.
    fn read(&self, memory: ThreadMemory) -> Result<(Vec<u8>, Vec<u8>), Errno> {
        match self {
            Self::Buffer { bytes, .. } if *bytes > message::MAX_DATAGRAM_BYTES => Err(Errno::EMSGSIZE),
            Self::Buffer { at, bytes } => {
                let length = usize::try_from(*bytes).map_err(|_| Errno::EMSGSIZE)?;
                Ok((memory.read_vec(*at, length)?, Vec::new()))
            }
            Self::Message(header) => Ok((header.payload(&memory)?, header.control(&memory)?)),
        }
    }
}

impl Outgoing {
    /// # Errors
    /// Errors of reading the program's memory, which the kernel will find as well.
    fn parse(call: &Notification) -> Result<Self, Errno> {
        let memory = ThreadMemory::of(call.tid);
        let of_message = |header: Header| Datagram {
            is_named: header.name != 0 && header.name_bytes != 0,
            to: name(memory, &header),
            body: Body::Message(header),
        };
        match handler_of(call.number) {
            Some(Handler::SendTo) => Ok(Self {
                datagrams: vec![Datagram {
                    is_named: true,
                    to: read_sockaddr(memory, call.args[4], call.args[5])?.inet(),
                    body: Body::Buffer {
                        at: call.args[1],
                        bytes: call.args[2],
                    },
                }],
                flags: call.int(3),
                entries: None,
            }),
            Some(Handler::SendMsg) => Ok(Self {
                datagrams: vec![of_message(Header::read(&memory, call.args[1])?)],
                flags: call.int(2),
                entries: None,
            }),
            Some(Handler::SendMmsg) => {
                let headers = Header::read_many(&memory, call.args[1], call.int(2).cast_unsigned())?;
                Ok(Self {
                    datagrams: headers.into_iter().map(of_message).collect(),
                    flags: call.int(3),
                    entries: Some(call.args[1]),
                })
            }
            _ => Err(Errno::ENOSYS),
        }
    }
}

impl Outgoing {
    /// Whether there is no destination, but `::1` as the source (IPV6_PKTINFO): the socket is
    /// connected.
    fn is_from_loopback(&self, memory: ThreadMemory) -> bool {
        self.datagrams.iter().any(|datagram| match &datagram.body {
            Body::Message(header) if !datagram.is_named && header.has_control() => header
                .control(&memory)
                .is_ok_and(|mut control| message::map_loopback_source(&mut control, Ipv4Addr::LOCALHOST)),
            _ => false,
        })
    }
}

/// The destination of a message. A destination that is too long is cut (net/socket.c,
/// __copy_msghdr).
fn name(memory: ThreadMemory, header: &Header) -> Option<SocketAddr> {
    let length = u64::from(header.name_bytes);
    let is_negative = i32::try_from(header.name_bytes).is_err();
    (header.name != 0 && !is_negative)
        .then(|| read_sockaddr(memory, header.name, length.min(MAX_SOCKADDR_BYTES)))
        .and_then(|read| read.ok()?.inet())
}

/// Handles the calls; for the second time if `reached` is an endpoint that the broker was asked
/// for.
///
/// Of several messages, the messages before the first that fails or must wait are sent. The answer
/// is the number of these messages, as from the kernel.
pub(super) fn send(host: &mut Host, call: &Notification, reached: Option<Endpoint>) -> Verdict {
    let outgoing = match Outgoing::parse(call) {
        Ok(outgoing) => outgoing,
        Err(why) => return leave(host, call, why),
    };
    let mut addresses = outgoing.datagrams.iter().filter_map(|datagram| datagram.to);
    let is_foreign = |address| host.identity.destination(address) == Destination::Foreign;
    if addresses.all(is_foreign) && !outgoing.is_from_loopback(ThreadMemory::of(call.tid)) {
        if let Some(to) = outgoing.datagrams.iter().find_map(|datagram| datagram.to) {
            host.trace.decided(&Destination::Foreign);
            resolver::bring_back_to_leave(host, call);
            notice_stranded(host, call, to);
        }
        return Answer::Continue.into();
    }
    let (socket, kind) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    if kind.transport == Transport::Tcp {
        return fast_open(host, call, outgoing.flags);
    }
    let (socket, kind, anywhere) = match of_resolver(host, call, &outgoing, socket, kind) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let sending = Sending {
        call,
        socket: &socket,
        kind: &kind,
        anywhere,
        flags: outgoing.flags,
        is_alone: outgoing.datagrams.len() == 1,
        reached,
    };
    let Some(entries) = outgoing.entries else {
        return match outgoing.datagrams.first().map(|datagram| sending.one(host, datagram)) {
            Some(Ok(bytes)) => value(bytes),
            Some(Err(verdict)) => verdict,
            None => Answer::Continue.into(),
        };
    };
    let memory = ThreadMemory::of(call.tid);
    for (index, datagram) in (0_u64..).zip(&outgoing.datagrams) {
        let result = sending
            .one(host, datagram)
            .and_then(|bytes| message::write_sent(&memory, entries, index, bytes).map_err(Verdict::from));
        match result {
            Ok(()) => {}
            Err(verdict) if index == 0 => return verdict,
            Err(_) => return value(usize::try_from(index).unwrap_or(usize::MAX)),
        }
    }
    value(outgoing.datagrams.len())
}

/// The socket that sends these datagrams; true if the socket is of the resolvers' namespace.
/// Another socket replaces the program's own if all datagrams are for name servers.
fn of_resolver(
    host: &mut Host,
    call: &Notification,
    outgoing: &Outgoing,
    socket: OwnedFd,
    kind: InetSocket,
) -> Result<(OwnedFd, InetSocket, bool), Verdict> {
    let named = outgoing.datagrams.iter().filter(|datagram| datagram.is_named);
    let mut destinations = named.map(|datagram| datagram.to.map(|to| (to, host.destination(Transport::Udp, to))));
    let takes = |to: SocketAddr| to.is_ipv4() == (kind.family == Family::V4) && to.port() != 0;
    let asks =
        destinations.all(|to| to.is_some_and(|(to, destination)| destination == Destination::NameServer && takes(to)));
    if !asks {
        let (socket, kind) = match outgoing.datagrams.iter().any(|datagram| datagram.is_named) {
            true => resolver::bring_back(host, call, socket, kind),
            false => (socket, kind),
        };
        return Ok((socket, kind, false));
    }
    let servers = outgoing.datagrams.iter().filter_map(|datagram| datagram.to);
    match resolver::to_send(host, call, &socket, &kind, servers)? {
        Asking::Redirected => Ok((socket, kind, false)),
        Asking::Anywhere(None) => Ok((socket, kind, true)),
        Asking::Anywhere(Some(other)) => {
            let kind = InetSocket::inspect(other.as_fd()).unwrap_or(kind);
            Ok((other, kind, true))
        }
    }
}

fn value(count: usize) -> Verdict {
    Answer::Value(i64::try_from(count).unwrap_or(i64::MAX)).into()
}

/// A call during the sending of its datagrams.
struct Sending<'a> {
    call: &'a Notification,
    socket: &'a OwnedFd,
    kind: &'a InetSocket,
    flags: i32,
    is_alone: bool,
    reached: Option<Endpoint>,
    /// True if the socket is of the resolvers' namespace, in which name servers are reached at
    /// their own addresses.
    anywhere: bool,
}

impl Sending<'_> {
    /// Sends one datagram, and returns its length. An error is the verdict for the call if this
    /// datagram is the first.
    fn one(&self, host: &mut Host, datagram: &Datagram) -> Result<usize, Verdict> {
        let (to, source) = match datagram.to {
            Some(address) if self.asks_outside(host, address, datagram) => {
                if self.is_alone {
                    return Err(Answer::Continue.into());
                }
                (Some(address), None)
            }
            Some(address) => self.redirect(host, address)?,
            // An address of no family that we know.
            None if datagram.is_named => return Err(Answer::Continue.into()),
            None => (None, None),
        };
        // The kernel also finds unreadable or too long data, and fails the call in its own way.
        let Ok((payload, control)) = datagram.body.read(ThreadMemory::of(self.call.tid)) else {
            return Err(Answer::Continue.into());
        };
        let control = match source {
            Some(source) => message::with_source(self.mapped(control, to, source), source),
            None if control.is_empty() => control,
            None => {
                let own = InetSocket::inspect(self.socket.as_fd()).and_then(|kind| kind.local_v4());
                self.mapped(control, to, own.map_or(Ipv4Addr::UNSPECIFIED, |own| *own.ip()))
            }
        };
        let own = to
            .and_then(as_v4)
            .is_some_and(|to| host.identity.owns(*to.ip()) && host.incoming.is_looked_at());
        if own {
            host.incoming.before_own();
        }
        let sent = message::send(self.socket.as_fd(), &payload, &control, to, self.flags).map_err(Verdict::from);
        if own {
            host.incoming.after_own();
        }
        sent
    }

    /// Whether a datagram is a question to a name server of the outside for a name that is not the
    /// project's, from a socket that could not be replaced: it is left to the kernel, so that the
    /// answer comes from the server that was asked.
    fn asks_outside(&self, host: &Host, server: SocketAddr, datagram: &Datagram) -> bool {
        !self.anywhere
            && self.kind.local.ip().is_unspecified()
            && host.destination(Transport::Udp, server) == Destination::NameServer
            && datagram
                .body
                .read(ThreadMemory::of(self.call.tid))
                .is_ok_and(|(query, _)| !is_projects(&query, &host.identity.planes, &host.hosts_file))
    }

    /// The control data. If IPv4 carries the datagram, `source` replaces `::1` as the source.
    fn mapped(&self, mut control: Vec<u8>, to: Option<SocketAddr>, source: Ipv4Addr) -> Vec<u8> {
        let peer = || socket::peer_address(self.socket.as_fd()).ok().flatten();
        if to.or_else(peer).and_then(as_v4).is_some() {
            message::map_loopback_source(&mut control, source);
        }
        control
    }

    /// The real destination and the source address of a datagram to `address`.
    fn redirect(
        &self,
        host: &mut Host,
        address: SocketAddr,
    ) -> Result<(Option<SocketAddr>, Option<Ipv4Addr>), Verdict> {
        let destination = host.destination(Transport::Udp, address);
        if self.anywhere {
            return self.to_name_server(host, address);
        }
        let to_v6 = matches!(destination, Destination::Localhost { v6: true, .. });
        // An earlier datagram may have moved the socket.
        let kind = InetSocket::inspect(self.socket.as_fd()).filter(|_| to_v6);
        let kind = &kind.unwrap_or(*self.kind);
        let on_v6 = to_v6 && is_on_v6(kind, socket::is_v6only(self.socket.as_fd()));
        let plan = if on_v6 || takes_v4(kind, self.socket, address) {
            let at_wildcard = |port| {
                let wildcard = Endpoint::udp(host.identity.vip(), port);
                let is_unseen_at = |exact: Endpoint| {
                    !host.sees_all_listeners() && is_at_wildcard_alone(exact.address, wildcard.address)
                };
                // The more exact address comes first, as the kernel prefers.
                match to_v6 {
                    true => {
                        let exact = Endpoint::udp(host.identity.v6_shadow(), port);
                        !host.retained.is_listen_target(exact)
                            && (host.retained.is_dual_stack(wildcard) || is_unseen_at(exact))
                    }
                    false => {
                        let exact = Endpoint::udp(host.identity.localhost(), port);
                        !host.retained.is_listen_target(exact)
                            && (host.retained.is_listen_target(wildcard) || is_unseen_at(exact))
                    }
                }
            };
            let native = |port| is_native(host, Transport::Udp, to_v6, on_v6, port);
            decide(
                &host.identity,
                kind,
                address,
                destination,
                at_wildcard,
                native,
                is_bound,
            )
        } else {
            Plan::Native
        };
        host.trace.decided(&destination);
        host.trace.decided(&plan);
        let own = matches!(destination, Destination::Vip(target) if *target.ip() == host.identity.vip());
        // The host's own program is never signalled to listen.
        if let Destination::Vip(target) = destination
            && target.port() != 0
            && !(own && host.sees_all_listeners())
        {
            let endpoint = Endpoint::udp(*target.ip(), target.port());
            if self.reached != Some(endpoint) && !host.answered.lately(endpoint) {
                let call = *self.call;
                return Err(ask_for_datagram(
                    host,
                    &call,
                    endpoint,
                    Waiting::Send { endpoint, call },
                ));
            }
        }
        let goes_to = match (plan, destination) {
            (Plan::OnBehalf { to, .. }, _) => Some(to),
            (Plan::Native, Destination::Vip(to)) => Some(to),
            _ => None,
        };
        if let Some(to) = goes_to
            && let Some(verdict) = vet::verdict(host, self.call, Endpoint::udp(*to.ip(), to.port()))
        {
            return Err(verdict);
        }
        let home = match plan {
            Plan::Native if to_v6 && !on_v6 && is_on_planes(&host.identity, kind) => {
                Some(IpAddr::V6(Ipv6Addr::LOCALHOST))
            }
            Plan::OnBehalf { .. } if on_v6 => Some(IpAddr::V4(host.identity.v6_shadow())),
            _ => None,
        };
        if let Some(home) = home {
            move_home(host, self.socket, kind, home).map_err(Verdict::from)?;
        }
        match plan {
            // A datagram to the host itself does not count as an arrival, so the supervisor must
            // see its sending.
            Plan::Native if self.is_alone && !(own && host.incoming.is_looked_at()) => Err(Answer::Continue.into()),
            Plan::Native => Ok((Some(address), None)),
            Plan::Refuse(errno) => Err(errno.into()),
            // A socket at the machine's IPv6 wildcard has an address of the planes by now.
            Plan::OnBehalf { to, .. } if on_v6 => Ok((Some(kind.family.form(to)), None)),
            Plan::OnBehalf { to, source } => Ok((Some(kind.family.form(to)), source)),
        }
    }
}

impl Sending<'_> {
    /// A datagram for a name server goes to the server's own address, from the VIP. The VIP tells
    /// the project's name server which host asks.
    fn to_name_server(
        &self,
        host: &Host,
        server: SocketAddr,
    ) -> Result<(Option<SocketAddr>, Option<Ipv4Addr>), Verdict> {
        if server.ip().to_canonical().is_ipv6() && self.is_alone {
            return Err(Answer::Continue.into());
        }
        let from_vip = server.ip().to_canonical().is_ipv4() && self.kind.local.ip().is_unspecified();
        Ok((Some(server), from_vip.then(|| host.identity.vip())))
    }
}

/// The broker answered, or will not: the call goes on.
pub(super) fn resume(host: &mut Host, pending: &mut PendingCall) -> Option<Answer> {
    let Waiting::Send { endpoint, call } = pending.waiting else {
        return None;
    };
    if !host.listener.is_valid(call.id) {
        return Some(Answer::Continue);
    }
    match send(host, &call, Some(endpoint)) {
        Verdict::Answer(answer) => Some(answer),
        // The caller is gone.
        Verdict::Done => Some(Answer::Continue),
        Verdict::Pending(again) => {
            *pending = *again;
            None
        }
    }
}

/// TCP Fast Open to a host is answered with EOPNOTSUPP, as if the sysctl had switched Fast Open
/// off: programs then connect. Without the flag the kernel ignores the address of a stream socket.
fn fast_open(host: &mut Host, call: &Notification, flags: i32) -> Verdict {
    if flags & libc::MSG_FASTOPEN != 0 {
        host.warned.once(call.tid, Unhonoured::FastOpen);
        Errno::EOPNOTSUPP.into()
    } else {
        Answer::Continue.into()
    }
}

/// A socket that is bound to an address of the planes does not reach beyond the machine, which the
/// kernel says with EINVAL (net/ipv4/route.c, __mkroute_output).
fn notice_stranded(host: &mut Host, call: &Notification, to: SocketAddr) {
    if !host.has_bound_datagrams || to.ip().is_loopback() || host.warned.has_warned(Unhonoured::StrandedDatagram) {
        return;
    }
    if let Ok((_, kind)) = socket_of(host, call)
        && kind.transport == Transport::Udp
        && kind.local_v4().is_some_and(|local| host.identity.owns(*local.ip()))
    {
        host.warned.once(call.tid, Unhonoured::StrandedDatagram);
    }
}
