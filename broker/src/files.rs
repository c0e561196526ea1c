//! Files that others read while they are written.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use crate::own_program;

/// Replaces a file atomically: readers see the old contents or the new. Leaves no new file on
/// failure.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let replaced = fs::write(&new, contents).and_then(|()| fs::rename(&new, path));
    replaced.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// Makes a directory, and the directories above, for this user alone. An existing directory must be
/// writable by this user alone, and the directory above by no other user: under /tmp, any user can
/// make either first.
pub(crate) fn make_private_directory(path: &Path) -> io::Result<()> {
    let create = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    if let Some(above) = above(path) {
        create(above)?;
        check_above(above)?;
    }
    create(path)?;
    let metadata = check_own(path)?;
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Checks if a directory is as [`make_private_directory`] makes it, so that the contents can be
/// trusted; a missing directory is no error.
pub(crate) fn check_private_directory(path: &Path) -> io::Result<()> {
    match check_own(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        checked => checked.and_then(|_| above(path).map_or(Ok(()), check_above)),
    }
}

fn above(path: &Path) -> Option<&Path> {
    path.parent().filter(|above| !above.as_os_str().is_empty())
}

fn check_above(path: &Path) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    // Followed: the owner of a link is checked by the link's own metadata.
    let link = fs::symlink_metadata(path)?;
    let metadata = fs::metadata(path)?;
    // In a sticky directory, files of other users cannot be removed or replaced (/tmp itself).
    let writable = metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0;
    if writable || [&link, &metadata].iter().any(|found| ![0, own].contains(&found.uid())) {
        return Err(untrusted(path, &metadata));
    }
    Ok(())
}

fn check_own(path: &Path) -> io::Result<fs::Metadata> {
    let metadata = fs::symlink_metadata(path)?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
        return Err(untrusted(path, &metadata));
    }
    Ok(metadata)
}

fn untrusted(path: &Path, metadata: &fs::Metadata) -> io::Error {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let path = path.display();
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("others can write to {path} (owner {owner}, mode {mode:04o}); remove it"),
    )
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    unless_gone(path, fs::remove_file(path))
}

/// Removes a directory with all contents; the directory may be gone already. Programs of images may
/// have left directories that even their owner cannot enter, and overlayfs does (its `work`).
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match unless_gone(path, fs::remove_dir_all(path)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match open_up(path) {
            Ok(()) => unless_gone(path, fs::remove_dir_all(path)),
            Err(_) => remove_as_owner(path).unwrap_or(Err(error)),
        },
        removed => removed,
    }
}

/// Has a process remove a directory that is root over the user's subordinate ids (subuid(5));
/// `None` if there is no such process.
///
/// Blocking: when the project is taken down, and the loop has ended.
fn remove_as_owner(path: &Path) -> Option<io::Result<()>> {
    let executable = std::env::current_exe().ok()?;
    let mut remover = own_program::command(&executable);
    remover
        .arg("remover")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = remover.status().ok()?;
    status.success().then_some(Ok(()))
}

/// Gives the owner all rights over a directory and the directories in it.
fn open_up(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// Removing a missing file is no failure, nor is a directory above it that is by now another kind
/// of file.
fn unless_gone(path: &Path, removed: io::Result<()>) -> io::Result<()> {
    let is_nowhere = || above(path).is_some_and(|above| !above.is_dir());
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory && is_nowhere() => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let above = base.path().join("imsup-1");
        let path = above.join("shop");
        make_private_directory(&path).unwrap();
        assert_eq!((mode(&above), mode(&path)), (0o700, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        make_private_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700, "it is made private");

        for (made, open) in [(&path, 0o777), (&path, 0o720), (&above, 0o777)] {
            fs::set_permissions(made, fs::Permissions::from_mode(open)).unwrap();
            let error = make_private_directory(&path).unwrap_err().to_string();
            let named = format!("{} (owner", made.display());
            assert!(error.contains(&named) && error.contains("remove it"), "{error}");
            check_private_directory(&path).unwrap_err();
            fs::set_permissions(made, fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::set_permissions(&above, fs::Permissions::from_mode(0o1777)).unwrap();
        make_private_directory(&path).expect("as in /tmp itself");

        check_private_directory(&path).unwrap();

        fs::remove_dir(&path).unwrap();
        check_private_directory(&path).expect("nothing is there");
        std::os::unix::fs::symlink(base.path(), &path).unwrap();
        make_private_directory(&path).unwrap_err();
        check_private_directory(&path).unwrap_err();
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        // Only root can give a directory away; other users find directories of root.
        let base = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            let above = base.path().join("imsup-1");
            fs::create_dir(&above).unwrap();
            std::os::unix::fs::chown(&above, Some(1), Some(1)).unwrap();
            make_private_directory(&above.join("shop")).unwrap_err();
            make_private_directory(&above).unwrap_err();
        } else {
            make_private_directory(Path::new("/usr/lib")).unwrap_err();
        }
    }
}
