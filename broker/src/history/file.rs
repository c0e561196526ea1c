//! `events.jsonl`, and the file before: bounded, and always with all data that the accounts need.
//!
//! A file that has grown by the bound becomes `events.jsonl.1`, replacing the previous file. The
//! next file begins with a line for each host: the totals of all earlier events. So the accounts
//! need only the last file, and lose no events however often files are replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::trouble::{Trouble, Word};
use crate::{files, watch};

/// The file that events are appended to.
#[derive(Debug)]
pub(super) struct EventsFile {
    path: PathBuf,
    file: File,
    /// The growth in bytes after which the file is replaced.
    bound: u64,
    /// The offset from which the growth is counted.
    begin: u64,
    /// The ends of the lines of published events (`published`), and of the lines that were only
    /// written (`persisted`).
    published: u64,
    persisted: u64,
    trouble: Trouble,
}

/// A file in the same directory: the path with this suffix.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

impl EventsFile {
    /// Opens the file. Reads the lines of the previous file, then of this file.
    pub(super) fn open(path: &Path, bound: u64, mut read: impl FnMut(&[u8])) -> io::Result<Self> {
        let (new, before) = (beside(path, ".new"), beside(path, ".1"));
        // A broker that was killed between the two renames of `replace` has left the next file
        // complete.
        if !path.exists() && before.exists() && new.exists() {
            fs::rename(&new, path)?;
        }
        let _ = fs::remove_file(&new);
        match File::open(&before) {
            Ok(file) => drop(read_lines(&file, &mut read)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let file = match opened {
            // Written events count even on a file system that has become read-only.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path)?,
            opened => opened?,
        };
        let is_cut_off = read_lines(&file, &mut read)?;
        let end = file.metadata()?.len();
        let mut opened = Self {
            path: path.to_owned(),
            file,
            bound,
            begin: 0,
            published: end,
            persisted: end,
            trouble: Trouble::default(),
        };
        if is_cut_off && opened.write_or_say(end, "\n") {
            opened.published = opened.persisted;
        }
        Ok(opened)
    }

    /// True if the file has grown by its bound.
    pub(super) fn is_full(&self) -> bool {
        self.published.saturating_sub(self.begin) >= self.bound
    }

    /// True if the file was emptied or removed: its former contents are gone.
    pub(super) fn is_gone(&self) -> bool {
        let found = self.file.metadata();
        found.is_ok_and(|found| found.len() < self.published || found.nlink() == 0)
    }

    /// Appends lines, and then the lines of events that are published later.
    pub(super) fn tell(&mut self, lines: &str, pending: &str) {
        let published = self.published + lines.len() as u64;
        if self.write_or_say(self.published, &format!("{lines}{pending}")) {
            self.published = published;
        }
    }

    /// Appends a line that is to be published later.
    pub(super) fn note(&mut self, line: &str) {
        self.write_or_say(self.persisted, line);
    }

    /// Begins the next file, with these lines. If the present file is gone, no file is set aside.
    pub(super) fn replace(&mut self, lines: &str, pending: &str) {
        let is_gone = self.is_gone();
        // Even if the replacement fails: there is no new try with each event.
        self.begin = self.published;
        if let Err(error) = self.try_replace(lines, pending, !is_gone) {
            tracing::error!(%error, "events.jsonl cannot be replaced by a new one: it grows on");
        }
    }

    /// Makes the file anew if the path no longer leads to it. A removed file is written again with
    /// the old lines. A moved file can be read at the new path (perhaps as the file before this),
    /// so the new file gets these lines.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(super) fn restore(&mut self, lines: impl FnOnce() -> String) -> io::Result<()> {
        if watch::is_at(&self.path, &self.file) {
            return Ok(());
        }
        if self.file.metadata()?.nlink() > 0 {
            return self.try_replace(&lines(), "", false);
        }
        let published = self.read(0, self.published)?;
        let pending = self.read(self.published, self.persisted)?;
        self.try_replace(&published, &pending, false)
    }

    fn read(&self, from: u64, to: u64) -> io::Result<String> {
        let mut bytes = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, from)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }

    fn try_replace(&mut self, lines: &str, pending: &str, sets_aside: bool) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&new)?;
        let written = file.write_all_at(format!("{lines}{pending}").as_bytes(), 0);
        let set_aside = written.and_then(|()| match sets_aside {
            true => fs::rename(&self.path, beside(&self.path, ".1")),
            false => Ok(()),
        });
        if let Err(error) = set_aside {
            let _ = files::remove(&new);
            return Err(error);
        }
        fs::rename(&new, &self.path)?;
        if sets_aside {
            // Events that were only noted are published in the new file.
            let _ = self.file.set_len(self.published);
        }
        self.file = file;
        self.published = lines.len() as u64;
        self.persisted = self.published + pending.len() as u64;
        self.begin = self.published;
        Ok(())
    }

    /// A failed write loses history, and no other data; warned once.
    fn write_or_say(&mut self, at: u64, text: &str) -> bool {
        let outcome = self.write(at, text);
        let word = match &outcome {
            Ok(()) => self.trouble.goes_well(Instant::now()),
            Err(_) => self.trouble.fails(Instant::now()),
        };
        if outcome.is_err() {
            // A part of the text may have been written; the next lines must not follow that part.
            let _ = self.file.set_len(at);
            self.persisted = at;
        }
        match (word, &outcome) {
            (Some(Word::GoesWell(failed)), _) => tracing::warn!(
                failed,
                "events.jsonl can be written again; what happened in between is missing in it"
            ),
            (Some(Word::Fails), Err(error)) => tracing::error!(
                %error,
                "events.jsonl cannot be written: what happens from here on is not kept beyond this broker; all else goes on"
            ),
            _ => {}
        }
        outcome.is_ok()
    }

    /// Writes at this offset; the contents after the text are cut off.
    fn write(&mut self, at: u64, text: &str) -> io::Result<()> {
        let end = at + text.len() as u64;
        let shrinks = end < self.persisted;
        self.persisted = end;
        self.file.write_all_at(text.as_bytes(), at)?;
        if shrinks { self.file.set_len(end) } else { Ok(()) }
    }
}

/// Reads all lines; true if the last line has no newline.
fn read_lines(file: &File, read: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    let mut is_cut_off = false;
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        is_cut_off = line.last() != Some(&b'\n');
        read(line.strip_suffix(b"\n").unwrap_or(&line));
        line.clear();
    }
    Ok(is_cut_off)
}
