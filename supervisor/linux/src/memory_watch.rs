//! Reports processes that the kernel kills because their cgroup has used up its memory:
//! memory.events of version 2 (cgroup-v2.rst), and memory.oom_control of version 1
//! (cgroup-v1/memory.rst, section 10) with an eventfd.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::PollFlags;
use rustix::event::{EventfdFlags, eventfd};

/// Version 1 reports used-up memory before the kernel kills a process (mm/memcontrol-v1.c,
/// memcg1_oom_prepare), so the counter is read again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often that is done.
const LOOKS: u32 = 50;

/// A watch on one cgroup.
#[derive(Debug)]
pub struct MemoryWatch {
    limit_bytes: u64,
    /// The file that counts killed processes: `oom_kill`.
    account: File,
    /// The file that counts how often the limit was met; kills without that are the whole machine's
    /// shortage.
    met: PathBuf,
    /// Readable after an event; if `None`, the account file itself is polled.
    oom_events: Option<OwnedFd>,
    reported: u64,
    last: Option<Instant>,
    look_at: Option<Instant>,
    looks: u32,
    /// True once the cgroup was removed.
    gone: bool,
}

impl MemoryWatch {
    /// Watches a cgroup of version 1.
    ///
    /// # Errors
    /// open(2), eventfd(2), write(2).
    pub fn of_version_1(path: &Path, limit_bytes: u64) -> io::Result<Self> {
        let account = File::open(path.join("memory.oom_control"))?;
        let oom_events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let order = format!("{} {}", oom_events.as_raw_fd(), account.as_raw_fd());
        let control = OpenOptions::new().write(true).open(path.join("cgroup.event_control"))?;
        control.write_at(order.as_bytes(), 0)?;
        Ok(Self::new(
            limit_bytes,
            account,
            path.join("memory.failcnt"),
            Some(oom_events),
        ))
    }

    /// Watches a cgroup of version 2.
    ///
    /// # Errors
    /// open(2).
    pub fn of_version_2(path: &Path, limit_bytes: u64) -> io::Result<Self> {
        let events = path.join("memory.events");
        let account = File::open(&events)?;
        Ok(Self::new(limit_bytes, account, events, None))
    }

    fn new(limit_bytes: u64, account: File, met: PathBuf, oom_events: Option<OwnedFd>) -> Self {
        let mut watch = Self {
            limit_bytes,
            account,
            met,
            oom_events,
            reported: 0,
            last: None,
            look_at: None,
            looks: 0,
            gone: false,
        };
        // Sets the start value: an adopted cgroup has counted before. The read also matters to
        // poll(2), which reports changes since the file was last read.
        watch.reported = watch.count();
        watch
    }

    /// The limit.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// The descriptor to poll, and the events to poll for. `None` once the cgroup was removed:
    /// poll(2) would report files of a removed cgroup for ever.
    pub fn descriptor(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        (!self.gone).then(|| match &self.oom_events {
            Some(oom_events) => (oom_events.as_fd(), PollFlags::POLLIN),
            None => (self.account.as_fd(), PollFlags::POLLPRI),
        })
    }

    /// The time of the next read without an event.
    pub fn due(&self) -> Option<Instant> {
        self.look_at
    }

    /// Called after an event.
    pub fn noticed(&mut self) {
        if let Some(oom_events) = &self.oom_events {
            let _ = rustix::io::read(oom_events, &mut [0; 8]);
            self.looks = LOOKS;
        }
    }

    /// How many processes were killed since this was last asked.
    pub fn killed(&mut self, now: Instant) -> u64 {
        let count = self.count();
        let killed = count.saturating_sub(self.reported);
        self.looks = if killed > 0 { 0 } else { self.looks.saturating_sub(1) };
        self.look_at = (self.looks > 0 && !self.gone).then(|| now + LOOK_AGAIN);
        self.reported = count;
        if killed == 0 || !self.was_met() {
            return 0;
        }
        self.last = Some(now);
        killed
    }

    /// Whether a process was killed within the last `time`.
    pub fn has_killed_within(&self, time: Duration, now: Instant) -> bool {
        self.last
            .is_some_and(|last| now.saturating_duration_since(last) <= time)
    }

    fn count(&mut self) -> u64 {
        let mut text = [0; 512];
        let read = self.account.read_at(&mut text, 0);
        // fs/kernfs/file.c, kernfs_get_active.
        self.gone = matches!(&read, Err(error) if error.raw_os_error() == Some(libc::ENODEV));
        let count = read.unwrap_or(0);
        number_of(&String::from_utf8_lossy(&text[..count]), "oom_kill").unwrap_or(self.reported)
    }

    fn was_met(&self) -> bool {
        let text = fs::read_to_string(&self.met).unwrap_or_default();
        let count = match self.oom_events {
            Some(_) => text.trim().parse().ok(),
            None => number_of(&text, "oom"),
        };
        // Assume that the limit was met if the file cannot be read.
        count.is_none_or(|count| count > 0)
    }
}

/// The number in the line `NAME NUMBER`.
fn number_of(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(key, _)| *key == name)
        .and_then(|(_, number)| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 0\n";

    #[test]
    fn kills_are_counted_once_and_not_those_of_the_whole_machine() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.events");
        fs::write(&file, "oom 0\noom_kill 0\n").unwrap();
        let mut watch = MemoryWatch::of_version_2(directory.path(), 1 << 20).unwrap();
        let now = Instant::now();
        fs::write(&file, EVENTS).unwrap();
        assert_eq!(watch.killed(now), 2);
        assert_eq!(watch.killed(now), 0);
        assert!(watch.has_killed_within(Duration::ZERO, now));
        assert!(!watch.has_killed_within(Duration::from_secs(1), now + Duration::from_secs(2)));

        fs::write(&file, "oom 0\noom_kill 0\n").unwrap();
        let mut watch = MemoryWatch::of_version_2(directory.path(), 1 << 20).unwrap();
        fs::write(&file, "oom 0\noom_kill 1\n").unwrap();
        assert_eq!(watch.killed(now), 0, "the machine's memory was used up");
        assert!(!watch.has_killed_within(Duration::from_secs(1), now));
    }

    #[test]
    fn names_are_whole() {
        assert_eq!(number_of(EVENTS, "oom"), Some(1));
        assert_eq!(
            number_of("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"),
            Some(3)
        );
        assert_eq!(number_of(EVENTS, "none"), None);
    }
}
