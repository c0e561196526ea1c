//! Entries of tar archives (POSIX.1-2001 pax, GNU's long names), read in one pass within bounds.
//!
//! The crate `tar` reads long names and pax records of any length into memory, and splits pax
//! records at newlines, which file capabilities contain. Layers come from strangers.

mod header;
mod pax;

use std::io::{self, Read};

use header::Header;
use pax::Extensions;

const BLOCK: usize = 512;
/// The longest extension of a header (pax records, long names), as in Go's archive/tar.
const MOST_EXTENSION_BYTES: u64 = 1 << 20;
/// The longest path and the longest target of a link (PATH_MAX).
pub const MOST_PATH_BYTES: usize = 4096;

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream itself failed, or ended too early.
    #[error("reading the archive: {0}")]
    Read(#[from] io::Error),
    /// Bytes that are no header.
    #[error("it is no tar archive, or a damaged one: {0}")]
    Damaged(&'static str),
    /// A header's extension that would fill the memory.
    #[error("a header of {0} bytes; at most {MOST_EXTENSION_BYTES} are read")]
    Extension(u64),
    /// A path that Linux would not take.
    #[error("a path of {0} bytes; Linux allows {MOST_PATH_BYTES}")]
    Path(usize),
    /// A kind of entry that layers do not have.
    #[error("an entry of the kind '{}', which imsup does not unpack", .0.escape_ascii())]
    Kind(u8),
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, whose content follows.
    File,
    /// A directory.
    Directory,
    /// Another name of an earlier entry: the path of that entry.
    HardLink(Vec<u8>),
    /// A symbolic link: its target.
    SymbolicLink(Vec<u8>),
    /// A character or block device.
    Device,
    /// A named pipe.
    Fifo,
}

/// The description of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path as it stands in the archive, without a NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky bit.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last change: seconds since the Unix epoch, and nanoseconds.
    pub mtime: (i64, u32),
    /// The length of the content in bytes.
    pub size: u64,
    /// Extended attributes: names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A reader of entries; the content of the latest entry is read from it as from any reader.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// What is left of the content of the latest entry.
    content: u64,
    /// The filling of the content's last block.
    padding: u64,
}

impl<R: Read> TarReader<R> {
    /// A reader of an archive.
    pub fn new(input: R) -> Self {
        Self {
            input,
            content: 0,
            padding: 0,
        }
    }

    /// The stream, after whatever was read.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; `None` at the end of the archive. Content that was not read is skipped.
    ///
    /// # Errors
    /// See [`TarError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut long_path = None;
        let mut long_link = None;
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            let header = Header::parse(&block)?;
            match header.kind {
                b'L' => long_path = Some(c_string(self.extension(header.size)?)),
                b'K' => long_link = Some(c_string(self.extension(header.size)?)),
                b'x' | b'X' => extensions = Extensions::parse(&self.extension(header.size)?)?,
                // Records for all entries: layers have at most a comment there (git archive).
                b'g' => self.expect(header.size),
                _ => {
                    let entry = entry(header, extensions, long_path, long_link)?;
                    self.expect(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn expect(&mut self, content: u64) {
        self.content = content;
        self.padding = content.wrapping_neg() % BLOCK as u64;
    }

    /// The next header; `None` at the end. An archive ends with a block of zeros, or, carelessly
    /// written, with the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut length = 0;
        while length < BLOCK {
            match self.input.read(&mut block[length..]) {
                Ok(0) if length == 0 => return Ok(None),
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((block != [0; BLOCK]).then_some(block))
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let rest = self.content.saturating_add(self.padding);
        let skipped = io::copy(&mut self.input.by_ref().take(rest), &mut io::sink())?;
        (self.content, self.padding) = (0, 0);
        match skipped == rest {
            true => Ok(()),
            false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MOST_EXTENSION_BYTES {
            return Err(TarError::Extension(size));
        }
        self.expect(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read> Read for TarReader<R> {
    /// Reads the content of the latest entry.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).map_or(buffer.len(), |left| left.min(buffer.len()));
        let length = self.input.read(&mut buffer[..most])?;
        if length == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= length as u64;
        Ok(length)
    }
}

/// Puts an entry together. Extensions win over GNU's long names, and those over the header.
fn entry(
    header: Header,
    extensions: Extensions,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
) -> Result<Entry, TarError> {
    let path = extensions.path.or(long_path).unwrap_or(header.path);
    let link = extensions.link.or(long_link).unwrap_or(header.link);
    for text in [&path, &link] {
        if text.len() > MOST_PATH_BYTES {
            return Err(TarError::Path(text.len()));
        }
        if text.contains(&0) {
            return Err(TarError::Damaged("a path has a NUL"));
        }
    }
    let kind = match header.kind {
        // Before POSIX.1-1988, a directory was a file whose name ends with a slash.
        b'\0' if path.ends_with(b"/") => Kind::Directory,
        b'\0' | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink(link),
        b'2' => Kind::SymbolicLink(link),
        b'3' | b'4' => Kind::Device,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(TarError::Kind(other)),
    };
    // The other kinds have no content, whatever their size says (as in Go's archive/tar).
    let size = match kind {
        Kind::File => extensions.size.unwrap_or(header.size),
        _ => 0,
    };
    Ok(Entry {
        path,
        kind,
        mode: header.mode & 0o7777,
        uid: id(extensions.uid.unwrap_or(header.uid))?,
        gid: id(extensions.gid.unwrap_or(header.gid))?,
        mtime: extensions.mtime.unwrap_or((header.mtime, 0)),
        size,
        xattrs: extensions.xattrs,
    })
}

/// All ones is no user: chown(2) takes it for "unchanged".
fn id(value: u64) -> Result<u32, TarError> {
    let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
    id.ok_or(TarError::Damaged("an owner's number is too large"))
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
mod tests;
