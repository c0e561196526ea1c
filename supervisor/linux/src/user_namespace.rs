//! Subordinate ids (subuid(5), subgid(5)): an ordinary user as root over a range of ids.
//!
//! Blocking: in the processes of verbs for images, which have no loop.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, User, getgid, getuid, setgid, setuid};

/// A line of /proc/PID/uid_map: the first id inside, the first outside, and their number.
type Range = (u32, u32, u32);

/// Why subordinate ids cannot be used, though the user has some.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The ids could not be given to this process by newuidmap(1) and newgidmap(1).
    #[error("newuidmap or newgidmap did not give this user's subordinate ids ({0}): is the package uidmap installed?")]
    Map(String),
    /// Root of the namespace.
    #[error("becoming root of a user namespace: {0}")]
    Become(#[from] nix::Error),
}

/// Whether [`enter_subordinate`] would try.
pub fn has_subordinate() -> bool {
    of_caller().is_some()
}

/// The users and groups of a namespace of this user; `None` for root, and without subordinate ids of
/// both kinds.
fn of_caller() -> Option<(Vec<Range>, Vec<Range>)> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let name = User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    let read = |file: &str, own| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        ranges(&text, name.as_deref(), uid, own)
    };
    let (users, groups) = (read("/etc/subuid", uid), read("/etc/subgid", gid));
    (uid != 0 && users.len() > 1 && groups.len() > 1).then_some((users, groups))
}

/// Makes this process root of a user namespace that has the user's subordinate ids, and returns
/// true. False, and nothing is changed, for root, for a user without subordinate ids of both kinds,
/// and if the kernel lets this user make no user namespace. The process has one thread.
///
/// # Errors
/// [`NamespaceError`]. The process has lost its ids, and can only end.
pub fn enter_subordinate() -> Result<bool, NamespaceError> {
    let Some((users, groups)) = of_caller() else {
        return Ok(false);
    };
    // The programs are outside of the namespace, in which their setuid bit would mean nothing. They
    // are started before there is one, and wait.
    let failed = |error: io::Error| NamespaceError::Map(error.to_string());
    let script = format!(
        "read go && newuidmap $1{} && newgidmap $1{}",
        words(&users),
        words(&groups)
    );
    let mut mapping = Command::new("sh")
        .args(["-c", &script, "sh", &std::process::id().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let go = mapping.stdin.take();
    if unshare(CloneFlags::CLONE_NEWUSER).is_err() {
        drop(go);
        mapping.wait().map_err(failed)?;
        return Ok(false);
    }
    if let Some(mut go) = go {
        go.write_all(b"go\n").map_err(failed)?;
    }
    let ended = mapping.wait_with_output().map_err(failed)?;
    if !ended.status.success() {
        return Err(NamespaceError::Map(
            String::from_utf8_lossy(&ended.stderr).trim().to_owned(),
        ));
    }
    setgid(Gid::from_raw(0))?;
    setuid(Uid::from_raw(0))?;
    Ok(true)
}

fn words(ranges: &[Range]) -> String {
    let ranges = ranges.iter();
    ranges
        .map(|(inside, outside, count)| format!(" {inside} {outside} {count}"))
        .collect()
}

/// The ranges of a user: 0 is the user (or the user's group), and the subordinate ids follow in the
/// order of the file.
fn ranges(text: &str, name: Option<&str>, uid: u32, own: u32) -> Vec<Range> {
    let mut found = vec![(0, own, 1)];
    let mut inside = 1_u32;
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [owner, start, count] = fields[..] else {
            continue;
        };
        let (Ok(outside), Ok(count)) = (start.parse(), count.parse::<u32>()) else {
            continue;
        };
        let is_own = Some(owner) == name || owner.parse() == Ok(uid);
        let next = inside.checked_add(count).filter(|_| is_own && count > 0);
        if let Some(next) = next {
            found.push((inside, outside, count));
            inside = next;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_follow_the_users_own() {
        let text = "# ours\nann:100000:65536\nbob:165536:65536\n1000:300000:10\nann:x:1\nann:5\nann:7:0\n";
        let of_ann = [(0, 1000, 1), (1, 100_000, 65536), (65537, 300_000, 10)];
        assert_eq!(ranges(text, Some("ann"), 1000, 1000), of_ann);
        assert_eq!(ranges(text, None, 7, 7), [(0, 7, 1)]);
        assert_eq!(ranges("ann:1:4294967295\n", Some("ann"), 1000, 1000), [(0, 1000, 1)]);
        assert_eq!(words(&of_ann[..2]), " 0 1000 1 1 100000 65536");
    }
}
