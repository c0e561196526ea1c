//! Unpacked layers.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::lock::Lock;
use super::{Addition, Store, StoreError, failed, make_directory};
use crate::decompress::decompress;
use crate::digest::{Digest, HashingReader};
use crate::tar::TarError;
use crate::unpack::{self, Limits, Owners, UnpackError};

/// The stream of a layer, and what the layer's manifest says of it.
pub struct LayerSource<'a> {
    /// The layer as it is stored or sent, possibly compressed.
    pub stream: Box<dyn Read + Send + 'a>,
    /// The digest of the stream, if it was not checked yet.
    pub digest: Option<Digest>,
    /// The length of the stream.
    pub bytes: u64,
}

impl Store {
    fn layer(&self, id: Digest) -> PathBuf {
        let owners = match self.owners {
            Owners::Recorded => "recorded",
            Owners::Own => "own",
        };
        self.path.join("layers").join(owners).join(id.hex())
    }

    /// The directory of a layer that overlayfs mounts. The directory above is ours: to rename a
    /// directory takes the permission to write it, which the layer's own may lack.
    pub(super) fn layer_root(&self, id: Digest) -> PathBuf {
        self.layer(id).join("root")
    }

    /// The bytes of a layer's files; 0 for a layer that is not there.
    pub(super) fn layer_bytes(&self, id: Digest) -> u64 {
        let text = std::fs::read_to_string(self.layer(id).join("bytes")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Addition {
    /// Whether a layer is there already.
    pub fn has_layer(&self, id: Digest) -> bool {
        self.store.layer_root(id).is_dir()
    }

    /// Adds the layer whose tar archive has the digest `id`, unless it is there. `open` is called,
    /// and the layer unpacked, by one process at a time: others wait, and find the layer. `false`
    /// if it was there.
    ///
    /// # Errors
    /// Those of `open`, and [`StoreError`]. Nothing of the layer remains.
    pub fn layer<'a, E: From<StoreError>>(
        &self,
        id: Digest,
        open: impl FnOnce() -> Result<LayerSource<'a>, E>,
    ) -> Result<bool, E> {
        if self.has_layer(id) {
            return Ok(false);
        }
        let store = &self.store;
        let _lock = Lock::exclusive(&store.path.join("locks").join(id.hex()))?;
        if self.has_layer(id) {
            return Ok(false);
        }
        let source = open()?;
        let temporary = store.temporary()?;
        let (whole, discarded) = (temporary.path().join("layer"), temporary.path().join("discarded"));
        let root = whole.join("root");
        for directory in [&whole, &discarded, &root] {
            make_directory(directory)?;
        }
        let bytes = checked(source, id, |layer, limits| {
            unpack::unpack(layer, &root, &discarded, store.owners, limits)
        });
        let bytes = bytes.map_err(|error| match error {
            StoreError::DiskFull(_) => StoreError::DiskFull(store.path.clone()),
            error => error,
        })?;
        let note = whole.join("bytes");
        std::fs::write(&note, bytes.to_string()).map_err(failed("writing", &note))?;
        // Everything of the layer is on the disk before the layer has its name: the machine may
        // crash too.
        sync(&whole).map_err(failed("writing", &whole))?;
        let place = store.layer(id);
        std::fs::rename(&whole, &place).map_err(failed("making", &place))?;
        Ok(true)
    }
}

/// syncfs(2) of the file system of a directory.
fn sync(directory: &std::path::Path) -> io::Result<()> {
    let directory = rustix::fs::open(
        directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    Ok(rustix::fs::syncfs(File::from(directory))?)
}

/// Unpacks a layer, and compares its digests. If the stream is not what its name says, this is the
/// error, rather than whatever the unpacker made of it.
fn checked(
    source: LayerSource<'_>,
    id: Digest,
    unpack: impl FnOnce(&mut dyn Read, Limits) -> Result<u64, UnpackError>,
) -> Result<u64, StoreError> {
    let name = source.digest.unwrap_or(id);
    let unreadable = |source| StoreError::Read { layer: name, source };
    // A stream without end is read no further than one byte behind its length.
    let mut raw = HashingReader::new(source.stream.take(source.bytes.saturating_add(1)));
    let mut found = None;
    let unpacked = match decompress(&mut raw) {
        Ok(tar) => {
            let mut tar = HashingReader::new(tar);
            let unpacked = unpack(&mut tar, Limits::of_layer(source.bytes));
            found = unpacked.is_ok().then(|| tar.digest());
            unpacked
        }
        Err(error) => Err(TarError::Read(error).into()),
    };
    let is_own_fault = matches!(unpacked, Err(UnpackError::DiskFull(_) | UnpackError::File { .. }));
    if let Some(expected) = source.digest.filter(|_| !is_own_fault) {
        io::copy(&mut raw, &mut io::sink()).map_err(unreadable)?;
        if raw.length() < source.bytes {
            return Err(unreadable(io::ErrorKind::UnexpectedEof.into()));
        }
        verify("the layer", expected, raw.digest())?;
    }
    let bytes = unpacked.map_err(|source| match source {
        UnpackError::DiskFull(path) => StoreError::DiskFull(path),
        source => StoreError::Unpack { layer: name, source },
    })?;
    verify("the layer's archive", id, found.unwrap_or(id))?;
    Ok(bytes)
}

/// Compares a digest with the expected one.
pub(super) fn verify(what: &'static str, expected: Digest, found: Digest) -> Result<(), StoreError> {
    match expected == found {
        true => Ok(()),
        false => Err(StoreError::WrongDigest { what, expected, found }),
    }
}
