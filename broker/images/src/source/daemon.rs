//! Images of Docker's and Podman's own stores, by asking these programs.

use std::io;
use std::process::{Child, Command, Stdio};

use super::SourceError;
use super::load::{LoadError, Loaded, load_stream};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::Store;

/// The programs that are asked, in this order.
const PROGRAMS: [&str; 2] = ["docker", "podman"];

/// A program that is about to write an image to a pipe.
#[derive(Debug)]
pub struct Saving {
    program: &'static str,
    name: Reference,
    child: Child,
}

impl Saving {
    /// Asks Docker and Podman for an image; `None` if neither is installed, works, and has the
    /// image. Blocking: until these programs have answered. They pull nothing.
    ///
    /// An image that is pinned to a digest is not asked for: what these programs save has another
    /// manifest, and so another digest.
    ///
    /// # Errors
    /// One of them has the image, but cannot be started again.
    pub fn begin(name: &Reference) -> Result<Option<Self>, SourceError> {
        if name.digest().is_some() {
            return Ok(None);
        }
        let Some(program) = PROGRAMS.into_iter().find(|program| has(program, name)) else {
            return Ok(None);
        };
        let mut save = Command::new(program);
        save.arg("save")
            .arg(name.familiar())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = save.spawn().map_err(|error| failed(program, error))?;
        Ok(Some(Self {
            program,
            name: name.clone(),
            child,
        }))
    }

    /// Takes the image. Blocking: until the program has ended.
    ///
    /// # Errors
    /// The program fails, or the image cannot be loaded.
    pub fn load(mut self, store: &Store, platform: &Platform, progress: &dyn Progress) -> Result<Loaded, LoadError> {
        let failed = |error| failed(self.program, error);
        let stdout = self.child.stdout.take();
        let stdout = stdout.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let loaded = load_stream(store, stdout, Some(&self.name), platform, progress);
        // The stream is closed by now, so a program that still writes ends too.
        let status = self.child.wait().map_err(failed)?;
        if !status.success() {
            return Err(failed(io::Error::other(format!("it ended with {status}"))).into());
        }
        let first = loaded?.into_iter().next();
        let digest = first.ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?.digest;
        // Podman calls images without a registry `localhost/NAME`.
        store.add()?.name(std::slice::from_ref(&self.name), digest)?;
        Ok(Loaded {
            name: self.name,
            digest,
        })
    }
}

fn failed(program: &str, source: io::Error) -> SourceError {
    SourceError::File {
        path: format!("the output of '{program} save'").into(),
        source,
    }
}

/// Whether a program is there and has the image.
fn has(program: &str, name: &Reference) -> bool {
    let mut inspect = Command::new(program);
    inspect
        .args(["image", "inspect", "--format", "{{.Id}}"])
        .arg(name.familiar());
    inspect.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    inspect.status().is_ok_and(|status| status.success())
}
