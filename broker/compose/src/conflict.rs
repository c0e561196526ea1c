//! What two services of a project cannot both have, and what no project can have.

use std::net::Ipv4Addr;

use imsup_wire::Transport;

use crate::subnet::Subnet;

/// Hosts in a block: all its addresses except the broker's own, `127.77.B.0`.
pub(super) const HOSTS_PER_BLOCK: usize = 255;

/// Ports that all hosts may declare: more descriptors no process of Linux has by default
/// (proc_sys_fs(5), nr_open).
pub(super) const MAX_PORTS: usize = 1 << 20;

/// Maximum bytes of the variables of all hosts: each host has its own variables.
pub(super) const MAX_ENVIRONMENT_BYTES: usize = 256 << 20;

/// Hosts in all blocks together.
pub(super) const MAX_HOSTS: usize = 256 * HOSTS_PER_BLOCK;

/// Two hosts want the same value, or a host wants a value that none can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum Conflict {
    /// A replica would have the name of another host.
    #[error("a replica would be called '{name}', which is another host's name: rename one of them")]
    Name { name: String },
    /// One address for two services.
    #[error("services '{service}' and '{other}' both have the address {address}: give one of them another")]
    Address {
        address: Ipv4Addr,
        other: String,
        service: String,
    },
    /// An address outside of the planes.
    #[error(
        "{0} cannot be a host's address here: hosts have addresses in 127.77.0.0/16; choose one, leave it out and \
         imsup does, or pin its subnet with `x-imsup.subnet`"
    )]
    OutsidePlane(Ipv4Addr),
    /// An address that is kept for the broker.
    #[error("{0} is kept for imsup itself: a host's address ends in 1 to 255")]
    Kept(Ipv4Addr),
    /// An address outside the subnet.
    #[error("{address} is outside {subnet}, which {pinned_by} pins: change one of them")]
    OutsideSubnet {
        address: Ipv4Addr,
        subnet: Subnet,
        pinned_by: String,
    },
    /// More hosts than a pinned subnet has addresses.
    #[error("there are {hosts} hosts, and {subnet} has room for {room}: pin a larger one, or leave it to imsup")]
    SubnetFull {
        hosts: usize,
        subnet: Subnet,
        /// The number of hosts for which the subnet has addresses.
        room: usize,
    },
    /// More ports than there can be sockets.
    #[error(
        "all hosts together declare more than {MAX_PORTS} ports, for each of which a socket is kept: declare those that clients connect to"
    )]
    TooManyPorts,
    /// More variables than there may be memory.
    #[error(
        "the variables of all hosts together, of which each has its own, take more than {} MiB: declare fewer hosts, or shorter ones",
        MAX_ENVIRONMENT_BYTES >> 20
    )]
    EnvironmentTooLarge,
    /// More hosts than a subnet has addresses for.
    #[error("there are more than {MAX_HOSTS} hosts, which is all that a subnet has addresses for")]
    TooManyHosts,
    /// One published port for two hosts.
    #[error("the machine's port {port}/{transport} is published twice: by {first} and by {second}")]
    Published {
        port: u16,
        transport: Transport,
        /// The earlier, in words.
        first: String,
        /// The later, in words.
        second: String,
    },
}
