//! The output of `imsup up` in the foreground, written by a separate thread. The broker runs in the
//! same process and must not wait for a stopped terminal, or for a reader that does not read.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::output;

/// Lines that may wait to be written.
const WAITING: usize = 4096;

/// How long the last lines may take when all is over.
const LAST: Duration = Duration::from_secs(2);

/// Takes lines for the writing thread.
#[derive(Clone, Debug)]
pub struct Screen {
    lines: Sender<String>,
    /// Lines that found no room.
    left_out: Arc<AtomicU64>,
}

/// Waits for the last lines.
#[derive(Debug)]
pub struct Written(Receiver<()>);

impl Screen {
    /// Starts the thread that writes to standard output.
    ///
    /// # Errors
    /// clone(2).
    pub fn start() -> Result<(Self, Written)> {
        let (lines, waiting) = bounded::<String>(WAITING);
        let left_out = Arc::new(AtomicU64::new(0));
        let (alive, written) = bounded(0);
        let missing = Arc::clone(&left_out);
        thread::Builder::new()
            .name("screen".to_owned())
            .spawn(move || {
                let _alive: Sender<()> = alive;
                for line in waiting {
                    // A terminal that is gone is no reason to stop: Ctrl-C and 'down' are. Nor is a
                    // full non-blocking pipe.
                    if writeln!(output::stdout(), "{line}").is_err() {
                        missing.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let count = missing.swap(0, Ordering::Relaxed);
                    let note = format!("imsup: {count} events are missing here; 'imsup events' has them");
                    if count > 0 && writeln!(output::stdout(), "{note}").is_err() {
                        missing.fetch_add(count, Ordering::Relaxed);
                    }
                }
            })
            .context("starting the thread that shows events")?;
        Ok((Self { lines, left_out }, Written(written)))
    }

    /// Shows a line as soon as there is time.
    pub fn show(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Written {
    /// Waits until all lines are written, once every [`Screen`] was dropped; not for ever.
    pub fn wait(self) {
        let _: Result<(), RecvTimeoutError> = self.0.recv_timeout(LAST);
    }
}
