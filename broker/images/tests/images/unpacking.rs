//! Layers as directories for overlayfs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use imsup_images::unpack::{self, Limits, Owners, UnpackError};
use rustix::fs::{Mode, XattrFlags};
use tar::EntryType;
use tempfile::TempDir;

use crate::archive::{Layer, MTIME};

/// A layer that is unpacked into a directory of its own.
pub struct Unpacked {
    base: TempDir,
}

impl Unpacked {
    pub fn path(&self, path: &str) -> PathBuf {
        self.base.path().join("layer").join(path)
    }

    pub fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// What is beside the layer's directory: nothing but what the test has put there.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }
}

pub fn limits() -> Limits {
    Limits::of_layer(1 << 20)
}

/// Unpacks with the owners that this process may give.
pub fn try_unpack(layer: &[u8], limits: Limits) -> (Unpacked, Result<u64, UnpackError>) {
    let base = tempfile::tempdir().unwrap();
    let (directory, discarded) = (base.path().join("layer"), base.path().join("discarded"));
    fs::create_dir(&directory).unwrap();
    fs::create_dir(&discarded).unwrap();
    fs::write(base.path().join("secret"), "secret").unwrap();
    let owners = match rustix::process::getuid().is_root() {
        true => Owners::Recorded,
        false => Owners::Own,
    };
    let result = unpack::unpack(layer, &directory, &discarded, owners, limits);
    (Unpacked { base }, result)
}

pub fn unpack(layer: Layer) -> Unpacked {
    let (unpacked, result) = try_unpack(&layer.tar(), limits());
    result.unwrap_or_else(|error| panic!("{error}"));
    unpacked
}

fn is_whiteout(path: &Path) -> bool {
    let found = fs::symlink_metadata(path).unwrap();
    found.file_type().is_char_device() && found.rdev() == 0
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_opaque(path: &Path) -> bool {
    xattr(path, "user.overlay.opaque").as_deref() == Some(b"y")
}

#[test]
fn files_keep_content_permissions_and_times() {
    let unpacked = unpack(
        Layer::new()
            .directory("./", 0o755)
            .directory("etc/", 0o555)
            .file_with("etc/passwd", 0o640, "root")
            .file_with("etc/sudo", 0o4755, "sudo")
            .file_with("etc/closed", 0o000, "closed")
            .symbolic_link("etc/link", "/no/such")
            .hard_link("etc/again", "etc/passwd")
            .special("etc/pipe", EntryType::Fifo)
            .special("etc/null", EntryType::Char)
            .file("made/for/it", "it"),
    );
    let mode = |path: &str| fs::symlink_metadata(unpacked.path(path)).unwrap().mode() & 0o7777;
    assert_eq!(unpacked.text("etc/passwd"), "root");
    for (path, expected) in [
        ("etc", 0o555),
        ("etc/passwd", 0o640),
        ("etc/sudo", 0o4755),
        ("etc/closed", 0),
        ("etc/pipe", 0o600),
        ("made", 0o755),
        ("made/for", 0o755),
    ] {
        assert_eq!(mode(path), expected, "{path}");
    }
    for path in ["", "etc", "etc/passwd", "etc/link", "etc/pipe"] {
        let found = fs::symlink_metadata(unpacked.path(path)).unwrap();
        assert_eq!((found.mtime(), found.mtime_nsec()), (MTIME as i64, 0), "{path}");
    }
    assert_eq!(fs::read_link(unpacked.path("etc/link")).unwrap(), Path::new("/no/such"));
    let number = |path: &str| fs::metadata(unpacked.path(path)).unwrap().ino();
    assert_eq!(number("etc/again"), number("etc/passwd"));
    assert!(fs::metadata(unpacked.path("etc/pipe")).unwrap().file_type().is_fifo());
    assert!(!unpacked.path("etc/null").exists());
    // The directory of the test can be removed again by an ordinary user.
    rustix::fs::chmod(unpacked.path("etc"), Mode::RWXU).unwrap();
}

#[test]
fn deletions_are_marked_for_overlayfs() {
    let unpacked = unpack(
        Layer::new()
            .deleted("etc/gone")
            .deleted("gone")
            .opaque("var")
            .file("var/new", "new")
            .file("kept", "kept")
            .deleted("kept")
            // Deleted and made again, in both orders.
            .deleted("first")
            .file("first/file", "")
            .directory("second", 0o755)
            .deleted("second")
            .deleted("third")
            .directory("third", 0o755)
            .deleted("fourth")
            .file("fourth", "fourth")
            .file(".wh..wh.plnk/1", "aufs")
            .file(".wh..wh.aufs", ""),
    );
    assert!(is_whiteout(&unpacked.path("etc/gone")) && is_whiteout(&unpacked.path("gone")));
    assert!(is_opaque(&unpacked.path("var")) && !is_opaque(&unpacked.path("etc")));
    assert_eq!(
        (unpacked.text("var/new").as_str(), unpacked.text("kept").as_str()),
        ("new", "kept")
    );
    for name in ["second", "third"] {
        assert!(is_opaque(&unpacked.path(name)), "{name}");
    }
    assert_eq!(unpacked.text("fourth"), "fourth");
    let names: Vec<_> = fs::read_dir(unpacked.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !names.iter().any(|name| name.as_encoded_bytes().starts_with(b".wh.")),
        "{names:?}"
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    let unpacked = unpack(
        Layer::new()
            .file("a", "one")
            .file("a", "two")
            .file("directory/with/file", "x")
            .file("directory", "a file now")
            .file("file", "x")
            .directory("file", 0o700)
            .file("file/inside", "inside")
            .symbolic_link("link", "a")
            .file("link", "no link any more")
            .directory("same", 0o700)
            .file("same/kept", "kept")
            .directory("same", 0o711),
    );
    assert_eq!(unpacked.text("a"), "two");
    assert_eq!(unpacked.text("directory"), "a file now");
    assert_eq!(unpacked.text("file/inside"), "inside");
    assert_eq!(unpacked.text("link"), "no link any more");
    assert_eq!(unpacked.text("same/kept"), "kept");
    assert_eq!(fs::metadata(unpacked.path("same")).unwrap().mode() & 0o777, 0o711);
}

#[test]
fn zeros_become_holes() {
    let mut content = vec![0; 3 << 20];
    content[1 << 20] = 1;
    let unpacked = unpack(Layer::new().file("zeros", vec![0; 1 << 20]).file("mixed", &content));
    assert_eq!(fs::read(unpacked.path("mixed")).unwrap(), content);
    assert_eq!(fs::read(unpacked.path("zeros")).unwrap(), vec![0; 1 << 20]);
}

#[test]
fn extended_attributes_are_kept_but_those_of_overlayfs() {
    let probe = tempfile::NamedTempFile::new().unwrap();
    rustix::fs::setxattr(probe.path(), "user.probe", b"", XattrFlags::empty())
        .expect("the tests need a TMPDIR whose file system has extended attributes");
    // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE (linux/capability.h).
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let unpacked = unpack(
        Layer::new()
            .records(&[
                ("SCHILY.xattr.user.comment", b"a\nb"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.security.capability", &capability),
            ])
            .file_with("ping", 0o555, "ping")
            .records(&[
                ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.kind", b"directory"),
            ])
            .directory("directory", 0o755),
    );
    let (ping, directory) = (unpacked.path("ping"), unpacked.path("directory"));
    assert_eq!(xattr(&ping, "user.comment").as_deref(), Some(&b"a\nb"[..]));
    assert_eq!(xattr(&directory, "user.kind").as_deref(), Some(&b"directory"[..]));
    let is_root = rustix::process::getuid().is_root();
    assert_eq!(xattr(&ping, "security.capability").is_some(), is_root);
    for name in ["user.overlay.opaque", "trusted.overlay.opaque"] {
        assert_eq!(xattr(&ping, name), None, "{name}");
    }
    assert_eq!(xattr(&directory, "user.overlay.redirect"), None);
}

#[test]
fn owners_are_those_of_the_layer_for_root_only() {
    let records: &[(&str, &[u8])] = &[("uid", b"999"), ("gid", b"998")];
    let layer = Layer::new()
        .records(records)
        .file_with("file", 0o4755, "file")
        .records(records)
        .directory("directory", 0o2755)
        .records(records)
        .symbolic_link("link", "file");
    let unpacked = unpack(layer);
    let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let expected = if own.0 == 0 { (999, 998) } else { own };
    for path in ["file", "directory", "link"] {
        let found = fs::symlink_metadata(unpacked.path(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), expected, "{path}");
    }
    assert_eq!(fs::metadata(unpacked.path("file")).unwrap().mode() & 0o7777, 0o4755);
}
