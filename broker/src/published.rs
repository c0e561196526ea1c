//! Ports of the machine that lead to ports of hosts (compose `ports:`): the only relay in imsup.

mod bind;
mod pair;
mod relay;
mod udp;
mod vet;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use imsup_wire::{Endpoint, Planes, Transport};
use rustix::net::{SocketType, sockopt};

use imsup_compose::cluster::Publish;

use bind::bind;
pub(crate) use relay::Relay;
pub(crate) use vet::Vet;

/// Why a port could not be published.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum PublishError {
    /// The port is in use.
    #[error(
        "the machine's port {address} is in use{}: end what uses it, or publish another one (`ports: \"OTHER:{target}\"`)",
        by(.occupants)
    )]
    Occupied {
        address: SocketAddr,
        /// Addresses of the sockets that listen there.
        occupants: Vec<std::net::IpAddr>,
        target: u16,
    },
    /// The port needs privilege.
    #[error(
        "the machine's port {address} is below {first} and needs privilege: `sudo setcap cap_net_bind_service=+ep` on the \
         imsup executable, or `sudo sysctl net.ipv4.ip_unprivileged_port_start={}`",
        address.port()
    )]
    Privileged {
        address: SocketAddr,
        /// The first port that needs none.
        first: u16,
    },
    /// The port failed for another reason.
    #[error("the machine's port {address} cannot be published: {source}")]
    Other { address: SocketAddr, source: io::Error },
}

fn by(occupants: &[std::net::IpAddr]) -> String {
    match occupants {
        [] => String::new(),
        [one, ..] => format!(" (by what listens on {one})"),
    }
}

/// One published listener.
#[derive(Debug)]
pub(crate) struct PublishedListener {
    /// Listening, or for datagrams.
    pub(crate) socket: OwnedFd,
    /// The location.
    pub(crate) machine: SocketAddr,
    /// The target.
    pub(crate) target: Endpoint,
}

/// The published listeners of an entry of `ports`: from an earlier broker, else new.
pub(crate) fn open(
    publish: &Publish,
    target: Endpoint,
    planes: &Planes,
    had: Vec<OwnedFd>,
) -> Result<Vec<PublishedListener>, PublishError> {
    let kind = match publish.transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let again = |socket: OwnedFd| {
        if sockopt::socket_type(&socket).ok()? != kind {
            return None;
        }
        let machine = bind::local_address(&socket).ok()?;
        Some(PublishedListener {
            socket,
            machine,
            target,
        })
    };
    // The broker before may have been told of other ports. All addresses are one socket, or several.
    let is_one = had.len() == 1;
    let is_it = |listener: &PublishedListener| {
        let ip = listener.machine.ip();
        let is_asked = match publish.machine_ip {
            Some(asked) => asked == ip,
            None => ip.is_unspecified() || !is_one,
        };
        is_asked && publish.machine_port.is_none_or(|port| port == listener.machine.port())
    };
    match had
        .into_iter()
        .filter_map(again)
        .filter(is_it)
        .collect::<Vec<PublishedListener>>()
    {
        none if none.is_empty() => bind(publish, target, planes),
        listeners => Ok(listeners),
    }
}
