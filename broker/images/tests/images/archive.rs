//! Layers for tests, byte by byte where the crate `tar` would refuse.

use tar::{Builder, EntryType, Header};

/// A layer that grows by entries.
pub struct Layer {
    archive: Builder<Vec<u8>>,
    owner: (u64, u64),
}

/// The time of all entries: 2023-11-14 22:13:20 UTC.
pub const MTIME: u64 = 1_700_000_000;

impl Layer {
    /// A layer whose files belong to the user of the test.
    pub fn new() -> Self {
        let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Self {
            archive: Builder::new(Vec::new()),
            owner: (own.0.into(), own.1.into()),
        }
    }

    /// A layer whose files belong to root: the same bytes whoever runs the test.
    pub fn of_root() -> Self {
        Self {
            owner: (0, 0),
            ..Self::new()
        }
    }

    fn add(mut self, path: &str, kind: EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(MTIME);
        header.set_size(content.len() as u64);
        // Not `set_path` or `append_data`, which refuse hostile names.
        for (what, text) in [(b"L", path), (b"K", link)] {
            if text.len() > 100 {
                self.extension(what[0], &[text.as_bytes(), b"\0"].concat());
            }
        }
        let old = header.as_old_mut();
        let copy = |field: &mut [u8; 100], text: &str| {
            let length = text.len().min(100);
            field[..length].copy_from_slice(&text.as_bytes()[..length]);
        };
        copy(&mut old.name, path);
        copy(&mut old.linkname, link);
        header.set_cksum();
        self.archive.append(&header, content).unwrap();
        self
    }

    fn extension(&mut self, kind: u8, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.archive.append(&header, content).unwrap();
    }

    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.file_with(path, 0o644, content)
    }

    pub fn file_with(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.add(path, EntryType::Regular, mode, "", content.as_ref())
    }

    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.add(path, EntryType::Directory, mode, "", b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(path, EntryType::Link, 0o644, target, b"")
    }

    pub fn symbolic_link(self, path: &str, target: &str) -> Self {
        self.add(path, EntryType::Symlink, 0o777, target, b"")
    }

    /// Marks a path as deleted: `etc/passwd` becomes `etc/.wh.passwd`.
    pub fn deleted(self, path: &str) -> Self {
        let (directory, name) = path.rsplit_once('/').map_or(("", path), |(above, name)| (above, name));
        let slash = if directory.is_empty() { "" } else { "/" };
        self.file(&format!("{directory}{slash}.wh.{name}"), b"")
    }

    /// Hides what lower layers have in a directory.
    pub fn opaque(self, directory: &str) -> Self {
        self.file(&format!("{directory}/.wh..wh..opq"), b"")
    }

    pub fn special(self, path: &str, kind: EntryType) -> Self {
        self.add(path, kind, 0o600, "", b"")
    }

    /// Pax records for the next entry.
    pub fn records(mut self, records: &[(&str, &[u8])]) -> Self {
        self.archive.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn tar(self) -> Vec<u8> {
        self.archive.into_inner().unwrap()
    }
}
