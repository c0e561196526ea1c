//! The indexes of a project: its blocks of 255, claimed so that no two projects on the machine
//! share a block.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use imsup_wire::{Endpoint, Index, Plane, Planes, Transport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::holder;
use crate::keeper::{FdStore, What};
use crate::sockets;
use imsup_compose::cluster::{Cluster, HostSpec};

/// The port of a project's name server, on the broker's own address in each of the project's
/// blocks.
pub const NAME_PORT: u16 = 1053;

/// Indexes kept free for hosts that `imsup run` makes.
const SPARE: usize = 16;
const HOSTS_PER_BLOCK: usize = 255;
const LAST_BLOCK: u8 = 255;

/// Why a project gets no addresses.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum BlockError {
    /// More hosts than there are indexes.
    #[error("{hosts} hosts do not fit: 256 blocks of {HOSTS_PER_BLOCK} addresses is all there is")]
    TooManyHosts { hosts: usize },
    /// The pinned block is in use.
    #[error(
        "the addresses {addresses} that the compose file pins are in use{} ({source} on {address}); \
         pin others or take down the project that has them. (No two projects have addresses with the same third byte.)",
        holder::by(.holder)
    )]
    PinnedTaken {
        /// The first and the last address.
        addresses: String,
        address: SocketAddrV4,
        source: io::Error,
        /// The user and the process of the holder, in words.
        holder: Option<String>,
    },
    /// No block could be claimed.
    #[error(
        "no block of addresses is free ({source} on {address}): port {NAME_PORT} must be bindable on an address A.B.N.0 of the \
         subnet, and on 127.78.N.0{}",
        held_by(.holders, *.elsewhere)
    )]
    NoneFree {
        address: SocketAddrV4,
        source: io::Error,
        /// The holders of the blocks with counts, in words.
        holders: Option<String>,
        /// Whether hosts could have addresses in another prefix: no block's claim was taken.
        elsewhere: bool,
    },
    /// A pinned address is not possible for the host.
    #[error(
        "host '{host}': its address {address} is not among the project's, {addresses}; pin them with `x-imsup.subnet`"
    )]
    OutsideBlock {
        host: String,
        address: Ipv4Addr,
        /// The first and the last address.
        addresses: String,
    },
    /// Two hosts pin one address.
    #[error("hosts '{first}' and '{second}' both have the address {address}")]
    SharedAddress {
        first: String,
        second: String,
        address: Ipv4Addr,
    },
}

/// The blocks of a project, and the sockets that claim the blocks.
#[derive(Default)]
pub(crate) struct BlockClaim {
    /// The first.
    pub(crate) first: u8,
    /// How many follow each other.
    pub(crate) count: u16,
    /// Sockets that no other broker can bind, whatever the prefix of the VIPs; a socket for each
    /// block.
    locks: Vec<UdpSocket>,
    /// The name server's sockets, one pair for each block.
    pub(crate) sockets: Vec<(UdpSocket, TcpListener)>,
}

impl BlockClaim {
    /// True if the index is in any of the blocks.
    pub(crate) fn contains(&self, index: Index) -> bool {
        self.numbers().any(|block| u16::from(block) == index.number() >> 8)
    }

    /// True if an address is a host's or the broker's, in any of the planes.
    pub(crate) fn has(&self, planes: &Planes, address: Ipv4Addr) -> bool {
        let is_brokers = |block| planes.broker_address(block) == address;
        let place = planes.place(address);
        place.is_some_and(|place| self.contains(place.index)) || self.numbers().any(is_brokers)
    }

    /// Every index of the blocks, in order.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = Index> + use<> {
        let first = u16::from(self.first) << 8;
        let last = (u16::from(self.last()) << 8) | 0xff;
        (first..=last).filter_map(Index::new)
    }

    /// The first and the last address, for people.
    fn addresses(&self, planes: &Planes) -> String {
        let [a, b] = planes.vip;
        format!("{a}.{b}.{}.0 to {a}.{b}.{}.255", self.first, self.last())
    }

    /// The last block.
    pub(crate) fn last(&self) -> u8 {
        u8::try_from(u16::from(self.first) + self.count - 1).unwrap_or(LAST_BLOCK)
    }

    /// Gives the blocks up.
    pub(crate) fn release(&mut self) {
        self.sockets.clear();
        self.locks.clear();
    }

    /// Has the store keep all sockets.
    fn keep(&self, store: &mut FdStore) {
        let mut keep = |transport, socket: BorrowedFd<'_>| {
            if let Some(address) = rustix::net::getsockname(socket)
                .ok()
                .and_then(|any| any.try_into().ok())
            {
                store.keep_copy(What::Block(transport, address), socket);
            }
        };
        self.locks.iter().for_each(|lock| keep(Transport::Udp, lock.as_fd()));
        for (udp, tcp) in &self.sockets {
            keep(Transport::Udp, udp.as_fd());
            keep(Transport::Tcp, tcp.as_fd());
        }
    }

    fn numbers(&self) -> impl Iterator<Item = u8> {
        self.first..=self.last()
    }
}

/// How many blocks so many hosts need.
fn blocks_for(hosts: usize) -> Result<u16, BlockError> {
    let count = (hosts + SPARE).div_ceil(HOSTS_PER_BLOCK);
    u16::try_from(count)
        .ok()
        .filter(|count| *count <= 256)
        .ok_or(BlockError::TooManyHosts { hosts })
}

/// Which blocks a project can have.
struct Wanted {
    /// How many.
    count: u16,
    /// The range of possible first blocks.
    starts: RangeInclusive<u16>,
    /// True if the file leaves no choice, so that the records of other projects are ignored.
    pinned: bool,
}

impl Wanted {
    fn of(cluster: &Cluster, planes: &Planes) -> Result<Self, BlockError> {
        let blocks = cluster.subnet.map_or(0..=LAST_BLOCK, |subnet| subnet.blocks());
        let (first, last) = (u16::from(*blocks.start()), u16::from(*blocks.end()));
        let addresses = cluster.hosts.iter().filter_map(|host| planes.place(host.address?));
        let pins = addresses.map(|place| place.index.number() >> 8);
        let pins = pins.fold(None, |span: Option<(u16, u16)>, pin| {
            let (lowest, highest) = span.unwrap_or((pin, pin));
            Some((lowest.min(pin), highest.max(pin)))
        });
        let count = blocks_for(cluster.hosts.len())?.min(last - first + 1);
        let latest = |count: u16| (last + 1).saturating_sub(count).max(first);
        Ok(match pins {
            None => Self {
                count,
                starts: first..=latest(count),
                pinned: first == latest(count),
            },
            // A pinned address determines the blocks, beginning with the lowest pinned block.
            Some((lowest, highest)) => {
                let count = count.max(highest.saturating_sub(lowest) + 1);
                let start = lowest.min(latest(count));
                Self {
                    count,
                    starts: start..=start,
                    pinned: true,
                }
            }
        })
    }
}

/// The first blocks to try, best first.
fn candidates(project: &str, wanted: &Wanted, recorded: Option<(u8, u16)>, others: &[(u8, u16)]) -> Vec<u8> {
    let taken: BTreeSet<u16> = others
        .iter()
        .filter(|_| !wanted.pinned)
        .flat_map(|(first, count)| u16::from(*first)..u16::from(*first) + count)
        .collect();
    let Wanted { count, starts, .. } = wanted;
    let choice = starts.end() - starts.start() + 1;
    let offset = u16::try_from(hash(project) % u64::from(choice)).unwrap_or(0);
    let probes = (0..choice).map(|step| starts.start() + (offset + step) % choice);
    let free = probes.filter(|start| (*start..*start + count).all(|block| !taken.contains(&block)));
    let own = recorded.filter(|(first, size)| size >= count && starts.contains(&u16::from(*first)));
    let own = own.map(|(first, _)| first);
    let mut ordered: Vec<u8> = own.into_iter().collect();
    // Block 0 comes last: 127.77.0.0 looks like a network to people.
    let zero_last = free.partition::<Vec<u16>, _>(|start| *start != 0);
    for start in zero_last.0.into_iter().chain(zero_last.1) {
        match u8::try_from(start) {
            Ok(start) if Some(start) != own => ordered.push(start),
            _ => {}
        }
    }
    ordered
}

/// FNV-1a: stable over versions, unlike the standard library's hashers.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Claims the blocks of a project. Takes present sockets from the store, and keeps all sockets in
/// the store.
pub(crate) fn claim(
    cluster: &Cluster,
    planes: &Planes,
    recorded: Option<(u8, u16)>,
    others: &[(u8, u16)],
    store: &mut FdStore,
) -> Result<BlockClaim, BlockError> {
    let wanted = Wanted::of(cluster, planes)?;
    let (mut last, mut taken) = (None, Vec::new());
    for start in candidates(&cluster.project, &wanted, recorded, others) {
        match bind(start, wanted.count, planes, store) {
            Ok(claim) => return Ok(claim),
            Err((address, source)) if wanted.pinned => {
                let in_use = source.kind() == io::ErrorKind::AddrInUse;
                let claim = BlockClaim {
                    first: start,
                    count: wanted.count,
                    ..BlockClaim::default()
                };
                return Err(BlockError::PinnedTaken {
                    addresses: claim.addresses(planes),
                    address,
                    source,
                    holder: taken_at(address).into_iter().find_map(holder::of).filter(|_| in_use),
                });
            }
            Err((address, source)) => {
                if source.kind() == io::ErrorKind::AddrInUse {
                    taken.push(address);
                }
                last = Some((address, source));
            }
        }
    }
    let (address, source) = last.unwrap_or_else(|| {
        (
            SocketAddrV4::new(planes.broker_address(0), NAME_PORT),
            io::Error::other("all blocks are recorded for other projects"),
        )
    });
    let is_claim = |address: &SocketAddrV4| address.ip().octets()[..2] == planes.localhost;
    Err(BlockError::NoneFree {
        address,
        source,
        elsewhere: !taken.is_empty() && !taken.iter().any(is_claim),
        holders: holder::tally(taken),
    })
}

/// The sockets that keep a block from being claimed.
fn taken_at(address: SocketAddrV4) -> [Endpoint; 2] {
    [Transport::Udp, Transport::Tcp].map(|transport| Endpoint { transport, address })
}

/// The holders of the blocks, and a remedy.
fn held_by(holders: &Option<String>, elsewhere: bool) -> String {
    let Some(holders) = holders else {
        return String::new();
    };
    let prefix = match elsewhere {
        true => ", or as root take another prefix (`x-imsup.subnet: 10.77.0.0/16`)",
        false => "",
    };
    format!(". Such addresses are held: {holders}. End those processes{prefix}")
}

fn bind(first: u8, count: u16, planes: &Planes, store: &mut FdStore) -> Result<BlockClaim, (SocketAddrV4, io::Error)> {
    let mut claim = BlockClaim {
        first,
        count,
        ..BlockClaim::default()
    };
    for step in 0..count {
        let at = |ip| SocketAddrV4::new(ip, NAME_PORT);
        let Ok(block) = u8::try_from(u16::from(first) + step) else {
            let address = at(planes.broker_address(LAST_BLOCK));
            return Err((address, io::Error::other("the last block is 255")));
        };
        let address = at(planes.claim_address(block));
        claim.locks.push(udp(address, store).map_err(|error| (address, error))?);
        let address = at(planes.broker_address(block));
        let pair = udp(address, store).and_then(|udp| Ok((udp, tcp(address, store)?)));
        claim.sockets.push(pair.map_err(|error| (address, error))?);
    }
    claim.keep(store);
    Ok(claim)
}

/// A socket that other machines do not reach, unless an earlier broker's is there.
fn bound(transport: Transport, address: SocketAddrV4, store: &mut FdStore) -> io::Result<OwnedFd> {
    const BACKLOG: i32 = 128;
    if let Some(had) = store.take(What::Block(transport, address)).pop() {
        return Ok(had);
    }
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    if transport == Transport::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    sockets::keep_neighbours_out(&socket, *address.ip());
    rustix::net::bind(&socket, &address)?;
    if transport == Transport::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

fn udp(address: SocketAddrV4, store: &mut FdStore) -> io::Result<UdpSocket> {
    bound(Transport::Udp, address, store).map(UdpSocket::from)
}

fn tcp(address: SocketAddrV4, store: &mut FdStore) -> io::Result<TcpListener> {
    bound(Transport::Tcp, address, store).map(TcpListener::from)
}

/// Gives each host an index: the pinned address, else the former index, else the next free index,
/// in the file's order.
pub(crate) fn assign(
    hosts: &[HostSpec],
    claim: &BlockClaim,
    planes: &Planes,
    remembered: &BTreeMap<String, u16>,
) -> Result<Vec<Index>, BlockError> {
    let mut owner: BTreeMap<u16, usize> = BTreeMap::new();
    let mut given: Vec<Option<Index>> = vec![None; hosts.len()];
    for (position, host) in hosts.iter().enumerate() {
        let Some(address) = host.address else { continue };
        let index = planes
            .place(address)
            .filter(|place| place.plane == Plane::Vip && claim.contains(place.index))
            .map(|place| place.index)
            .ok_or_else(|| BlockError::OutsideBlock {
                host: host.name.to_string(),
                address,
                addresses: claim.addresses(planes),
            })?;
        if let Some(other) = owner.insert(index.number(), position) {
            return Err(BlockError::SharedAddress {
                first: hosts[other].name.to_string(),
                second: host.name.to_string(),
                address,
            });
        }
        given[position] = Some(index);
    }
    if !remembered.is_empty() {
        for (position, host) in hosts.iter().enumerate() {
            let had = remembered.get(host.name.as_str()).copied().and_then(Index::new);
            let had = had.filter(|index| given[position].is_none() && claim.contains(*index));
            if let Some(index) = had
                && let Entry::Vacant(free) = owner.entry(index.number())
            {
                free.insert(position);
                given[position] = Some(index);
            }
        }
    }
    let mut free = claim.indexes().filter(|index| !owner.contains_key(&index.number()));
    given
        .into_iter()
        .map(|index| {
            index
                .or_else(|| free.next())
                .ok_or(BlockError::TooManyHosts { hosts: hosts.len() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{host, planes_for_tests};

    #[test]
    fn the_indexes_are_those_of_all_blocks_wherever_they_begin() {
        for first in [1, 99, 100, 216] {
            let claim = BlockClaim {
                first,
                count: 40,
                ..BlockClaim::default()
            };
            let indexes: Vec<Index> = claim.indexes().collect();
            assert_eq!(indexes.len(), 40 * HOSTS_PER_BLOCK, "from {first}");
            assert!(indexes.iter().all(|index| claim.contains(*index)), "from {first}");
        }
    }

    #[test]
    fn blocks_leave_room_for_transient_hosts() {
        assert_eq!(blocks_for(1).unwrap(), 1);
        assert_eq!(blocks_for(239).unwrap(), 1);
        assert_eq!(blocks_for(240).unwrap(), 2);
        assert_eq!(blocks_for(10_000).unwrap(), 40);
        assert!(blocks_for(70_000).is_err());
    }

    #[test]
    fn candidates_start_with_the_recorded_block_and_leave_out_those_of_others() {
        let anywhere = |count| Wanted {
            count,
            starts: 0..=256 - count,
            pinned: false,
        };
        let all = candidates("shop", &anywhere(1), None, &[]);
        assert_eq!(all.len(), 256);
        assert_eq!(all[255], 0);
        let first = all[0];
        assert_ne!(candidates("shop", &anywhere(1), None, &[(first, 1)])[0], first);
        assert_eq!(candidates("shop", &anywhere(1), Some((9, 1)), &[])[0], 9);
        assert_ne!(
            candidates("shop", &anywhere(2), Some((9, 1)), &[])[0],
            9,
            "it no longer fits there"
        );
        let wide = candidates("shop", &anywhere(40), None, &[(100, 1)]);
        assert!(wide.iter().all(|start| !(61..=100).contains(start)));
    }

    #[test]
    fn blocks_lie_in_the_subnet_and_have_the_pinned_addresses() {
        let mut cluster = crate::testing::cluster("subnets", vec![host("a"), host("b")]);
        let mut wanted = |subnet: &str, pins: [Option<&str>; 2]| {
            cluster.subnet = Some(subnet.parse().unwrap());
            for (host, pin) in cluster.hosts.iter_mut().zip(pins) {
                host.address = pin.map(|pin| pin.parse().unwrap());
            }
            let wanted = Wanted::of(&cluster, &cluster.subnet.unwrap().planes()).unwrap();
            (wanted.count, wanted.starts, wanted.pinned)
        };
        assert_eq!(wanted("10.77.0.0/16", [None, None]), (1, 0..=255, false));
        assert_eq!(wanted("10.77.9.0/24", [None, None]), (1, 9..=9, true));
        assert_eq!(wanted("10.77.8.0/22", [None, None]), (1, 8..=11, false));
        assert_eq!(wanted("10.77.0.0/16", [Some("10.77.3.1"), None]), (1, 3..=3, true));
        let apart = [Some("10.77.200.1"), Some("10.77.7.5")];
        assert_eq!(wanted("10.77.0.0/16", apart), (194, 7..=7, true));
    }

    #[test]
    fn a_claim_is_exclusive_and_the_next_project_goes_elsewhere() {
        let planes = planes_for_tests();
        let mut cluster = crate::testing::cluster("claims", vec![host("a")]);
        let one = claim(&cluster, &planes, None, &[], &mut FdStore::default()).unwrap();
        let two = claim(&cluster, &planes, None, &[], &mut FdStore::default()).unwrap();
        assert_ne!(one.first, two.first);
        // A subnet of another prefix, and the block that the first has.
        cluster.subnet = Some(format!("127.77.{}.0/24", one.first).parse().unwrap());
        let planes = Planes {
            vip: [127, 96],
            ..planes
        };
        assert!(matches!(
            claim(&cluster, &planes, None, &[], &mut FdStore::default()),
            Err(BlockError::PinnedTaken { .. })
        ));
    }

    #[test]
    fn hosts_keep_their_index_when_the_file_is_edited() {
        let planes = planes_for_tests();
        let cluster = crate::testing::cluster("indexes", vec![host("new"), host("old"), host("pinned")]);
        let claim = claim(&cluster, &planes, None, &[], &mut FdStore::default()).unwrap();
        let mut hosts = cluster.hosts.clone();
        hosts[2].address = Some(planes.vip(claim.indexes().nth(1).unwrap()));
        let remembered = BTreeMap::from([
            ("old".to_owned(), claim.indexes().next().unwrap().number()),
            ("new".to_owned(), claim.indexes().nth(1).unwrap().number()),
        ]);
        let given = assign(&hosts, &claim, &planes, &remembered).unwrap();
        let numbers: Vec<usize> = given
            .iter()
            .map(|index| claim.indexes().position(|other| other == *index).unwrap())
            .collect();
        assert_eq!(numbers, [2, 0, 1], "pinned over remembered over order");
        hosts[0].address = hosts[2].address;
        assert!(matches!(
            assign(&hosts, &claim, &planes, &remembered),
            Err(BlockError::SharedAddress { .. })
        ));
        hosts[0].address = Some(Ipv4Addr::new(10, 0, 0, 1));
        assert!(matches!(
            assign(&hosts, &claim, &planes, &remembered),
            Err(BlockError::OutsideBlock { .. })
        ));
    }
}
