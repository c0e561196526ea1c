//! Past and present output of programs.

pub(crate) mod bounds;
pub(crate) mod pump;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::paths::Paths;

/// The longest line that is kept together.
const MAX_LINE: usize = 64 * 1024;

/// The amount of earlier output to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// All of it.
    Beginning,
    /// The last lines of each host.
    Tail(usize),
    /// Nothing.
    Now,
}

#[derive(Debug)]
struct Log {
    host: String,
    path: PathBuf,
    position: u64,
    /// The beginning of a line without an end yet.
    partial: Vec<u8>,
    /// The number of bytes still to skip, at most, until a line begins: the kept output may begin
    /// within a line.
    left_out: usize,
    /// True if any of the log was read.
    is_begun: bool,
    /// Bytes of the log that were dropped before being shown.
    missed: u64,
}

/// The logs of hosts, read line by line.
#[derive(Debug)]
pub struct Logs {
    directory: PathBuf,
    /// Only these hosts; all if empty.
    hosts: Vec<String>,
    logs: BTreeMap<String, Log>,
    from: From,
    inotify: Inotify,
    /// The watch on the directory above.
    above: WatchDescriptor,
}

impl Logs {
    /// Opens the logs of these hosts, or of all. Logs of hosts without output yet appear later.
    ///
    /// # Errors
    /// inotify(7), or a directory that cannot be read; [`io::ErrorKind::NotFound`] if the project
    /// is not up.
    pub fn open(paths: &Paths, hosts: &[String], from: From) -> io::Result<Self> {
        let directory = paths.logs();
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        // Before the look at the files: output in between is reported.
        inotify.add_watch(&directory, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
        // The end of the directory is reported by the parent directory: an open log of a program
        // would delay the directory's own report.
        let above = inotify.add_watch(paths.state(), AddWatchFlags::IN_DELETE)?;
        let mut logs = Self {
            directory,
            hosts: hosts.to_vec(),
            logs: BTreeMap::new(),
            from,
            inotify,
            above,
        };
        logs.find(true)?;
        Ok(logs)
    }

    /// Reads new output since the last call, line by line, without the newlines.
    ///
    /// # Errors
    /// Of reading a file, or of `show`.
    pub fn read(&mut self, mut show: impl FnMut(&str, &[u8]) -> io::Result<()>) -> io::Result<()> {
        self.find(false)?;
        for log in self.logs.values_mut() {
            log.read(&mut show)?;
        }
        Ok(())
    }

    /// Shows the rest without a newline.
    ///
    /// # Errors
    /// Of `show`.
    pub fn finish(&mut self, mut show: impl FnMut(&str, &[u8]) -> io::Result<()>) -> io::Result<()> {
        for log in self.logs.values_mut().filter(|log| !log.partial.is_empty()) {
            show(&log.host, &std::mem::take(&mut log.partial))?;
        }
        Ok(())
    }

    /// The hosts with output that was dropped before being read, and the number of dropped bytes,
    /// since the last call.
    pub fn take_missed(&mut self) -> Vec<(String, u64)> {
        let missed = |log: &mut Log| match std::mem::take(&mut log.missed) {
            0 => None,
            bytes => Some((log.host.clone(), bytes)),
        };
        self.logs.values_mut().filter_map(missed).collect()
    }

    /// Waits until there may be new output; false if the project is gone.
    ///
    /// # Errors
    /// inotify(7).
    pub fn wait(&self) -> io::Result<bool> {
        let events = loop {
            match self.inotify.read_events() {
                Err(nix::errno::Errno::EINTR) => {}
                result => break result?,
            }
        };
        let own = self.directory.file_name();
        Ok(!events.iter().any(|event| {
            event.mask.contains(AddWatchFlags::IN_IGNORED) || (event.wd == self.above && event.name.as_deref() == own)
        }))
    }

    fn find(&mut self, first: bool) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !first => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log"));
            let Some(host) = name.map(str::to_owned) else { continue };
            let wanted = self.hosts.is_empty() || self.hosts.contains(&host);
            if !wanted || self.logs.contains_key(&host) {
                continue;
            }
            let position = match self.from {
                From::Now if first => std::fs::metadata(&path)?.len(),
                From::Tail(lines) if first => tail(&path, lines)?,
                _ => 0,
            };
            let log = Log {
                host: host.clone(),
                path,
                position,
                partial: Vec::new(),
                left_out: 0,
                // Output dropped before the first read is not reported as missed.
                is_begun: self.from == From::Now || !first,
                missed: 0,
            };
            self.logs.insert(host, log);
        }
        Ok(())
    }
}

impl Log {
    fn read(&mut self, show: &mut impl FnMut(&str, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() < self.position {
            // The file was emptied.
            self.position = 0;
            self.partial.clear();
            self.left_out = 0;
        }
        let mut buffer = vec![0; MAX_LINE];
        loop {
            let count = file.read_at(&mut buffer, self.position)?;
            if count == 0 {
                return Ok(());
            }
            // Checked after the read: output that was dropped before the read has been read as
            // zeros.
            let begin = data_begins(&file, self.position)?;
            if begin > self.position {
                self.skip_to(begin);
                continue;
            }
            self.position += count as u64;
            self.is_begun = true;
            self.take(&buffer[..count], show)?;
        }
    }

    /// Goes on at the beginning of the kept output.
    fn skip_to(&mut self, begin: u64) {
        if self.is_begun {
            self.missed += begin - self.position;
        }
        self.position = begin;
        self.partial.clear();
        self.left_out = MAX_LINE;
    }

    /// Takes the next output.
    fn take(&mut self, mut text: &[u8], show: &mut impl FnMut(&str, &[u8]) -> io::Result<()>) -> io::Result<()> {
        if self.left_out > 0 {
            let within = &text[..text.len().min(self.left_out)];
            match within.iter().position(|byte| *byte == b'\n') {
                Some(end) => (self.left_out, text) = (0, &text[end + 1..]),
                None => (self.left_out, text) = (self.left_out - within.len(), &text[within.len()..]),
            }
        }
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if self.partial.ends_with(b"\n") {
                self.partial.pop();
            } else if self.partial.len() < MAX_LINE {
                continue;
            }
            show(&self.host, &self.partial)?;
            self.partial.clear();
        }
        Ok(())
    }
}

/// The position, at or after `from`, where the kept part of a file begins (lseek(2), SEEK_DATA).
fn data_begins(file: &File, from: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
        Ok(begin) => Ok(begin),
        // There is no data; or the file system has no holes.
        Err(rustix::io::Errno::NXIO | rustix::io::Errno::INVAL) => Ok(from),
        Err(errno) => Err(errno.into()),
    }
}

/// The position of the last `lines` lines of a file.
fn tail(path: &Path, lines: usize) -> io::Result<u64> {
    const STEP: u64 = 8192;
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    // Only zeros are before this position.
    let begin = data_begins(&file, 0)?.min(end);
    let mut start = end;
    let mut seen = 0;
    let mut buffer = [0; STEP as usize];
    while start > begin {
        let from = start.saturating_sub(STEP).max(begin);
        let bytes = &mut buffer[..(start - from) as usize];
        if file.read_exact_at(bytes, from).is_err() {
            // The file was emptied.
            return Ok(0);
        }
        for (offset, byte) in bytes.iter().enumerate().rev() {
            let at = from + offset as u64;
            // The newline at the file's end ends the last line, and begins none.
            if *byte == b'\n' && at + 1 != end {
                seen += 1;
                if seen == lines {
                    return Ok(at + 1);
                }
            }
        }
        start = from;
    }
    // From the beginning; the reader finds the begin of the data.
    Ok(if lines == 0 { end } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn paths(directory: &Path) -> Paths {
        let directory = directory.to_owned();
        let paths = Paths::new("shop", 0, |_| Some(directory.clone()), |_| true);
        std::fs::create_dir_all(paths.log("x").parent().unwrap()).unwrap();
        paths
    }

    fn lines(logs: &mut Logs) -> Vec<String> {
        let mut lines = Vec::new();
        let show = |host: &str, line: &[u8]| {
            lines.push(format!("{host}: {}", String::from_utf8_lossy(line)));
            Ok(())
        };
        logs.read(show).unwrap();
        lines
    }

    #[test]
    fn lines_come_whole_and_logs_that_appear_later_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths(directory.path());
        std::fs::write(paths.log("web"), "one\ntwo\nthr").unwrap();
        let mut logs = Logs::open(&paths, &[], From::Tail(2)).unwrap();
        assert_eq!(lines(&mut logs), ["web: two"]);
        let mut web = File::options().append(true).open(paths.log("web")).unwrap();
        web.write_all(b"ee\n").unwrap();
        std::fs::write(paths.log("db"), "ready\n").unwrap();
        assert!(logs.wait().unwrap());
        assert_eq!(lines(&mut logs), ["db: ready", "web: three"]);
        std::fs::write(paths.log("web"), "").unwrap();
        std::fs::remove_dir_all(paths.log("x").parent().unwrap()).unwrap();
        while logs.wait().unwrap() {}
    }

    #[test]
    fn only_the_hosts_asked_for_are_shown() {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths(directory.path());
        std::fs::write(paths.log("web"), "one\n").unwrap();
        std::fs::write(paths.log("db"), "two\n").unwrap();
        let mut logs = Logs::open(&paths, &["db".to_owned()], From::Beginning).unwrap();
        assert_eq!(lines(&mut logs), ["db: two"]);
        let mut logs = Logs::open(&paths, &["db".to_owned()], From::Now).unwrap();
        assert!(lines(&mut logs).is_empty());
    }

    #[test]
    fn the_tail_begins_at_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let text: String = (0..5000).map(|number| format!("line {number}\n")).collect();
        std::fs::write(&path, &text).unwrap();
        for lines in [0, 1, 3, 4999, 5000, 9999] {
            let start = usize::try_from(tail(&path, lines).unwrap()).unwrap();
            assert_eq!(text[start..].lines().count(), lines.min(5000));
        }
    }
}
