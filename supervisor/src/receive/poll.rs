//! What the receive loop waits for: ppoll(2).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use imsup_linux::memory_watch::MemoryWatch;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};

use super::Loop;

/// What ppoll(2) found: its events for each of the loop's descriptors.
pub(super) struct Ready {
    pub(super) listener: PollFlags,
    pub(super) broker: PollFlags,
    pub(super) signals: PollFlags,
    pub(super) watch: PollFlags,
    pub(super) sleep: PollFlags,
    pub(super) arrivals: PollFlags,
    pub(super) accept: PollFlags,
    pub(super) memory: PollFlags,
}

impl Ready {
    /// Whether it is anything but a trapped call.
    pub(super) fn is_more_than_a_call(&self) -> bool {
        let more = self.broker | self.signals | self.watch | self.sleep | self.arrivals | self.accept | self.memory;
        !more.is_empty()
    }
}

impl Loop {
    /// Waits until something is ready, or it is time for something.
    ///
    /// By ppoll(2), not epoll(7): seccomp wakes its listener on the processor that makes the call
    /// (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), a hint that an epoll instance does not pass on to those who wait for it
    /// (fs/eventpoll.c, ep_poll_callback). Level-triggered, as RECV needs it, which blocks where nothing is there.
    pub(super) fn wait(&self) -> Result<Ready, Errno> {
        let listener = self.listening_for_calls.then(|| self.host.listener.as_fd());
        let mut broker = PollFlags::POLLIN;
        broker.set(PollFlags::POLLOUT, self.host.link.wants_write());
        let memory = self.memory.as_ref().and_then(MemoryWatch::descriptor);
        let sources = [
            (listener, PollFlags::POLLIN),
            (self.host.link.socket(), broker),
            (Some(self.signals.as_fd()), PollFlags::POLLIN),
            (self.reconnect.watch(), PollFlags::POLLIN),
            (self.sleep.descriptor(), PollFlags::POLLIN),
            (self.arrivals(), PollFlags::POLLIN),
            (self.accepted_from(), PollFlags::POLLIN),
            (
                memory.map(|(fd, _)| fd),
                memory.map_or(PollFlags::empty(), |(_, events)| events),
            ),
        ];
        // Those that are there come first, and only those are waited for.
        let mut polled = sources.map(|_| PollFd::new(self.signals.as_fd(), PollFlags::empty()));
        let mut count = 0;
        for (fd, events) in sources.iter().filter_map(|(fd, events)| Some((fd.as_ref()?, *events))) {
            polled[count] = PollFd::new(*fd, events);
            count += 1;
        }
        let timeout = self
            .due()
            .map(|due| due.saturating_duration_since(Instant::now()).into());
        match ppoll(&mut polled[..count], timeout, Some(self.watchdog.while_idle())) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut found = polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let [listener, broker, signals, watch, sleep, arrivals, accept, memory] = sources.map(|(fd, _)| {
            let events = fd.and_then(|_| found.next());
            events.unwrap_or(PollFlags::empty())
        });
        Ok(Ready {
            listener,
            broker,
            signals,
            watch,
            sleep,
            arrivals,
            accept,
            memory,
        })
    }

    /// What tells that something has come to a socket that the program may have closed.
    fn arrivals(&self) -> Option<BorrowedFd<'_>> {
        self.may_close().then(|| self.host.doors.descriptor()).flatten()
    }
}
