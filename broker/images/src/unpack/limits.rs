//! What a layer may use.

use std::io::{self, Read};

use super::UnpackError;

/// The limits of one layer. An honest layer stays far below; a hostile one is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories, links and marks, with the directories that are made for them.
    pub entries: u64,
    /// Bytes of the tar archive.
    pub bytes: u64,
    /// Bytes of the paths of directories, which are kept in memory.
    pub directory_path_bytes: u64,
}

/// The largest layers seen in public images have some 300,000 files.
const MOST_ENTRIES: u64 = 500_000;
/// Images for machine learning have layers of some 10 GiB.
const MOST_BYTES: u64 = 64 << 30;
const MOST_DIRECTORY_PATH_BYTES: u64 = 64 << 20;
/// A file's headers and the filling of its last block.
const HEADER_BYTES: u64 = 2048;
/// What a layer may have whatever its length was when compressed.
const FREE_BYTES: u64 = 1 << 30;
/// How many times its compressed length a larger layer may have. Programs and texts compress to a
/// third or a tenth, zeros to a thousandth (gzip).
const MOST_RATIO: u64 = 100;

impl Limits {
    /// The limits of a layer that has this length before it is decompressed.
    pub fn of_layer(compressed_bytes: u64) -> Self {
        Self {
            entries: MOST_ENTRIES,
            bytes: MOST_BYTES.min(FREE_BYTES.saturating_add(compressed_bytes.saturating_mul(MOST_RATIO))),
            directory_path_bytes: MOST_DIRECTORY_PATH_BYTES,
        }
    }
}

/// What a layer has used so far.
#[derive(Debug)]
pub(super) struct Counter {
    limits: Limits,
    entries: u64,
    bytes: u64,
    directory_path_bytes: u64,
}

impl Counter {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: 0,
            bytes: 0,
            directory_path_bytes: 0,
        }
    }

    /// The bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn entry(&mut self) -> Result<(), UnpackError> {
        add(&mut self.entries, 1, self.limits.entries, "files")
    }

    pub(super) fn content(&mut self, bytes: u64) -> Result<(), UnpackError> {
        let limit = self.limits.bytes;
        add(&mut self.bytes, bytes, limit, "bytes for its compressed length")
    }

    pub(super) fn directory_path(&mut self, bytes: usize) -> Result<(), UnpackError> {
        let limit = self.limits.directory_path_bytes;
        add(&mut self.directory_path_bytes, bytes as u64, limit, "bytes of paths")
    }
}

/// A layer's archive, which fails at its limit: headers and skipped content count too.
pub(super) struct BoundedReader<R> {
    inner: R,
    bytes: u64,
    limit: u64,
}

impl<R: Read> BoundedReader<R> {
    pub(super) fn new(inner: R, limits: Limits) -> Self {
        Self {
            inner,
            bytes: 0,
            limit: limits.bytes.saturating_add(limits.entries.saturating_mul(HEADER_BYTES)),
        }
    }
}

impl<R: Read> Read for BoundedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        add(&mut self.bytes, length as u64, self.limit, "bytes").map_err(io::Error::other)?;
        Ok(length)
    }
}

fn add(used: &mut u64, more: u64, limit: u64, of: &'static str) -> Result<(), UnpackError> {
    *used = used.saturating_add(more);
    match *used > limit {
        true => Err(UnpackError::Limit { limit, of }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_layer_may_not_become_a_large_one() {
        assert_eq!(Limits::of_layer(0).bytes, 1 << 30);
        assert_eq!(Limits::of_layer(10 << 20).bytes, (1 << 30) + 1000 * (1 << 20));
        assert_eq!(Limits::of_layer(u64::MAX).bytes, 64 << 30);
    }

    #[test]
    fn a_limit_itself_is_allowed() {
        let mut counter = Counter::new(Limits {
            entries: 2,
            bytes: 10,
            directory_path_bytes: 3,
        });
        assert!(counter.entry().is_ok() && counter.entry().is_ok() && counter.entry().is_err());
        assert!(counter.content(10).is_ok() && counter.content(1).is_err());
        assert!(counter.directory_path(4).is_err());
        assert!(
            counter
                .content(u64::MAX)
                .unwrap_err()
                .to_string()
                .contains("more than 10 bytes")
        );
    }
}
