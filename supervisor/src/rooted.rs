//! A program in the root of an image: its user and variables, as the image's own files say.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use imsup_linux::spawn::Credentials;
use imsup_protocol::message::Role;
use imsup_protocol::zygote::BOOT_VARIABLE;
use imsup_wire::{Ids, ProgramSpec, RootSpec};
use nix::unistd::{Gid, Uid};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use crate::user::UserError;

/// PATH of a container whose image sets none (Docker).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The largest passwd or group file that is read, in bytes.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;

/// The user of a program in a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootUser {
    /// What the program becomes; `None` if its root has this user only.
    pub credentials: Option<Credentials>,
    /// The home directory; the root directory if the user has no entry.
    home: String,
}

/// The user that `USER[:GROUP]` names in a root. If `None`: the only user of the root, else user 0.
///
/// # Errors
/// Any [`UserError`].
pub fn user(root: &RootSpec, text: Option<&str>) -> Result<RootUser, UserError> {
    let accounts = Accounts {
        passwd: read(root, "etc/passwd"),
        group: read(root, "etc/group"),
    };
    let default = match root.ids {
        Ids::One { uid, .. } => uid,
        Ids::Identity | Ids::Ranges { .. } => 0,
    };
    let default = default.to_string();
    let text = text.filter(|text| !text.is_empty()).unwrap_or(&default);
    let found = accounts.find(text)?;
    let credentials = match root.ids {
        Ids::One { uid, .. } if found.uid != uid => {
            return Err(UserError::NotMapped {
                text: text.to_owned(),
                uid,
            });
        }
        // One user cannot set groups (user_namespaces(7)), and needs not.
        Ids::One { .. } => None,
        Ids::Identity | Ids::Ranges { .. } => Some(Credentials {
            uid: Uid::from_raw(found.uid),
            gid: Gid::from_raw(found.gid),
            groups: found.groups.into_iter().map(Gid::from_raw).collect(),
        }),
    };
    Ok(RootUser {
        credentials,
        home: found.home,
    })
}

/// The environment of a program in a root, as `NAME=VALUE`: nothing of ours, as under docker.
pub fn environment(spec: &ProgramSpec, root: &RootSpec, role: &Role, user: &RootUser) -> Vec<CString> {
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
    variables.insert("PATH".into(), DEFAULT_PATH.into());
    variables.insert("HOSTNAME".into(), root.hostname.clone().into());
    variables.insert("HOME".into(), user.home.clone().into());
    let given = spec.environment.iter().filter(|(name, _)| !name.is_empty());
    variables.extend(given.map(|(name, value)| (name.into(), value.into())));
    if let Role::Launched { boot } = role {
        variables.insert(BOOT_VARIABLE.into(), boot.to_string().into());
    }
    let line = |(name, value): (OsString, OsString)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
    // The compose file is checked for NUL.
    variables.into_iter().flat_map(line).collect()
}

/// A file of a root, from the highest layer that has it; empty if there is none. The layers are an
/// image's, so links are followed below the layer only.
fn read(root: &RootSpec, file: &str) -> String {
    let changes = root.changes.as_ref().join("upper");
    let layers = root.layers.iter().rev().map(AsRef::as_ref);
    std::iter::once(changes.as_path())
        .chain(layers)
        .find_map(|layer| read_in(layer, file))
        .unwrap_or_default()
}

/// A file below a directory: empty if it is removed there, and `None` if it is not there.
fn read_in(layer: &Path, file: &str) -> Option<String> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layer = rustix::fs::openat(CWD, layer, directory, Mode::empty()).ok()?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // The kind is known before the file is opened for reading: a pipe would wait for a writer.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(&layer, file, flags, Mode::empty(), resolve).ok()?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found).ok()?.st_mode);
    if !kind.is_file() {
        return kind.is_char_device().then(String::new);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::openat2(&layer, file, flags, Mode::empty(), resolve).ok()?;
    let mut text = Vec::new();
    let mut opened = File::from(opened).take(MAX_ACCOUNTS_BYTES);
    opened.read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// passwd(5) and group(5) of a root.
#[derive(Debug, Default)]
struct Accounts {
    passwd: String,
    group: String,
}

/// A user as the files say.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

impl Accounts {
    /// As Docker: a user by name or number; a number needs no entry, and has group 0 then. The
    /// groups of the user are added unless a group is named.
    fn find(&self, text: &str) -> Result<Found, UserError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let entry = lines(&self.passwd).find(|fields| fields.len() >= 6 && (fields[0] == user || fields[2] == user));
        let number = |entry: &Vec<&str>, field: usize| entry.get(field).and_then(|text| text.parse::<u32>().ok());
        let uid = match &entry {
            Some(entry) => number(entry, 2),
            None => user.parse().ok(),
        };
        let uid = uid.ok_or_else(|| UserError::NotInRoot {
            kind: "user",
            name: user.to_owned(),
        })?;
        let own = entry.as_ref().and_then(|entry| number(entry, 3)).unwrap_or(0);
        let gid = group.map_or(Ok(own), |group| self.group(group))?;
        let mut groups = vec![gid];
        if let (Some(entry), None) = (&entry, group) {
            groups.extend(self.groups_of(entry[0]).filter(|other| *other != gid));
        }
        Ok(Found {
            uid,
            gid,
            groups,
            home: entry.map_or("/", |entry| entry[5]).to_owned(),
        })
    }

    fn group(&self, group: &str) -> Result<u32, UserError> {
        let entry = lines(&self.group).find(|fields| fields.len() >= 3 && (fields[0] == group || fields[2] == group));
        let number = entry.map_or(group, |entry| entry[2]);
        number.parse().map_err(|_| UserError::NotInRoot {
            kind: "group",
            name: group.to_owned(),
        })
    }

    fn groups_of<'a>(&'a self, user: &'a str) -> impl Iterator<Item = u32> + 'a {
        let entries = lines(&self.group).filter(move |fields| {
            let members = fields.get(3).copied().unwrap_or_default();
            members.split(',').any(|member| member == user)
        });
        entries.filter_map(|fields| fields[2].parse().ok())
    }
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.trim().split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nredis:x:999:1000::/home/redis:/bin/sh\nbroken\n".to_owned(),
            group: "root:x:0:\nredis:x:1000:\nssl:x:101:www,redis\n".to_owned(),
        }
    }

    #[test]
    fn a_user_is_who_the_image_says() {
        let found = |text| accounts().find(text).unwrap();
        let redis = Found {
            uid: 999,
            gid: 1000,
            groups: vec![1000, 101],
            home: "/home/redis".to_owned(),
        };
        assert_eq!(found("999"), redis);
        assert_eq!(found("redis"), redis);
        assert_eq!(found("redis:ssl").groups, [101]);
        assert_eq!((found("redis:7").gid, found("0").home.as_str()), (7, "/root"));
        let unknown = found("4242");
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_str()), (4242, 0, "/"));
        let error = accounts().find("www").unwrap_err().to_string();
        assert!(error.contains("no user 'www' in its image"), "{error}");
        assert!(accounts().find("redis:nobody").is_err());
    }

    fn root(directory: &Path, ids: Ids) -> RootSpec {
        RootSpec {
            layers: ["low", "high"].map(|name| directory.join(name).into()).into(),
            changes: directory.into(),
            mount_point: directory.into(),
            read_only: false,
            ids,
            hostname: "web".to_owned(),
            mounts: Vec::new(),
            shm_bytes: 0,
            capabilities: 0,
            sysctls: Vec::new(),
        }
    }

    #[test]
    fn the_highest_layer_that_has_a_file_decides() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path(), Ids::Identity);
        let write = |layer: &str, text: &str| {
            let etc = directory.path().join(layer).join("etc");
            std::fs::create_dir_all(&etc).unwrap();
            std::fs::write(etc.join("passwd"), text).unwrap();
        };
        assert_eq!(read(&root, "etc/passwd"), "");
        write("low", "low");
        assert_eq!(read(&root, "etc/passwd"), "low");
        write("high", "high");
        assert_eq!(read(&root, "etc/passwd"), "high");
        write("upper", "upper");
        assert_eq!(read(&root, "etc/passwd"), "upper");
        // A link of an image does not lead to the machine's files.
        let link = directory.path().join("upper/etc/passwd");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert_eq!(read(&root, "etc/passwd"), "high");
    }

    #[test]
    fn a_root_with_one_user_runs_that_user_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path(), Ids::One { uid: 999, gid: 999 });
        for text in [Some("999"), Some(""), None] {
            assert_eq!(user(&root, text).unwrap().credentials, None);
        }
        let error = user(&root, Some("0")).unwrap_err().to_string();
        assert!(error.contains("999") && error.contains("x-imsup.uid"), "{error}");
    }

    #[test]
    fn a_program_of_an_image_sees_no_variable_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path(), Ids::Identity);
        let mut spec = ProgramSpec::new(["true"]);
        spec.environment.insert("A".to_owned(), "1".to_owned());
        let user = user(&root, None).unwrap();
        let lines = environment(&spec, &root, &Role::Exec, &user);
        let expected = ["A=1", "HOME=/", "HOSTNAME=web", &format!("PATH={DEFAULT_PATH}")];
        assert_eq!(lines, expected.map(|line| CString::new(line).unwrap()));
    }
}
