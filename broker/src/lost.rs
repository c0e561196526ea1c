//! A broker that lives and cannot be found, since the project's files were removed and cannot be
//! made anew (`$XDG_RUNTIME_DIR` after a logout). A second broker would give the project other
//! addresses, and the first would stay for ever. The lost broker is found by the claim of a block
//! of addresses, which shows that there is any, and the removed lock. The lock is found in
//! `/proc/locks` by the broker's note, which is readable whatever capabilities the broker's file
//! has, else in `/proc/PID/fd`.
//!
//! Blocking: a command, or a broker before its loop.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Signal, geteuid, pidfd_send_signal};

use crate::address_block::NAME_PORT;
use crate::paths::Paths;
use crate::{absent, files, launcher};

/// The time for a broker to make its files anew.
pub(crate) const REMAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often that is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// The kernel's suffix to the path of an open file that was removed (d_path, fs/d_path.c;
/// proc_pid_fd(5)).
const DELETED: &[u8] = b" (deleted)";

/// A broker whose files are gone.
#[derive(Debug)]
pub struct Lost {
    /// Its process.
    pub pid: u32,
    process: OwnedFd,
}

impl Lost {
    /// Has the broker take its project down, and returns when the broker has ended.
    ///
    /// # Errors
    /// pidfd_send_signal(2), poll(2).
    pub fn end(self) -> io::Result<()> {
        pidfd_send_signal(&self.process, Signal::TERM)?;
        loop {
            match rustix::event::poll(&mut [PollFd::new(&self.process, PollFlags::IN)], None) {
                Err(rustix::io::Errno::INTR) => {}
                ended => return Ok(ended.map(drop)?),
            }
        }
    }
}

/// The broker of this project and user whose files are gone.
pub fn find(paths: &Paths) -> Option<Lost> {
    if !is_any_block_claimed() {
        return None;
    }
    by_note(paths).or_else(|| by_descriptors(paths))
}

/// Notes which lock this process holds.
pub(crate) fn note_lock(lock: &File, paths: &Paths) -> io::Result<()> {
    let metadata = lock.metadata()?;
    let mut note = format!("{} {} {} ", std::process::id(), metadata.dev(), metadata.ino()).into_bytes();
    note.extend(resolved(&paths.lock()).as_os_str().as_bytes());
    files::replace(&paths.lock_note(), &note)
}

/// The broker that has noted a lock, if the path no longer leads to this lock.
fn by_note(paths: &Paths) -> Option<Lost> {
    let (pid, device, inode, path) = parse_note(&fs::read(paths.lock_note()).ok()?)?;
    // At the noted path: the caller may have another runtime directory, or another root.
    let of_root = Path::new("/proc").join(pid.to_string()).join("root");
    let seen_by_it = of_root.join(path.strip_prefix("/").unwrap_or(&path));
    let is_at = |path: &Path| fs::symlink_metadata(path).is_ok_and(|at| (at.dev(), at.ino()) == (device, inode));
    let is_there = is_at(&path) || is_at(&seen_by_it);
    if is_there || pid == std::process::id() {
        return None;
    }
    let process = launcher::open(pid)?;
    // Checked after the process is pinned: a reused number belongs to a process without this lock.
    (absent::holder_of(device, inode, Some(pid)) == Some(pid)).then_some(Lost { pid, process })
}

fn parse_note(note: &[u8]) -> Option<(u32, u64, u64, PathBuf)> {
    let mut words = note.splitn(4, |byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u64>().ok();
    let (pid, device, inode) = (number()?, number()?, number()?);
    let path = PathBuf::from(OsStr::from_bytes(words.next()?));
    Some((pid.try_into().ok()?, device, inode, path)).filter(|(.., path)| path.is_absolute())
}

/// The broker that has the lock, or the history, open.
fn by_descriptors(paths: &Paths) -> Option<Lost> {
    let own = std::process::id();
    let wanted = Wanted {
        lock: resolved(&paths.lock()),
        events: resolved(&paths.events()),
    };
    let is_of_user = |pid: &u32| {
        let metadata = fs::metadata(format!("/proc/{pid}"));
        metadata.is_ok_and(|metadata| metadata.uid() == geteuid().as_raw())
    };
    // A broker has its lock, so only processes that hold a lock are looked into: those are few, and
    // each may have many descriptors.
    let holders = absent::holders().into_iter().filter(is_of_user);
    holders
        .filter(|pid| *pid != own && wanted.is_held_by(*pid))
        .find_map(|pid| {
            let process = launcher::open(pid)?;
            // The number is still the broker's, now that the process is pinned.
            wanted.is_held_by(pid).then_some(Lost { pid, process })
        })
}

/// True if there is a broker without a listener that can be reached: the broker begins, or makes
/// the files anew, or ends.
pub(crate) fn is_remaking(paths: &Paths) -> bool {
    // In this order: if a broker makes the files anew between the two looks, the second look finds
    // the broker.
    find(paths).is_some() || absent::has_broker(paths)
}

/// Waits until a broker whose files were just removed has made the files anew; returns the broker
/// after a time-out.
pub(crate) fn find_for_good(paths: &Paths) -> Option<Lost> {
    let deadline = Instant::now() + REMAKE_TIMEOUT;
    loop {
        let lost = find(paths)?;
        if Instant::now() >= deadline {
            return Some(lost);
        }
        thread::sleep(LOOK);
    }
}

/// The files of a lost broker.
struct Wanted {
    lock: PathBuf,
    events: PathBuf,
}

impl Wanted {
    fn is_held_by(&self, pid: u32) -> bool {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let (mut has_lost, mut has_lock, mut has_events) = (false, false, false);
        for link in entries.map(|entry| entry.path()) {
            let Ok(target) = fs::read_link(&link) else { continue };
            let path = Path::new(OsStr::from_bytes(without_mark(target.as_os_str().as_bytes())));
            has_events |= path == self.events;
            if path.file_name() == self.lock.file_name() && is_gone(&link, path) && is_locked_by(pid, &link) {
                has_lost = true;
                has_lock |= path == self.lock;
            }
        }
        // If the runtime directory is another now, the state directory shows that the project is
        // the same.
        has_lost && (has_lock || has_events)
    }
}

fn without_mark(target: &[u8]) -> &[u8] {
    target.strip_suffix(DELETED).unwrap_or(target)
}

/// True if the open file behind a link of /proc is no longer at its path.
fn is_gone(link: &Path, path: &Path) -> bool {
    let Ok(open) = fs::metadata(link) else { return false };
    let there = fs::symlink_metadata(path);
    there.map_or(true, |there| (there.dev(), there.ino()) != (open.dev(), open.ino()))
}

/// True if a process has locked the open file behind a link of /proc, as a broker does: commands
/// that wait for the broker's end have the file open, too.
fn is_locked_by(pid: u32, link: &Path) -> bool {
    fs::metadata(link).is_ok_and(|open| absent::holder_of(open.dev(), open.ino(), Some(pid)) == Some(pid))
}

/// The path in the kernel's form, resolved by the nearest existing directory above it.
fn resolved(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let resolve = |above: &Path| Some(fs::canonicalize(above).ok()?.join(whole.strip_prefix(above).ok()?));
    whole.ancestors().skip(1).find_map(resolve).unwrap_or(whole.clone())
}

/// Whether a process of this user holds the claim of any block, as each of his brokers does.
fn is_any_block_claimed() -> bool {
    let sockets = fs::read_to_string("/proc/net/udp").unwrap_or_default();
    sockets
        .lines()
        .skip(1)
        .filter_map(claim)
        .any(|uid| uid == geteuid().as_raw())
}

/// The user of a block's claim, of a line of /proc/net/udp: `sl local:port remote:port state queues
/// timer retransmits uid ...`, the address as a word of memory.
fn claim(line: &str) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let address = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes());
    let [first, second, _, last] = address.octets();
    let is_claim = (first, second, last) == (127, 78, 0) && u16::from_str_radix(port, 16).ok()? == NAME_PORT;
    is_claim.then(|| fields.nth(5)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn claims_are_told_from_other_sockets() {
        let line = |local: &str| {
            format!("  73: {local} 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 81133 2 0 0")
        };
        assert_eq!(claim(&line("00094E7F:041D")), Some(1000), "127.78.9.0:1053");
        assert_eq!(claim(&line("01094E7F:041D")), None, "a host's address");
        assert_eq!(claim(&line("00094D7F:041D")), None, "a name server");
        assert_eq!(claim(&line("00094E7F:0035")), None, "another port");
        assert_eq!(claim("nonsense"), None);
    }

    struct Holder(Child);

    impl Holder {
        /// A process that has these files open, and has locked the first or shares its lock.
        fn of([lock, events]: [&Path; 2], how: &str) -> Self {
            let mut child = Command::new("flock")
                .args([how, "--no-fork"])
                .arg(lock)
                .args(["sh", "-c", "echo locked >&2; exec sleep 1000"])
                .stdin(Stdio::null())
                .stdout(File::create(events).unwrap())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
            std::io::BufRead::read_line(&mut said, &mut line).unwrap();
            Self(child)
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_broker_is_lost_when_its_lock_is_not_where_it_was() {
        let base = tempfile::tempdir().unwrap();
        let at = |runtime: &str, state: &str| {
            let [runtime, state] = [runtime, state].map(|name| base.path().join(name));
            let variable = |name: &str| match name {
                "IMSUP_RUNTIME_DIR" => Some(runtime.clone()),
                _ => Some(state.clone()),
            };
            Paths::new("shop", 0, variable, |_| true)
        };
        let paths = at("run", "state");
        fs::create_dir_all(paths.runtime()).unwrap();
        fs::create_dir_all(paths.state()).unwrap();
        let is_lost_by = |holder: &Holder, paths: &Paths| {
            let wanted = Wanted {
                lock: resolved(&paths.lock()),
                events: resolved(&paths.events()),
            };
            wanted.is_held_by(holder.0.id())
        };
        let waits = Holder::of([&paths.lock(), &paths.events()], "--shared");
        fs::remove_file(paths.lock()).unwrap();
        assert!(!is_lost_by(&waits, &paths), "it only has the file open");
        let holder = Holder::of([&paths.lock(), &paths.events()], "--exclusive");
        let is_lost = |paths: &Paths| is_lost_by(&holder, paths);
        assert!(!is_lost(&paths), "it is where it was");
        fs::remove_dir_all(paths.runtime()).unwrap();
        assert!(is_lost(&paths));
        assert!(is_lost(&at("elsewhere", "state")), "of the same state directory");
        assert!(is_lost(&at("run", "elsewhere")), "of the same runtime directory");
        assert!(!is_lost(&at("elsewhere", "elsewhere")), "another project of its name");
        fs::remove_dir_all(paths.state()).unwrap();
        assert!(is_lost(&paths), "both are gone");
        fs::create_dir_all(paths.runtime()).unwrap();
        fs::write(paths.lock(), "").unwrap();
        assert!(is_lost(&paths), "another lock is in its place");
    }

    #[test]
    fn a_broker_is_found_by_its_note_of_its_lock() {
        let base = tempfile::tempdir().unwrap();
        let at = |runtime: &str| {
            let of_variable = |variable: &str| match variable {
                "IMSUP_RUNTIME_DIR" => Some(base.path().join(runtime)),
                _ => Some(base.path().join("state")),
            };
            Paths::new("shop", 0, of_variable, |_| true)
        };
        let (paths, elsewhere) = (at("run"), at("elsewhere"));
        fs::create_dir_all(paths.state()).unwrap();
        fs::create_dir_all(paths.runtime()).unwrap();
        let mut holder = Command::new("flock")
            .arg(paths.lock())
            .args(["sh", "-c", "echo locked; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = std::io::BufReader::new(holder.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        let (lock, path) = (fs::metadata(paths.lock()).unwrap(), resolved(&paths.lock()));
        let note = |pid: u32| {
            let note = format!("{pid} {} {} {}", lock.dev(), lock.ino(), path.display());
            fs::write(paths.lock_note(), note).unwrap();
        };
        let found_by = |paths: &Paths| by_note(paths).map(|lost| lost.pid);
        let found = || found_by(&paths);
        note(holder.id());
        assert_eq!(found(), None, "its lock is where it was");
        assert_eq!(found_by(&elsewhere), None, "seen from another runtime directory, too");
        fs::remove_file(paths.lock()).unwrap();
        assert_eq!(found(), Some(holder.id()));
        assert_eq!(found_by(&elsewhere), Some(holder.id()));
        fs::write(paths.lock(), "").unwrap();
        assert_eq!(found(), Some(holder.id()), "another lock is in its place");
        note(1);
        assert_eq!(found(), None, "another process");
        note(holder.id());
        drop(holder.stdin.take());
        holder.wait().unwrap();
        assert_eq!(found(), None, "it has ended");
        assert_eq!(parse_note(b"7 8 9 /a b"), Some((7, 8, 9, "/a b".into())));
        for damaged in ["", "7 8", "7 8 9", "7 8 9 a", "a b c /d"] {
            assert_eq!(parse_note(damaged.as_bytes()), None, "{damaged}");
        }
    }
}
