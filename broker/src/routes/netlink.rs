//! rtnetlink(7): the machine's IPv4 routes and addresses, and the routes that imsup makes.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::{if_indextoname, if_nametoindex};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

use imsup_compose::subnet::Subnet;

/// The origin of a route (RTA_PROTOCOL): an unused number in include/uapi/linux/rtnetlink.h and in
/// iproute2's rt_protos.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(77);

/// RT_TABLE_LOCAL, which is looked into first (ip-rule(8)).
const TABLE_LOCAL: u8 = 255;

/// More than the kernel puts into one message of a dump (net/netlink/af_netlink.c, netlink_dump: 32
/// KiB at most).
const BUFFER_BYTES: usize = 64 * 1024;

/// A route, with the attributes that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub kind: Kind,
    pub base: Ipv4Addr,
    pub length: u8,
    /// Empty if the route names no interface.
    pub interface: String,
    pub gateway: Option<Ipv4Addr>,
    /// True if imsup made the route, for any project.
    pub ours: bool,
}

impl Route {
    /// True if the address is among the destinations.
    pub(super) fn covers(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
        u32::from(address) & mask == u32::from(self.base)
    }
}

/// The type of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unicast,
    Local,
    Other,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub interface: String,
    pub ip: Ipv4Addr,
    pub length: u8,
}

/// A socket to the kernel.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// # Errors
    /// socket(2).
    pub(crate) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE, which is 0.
            None,
        )?;
        Ok(Self(socket))
    }

    /// The routes of all tables.
    pub(super) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let mut routes = Vec::new();
        self.ask(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                routes.push(route(&message));
            }
        })?;
        Ok(routes)
    }

    /// The addresses of all interfaces.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        let mut addresses = Vec::new();
        self.ask(RouteNetlinkMessage::GetAddress(request), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                addresses.extend(address(&message));
            }
        })?;
        Ok(addresses)
    }

    /// Makes the subnet local. An existing equal route is no error.
    pub(super) fn add(&mut self, subnet: &Subnet, metric: u32) -> io::Result<()> {
        let request = RouteNetlinkMessage::NewRoute(local(subnet, metric)?);
        match self.ask(request, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_| {}) {
            Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    /// Removes the route. A missing route is no error.
    pub(super) fn remove(&mut self, subnet: &Subnet, metric: u32) -> io::Result<()> {
        let request = RouteNetlinkMessage::DelRoute(local(subnet, metric)?);
        match self.ask(request, NLM_F_ACK, |_| {}) {
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    /// Brings the loopback interface up, and makes every address of the family local: for a
    /// separate network namespace.
    pub(crate) fn take_every_address(&mut self, family: AddressFamily) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = if_nametoindex("lo")?;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK, |_| {})?;
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: family,
            table: TABLE_LOCAL,
            protocol: PROTOCOL,
            scope: RouteScope::Host,
            kind: RouteType::Local,
            ..RouteHeader::default()
        };
        route.attributes = vec![RouteAttribute::Oif(if_nametoindex("lo")?)];
        let request = RouteNetlinkMessage::NewRoute(route);
        self.ask(request, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_| {})
    }

    /// Sends a request, and passes on the answers until the kernel's end mark.
    fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.0, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let (count, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => each(message),
                    _ => {}
                }
                // Messages are aligned to four bytes (netlink(7), NLMSG_ALIGN).
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// `local SUBNET dev lo src 127.0.0.1 metric METRIC table local`.
fn local(subnet: &Subnet, metric: u32) -> io::Result<RouteMessage> {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: subnet.length(),
        table: TABLE_LOCAL,
        protocol: PROTOCOL,
        scope: RouteScope::Host,
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(subnet.base())),
        RouteAttribute::Oif(if_nametoindex("lo")?),
        RouteAttribute::PrefSource(RouteAddress::Inet(Ipv4Addr::LOCALHOST)),
        RouteAttribute::Priority(metric),
    ];
    Ok(message)
}

fn route(message: &RouteMessage) -> Route {
    let header = &message.header;
    let mut route = Route {
        kind: match header.kind {
            RouteType::Unicast => Kind::Unicast,
            RouteType::Local => Kind::Local,
            _ => Kind::Other,
        },
        base: Ipv4Addr::UNSPECIFIED,
        length: header.destination_prefix_length,
        interface: String::new(),
        gateway: None,
        ours: header.protocol == PROTOCOL,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(base)) => route.base = *base,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => route.gateway = Some(*gateway),
            RouteAttribute::Oif(index) => route.interface = name(*index),
            _ => {}
        }
    }
    route
}

fn address(message: &AddressMessage) -> Option<Address> {
    // IFA_ADDRESS is the address of the other end, if any, which determines the network
    // (rtnetlink(7)).
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(IpAddr::V4(ip)) => Some(*ip),
        _ => None,
    })?;
    Some(Address {
        interface: name(message.header.index),
        ip,
        length: message.header.prefix_len,
    })
}

fn name(index: u32) -> String {
    let name = if_indextoname(index).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("number {index}"))
}
