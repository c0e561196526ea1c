//! What `up` changes of a project that is up. Pure.
//!
//! As docker compose has it: a host whose file says something else than before ends and comes back
//! with what the file says now; the others go on; hosts that the file does not have any more stay,
//! unless they are to be removed.

use std::collections::{BTreeMap, BTreeSet};

use imsup_compose::cluster::HostSpec;
use imsup_protocol::control::{Change, Recreate};
use imsup_wire::HostName;

/// The next hosts of a project, and what becomes of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order of the file, then those that it does not have any more.
    pub(crate) hosts: Vec<HostSpec>,
    /// Every host that is not what it was, and every one that the file does not have any more.
    pub(crate) changes: Vec<(HostName, Change)>,
}

impl Plan {
    /// The hosts whose programs end.
    pub(crate) fn ending(&self) -> impl Iterator<Item = &HostName> {
        let ends = |change: &Change| matches!(change, Change::Changed { .. } | Change::Removed);
        let ending = self.changes.iter().filter(move |(_, change)| ends(change));
        ending.map(|(name, _)| name)
    }
}

/// Compares the hosts of a project with those of the file.
pub(crate) fn plan(old: &[HostSpec], new: Vec<HostSpec>, recreate: Recreate, removes: bool) -> Plan {
    let by_name: BTreeMap<&HostName, &HostSpec> = old.iter().map(|host| (&host.name, host)).collect();
    let mut changes = Vec::new();
    let mut hosts = Vec::with_capacity(new.len());
    for host in new {
        let Some(had) = by_name.get(&host.name) else {
            changes.push((host.name.clone(), Change::New));
            hosts.push(host);
            continue;
        };
        let keys = keys(had, &host);
        let ends = match recreate {
            Recreate::Changed => !keys.is_empty(),
            Recreate::All => true,
            Recreate::Never => false,
        };
        match ends {
            true => {
                changes.push((host.name.clone(), Change::Changed { keys }));
                hosts.push(host);
            }
            false if keys.is_empty() => hosts.push(host),
            false => hosts.push((*had).clone()),
        }
    }
    let names: BTreeSet<HostName> = hosts.iter().map(|host| host.name.clone()).collect();
    for host in old.iter().filter(|host| !names.contains(&host.name)) {
        let change = if removes { Change::Removed } else { Change::Orphan };
        changes.push((host.name.clone(), change));
        hosts.extend((!removes).then(|| host.clone()));
    }
    Plan { hosts, changes }
}

/// What differs, in the words of the file. As under docker compose, the order of boots is not of the
/// host itself; nor is when it starts.
fn keys(old: &HostSpec, new: &HostSpec) -> Vec<String> {
    let layers = |host: &HostSpec| host.program.root.as_ref().map(|root| root.layers.clone());
    let mounts = |host: &HostSpec| host.program.root.as_ref().map(|root| root.mounts.clone());
    let image = |host: &HostSpec| {
        (
            host.container.as_ref().map(|container| container.image.clone()),
            layers(host),
        )
    };
    let differs = [
        ("image", image(old) != image(new)),
        ("command", old.program.command != new.program.command),
        ("environment", *old.program.environment != *new.program.environment),
        ("volumes", mounts(old) != mounts(new)),
        ("ports", old.published != new.published || old.expose != new.expose),
        ("user", old.program.user != new.program.user),
        ("working_dir", old.program.working_dir != new.program.working_dir),
        ("healthcheck", old.health != new.health),
        ("labels", old.labels != new.labels),
        (
            "networks",
            (&old.networks, &old.aliases, old.address) != (&new.networks, &new.aliases, new.address),
        ),
        ("extra_hosts", old.extra_hosts != new.extra_hosts),
        ("hostname", old.hostname != new.hostname),
        ("restart", old.restart != new.restart),
    ];
    let found = differs.iter().filter(|(_, differs)| *differs);
    let mut keys: Vec<String> = found.map(|(key, _)| (*key).to_owned()).collect();
    if keys.is_empty() && comparable(old) != comparable(new) {
        keys.push("settings".to_owned());
    }
    keys
}

fn comparable(host: &HostSpec) -> HostSpec {
    let mut host = host.clone();
    host.prerequisites.clear();
    host.dependencies.clear();
    host.imsup.start = None;
    host
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host;

    fn changed(keys: &[&str]) -> Change {
        Change::Changed {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.hosts.iter().map(|host| host.name.as_str()).collect()
    }

    #[test]
    fn only_what_the_file_says_otherwise_ends() {
        let old = ["web", "db", "gone"].map(host);
        let mut web = host("web");
        web.program.environment.insert("A".to_owned(), "b".to_owned());
        let mut db = host("db");
        db.imsup.start = Some(imsup_compose::cluster::Start::Up);
        let new = vec![host("api"), web, db];
        let made = plan(&old, new.clone(), Recreate::Changed, false);
        let told: Vec<_> = made
            .changes
            .iter()
            .map(|(name, change)| (name.as_str(), change.clone()))
            .collect();
        assert_eq!(
            told,
            [
                ("api", Change::New),
                ("web", changed(&["environment"])),
                ("gone", Change::Orphan)
            ]
        );
        assert_eq!(names(&made), ["api", "web", "db", "gone"]);
        assert_eq!(made.ending().map(HostName::as_str).collect::<Vec<_>>(), ["web"]);
        let removed = plan(&old, new, Recreate::Changed, true);
        assert_eq!(names(&removed), ["api", "web", "db"]);
        assert_eq!(
            removed.ending().map(HostName::as_str).collect::<Vec<_>>(),
            ["web", "gone"]
        );
    }

    #[test]
    fn all_or_none_may_be_made_anew() {
        let old = [host("web")];
        let mut new = host("web");
        new.hostname = "front".to_owned();
        let all = plan(&old, vec![host("web")], Recreate::All, false);
        assert_eq!(all.changes, [("web".parse().unwrap(), changed(&[]))]);
        let none = plan(&old, vec![new.clone()], Recreate::Never, false);
        assert_eq!((none.changes.len(), &none.hosts[0]), (0, &old[0]));
        let changed = plan(&old, vec![new.clone()], Recreate::Changed, false);
        assert_eq!(changed.hosts[0], new);
    }
}
