//! Subordinate ids (subuid(5), subgid(5)): the users and groups that an ordinary user may give to a
//! user namespace by newuidmap(1).

use imsup_wire::Ids;
use imsup_wire::root::IdRange;
use nix::unistd::{User, getgid, getuid};

/// The ids of roots that this process makes: the machine's own for root, subordinate ids for a user
/// who has some, else one user and group, here 0.
///
/// Blocking: for the name service, so to be called before any loop.
pub fn ids_of_caller() -> Ids {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    if uid == 0 {
        return Ids::Identity;
    }
    let name = User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    let ranges = |file: &str, own| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        ranges(&text, name.as_deref(), uid, own)
    };
    decide(ranges("/etc/subuid", uid), ranges("/etc/subgid", gid))
}

fn decide(users: Vec<IdRange>, groups: Vec<IdRange>) -> Ids {
    match users.len() > 1 && groups.len() > 1 {
        true => Ids::Ranges { users, groups },
        false => Ids::One { uid: 0, gid: 0 },
    }
}

/// The ranges of a user: 0 is the user (or the user's group), and the subordinate ids follow in the
/// order of the file.
fn ranges(text: &str, name: Option<&str>, uid: u32, own: u32) -> Vec<IdRange> {
    let mut found = vec![IdRange {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut inside = 1_u32;
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [owner, start, count] = fields[..] else {
            continue;
        };
        let is_own = Some(owner) == name || owner.parse() == Ok(uid);
        let (Ok(outside), Ok(count)) = (start.parse(), count.parse::<u32>()) else {
            continue;
        };
        let Some(next) = inside.checked_add(count).filter(|_| is_own && count > 0) else {
            continue;
        };
        found.push(IdRange { inside, outside, count });
        inside = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_follow_the_users_own() {
        let text = "# ours\nann:100000:65536\nbob:165536:65536\n1000:300000:10\nann:x:1\nann:5\n";
        let range = |inside, outside, count| IdRange { inside, outside, count };
        let of_ann = vec![range(0, 1000, 1), range(1, 100_000, 65536), range(65537, 300_000, 10)];
        assert_eq!(ranges(text, Some("ann"), 1000, 1000), of_ann);
        assert_eq!(ranges(text, None, 7, 7), [range(0, 7, 1)]);
        assert_eq!(
            ranges("ann:1:4294967295\n", Some("ann"), 1000, 1000),
            [range(0, 1000, 1)]
        );
        let groups = of_ann.clone();
        assert!(matches!(decide(of_ann.clone(), groups), Ids::Ranges { .. }));
        assert_eq!(decide(of_ann, vec![range(0, 1000, 1)]), Ids::One { uid: 0, gid: 0 });
    }
}
