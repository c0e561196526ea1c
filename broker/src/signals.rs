//! Signals to the broker's process, as events of the loop.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use signal_hook::SigId;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use crate::tokens::Source;

/// A received signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A child has ended.
    Child,
    /// The broker is to end.
    End,
}

/// Handlers that write to a pipe, until this is dropped.
pub(crate) struct Signals {
    pipe: UnixStream,
    child: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Signals {
    /// Installs the handlers.
    pub(crate) fn install(registry: &Registry) -> io::Result<Self> {
        let (mut signals, write) = Self::without_handlers(registry)?;
        for signal in [SIGCHLD, SIGTERM, SIGINT, SIGHUP] {
            let flag = if signal == SIGCHLD {
                &signals.child
            } else {
                &signals.end
            };
            // The flag first: a reader woken by the pipe must find the flag set.
            signals
                .handlers
                .push(signal_hook::flag::register(signal, Arc::clone(flag))?);
            signals
                .handlers
                .push(signal_hook::low_level::pipe::register(signal, write.try_clone()?)?);
        }
        Ok(signals)
    }

    /// No signals, for a test: handlers would interrupt the calls of tests beside it.
    #[cfg(test)]
    pub(crate) fn none(registry: &Registry) -> io::Result<Self> {
        Ok(Self::without_handlers(registry)?.0)
    }

    /// The pipe's other end is for handlers.
    fn without_handlers(registry: &Registry) -> io::Result<(Self, UnixStream)> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        registry.register(
            &mut SourceFd(&read.as_raw_fd()),
            Source::Signals.into(),
            Interest::READABLE,
        )?;
        let signals = Self {
            pipe: read,
            child: Arc::default(),
            end: Arc::default(),
            handlers: Vec::new(),
        };
        Ok((signals, write))
    }

    /// The signals received since the last call.
    pub(crate) fn take(&mut self) -> Vec<Received> {
        let mut buffer = [0; 64];
        while matches!(self.pipe.read(&mut buffer), Ok(1..)) {}
        let mut received = Vec::new();
        if self.child.swap(false, Ordering::AcqRel) {
            received.push(Received::Child);
        }
        if self.end.swap(false, Ordering::AcqRel) {
            received.push(Received::End);
        }
        received
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}
