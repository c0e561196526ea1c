//! Removing directories of any depth, whatever their permissions.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Removes a directory with all that is in it, or a file.
///
/// # Errors
/// Errors of the file system. What could be removed is removed.
pub(super) fn tree(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => return fs::remove_file(path),
    };
    match removed {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A layer's directory that its owner may not write, or one deeper than there are
        // descriptors (`remove_dir_all` keeps one open for each level).
        Err(_) => flatten(path),
    }
}

/// Removes a directory with two levels open at most: deeper directories are moved up first.
fn flatten(base: &Path) -> io::Result<()> {
    open_up(base)?;
    let mut moved = 0_u64;
    loop {
        let mut is_empty = true;
        for entry in fs::read_dir(base)? {
            let entry = entry?;
            is_empty = false;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
                continue;
            }
            open_up(&entry.path())?;
            for below in fs::read_dir(entry.path())? {
                let below = below?;
                if below.file_type()?.is_dir() {
                    open_up(&below.path())?;
                    let mut to = base.join(format!(".moved-{moved}"));
                    while fs::symlink_metadata(&to).is_ok() {
                        moved += 1;
                        to = base.join(format!(".moved-{moved}"));
                    }
                    fs::rename(below.path(), to)?;
                } else {
                    fs::remove_file(below.path())?;
                }
            }
            fs::remove_dir(entry.path())?;
        }
        if is_empty {
            return fs::remove_dir(base);
        }
    }
}

/// To rename a directory changes its `..`, so the directory itself must be writable (rename(2)).
fn open_up(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn closed_and_nested_directories_go_away_and_links_are_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let kept = base.path().join("kept");
        fs::write(&kept, "").unwrap();
        let path = base.path().join("tree");
        fs::create_dir_all(path.join("a/b/c/d/e")).unwrap();
        fs::create_dir_all(path.join("a/b2/.moved-0")).unwrap();
        symlink(base.path(), path.join("a/b/link")).unwrap();
        fs::write(path.join("a/b/c/file"), "").unwrap();
        for closed in ["a/b/c/d", "a/b", "a", ""] {
            fs::set_permissions(path.join(closed), Permissions::from_mode(0o000)).unwrap();
        }
        flatten(&path).unwrap();
        assert!(!path.exists() && kept.exists());
        tree(&kept).unwrap();
        assert!(!kept.exists());
    }
}
