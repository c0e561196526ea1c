//! The process that takes away what killed benchmarks left ([`tidy`](crate::tidy)), as seen by them.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

/// The waiting process. It ends by itself when the benchmarks have cleaned up.
#[derive(Debug)]
pub struct Tidier {
    child: Child,
    /// Closed by the kernel when we are gone.
    ours: Option<ChildStdin>,
}

impl Tidier {
    /// Starts a process that waits for our end.
    ///
    /// # Errors
    /// The server cannot be started.
    pub fn start(imsup: &Path, directory: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let this = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(this)
            .arg("tidy")
            .args([imsup, directory])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A signal to the terminal's processes is not for the cleaner.
            .process_group(0)
            .spawn()
            .context("starting the process that tidies up")?;
        let ours = child.stdin.take();
        Ok(Self { child, ours })
    }
}

impl Drop for Tidier {
    fn drop(&mut self) {
        self.ours = None;
        let _ = self.child.wait();
    }
}
