//! Keeps the output of programs, and the log of the broker, within bounds.
//!
//! A program has the log open itself (O_APPEND), and prints directly to the kernel. So the oldest
//! output is cut out in place: fallocate(2) with FALLOC_FL_PUNCH_HOLE frees the blocks at the head
//! of the file and moves no data. No byte that the program writes meanwhile is lost, and positions
//! of readers stay valid. The file's size goes on growing, but not the disk space.
//!
//! Blocking: a thread of its own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use super::data_begins;
use crate::files;
use crate::paths::Paths;
use imsup_compose::cluster::{Cluster, LogBound};

/// The pause of looks after output was printed. Meanwhile, a log exceeds its bound by new output.
const PAUSE: Duration = Duration::from_secs(1);

/// The pause after a log had exceeded the bound: the program prints much.
const SHORT_PAUSE: Duration = Duration::from_millis(50);

/// The interval of looks at logs if output is not reported.
const BLIND_PAUSE: Duration = Duration::from_secs(10);

/// Freed space is a multiple of this, and of the file system's own block.
const BLOCK: u64 = 4096;

/// The size at which the broker's own log becomes `broker.log.1`.
const BROKER_LOG_BYTES: u64 = 10 << 20;

/// The thread that keeps logs within their bounds.
pub(crate) struct Bounds {
    /// True once no file may be touched any more. Locked while a file is touched.
    over: Arc<Mutex<bool>>,
}

impl Bounds {
    /// Starts it.
    ///
    /// # Errors
    /// clone(2).
    pub(crate) fn start(paths: &Paths, cluster: &Cluster) -> io::Result<Self> {
        let keeper = Keeper {
            logs: paths.logs(),
            state: paths.state().to_owned(),
            bounds: cluster
                .hosts
                .iter()
                .map(|host| (host.name.to_string(), host.program.logging))
                .collect(),
            inotify: Inotify::init(InitFlags::IN_CLOEXEC).ok(),
        };
        let over = Arc::new(Mutex::new(false));
        let is_over = Arc::clone(&over);
        thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || keeper.run(&is_over))?;
        Ok(Self { over })
    }

    /// Ends the thread, before its files are removed.
    pub(crate) fn end(self) {
        *self.over.lock() = true;
    }
}

struct Keeper {
    logs: PathBuf,
    state: PathBuf,
    bounds: HashMap<String, LogBound>,
    /// `None` if the user has no instance left (inotify(7), max_user_instances).
    inotify: Option<Inotify>,
}

/// The state of the watch for new output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// The next write is told.
    Set,
    /// Writes are not reported (inotify(7), max_user_watches; a missing directory): look now and
    /// then.
    Blind,
}

impl Keeper {
    /// Looks at the logs after each new output. If the logs' directory was removed, looks for the
    /// directory now and then.
    fn run(&self, is_over: &Mutex<bool>) {
        loop {
            let watch = self.watch();
            let over = is_over.lock();
            if *over {
                return;
            }
            // After the watches are set: later output is reported.
            let cut = self.look();
            drop(over);
            match (cut, watch, &self.inotify) {
                (true, _, _) => thread::sleep(SHORT_PAUSE),
                (false, Watch::Set, Some(inotify)) => {
                    let _ = inotify.read_events();
                    thread::sleep(PAUSE);
                }
                _ => thread::sleep(BLIND_PAUSE),
            }
        }
    }

    /// Has the next write reported, and then none until the next look: this costs programs that
    /// print no extra time.
    fn watch(&self) -> Watch {
        let Some(inotify) = &self.inotify else {
            return Watch::Blind;
        };
        let mask = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT;
        let watched = [&self.logs, &self.state].map(|directory| inotify.add_watch(directory, mask));
        match watched.into_iter().find_map(Result::err) {
            None => Watch::Set,
            Some(_) => Watch::Blind,
        }
    }

    /// Cuts all logs that exceed a bound; true if any did.
    fn look(&self) -> bool {
        let mut any = self.or_say(&self.state.join("broker.log"), |path| set_aside(path, BROKER_LOG_BYTES));
        for entry in fs::read_dir(&self.logs).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(host) = name.to_str().and_then(|name| name.strip_suffix(".log")) else {
                continue;
            };
            let bound = self.bounds.get(host).copied().unwrap_or_default();
            any |= self.or_say(&entry.path(), |path| cut(path, bound));
        }
        any
    }

    fn or_say(&self, path: &Path, cut: impl FnOnce(&Path) -> io::Result<bool>) -> bool {
        match cut(path) {
            Ok(any) => any,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::warn!("{}: {error}: it grows beyond its bound", path.display());
                false
            }
        }
    }
}

/// Cuts the oldest output out of a log that exceeds the bound; true if output was cut.
fn cut(path: &Path, bound: LogBound) -> io::Result<bool> {
    let Some(unit) = bound.max_size else { return Ok(false) };
    let most = unit.saturating_mul(bound.max_files.into());
    if fs::metadata(path)?.len() <= most {
        return Ok(false);
    }
    let file = File::options().read(true).write(true).open(path)?;
    let end = file.metadata()?.len();
    let begin = data_begins(&file, 0)?;
    if end.saturating_sub(begin) <= most {
        return Ok(false);
    }
    let kept = if bound.max_files > 1 { most - unit } else { unit / 2 };
    let length = whole_blocks(&file, end - kept)?;
    if length <= begin {
        // The bound is less than a block.
        return Ok(false);
    }
    match punch(&file, length) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            tracing::warn!(
                "{}: the file system cannot take the head out of a file (fallocate(2)); the log is emptied instead",
                path.display()
            );
            file.set_len(0)?;
        }
        punched => punched?,
    }
    Ok(true)
}

/// Frees the first `length` bytes of a file, and leaves all others in place.
pub(super) fn punch(file: &File, length: u64) -> rustix::io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, 0, length)
}

/// As many whole blocks of the file system as fit. The freed part of a block would read as zeros.
fn whole_blocks(file: &File, length: u64) -> io::Result<u64> {
    let system = rustix::fs::fstatvfs(file)?.f_bsize;
    let block = BLOCK.max(system).max(file.metadata()?.blksize());
    Ok(length / block * block)
}

/// Makes a log that exceeds the bound the older log, replacing the previous older log. Lines
/// written between the copy and the cut are lost (as logrotate(8), copytruncate).
fn set_aside(path: &Path, most: u64) -> io::Result<bool> {
    if fs::metadata(path)?.len() <= most {
        return Ok(false);
    }
    let log = File::options().read(true).write(true).open(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    let older = PathBuf::from(name);
    let copied = File::create(&older).and_then(|mut older| io::copy(&mut &log, &mut older));
    // Without room for a copy there is none.
    copied.or_else(|_| files::remove(&older).map(|()| 0))?;
    log.set_len(0)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::{From, Logs};
    use super::*;

    const KIB: u64 = 1024;

    fn bound(size: u64, max_files: u32) -> LogBound {
        LogBound {
            max_size: Some(size),
            max_files,
        }
    }

    fn log(bytes: u64) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.log");
        let text: String = (0..bytes / 8).map(|number| format!("{number:7}\n")).collect();
        fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn a_directory_that_somebody_has_removed_is_looked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper {
            logs: directory.path().join("logs"),
            state: directory.path().to_owned(),
            bounds: HashMap::new(),
            inotify: Inotify::init(InitFlags::IN_CLOEXEC).ok(),
        };
        assert_eq!(keeper.watch(), Watch::Blind);
        fs::create_dir(&keeper.logs).unwrap();
        assert_eq!(keeper.watch(), Watch::Set);
    }

    #[test]
    fn the_oldest_output_is_dropped_and_the_rest_stays_where_it_is() {
        let (_directory, path) = log(100 * KIB);
        let mut program = File::options().append(true).open(&path).unwrap();
        assert!(!cut(&path, bound(50 * KIB, 2)).unwrap(), "it is at its bound");
        program.write_all(b"one more").unwrap();
        assert!(cut(&path, bound(50 * KIB, 2)).unwrap());
        assert!(!cut(&path, bound(50 * KIB, 2)).unwrap(), "once is enough");
        program.write_all(b"\nlast\n").unwrap();
        let text = fs::read(&path).unwrap();
        assert_eq!(text.len() as u64, 100 * KIB + 14);
        let begin = text.iter().position(|byte| *byte != 0).unwrap() as u64;
        assert_eq!(begin, 48 * KIB, "whole blocks");
        assert!(text.ends_with(b"\none more\nlast\n"));
        assert!(fs::metadata(&path).unwrap().blocks() * 512 <= 64 * KIB);
    }

    fn lines_of(logs: &mut Logs) -> Vec<u64> {
        let mut lines = Vec::new();
        let show = |_: &str, line: &[u8]| {
            let text = std::str::from_utf8(line).unwrap();
            assert_eq!(text.len(), 7, "{text:?} is no whole line");
            lines.push(text.trim().parse().unwrap());
            Ok(())
        };
        logs.read(show).unwrap();
        lines
    }

    fn project(directory: &Path) -> Paths {
        let directory = directory.to_owned();
        let paths = Paths::new("shop", 0, |_| Some(directory.clone()), |_| true);
        fs::create_dir_all(paths.logs()).unwrap();
        paths
    }

    fn print(program: &mut File, lines: std::ops::Range<u64>) {
        let text: String = lines.map(|number| format!("{number:7}\n")).collect();
        program.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn who_keeps_up_neither_misses_nor_repeats_a_line() {
        const BATCH: u64 = 1_000;
        let directory = tempfile::tempdir().unwrap();
        let paths = project(directory.path());
        let path = paths.log("web");
        let mut program = File::options().append(true).create(true).open(&path).unwrap();
        let mut logs = Logs::open(&paths, &[], From::Beginning).unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Cuts while lines are printed and read, and keeps several batches.
            let cutter = scope.spawn(|| {
                let mut cuts = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    cuts += u64::from(cut(&path, bound(32 * KIB, 2)).unwrap());
                    std::thread::yield_now();
                }
                cuts
            });
            let mut next = 0;
            for batch in 0..200 {
                print(&mut program, batch * BATCH..(batch + 1) * BATCH);
                while next < (batch + 1) * BATCH {
                    let lines = lines_of(&mut logs);
                    let end = next + lines.len() as u64;
                    assert!(lines.into_iter().eq(next..end), "from {next} on");
                    next = end;
                }
            }
            assert!(logs.take_missed().is_empty());
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(cutter.join().unwrap() > 0);
        });
    }

    #[test]
    fn who_comes_late_begins_with_a_whole_line_and_is_told_what_it_missed() {
        let directory = tempfile::tempdir().unwrap();
        let paths = project(directory.path());
        let path = paths.log("web");
        let mut program = File::options().append(true).create(true).open(&path).unwrap();
        print(&mut program, 0..10);
        let mut late = Logs::open(&paths, &[], From::Beginning).unwrap();
        assert_eq!(lines_of(&mut late).len(), 10);
        print(&mut program, 10..20_000);
        // So that lines lie across the blocks' ends.
        program.write_all(b"    odd").unwrap();
        assert!(cut(&path, bound(20 * KIB, 2)).unwrap());
        program.write_all(b"\n").unwrap();
        // The last line is not a number.
        let numbers = |logs: &mut Logs| {
            let mut numbers = Vec::new();
            let show = |_: &str, line: &[u8]| {
                numbers.extend(std::str::from_utf8(line).unwrap().trim().parse::<u64>().ok());
                Ok(())
            };
            logs.read(show).unwrap();
            numbers
        };
        let seen = numbers(&mut late);
        let first = seen[0];
        assert!(first > 10_000 && seen.iter().copied().eq(first..20_000), "{first}");
        let missed = late.take_missed();
        assert!(missed.len() == 1 && missed[0].1 > 80_000, "{missed:?}");
        assert!(late.take_missed().is_empty(), "it is told once");

        let mut fresh = Logs::open(&paths, &[], From::Beginning).unwrap();
        assert_eq!(numbers(&mut fresh), seen);
        assert!(
            fresh.take_missed().is_empty(),
            "what was dropped before is nobody's loss"
        );
        for lines in [1, 100, 1_000_000] {
            let mut tail = Logs::open(&paths, &[], From::Tail(lines)).unwrap();
            let tail = numbers(&mut tail);
            let expected = (lines - 1).min(seen.len());
            assert_eq!(tail, seen[seen.len() - expected..], "{lines}");
        }
    }

    #[test]
    fn a_log_of_one_file_keeps_half_and_one_without_bound_all() {
        let (_directory, path) = log(100 * KIB);
        assert!(
            !cut(
                &path,
                LogBound {
                    max_size: None,
                    max_files: 1
                }
            )
            .unwrap()
        );
        assert!(cut(&path, bound(64 * KIB, 1)).unwrap());
        let file = File::open(&path).unwrap();
        assert_eq!(data_begins(&file, 0).unwrap(), 68 * KIB);
        cut(&path, bound(1, 1)).unwrap();
    }

    #[test]
    fn the_brokers_log_becomes_the_older_one() {
        let (directory, path) = log(100 * KIB);
        let older = directory.path().join("web.log.1");
        let mut broker = File::options().append(true).open(&path).unwrap();
        assert!(!set_aside(&path, 100 * KIB).unwrap());
        broker.write_all(b"x\n").unwrap();
        assert!(set_aside(&path, 100 * KIB).unwrap());
        broker.write_all(b"y\n").unwrap();
        assert_eq!(fs::metadata(&older).unwrap().len(), 100 * KIB + 2);
        assert_eq!(fs::read(&path).unwrap(), b"y\n");
    }
}
