//! Owners, permissions, times and extended attributes.

use std::collections::BTreeMap;
use std::path::Path;

use imsup_wire::root::OWNER_MARK;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::limits::Counter;
use super::root::{Place, Root};
use super::{Owners, UnpackError, printable};
use crate::tar::Entry;

/// The attribute by which overlayfs knows an opaque directory, mounted with `userxattr`
/// (Documentation/filesystems/overlayfs.rst).
const OPAQUE: &str = "user.overlay.opaque";
/// The names that overlayfs gives a meaning: a layer may not speak to overlayfs.
const OF_OVERLAY: &[u8] = b"user.overlay.";
/// File capabilities (capabilities(7)).
const CAPABILITY: &[u8] = b"security.capability";

/// Marks a directory, which may be opened with O_PATH.
pub(super) fn make_opaque(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // The attributes of a descriptor with O_PATH cannot be changed.
    let directory = rustix::fs::openat(
        directory,
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
}

/// Whether a directory hides whatever lower layers have in it.
pub(crate) fn is_opaque(directory: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::getxattr(directory, OPAQUE, &mut value) == Ok(1) && value == *b"y"
}

/// The attributes of a file, as the layer records them.
#[derive(Clone, Debug)]
pub(super) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    times: Timestamps,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    pub(super) fn of(entry: &Entry) -> Self {
        let time = Timespec {
            tv_sec: entry.mtime.0,
            tv_nsec: entry.mtime.1.into(),
        };
        Self {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            times: Timestamps {
                last_access: time,
                last_modification: time,
            },
            xattrs: entry.xattrs.clone(),
        }
    }

    /// The error of setting attributes.
    pub(super) fn failed(&self, root: &Root, path: &[u8], error: Errno) -> UnpackError {
        match error {
            Errno::INVAL => UnpackError::Owner {
                path: printable(path),
                uid: self.uid,
                gid: self.gid,
            },
            error => root.failed("setting the owner or the permissions of", path, error),
        }
    }

    /// Sets the attributes of a file or a directory. The order matters: a change of the owner
    /// removes setuid bits and capabilities (chown(2)), and `user.` attributes want a file that may
    /// be written (xattr(7)).
    pub(super) fn apply_to(&self, file: BorrowedFd<'_>, owners: Owners) -> rustix::io::Result<()> {
        for (name, value) in &self.xattrs {
            if name.starts_with(b"user.") && !name.starts_with(OF_OVERLAY) {
                set_if_supported(file, name, value)?;
            }
        }
        if owners == Owners::Own && (self.uid, self.gid) != (0, 0) && is_directory(file)? {
            let owner = format!("{}:{}", self.uid, self.gid);
            set_if_supported(file, OWNER_MARK.as_bytes(), owner.as_bytes())?;
        }
        if owners == Owners::Recorded {
            rustix::fs::fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode))?;
        let mut capabilities = self.xattrs.iter().filter(|(name, _)| name == CAPABILITY);
        if let Some((name, value)) = capabilities.next().filter(|_| owners == Owners::Recorded) {
            match set_if_supported(file, name, value) {
                // Bytes that are no capabilities give none.
                Err(Errno::INVAL) => (),
                result => result?,
            }
        }
        rustix::fs::futimens(file, &self.times)
    }

    /// Sets the attributes of something that cannot be opened: a link or a pipe.
    pub(super) fn apply_at(&self, place: &Place, owners: Owners) -> rustix::io::Result<()> {
        let (parent, name) = (place.parent(), place.name());
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        if owners == Owners::Recorded {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), no_follow)?;
        }
        let kind = rustix::fs::statat(parent, name, no_follow)?;
        if rustix::fs::FileType::from_raw_mode(kind.st_mode) == rustix::fs::FileType::Fifo {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        rustix::fs::utimensat(parent, name, &self.times, no_follow)
    }
}

fn is_directory(file: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mode = rustix::fs::fstat(file)?.st_mode;
    Ok(rustix::fs::FileType::from_raw_mode(mode).is_dir())
}

/// A file system without such attributes loses them, as with Docker.
fn set_if_supported(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        result => result,
    }
}

/// The attributes of directories, to be set when the layer is complete.
#[derive(Debug, Default)]
pub(super) struct Directories(BTreeMap<Vec<u8>, Attributes>);

impl Directories {
    pub(super) fn set(
        &mut self,
        path: Vec<u8>,
        attributes: Attributes,
        counter: &mut Counter,
    ) -> Result<(), UnpackError> {
        let xattrs = attributes.xattrs.iter().map(|(name, value)| name.len() + value.len());
        counter.directory_path(path.len() + xattrs.sum::<usize>())?;
        self.0.insert(path, attributes);
        Ok(())
    }

    /// Sets all, children before their parents: a parent may become one that cannot be entered.
    pub(super) fn apply(&self, root: &Root, owners: Owners) -> Result<(), UnpackError> {
        for (path, attributes) in self.0.iter().rev() {
            // A later entry may have replaced the directory.
            if let Some(directory) = root.directory(path)? {
                let applied = attributes.apply_to(directory.as_fd(), owners);
                applied.map_err(|error| attributes.failed(root, path, error))?;
            }
        }
        Ok(())
    }
}
