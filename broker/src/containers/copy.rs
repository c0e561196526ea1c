//! Copies of directories: what a new volume takes from its image.
//!
//! Blocking: in a child that does nothing else.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

/// Copies what is in a directory, and the directory's own attributes, into an existing directory.
/// Owners that cannot be set are left.
pub(super) fn directory(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&target)?;
            directory(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
            attributes(&entry.path(), &target)?;
        } else if kind.is_file() {
            io::copy(&mut File::open(entry.path())?, &mut File::create_new(&target)?)?;
            attributes(&entry.path(), &target)?;
        } else if kind.is_fifo() {
            rustix::fs::mkfifoat(CWD, &target, Mode::RUSR | Mode::WUSR)?;
            attributes(&entry.path(), &target)?;
        }
    }
    attributes(from, to)
}

fn attributes(from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(from)?;
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    match rustix::fs::chownat(CWD, to, Some(uid), Some(gid), no_follow) {
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    if !found.file_type().is_symlink() {
        rustix::fs::chmodat(CWD, to, Mode::from_raw_mode(found.mode()), AtFlags::empty())?;
    }
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, no_follow)?;
    Ok(())
}
