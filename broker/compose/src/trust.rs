//! Checks if a compose file that was found, and not named, may be used. The file's services run as
//! the user who brings up the project, who may be root in another user's directory. Git asks the
//! same of a repository (git-config(1), safe.directory).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, geteuid};

/// Why a file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The file belongs to another user.
    #[error("belongs to user {0}")]
    Owner(u32),
    /// Another user can change the file.
    #[error("can be written by others than you (mode {0:04o})")]
    Writable(u32),
}

/// The users whose files are trusted: the caller, root, and the user who became root by sudo(8).
#[derive(Debug)]
pub(super) struct Trusted(Vec<Uid>);

impl Trusted {
    /// The trusted users of this process; `sudo_uid` is the variable SUDO_UID.
    pub fn by(sudo_uid: Option<&str>) -> Self {
        let own = geteuid();
        let before = sudo_uid.filter(|_| own.is_root()).and_then(|uid| uid.parse().ok());
        let all = [own, Uid::from_raw(0)].into_iter().chain(before.map(Uid::from_raw));
        Self(all.collect())
    }

    /// The reason for not using the file, if the file exists.
    ///
    /// # Errors
    /// stat(2).
    pub fn check(&self, file: &Path) -> io::Result<Option<Distrust>> {
        let metadata = match file.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata?,
        };
        let group = Gid::from_raw(metadata.gid());
        Ok(self.judge(metadata.uid(), metadata.mode() & 0o7777, || self.is_private(group)))
    }

    fn judge(&self, owner: u32, mode: u32, is_private: impl FnOnce() -> bool) -> Option<Distrust> {
        if !self.0.contains(&Uid::from_raw(owner)) {
            Some(Distrust::Owner(owner))
        } else if mode & 0o002 != 0 || (mode & 0o020 != 0 && !is_private()) {
            Some(Distrust::Writable(mode))
        } else {
            None
        }
    }

    /// True if a group is that of a single trusted user, as useradd(8) makes a group for each user.
    fn is_private(&self, group: Gid) -> bool {
        let Ok(Some(group)) = Group::from_gid(group) else {
            return false;
        };
        self.0.iter().any(|uid| {
            let user = User::from_uid(*uid).ok().flatten();
            user.is_some_and(|user| {
                user.gid == group.gid && user.name == group.name && group.mem.iter().all(|name| *name == user.name)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_files_are_trusted() {
        let trusted = Trusted(vec![Uid::from_raw(1000), Uid::from_raw(0)]);
        let judge = |owner, mode, private| trusted.judge(owner, mode, || private);
        assert_eq!(judge(1000, 0o644, false), None);
        assert_eq!(judge(0, 0o600, false), None);
        assert_eq!(judge(1000, 0o664, true), None, "umask 002");
        assert_eq!(judge(1000, 0o664, false), Some(Distrust::Writable(0o664)));
        assert_eq!(judge(1000, 0o646, true), Some(Distrust::Writable(0o646)));
        assert_eq!(judge(1001, 0o600, true), Some(Distrust::Owner(1001)));
    }

    #[test]
    fn a_file_of_ones_own_is_trusted_and_none_is_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("compose.yaml");
        let trusted = Trusted::by(None);
        assert_eq!(trusted.check(&file).unwrap(), None);
        std::fs::write(&file, "").unwrap();
        assert_eq!(trusted.check(&file).unwrap(), None);
    }
}
