//! Leases of `imsup keep-awake`: kept by name, across the boots of a host and of the broker.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use imsup_wire::HostName;

use crate::events::now_us;
use crate::files;

/// The longest lease: what is asked for beyond it ends then. Far enough for anybody, near enough for every clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// All leases of a project.
#[derive(Debug)]
pub(crate) struct Leases {
    path: PathBuf,
    until: HashMap<HostName, Instant>,
}

impl Leases {
    /// The leases that an earlier broker has left. The file has times of the wall clock, which are the only ones that outlive
    /// a boot of the machine.
    pub(crate) fn open(path: PathBuf) -> Self {
        let (now, now_us) = (Instant::now(), now_us());
        let until = read(&path)
            .into_iter()
            .filter(|(_, until_us)| *until_us > now_us)
            .map(|(host, until_us)| (host, now + Duration::from_micros(until_us - now_us).min(LONGEST)))
            .collect();
        Self { path, until }
    }

    /// What is left of a host's lease.
    pub(crate) fn left(&self, host: &HostName) -> Option<Duration> {
        let until = self.until.get(host)?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Gives a host a lease in place of the one it has; one of zero only ends that.
    ///
    /// # Errors
    /// Where it cannot be written down; it holds nevertheless, but not beyond this broker.
    pub(crate) fn set(&mut self, host: &HostName, lease: Duration) -> io::Result<()> {
        let now = Instant::now();
        self.until.retain(|_, until| *until > now);
        let before = self.until.remove(host);
        if !lease.is_zero() {
            self.until.insert(host.clone(), now + lease.min(LONGEST));
        } else if before.is_none() {
            return Ok(());
        }
        self.write(now)
    }

    /// Writes them down again, where there are any and somebody has removed their file.
    pub(crate) fn restore(&self) -> io::Result<()> {
        match self.until.is_empty() || self.path.exists() {
            true => Ok(()),
            false => self.write(Instant::now()),
        }
    }

    fn write(&self, now: Instant) -> io::Result<()> {
        let now_us = now_us();
        let leases: BTreeMap<&HostName, u64> = self
            .until
            .iter()
            .map(|(host, until)| (host, now_us + micros(until.saturating_duration_since(now))))
            .collect();
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
    use super::*;

    #[test]
    fn leases_are_replaced_ended_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.json");
        let [web, db]: [HostName; 2] = ["web", "db"].map(|name| name.parse().unwrap());
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let mut leases = Leases::open(path.clone());
        leases.set(&db, Duration::ZERO).unwrap();
        assert!(!path.exists(), "nothing was to be kept");
        leases.set(&web, minutes(10)).unwrap();
        leases.set(&db, Duration::MAX).unwrap();
        leases.set(&web, minutes(5)).unwrap();
        let next = Leases::open(path.clone());
        for leases in [&leases, &next] {
            let left = leases.left(&web).unwrap();
            assert!(left <= minutes(5) && left > minutes(4), "{left:?}");
            assert!(leases.left(&db).unwrap() <= LONGEST);
        }
        leases.set(&web, Duration::ZERO).unwrap();
        assert_eq!(leases.left(&web), None);
        assert_eq!(Leases::open(path.clone()).left(&web), None);
        fs::write(&path, "{").unwrap();
        assert_eq!(Leases::open(path).left(&db), None, "a damaged file keeps nobody awake");
    }
}
