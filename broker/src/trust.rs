//! The users whose sockets at hosts' addresses belong to the project: any user of the machine may
//! listen at a free address.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use nix::unistd::{Uid, User};
use parking_lot::RwLock;

use imsup_compose::cluster::Cluster;

/// Subordinate users of this machine's users (subuid(5)).
const SUBORDINATE: &str = "/etc/subuid";

/// The users of a project, for the broker's threads.
pub(crate) type SharedTrust = Arc<RwLock<Trust>>;

/// The users of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    /// The broker's own user, and the users of services.
    users: BTreeSet<u32>,
    /// The subordinate users of the broker's own user.
    subordinate: Vec<Range<u32>>,
    /// The names of the users who may ask the broker: its own, and root.
    names: BTreeMap<u32, String>,
}

impl Trust {
    /// The users of a cluster: this process's own user, its subordinate users, the users of
    /// services, and the users as which programs were seen to bind at earlier boots. A user without
    /// a number here is left out.
    ///
    /// Blocking: the name service is asked at the start only.
    pub(crate) fn of(cluster: &Cluster, seen: &BTreeSet<u32>) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let name_of = |uid: u32| Some((uid, User::from_uid(Uid::from_raw(uid)).ok().flatten()?.name));
        let names: BTreeMap<u32, String> = [0, own].into_iter().filter_map(name_of).collect();
        let name = names.get(&own);
        let table = std::fs::read_to_string(SUBORDINATE).unwrap_or_default();
        let services = cluster
            .hosts
            .iter()
            .filter_map(|host| number(host.program.user.as_deref()?));
        Self {
            users: services.chain(seen.iter().copied()).chain([own]).collect(),
            subordinate: subordinate(&table, own, name.map(String::as_str)),
            names,
        }
    }

    /// Whether a user is of the project, or root.
    pub(crate) fn includes(&self, uid: u32) -> bool {
        uid == 0 || self.users.contains(&uid) || self.subordinate.iter().any(|range| range.contains(&uid))
    }

    /// The name of a user who may ask the broker.
    pub(crate) fn name_of(&self, uid: u32) -> String {
        self.names.get(&uid).cloned().unwrap_or_else(|| format!("uid {uid}"))
    }

    /// A program of the project binds as this user; true if the user is new.
    pub(crate) fn add(&mut self, uid: u32) -> bool {
        !self.includes(uid) && self.users.insert(uid)
    }
}

/// The number of `USER[:GROUP]`.
///
/// Blocking: the name service is asked at the start only.
fn number(user: &str) -> Option<u32> {
    let name = user.split(':').next()?;
    name.parse()
        .ok()
        .or_else(|| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()))
}

/// The ranges of a table of subuid(5) that are a user's: lines `NAME-OR-NUMBER:FIRST:COUNT`.
fn subordinate(table: &str, uid: u32, name: Option<&str>) -> Vec<Range<u32>> {
    let number = uid.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let user = fields.next()?;
        let first: u32 = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        let is_theirs = user == number || Some(user) == name;
        is_theirs.then(|| first..first.saturating_add(count))
    };
    table.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, host};

    #[test]
    fn a_subordinate_range_is_its_users() {
        let table =
            "# a comment\nalice:100000:65536\nbob:165536:65536\n1000:400000:1\nalice:1:x\nalice:4294967290:100\n";
        assert_eq!(
            subordinate(table, 1000, Some("alice")),
            [100_000..165_536, 400_000..400_001, 4_294_967_290..u32::MAX]
        );
        let bobs: Vec<_> = std::iter::once(165_536..231_072).collect();
        assert_eq!(subordinate(table, 1001, Some("bob")), bobs);
        assert_eq!(subordinate(table, 1002, None), []);
    }

    #[test]
    fn services_users_root_and_those_that_programs_bind_as_are_of_the_project() {
        let mut db = host("db");
        db.program.user = Some("5001:5002".to_owned());
        let cluster = cluster("shop", vec![db, host("web")]);
        let mut trust = Trust::of(&cluster, &BTreeSet::from([999]));
        for uid in [0, 5001, 999, rustix::process::geteuid().as_raw()] {
            assert!(trust.includes(uid), "{uid}");
        }
        for uid in [5002, 4711] {
            assert!(!trust.includes(uid), "{uid}");
        }
        assert!(trust.add(4711));
        assert!(!trust.add(4711));
        assert!(!trust.add(0));
        assert!(trust.includes(4711));
    }

    #[test]
    fn a_user_is_a_name_or_a_number() {
        assert_eq!(number("1000:1000"), Some(1000));
        assert_eq!(number("root"), Some(0));
        assert_eq!(number("no such user:1"), None);
    }
}
