//! Which indexes a project has: its blocks of 255, claimed so that no two projects on the machine share one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use imsup_wire::{Index, Plane, Planes};

use crate::cluster::{Cluster, HostSpec};

/// The port of a project's name server, on the broker's own address in each of its blocks.
pub const NAME_PORT: u16 = 1053;

/// Indexes kept free for hosts that `imsup run` makes.
const SPARE: usize = 16;
const HOSTS_PER_BLOCK: usize = 255;
const LAST_BLOCK: u8 = 255;

/// Why a project gets no addresses.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// More hosts than there are indexes.
    #[error("{hosts} hosts do not fit: 256 blocks of {HOSTS_PER_BLOCK} addresses is all there is")]
    TooManyHosts {
        /// How many.
        hosts: usize,
    },
    /// The pinned block is in use.
    #[error(
        "the addresses 127.77.{block}.0/24 that `x-imsup.subnet` pins are in use ({source} on {address}); \
         pin another subnet or take down the project that has it"
    )]
    PinnedTaken {
        /// Its number.
        block: u8,
        /// What could not be bound.
        address: SocketAddrV4,
        /// Why.
        source: io::Error,
    },
    /// No block could be claimed.
    #[error(
        "no block of addresses is free ({source} on {address}): port {NAME_PORT} must be bindable on an address 127.77.N.0"
    )]
    NoneFree {
        /// The last one tried.
        address: SocketAddrV4,
        /// Why.
        source: io::Error,
    },
    /// A pinned address is not one the host can have.
    #[error(
        "host '{host}': its address {address} is not in the project's block 127.77.{first}.0 to 127.77.{last}.255; pin the block with `x-imsup.subnet`"
    )]
    OutsideBlock {
        /// The host.
        host: String,
        /// The address.
        address: Ipv4Addr,
        /// The first block.
        first: u8,
        /// The last.
        last: u8,
    },
    /// Two hosts pin one address.
    #[error("hosts '{first}' and '{second}' both have the address {address}")]
    SharedAddress {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// Theirs.
        address: Ipv4Addr,
    },
}

/// The blocks of a project, and the sockets that make them its own.
pub(crate) struct Claim {
    /// The first.
    pub(crate) first: u8,
    /// How many follow each other.
    pub(crate) count: u16,
    /// The name server's sockets, one pair for each block.
    pub(crate) sockets: Vec<(UdpSocket, TcpListener)>,
}

impl Claim {
    /// Whether the index lies in one of the blocks.
    pub(crate) fn contains(&self, index: Index) -> bool {
        self.numbers().any(|block| u16::from(block) == index.number() >> 8)
    }

    /// Every index of the blocks, in order.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = Index> + use<> {
        let first = u16::from(self.first) << 8;
        let last = (u16::from(self.last()) << 8) | 0xff;
        (first..=last).filter_map(Index::new)
    }

    /// The last block.
    pub(crate) fn last(&self) -> u8 {
        u8::try_from(u16::from(self.first) + self.count - 1).unwrap_or(LAST_BLOCK)
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

/// The first blocks to try, best first.
fn candidates(project: &str, count: u16, recorded: Option<(u8, u16)>, others: &[(u8, u16)]) -> Vec<u8> {
    let taken: BTreeSet<u16> = others
        .iter()
        .flat_map(|(first, count)| u16::from(*first)..u16::from(*first) + count)
        .collect();
    // Block 0 is left out unless everything is needed: 127.77.0.0 looks like a network to people.
    let starts = 257u16.saturating_sub(count).max(1);
    let offset = u16::try_from(hash(project) % u64::from(starts)).unwrap_or(0);
    let probes = (0..starts).map(|step| (offset + step) % starts);
    let free = probes.filter(|start| (*start..*start + count).all(|block| !taken.contains(&block)));
    let own = recorded.filter(|(_, size)| *size >= count).map(|(first, _)| first);
    let mut ordered: Vec<u8> = own.into_iter().collect();
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

/// Claims the blocks of a project.
pub(crate) fn claim(
    cluster: &Cluster,
    planes: &Planes,
    recorded: Option<(u8, u16)>,
    others: &[(u8, u16)],
) -> Result<Claim, BlockError> {
    let count = blocks_for(cluster.hosts.len())?;
    // A pinned address says where the block is, when nothing else does.
    let addresses = cluster.hosts.iter().filter_map(|host| planes.place(host.address?));
    let lowest = addresses.map(|place| place.index.number().to_be_bytes()[0]).min();
    if let Some(block) = cluster.block.or(lowest) {
        return bind(block, count, planes).map_err(|(address, source)| BlockError::PinnedTaken {
            block,
            address,
            source,
        });
    }
    let mut last = None;
    for start in candidates(&cluster.project, count, recorded, others) {
        match bind(start, count, planes) {
            Ok(claim) => return Ok(claim),
            Err(failure) => last = Some(failure),
        }
    }
    let (address, source) = last.unwrap_or_else(|| {
        (
            SocketAddrV4::new(planes.broker_address(0), NAME_PORT),
            io::Error::other("all blocks are recorded for other projects"),
        )
    });
    Err(BlockError::NoneFree { address, source })
}

fn bind(first: u8, count: u16, planes: &Planes) -> Result<Claim, (SocketAddrV4, io::Error)> {
    let mut sockets = Vec::new();
    for step in 0..count {
        let address = |block| SocketAddrV4::new(planes.broker_address(block), NAME_PORT);
        let Ok(block) = u8::try_from(u16::from(first) + step) else {
            return Err((address(LAST_BLOCK), io::Error::other("the last block is 255")));
        };
        let address = address(block);
        let pair = UdpSocket::bind(address).and_then(|udp| Ok((udp, TcpListener::bind(address)?)));
        sockets.push(pair.map_err(|error| (address, error))?);
    }
    Ok(Claim { first, count, sockets })
}

/// Gives each host its index: the pinned address, else the one it had, else the next that is free, in the file's order.
pub(crate) fn assign(
    hosts: &[HostSpec],
    claim: &Claim,
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
                first: claim.first,
                last: claim.last(),
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
            let claim = Claim {
                first,
                count: 40,
                sockets: Vec::new(),
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
        let all = candidates("shop", 1, None, &[]);
        assert_eq!(all.len(), 256);
        assert_eq!(all[255], 0);
        let first = all[0];
        assert_ne!(candidates("shop", 1, None, &[(first, 1)])[0], first);
        assert_eq!(candidates("shop", 1, Some((9, 1)), &[])[0], 9);
        assert_ne!(
            candidates("shop", 2, Some((9, 1)), &[])[0],
            9,
            "it no longer fits there"
        );
        let wide = candidates("shop", 40, None, &[(100, 1)]);
        assert!(wide.iter().all(|start| !(61..=100).contains(start)));
    }

    #[test]
    fn a_claim_is_exclusive_and_the_next_project_goes_elsewhere() {
        let planes = planes_for_tests();
        let mut cluster = crate::testing::cluster("claims", vec![host("a")]);
        let one = claim(&cluster, &planes, None, &[]).unwrap();
        let two = claim(&cluster, &planes, None, &[]).unwrap();
        assert_ne!(one.first, two.first);
        cluster.block = Some(one.first);
        assert!(matches!(
            claim(&cluster, &planes, None, &[]),
            Err(BlockError::PinnedTaken { .. })
        ));
    }

    #[test]
    fn hosts_keep_their_index_when_the_file_is_edited() {
        let planes = planes_for_tests();
        let cluster = crate::testing::cluster("indexes", vec![host("new"), host("old"), host("pinned")]);
        let claim = claim(&cluster, &planes, None, &[]).unwrap();
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
