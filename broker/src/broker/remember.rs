//! What is remembered of the project across `down` is written without a wait: another process may hold the lock of its file for however long.

use std::time::Duration;

use super::Broker;
use super::timers::Timer;
use crate::projects::{self, ProjectsError};

/// How soon the lock is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// After how many tries in a row that is said: ten seconds. Brokers that start together hold it for milliseconds.
const TRIES_UNSAID: u32 = 100;
/// How long the end of the project waits for the lock.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known of a memory that could not be written because of the lock.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// Whether a timer is set for the next try.
    is_due: bool,
    /// Tries in a row for which another process held the lock.
    tries: u32,
}

impl Broker {
    /// Writes what is remembered of the project, as soon as no other process holds the lock.
    pub(crate) fn remember(&mut self) {
        // The next try writes what is remembered then.
        if self.unwritten.is_due {
            return;
        }
        match self.write_memory(Duration::ZERO) {
            Err(error @ ProjectsError::Held { .. }) => {
                self.unwritten.is_due = true;
                self.unwritten.tries += 1;
                if self.unwritten.tries == TRIES_UNSAID {
                    tracing::warn!("{error}. It is tried again and again; all else goes on");
                }
                self.timers.after(TRY_AGAIN, Timer::Remember);
            }
            written => {
                self.unwritten.tries = 0;
                say_lost(written);
            }
        }
    }

    /// The lock may be free now.
    pub(super) fn remember_again(&mut self) {
        self.unwritten.is_due = false;
        self.remember();
    }

    /// Writes what is not written yet, now that nothing else is left to do.
    pub(crate) fn remember_at_last(&mut self) {
        if std::mem::take(&mut self.unwritten.is_due) {
            say_lost(self.write_memory(LAST_TIMEOUT));
        }
    }

    fn write_memory(&self, patience: Duration) -> Result<(), ProjectsError> {
        projects::remember(&self.paths.projects(), &self.cluster.project, &self.memory, patience)
    }
}

fn say_lost(written: Result<(), ProjectsError>) {
    if let Err(error) = written {
        tracing::error!(
            "{error}. The next broker does not know what this one has learned: ports and their families, users of programs, and perhaps addresses"
        );
    }
}
