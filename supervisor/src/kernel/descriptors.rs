//! Descriptors of other processes, by kind: proc_pid_fd(5).

/// What a descriptor refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A socket of any family.
    Socket,
    /// An epoll instance.
    Epoll,
    /// A timerfd.
    TimerFd,
    /// An eventfd.
    EventFd,
    /// A pipe or FIFO.
    Pipe,
    /// Anything else.
    Other,
}

/// The descriptors of a process.
pub fn descriptors(_pid: i32) -> Vec<(i32, Kind)> {
    Vec::new()
}
