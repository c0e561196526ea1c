//! Leases of `imsup keep-awake`: kept by name, across the boots of a host and of the broker.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imsup_wire::HostName;

use crate::clock::Clock;
use crate::files;

/// The longest lease: longer requests end then. Far enough for any user, near enough for every
/// clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// All leases of a project.
#[derive(Debug)]
pub(crate) struct Leases {
    path: PathBuf,
    /// The ends of the leases, in microseconds of the project's clock.
    until_us: HashMap<HostName, u64>,
}

impl Leases {
    /// The leases that an earlier broker has left.
    pub(crate) fn open(path: PathBuf, clock: &Clock) -> Self {
        let now_us = clock.now_us();
        let until_us = read(&path)
            .into_iter()
            .filter(|(_, until_us)| *until_us > now_us)
            .map(|(host, until_us)| (host, until_us.min(now_us.saturating_add(micros(LONGEST)))))
            .collect();
        Self { path, until_us }
    }

    /// The rest of a host's lease.
    pub(crate) fn left(&self, host: &HostName, clock: &Clock) -> Option<Duration> {
        let left_us = self.until_us.get(host)?.saturating_sub(clock.now_us());
        (left_us > 0).then(|| Duration::from_micros(left_us))
    }

    /// Gives a host a lease in place of the present lease; a lease of zero only ends the present
    /// lease.
    ///
    /// # Errors
    /// The lease cannot be written down, but holds nevertheless, though not beyond this broker.
    pub(crate) fn set(&mut self, host: &HostName, lease: Duration, clock: &Clock) -> io::Result<()> {
        let now_us = clock.now_us();
        self.until_us.retain(|_, until_us| *until_us > now_us);
        let before = self.until_us.remove(host);
        if !lease.is_zero() {
            let until_us = now_us.saturating_add(micros(lease.min(LONGEST)));
            self.until_us.insert(host.clone(), until_us);
        } else if before.is_none() {
            return Ok(());
        }
        self.write()
    }

    /// Writes the leases again, if there are any and the file was removed.
    pub(crate) fn restore(&self) -> io::Result<()> {
        match self.until_us.is_empty() || self.path.exists() {
            true => Ok(()),
            false => self.write(),
        }
    }

    fn write(&self) -> io::Result<()> {
        let leases: BTreeMap<&HostName, u64> = self.until_us.iter().map(|(host, until_us)| (host, *until_us)).collect();
        files::replace(&self.path, &serde_json::to_vec(&leases)?)
    }
}

fn read(path: &Path) -> BTreeMap<HostName, u64> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the leases of keep-awake are unreadable and have ended");
            BTreeMap::new()
        }),
        Err(_) => BTreeMap::new(),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use imsup_linux::clock::Clocks;

    use super::*;

    #[test]
    fn leases_are_replaced_ended_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.json");
        let [web, db]: [HostName; 2] = ["web", "db"].map(|name| name.parse().unwrap());
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let clock = &Clock::by(Clocks::read);
        let mut leases = Leases::open(path.clone(), clock);
        leases.set(&db, Duration::ZERO, clock).unwrap();
        assert!(!path.exists(), "nothing was to be kept");
        leases.set(&web, minutes(10), clock).unwrap();
        leases.set(&db, Duration::MAX, clock).unwrap();
        leases.set(&web, minutes(5), clock).unwrap();
        let next = Leases::open(path.clone(), clock);
        for leases in [&leases, &next] {
            let left = leases.left(&web, clock).unwrap();
            assert!(left <= minutes(5) && left > minutes(4), "{left:?}");
            assert!(leases.left(&db, clock).unwrap() <= LONGEST);
        }
        leases.set(&web, Duration::ZERO, clock).unwrap();
        assert_eq!(leases.left(&web, clock), None);
        assert_eq!(Leases::open(path.clone(), clock).left(&web, clock), None);
        fs::write(&path, "{").unwrap();
        let left = Leases::open(path, clock).left(&db, clock);
        assert_eq!(left, None, "a damaged file keeps nobody awake");
    }

    #[test]
    fn a_step_of_the_wall_clock_is_no_time() {
        const SECOND: i64 = 1_000_000;
        let clocks = Rc::new(Cell::new(Clocks {
            wall_us: 1_700_000_000 * SECOND,
            boot_us: 100 * SECOND,
        }));
        let pass = |seconds: i64, step: i64| {
            let Clocks { wall_us, boot_us } = clocks.get();
            clocks.set(Clocks {
                wall_us: wall_us + (seconds + step) * SECOND,
                boot_us: boot_us + seconds * SECOND,
            });
        };
        let read = Rc::clone(&clocks);
        let clock = Clock::by(move || read.get());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.json");
        let web: HostName = "web".parse().unwrap();
        let mut leases = Leases::open(path.clone(), &clock);
        leases.set(&web, Duration::from_secs(600), &clock).unwrap();
        let mut left = 600;
        for step in [7_200, -100_000] {
            pass(10, step);
            left -= 10;
            let next = Leases::open(path.clone(), &clock);
            for leases in [&leases, &next] {
                assert_eq!(leases.left(&web, &clock), Some(Duration::from_secs(left)), "{step}");
            }
        }
        pass(600, 0);
        assert_eq!(leases.left(&web, &clock), None);
    }
}
