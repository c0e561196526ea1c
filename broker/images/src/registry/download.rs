//! Layers, downloaded into files. An interrupted download goes on where it ended.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::RegistryError;
use super::client::Client;
use crate::manifest::Descriptor;
use crate::progress::{Progress, Step};

/// How much is copied at once.
const CHUNK: usize = 256 * 1024;
/// How often a download may end early without one byte more.
const MOST_FAILURES: u32 = 5;
/// The pause after a failure, which doubles with each.
const PAUSE: Duration = Duration::from_millis(50);

/// Downloads content into `partial`, which may have its beginning, and opens the file. The content
/// has the right length; its digest is the caller's affair.
///
/// # Errors
/// The registry gives no more, or the file cannot be written.
pub(super) fn download(
    client: &Client<'_>,
    path: &str,
    descriptor: &Descriptor,
    partial: &Path,
    progress: &dyn Progress,
) -> Result<File, RegistryError> {
    let mut file = Partial::open(partial)?;
    let total = descriptor.size;
    if file.done > total {
        file.begin_again()?;
    }
    let mut failures = 0;
    while file.done < total {
        let said = |done| progress.step(descriptor.digest, Step::Downloading { done, total });
        said(file.done);
        let before = file.done;
        match go_on(client, path, &mut file, total, said) {
            Ok(()) => (),
            Err(error @ (RegistryError::Unreachable { .. } | RegistryError::Status { status: 500.., .. })) => {
                failures = if file.done > before { 0 } else { failures + 1 };
                if failures >= MOST_FAILURES {
                    return Err(error);
                }
                // A registry that fails at once is left alone for a moment.
                if failures > 0 {
                    std::thread::sleep(PAUSE * (1 << failures));
                }
            }
            Err(error) => {
                // A full disk is everybody's trouble.
                if matches!(error, RegistryError::DiskFull(_)) {
                    let _ = std::fs::remove_file(partial);
                }
                return Err(error);
            }
        }
    }
    file.rewound()
}

/// Downloads from `file.done` on.
fn go_on(
    client: &Client<'_>,
    path: &str,
    file: &mut Partial<'_>,
    total: u64,
    said: impl Fn(u64),
) -> Result<(), RegistryError> {
    let response = client.get(path, "*/*", (file.done > 0).then_some(file.done))?;
    let continues = response.status() == StatusCode::PARTIAL_CONTENT && starts_at(&response) == Some(file.done);
    if !continues {
        // The registry cannot do parts.
        file.begin_again()?;
    }
    // One byte more would show content that is too long.
    let mut body = response
        .into_body()
        .into_with_config()
        .limit(u64::MAX)
        .reader()
        .take(total - file.done + 1);
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match body.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(client.unreachable(ureq::Error::Io(error))),
        };
        if file.done + length as u64 > total {
            return Err(RegistryError::Answer {
                url: path.to_owned(),
                problem: format!("it is longer than the {total} bytes that its manifest says"),
            });
        }
        file.add(&chunk[..length])?;
        said(file.done);
    }
    match file.done < total {
        true => Err(client.unreachable(ureq::Error::Io(io::ErrorKind::UnexpectedEof.into()))),
        false => Ok(()),
    }
}

/// The file of a download.
struct Partial<'a> {
    file: File,
    path: &'a Path,
    /// Its length.
    done: u64,
}

impl<'a> Partial<'a> {
    fn open(path: &'a Path) -> Result<Self, RegistryError> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(failed(path))?;
        let mut partial = Self { file, path, done: 0 };
        partial.done = partial.file.seek(SeekFrom::End(0)).map_err(failed(path))?;
        Ok(partial)
    }

    fn begin_again(&mut self) -> Result<(), RegistryError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(failed(self.path))?;
        self.done = 0;
        Ok(())
    }

    fn add(&mut self, content: &[u8]) -> Result<(), RegistryError> {
        self.file.write_all(content).map_err(failed(self.path))?;
        self.done += content.len() as u64;
        Ok(())
    }

    /// The file, at its beginning.
    fn rewound(mut self) -> Result<File, RegistryError> {
        self.file.rewind().map_err(failed(self.path))?;
        Ok(self.file)
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RegistryError::DiskFull(path.to_owned()),
        _ => RegistryError::File {
            path: path.to_owned(),
            source,
        },
    }
}

/// The first byte of a part: `Content-Range: bytes 7-99/100`.
fn starts_at(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("Content-Range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
