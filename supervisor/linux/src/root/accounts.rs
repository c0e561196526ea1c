//! Users and groups of an image: passwd(5) and group(5) of its layers.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use imsup_wire::root::OWNER_MARK;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

/// The largest passwd or group file that is read, in bytes.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;

/// An image has no such user or group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} '{name}' in its image; name one of the image's /etc/passwd or /etc/group, or a number")]
pub struct NotInRoot {
    /// "user" or "group".
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// A file of layers, from the highest that has it; empty if there is none. The layers are an image's,
/// so links are followed below the layer only.
fn read(highest_first: &[PathBuf], file: &str) -> String {
    let found = highest_first.iter().find_map(|layer| read_in(layer, file));
    found.unwrap_or_default()
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
pub struct Accounts {
    passwd: String,
    group: String,
}

/// A user as the files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// The home directory; the root directory without an entry.
    pub home: String,
}

impl Accounts {
    /// The accounts of layers, the highest first.
    pub fn of(highest_first: &[PathBuf]) -> Self {
        Self {
            passwd: read(highest_first, "etc/passwd"),
            group: read(highest_first, "etc/group"),
        }
    }

    /// As Docker: a user by name or number; a number needs no entry, and has group 0 then. The
    /// groups of the user are added unless a group is named.
    ///
    /// # Errors
    /// Neither an entry nor a number.
    pub fn find(&self, text: &str) -> Result<Account, NotInRoot> {
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
        let uid = uid.ok_or_else(|| NotInRoot {
            kind: "user",
            name: user.to_owned(),
        })?;
        let own = entry.as_ref().and_then(|entry| number(entry, 3)).unwrap_or(0);
        let gid = group.map_or(Ok(own), |group| self.group(group))?;
        let mut groups = vec![gid];
        if let (Some(entry), None) = (&entry, group) {
            groups.extend(self.groups_of(entry[0]).filter(|other| *other != gid));
        }
        Ok(Account {
            uid,
            gid,
            groups,
            home: entry.map_or("/", |entry| entry[5]).to_owned(),
        })
    }

    fn group(&self, group: &str) -> Result<u32, NotInRoot> {
        let entry = lines(&self.group).find(|fields| fields.len() >= 3 && (fields[0] == group || fields[2] == group));
        let number = entry.map_or(group, |entry| entry[2]);
        number.parse().map_err(|_| NotInRoot {
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

/// The owner of a directory of layers, the highest first, as the image says; `None` if there is no
/// such directory.
pub fn owner_of(highest_first: &[PathBuf], directory: &Path) -> Option<(u32, u32)> {
    let inside = directory.strip_prefix("/").unwrap_or(directory);
    let found = highest_first.iter().find_map(|layer| open_in(layer, inside))?;
    let mut mark = [0; 32];
    let marked = rustix::fs::fgetxattr(&found, OWNER_MARK, &mut mark[..]).ok();
    let marked = marked.and_then(|length| std::str::from_utf8(mark.get(..length)?).ok());
    if let Some((uid, gid)) = marked.and_then(|text| text.split_once(':')) {
        return Some((uid.parse().ok()?, gid.parse().ok()?));
    }
    let status = rustix::fs::fstat(&found).ok()?;
    Some((status.st_uid, status.st_gid))
}

/// A directory below a layer.
fn open_in(layer: &Path, directory: &Path) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let layer = rustix::fs::openat(CWD, layer, flags, Mode::empty()).ok()?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&layer, directory, flags, Mode::empty(), resolve).ok()
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
        let redis = Account {
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

    #[test]
    fn the_highest_layer_that_has_a_file_decides() {
        let directory = tempfile::tempdir().unwrap();
        let layers = ["upper", "high", "low"].map(|name| directory.path().join(name));
        let write = |layer: &str, text: &str| {
            let etc = directory.path().join(layer).join("etc");
            std::fs::create_dir_all(&etc).unwrap();
            std::fs::write(etc.join("passwd"), text).unwrap();
        };
        assert_eq!(read(&layers, "etc/passwd"), "");
        write("low", "low");
        assert_eq!(read(&layers, "etc/passwd"), "low");
        write("high", "high");
        assert_eq!(read(&layers, "etc/passwd"), "high");
        write("upper", "upper");
        assert_eq!(read(&layers, "etc/passwd"), "upper");
        // A link of an image does not lead to the machine's files.
        let link = directory.path().join("upper/etc/passwd");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert_eq!(read(&layers, "etc/passwd"), "high");
    }
}
