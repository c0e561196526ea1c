//! The holder of a socket, in words for people.
//!
//! Blocking: who is named is for people; a thread of its own asks, or the start before it fails.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;

use imsup_linux::owner::{Owner, Owners};
use imsup_wire::{Endpoint, Transport};
use nix::unistd::{Uid, User};

/// `user mallory (1001), process 4711 (nc)`. Without the process if /proc does not show the
/// descriptor: only root sees other users' descriptors (proc(5)). Walks over all processes, so not
/// for use in a loop.
pub(crate) fn describe(owner: Owner) -> String {
    let user = user(owner.uid);
    match process(owner.inode) {
        Some((pid, program)) => format!("{user}, process {pid} ({program})"),
        None => user,
    }
}

/// `user mallory (1001)`.
pub(crate) fn user(uid: u32) -> String {
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    match name {
        Some(user) => format!("user {} ({uid})", user.name),
        None => format!("user {uid}"),
    }
}

/// [`describe`] for the socket at an endpoint, if there is a socket and the kernel names the owner.
pub(crate) fn of(endpoint: Endpoint) -> Option<String> {
    let owner = Owners::open().ok()?.of(endpoint).ok()??;
    Some(describe(owner))
}

/// ` by user mallory (1001)`, or the empty string.
pub(crate) fn by(holder: &Option<String>) -> String {
    holder.as_ref().map_or_else(String::new, |who| format!(" by {who}"))
}

/// The holders of sockets at these addresses, most first: `253 by user mallory (1001), process 4711
/// (nc); 1 by user 1002`. `None` if the kernel names no owner.
pub(crate) fn tally(addresses: Vec<SocketAddrV4>) -> Option<String> {
    let mut owners = Owners::open().ok()?;
    let mut found: BTreeMap<u32, (usize, Owner)> = BTreeMap::new();
    for address in addresses {
        let both = [Transport::Udp, Transport::Tcp].map(|transport| Endpoint { transport, address });
        let owner = both.into_iter().find_map(|endpoint| owners.of(endpoint).ok()?);
        if let Some(owner) = owner {
            found.entry(owner.uid).or_insert((0, owner)).0 += 1;
        }
    }
    let mut counts: Vec<(usize, Owner)> = found.into_values().collect();
    counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let words = counts
        .iter()
        .map(|(count, owner)| format!("{count} by {}", describe(*owner)));
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// The first process that has the socket with this inode number, and its name.
pub(crate) fn process(inode: u32) -> Option<(u32, String)> {
    if inode == 0 {
        return None;
    }
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_it = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut links = descriptors.into_iter().flatten().flatten();
        links.any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()))
    };
    let pid = { pids }.find(has_it)?;
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, program.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_user_and_the_process_that_have_a_socket_are_named() {
        let socket = UdpSocket::bind("127.97.202.1:0").unwrap();
        let std::net::SocketAddr::V4(address) = socket.local_addr().unwrap() else {
            unreachable!("an IPv4 address was bound");
        };
        let endpoint = Endpoint::udp(*address.ip(), address.port());
        let owner = Owners::open().unwrap().of(endpoint).unwrap().unwrap();
        let said = describe(owner);
        let own = rustix::process::geteuid().as_raw();
        assert!(said.contains(&own.to_string()), "{said}");
        assert!(said.contains(&format!("process {} (", std::process::id())), "{said}");
        assert_eq!(of(endpoint), Some(said.clone()));
        let nobodys = SocketAddrV4::new([127, 97, 202, 2].into(), 1053);
        assert_eq!(tally(vec![nobodys, address]), Some(format!("1 by {said}")));
        assert_eq!(tally(vec![nobodys]), None);
    }
}
