//! What the receive loop waits for: ppoll(2).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use imsup_linux::memory_watch::MemoryWatch;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};

use super::Loop;

/// The events that ppoll(2) found for each of the loop's descriptors.
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
    /// True if there is any event besides a trapped call.
    pub(super) fn is_more_than_a_call(&self) -> bool {
        let more = self.broker | self.signals | self.watch | self.sleep | self.arrivals | self.accept | self.memory;
        !more.is_empty()
    }
}

impl Loop {
    /// Waits until a source is ready, or an action is due.
    ///
    /// By ppoll(2), not epoll(7). Seccomp wakes its listener on the processor that makes the call
    /// (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP). An epoll instance does not pass this hint on to its
    /// own waiters (fs/eventpoll.c, ep_poll_callback). Level-triggered, as RECV needs: RECV blocks
    /// if no call is pending.
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
        // The sources that exist come first in the array, and only these are polled.
        let mut polled = sources.map(|_| PollFd::new(self.signals.as_fd(), PollFlags::empty()));
        let mut count = 0;
        for (fd, events) in sources.iter().filter_map(|(fd, events)| Some((fd.as_ref()?, *events))) {
            polled[count] = PollFd::new(*fd, events);
            count += 1;
        }
        let timeout = self
            .due()
            .map(|due| due.saturating_duration_since(Instant::now()).into());
        // Blocking: the loop's own wait.
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

    /// The descriptor that reports arrivals in sockets that the program may have closed.
    fn arrivals(&self) -> Option<BorrowedFd<'_>> {
        self.may_close()
            .then(|| self.host.closed_listeners.descriptor())
            .flatten()
    }
}
