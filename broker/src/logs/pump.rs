//! The output of programs in roots of images: a pipe, as under docker, so that a program may open
//! `/dev/stdout` by its name without truncating or overwriting what it has printed (`> /dev/stdout`,
//! `tee /dev/stderr`; a log that is a file is opened anew, proc(5), /proc/PID/fd). A thread appends
//! what comes to the hosts' logs.
//!
//! Blocking: a thread of its own.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

/// How much is read at once: a pipe holds as much (pipe(7)).
const CHUNK: usize = 64 << 10;

const WAKER: Token = Token(usize::MAX);

/// A pipe and the log that it goes to.
struct Source {
    pipe: File,
    log: PathBuf,
}

/// The thread. Ends when dropped, and leaves in the pipes what it has not read.
#[derive(Debug)]
pub(crate) struct Pump {
    /// `None` once it is to end.
    added: Option<Sender<Source>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Starts it.
    ///
    /// # Errors
    /// epoll_create(2), eventfd(2), clone(2).
    pub(crate) fn start() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (added, to_add) = crossbeam_channel::unbounded();
        let thread = thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || Pumping::new(poll, to_add).run())?;
        Ok(Self {
            added: Some(added),
            waker,
            thread: Some(thread),
        })
    }

    /// Appends to this log what comes from the read end of a pipe, until nobody can write there any
    /// more.
    pub(crate) fn add(&self, pipe: OwnedFd, log: PathBuf) {
        let pipe = File::from(pipe);
        if let Some(added) = &self.added
            && added.send(Source { pipe, log }).is_ok()
        {
            let _ = self.waker.wake();
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.added = None;
        let woken = self.waker.wake().is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

struct Pumping {
    poll: Poll,
    to_add: Receiver<Source>,
    sources: HashMap<Token, (File, File)>,
    last: usize,
}

impl Pumping {
    fn new(poll: Poll, to_add: Receiver<Source>) -> Self {
        Self {
            poll,
            to_add,
            sources: HashMap::new(),
            last: 0,
        }
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(128);
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return tracing::error!(%error, "what programs of images print is not written any more"),
                Ok(()) => {}
            }
            if !self.take_added() {
                return;
            }
            for event in &events {
                self.pump(event.token(), &mut buffer);
            }
        }
    }

    /// Takes new pipes; false if the thread is to end.
    fn take_added(&mut self) -> bool {
        loop {
            match self.to_add.try_recv() {
                Ok(source) => self.watch(source),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn watch(&mut self, Source { pipe, log }: Source) {
        // Without its log, output is read all the same: a full pipe would stall the program.
        let open = |path: &PathBuf| File::options().append(true).create(true).open(path);
        let log = open(&log).or_else(|error| {
            tracing::warn!("{}: {error}; what the host's program prints is lost", log.display());
            open(&PathBuf::from("/dev/null"))
        });
        self.last += 1;
        let token = Token(self.last);
        let registry = self.poll.registry();
        let watched = registry.register(&mut SourceFd(&pipe.as_raw_fd()), token, Interest::READABLE);
        match (watched, log) {
            (Ok(()), Ok(log)) => drop(self.sources.insert(token, (pipe, log))),
            (Err(error), _) | (_, Err(error)) => tracing::warn!(%error, "what a host's program prints is lost"),
        }
    }

    fn pump(&mut self, token: Token, buffer: &mut [u8]) {
        let Some((pipe, log)) = self.sources.get_mut(&token) else {
            return;
        };
        loop {
            match pipe.read(buffer) {
                Ok(0) => break,
                // A full disk loses output, and stalls nobody.
                Ok(count) => drop(log.write_all(&buffer[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        let _ = self.poll.registry().deregister(&mut SourceFd(&pipe.as_raw_fd()));
        self.sources.remove(&token);
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn what_was_printed_is_appended_and_nothing_is_lost_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("web.log");
        std::fs::write(&log, "before\n").unwrap();
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let kept = reader.try_clone().unwrap();
        let pump = Pump::start().unwrap();
        pump.add(reader, log.clone());
        let mut program = File::from(writer);
        let lines: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
        program.write_all(lines.as_bytes()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let expected = format!("before\n{lines}");
        while std::fs::read_to_string(&log).unwrap() != expected {
            assert!(
                std::time::Instant::now() < deadline,
                "{}",
                std::fs::metadata(&log).unwrap().len()
            );
            thread::yield_now();
        }
        // What the thread has not read when it ends is for the next one.
        drop(pump);
        program.write_all(b"after\n").unwrap();
        drop(program);
        let next = Pump::start().unwrap();
        next.add(kept, log.clone());
        while std::fs::read_to_string(&log).unwrap() != format!("{expected}after\n") {
            assert!(std::time::Instant::now() < deadline);
            thread::yield_now();
        }
    }
}
