//! The project record: what is remembered of a project across `down`. It is written without a wait:
//! another process may hold the lock of its file for however long.

use std::path::Path;
use std::time::Duration;

use super::Broker;
use super::timers::Timer;
use crate::projects::{self, ProjectsError, Recorded};

/// How soon the lock is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// The number of failed tries in a row before a warning: ten seconds. Brokers that start together
/// have the lock for milliseconds.
const TRIES_UNSAID: u32 = 100;
/// How long the end of the project waits for the lock.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);

/// What is remembered, and whether it is written.
#[derive(Debug)]
pub(crate) struct ProjectRecord {
    recorded: Recorded,
    /// A timer is set for the next try to write.
    is_due: bool,
    /// Tries in a row for which another process held the lock.
    tries: u32,
}

impl ProjectRecord {
    /// A record of this, which is written.
    pub(crate) fn new(recorded: Recorded) -> Self {
        Self {
            recorded,
            is_due: false,
            tries: 0,
        }
    }

    /// What is remembered.
    pub(super) fn known(&self) -> &Recorded {
        &self.recorded
    }

    /// Changes what is remembered. True if `edit` says that it has, so that it is to be written
    /// ([`Broker::remember`]).
    #[must_use]
    pub(super) fn learn(&mut self, edit: impl FnOnce(&mut Recorded) -> bool) -> bool {
        edit(&mut self.recorded)
    }

    /// Writes the record, unless that is due already: the next try writes what is remembered then.
    /// True if it is to be tried again.
    fn write(&mut self, path: &Path, project: &str) -> bool {
        if self.is_due {
            return false;
        }
        match projects::remember(path, project, &self.recorded, Duration::ZERO) {
            Err(error @ ProjectsError::Locked { .. }) => {
                self.is_due = true;
                self.tries += 1;
                if self.tries == TRIES_UNSAID {
                    tracing::warn!("{error}. It is tried again and again; all else goes on");
                }
            }
            written => {
                self.tries = 0;
                say_lost(written);
            }
        }
        self.is_due
    }

    /// Writes the unwritten rest, at the very end of the broker's work.
    fn write_at_last(&mut self, path: &Path, project: &str) {
        if std::mem::take(&mut self.is_due) {
            say_lost(projects::remember(path, project, &self.recorded, LAST_TIMEOUT));
        }
    }
}

impl Broker {
    /// Writes the project record as soon as no other process has the lock.
    pub(crate) fn remember(&mut self) {
        if self.record.write(&self.paths.projects(), &self.cluster.project) {
            self.timers.after(TRY_AGAIN, Timer::Remember);
        }
    }

    /// The lock may be free now.
    pub(super) fn remember_again(&mut self) {
        self.record.is_due = false;
        self.remember();
    }

    /// Writes the unwritten rest, at the very end of the broker's work.
    pub(crate) fn remember_at_last(&mut self) {
        self.record.write_at_last(&self.paths.projects(), &self.cluster.project);
    }
}

fn say_lost(written: Result<(), ProjectsError>) {
    if let Err(error) = written {
        tracing::error!(
            "{error}. The next broker does not know what this one has learned: ports and their families, users of programs, and perhaps addresses"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use imsup_wire::Transport;
    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn a_record_whose_file_is_locked_is_written_by_the_next_try_with_all_that_was_learned() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("projects.json");
        let lock = File::open(directory.path()).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let mut record = ProjectRecord::new(Recorded::default());
        let learns = |port| move |recorded: &mut Recorded| recorded.learn("web", Transport::Tcp, port);
        assert!(record.learn(learns(80)) && !record.learn(learns(80)));
        assert!(record.write(&path, "shop"), "another process has the lock");
        assert!(record.learn(learns(81)));
        assert!(!record.write(&path, "shop"), "a try is due");
        flock(&lock, FlockOperation::Unlock).unwrap();
        record.write_at_last(&path, "shop");
        let (recorded, _) = projects::recall(&path, "shop").unwrap();
        assert_eq!(recorded.learned["web"], [(Transport::Tcp, 80), (Transport::Tcp, 81)]);
    }
}
