//! The content of files.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::limits::Counter;
use super::root::Place;
use super::{UnpackError, Unpacker, file_error};
use crate::tar::TarError;

/// How much is copied at once.
const CHUNK: usize = 128 * 1024;

/// Why content could not be copied.
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
    Limit(UnpackError),
}

impl CopyError {
    pub(super) fn at(self, unpacker: &Unpacker, place: &Place) -> UnpackError {
        match self {
            Self::Read(error) => TarError::Read(error).into(),
            Self::Write(error) => {
                let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
                file_error(&unpacker.directory, "writing", place.path(), errno)
            }
            Self::Limit(error) => error,
        }
    }
}

/// Copies `size` bytes. Chunks of zeros become holes, so that a bomb of zeros fills no disk before
/// it reaches its limit.
pub(super) fn copy(from: &mut impl Read, mut to: &File, size: u64, counter: &mut Counter) -> Result<(), CopyError> {
    let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
    let mut left = size;
    let mut ends_with_hole = false;
    while left > 0 {
        let length = fill(from, &mut buffer, left).map_err(CopyError::Read)?;
        counter.content(length as u64).map_err(CopyError::Limit)?;
        let chunk = &buffer[..length];
        ends_with_hole = length == CHUNK && chunk.iter().all(|byte| *byte == 0);
        let written = match ends_with_hole {
            true => to.seek(SeekFrom::Current(length as i64)).map(drop),
            false => to.write_all(chunk),
        };
        written.map_err(CopyError::Write)?;
        left -= length as u64;
    }
    match ends_with_hole {
        true => to.set_len(size).map_err(CopyError::Write),
        false => Ok(()),
    }
}

/// Reads until the buffer is full, or until `left` bytes were read.
fn fill(from: &mut impl Read, buffer: &mut [u8], left: u64) -> io::Result<usize> {
    let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    from.read_exact(&mut buffer[..most])?;
    Ok(most)
}
