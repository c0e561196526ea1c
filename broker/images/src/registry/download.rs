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
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(partial)?;
    let total = descriptor.size;
    let mut done = file.metadata()?.len();
    if done > total {
        file.set_len(0)?;
        done = 0;
    }
    let mut failures = 0;
    while done < total {
        progress.step(descriptor.digest, Step::Downloading { done, total });
        let before = done;
        let result = go_on(client, path, &mut file, &mut done, total, |done| {
            progress.step(descriptor.digest, Step::Downloading { done, total });
        });
        match result {
            Ok(()) => (),
            Err(error @ (RegistryError::Unreachable { .. } | RegistryError::Status { status: 500.., .. })) => {
                failures = if done > before { 0 } else { failures + 1 };
                if failures >= MOST_FAILURES {
                    return Err(error);
                }
                // A registry that fails at once is left alone for a moment.
                if failures > 0 {
                    std::thread::sleep(PAUSE * (1 << failures));
                }
            }
            Err(error) => return Err(error),
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Downloads from `done` on.
fn go_on(
    client: &Client<'_>,
    path: &str,
    file: &mut File,
    done: &mut u64,
    total: u64,
    said: impl Fn(u64),
) -> Result<(), RegistryError> {
    let response = client.get(path, "*/*", (*done > 0).then_some(*done))?;
    let continues = response.status() == StatusCode::PARTIAL_CONTENT && starts_at(&response) == Some(*done);
    if !continues {
        // From the beginning: the registry cannot do parts.
        *done = 0;
        file.set_len(0)?;
    }
    file.seek(SeekFrom::Start(*done))?;
    // One byte more would show content that is too long.
    let mut body = response
        .into_body()
        .into_with_config()
        .limit(u64::MAX)
        .reader()
        .take(total - *done + 1);
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match body.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(client.unreachable(ureq::Error::Io(error))),
        };
        if *done + length as u64 > total {
            return Err(RegistryError::Answer {
                url: path.to_owned(),
                problem: format!("it is longer than the {total} bytes that its manifest says"),
            });
        }
        file.write_all(&chunk[..length])?;
        *done += length as u64;
        said(*done);
    }
    match *done < total {
        true => Err(client.unreachable(ureq::Error::Io(io::ErrorKind::UnexpectedEof.into()))),
        false => Ok(()),
    }
}

/// The first byte of a part: `Content-Range: bytes 7-99/100`.
fn starts_at(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("Content-Range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
