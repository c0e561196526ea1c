//! What is known of the sleep of a host's instance.

use imsup_wire::{Awaited, Cause, Index, Order};

use crate::journal::Happening;

/// A supervisor's reports about its host's sleep, and requests to the supervisor.
#[derive(Debug, Default)]
pub(crate) struct Sleep {
    deadline_us: Option<u64>,
    /// A wake whose sender is still to be named.
    unnamed: Option<Box<Happening>>,
    /// Who asked for it to be woken last, and is behind its next wake if that was asked for.
    woken_by: Option<Box<Cause>>,
    /// The user who asked to suspend the host, until the answer.
    suspended_by: Option<String>,
    is_terminating: bool,
    /// What its supervisor was told of connections that wait for a port of the program.
    awaited: Awaited,
    disposable: Option<Vec<Index>>,
}

impl Sleep {
    /// The next deadline of a sleeper, by the project's clock.
    pub(crate) fn deadline_us(&self) -> Option<u64> {
        self.deadline_us
    }

    /// Keeps the next deadline of a sleeper.
    pub(crate) fn set_deadline(&mut self, deadline_us: Option<u64>) {
        self.deadline_us = deadline_us;
    }

    /// This user asks for it to be suspended.
    pub(crate) fn ask_to_suspend(&mut self, by: &str) {
        self.suspended_by = Some(by.to_owned());
    }

    /// It is suspended: by whom, if that was asked for.
    pub(crate) fn suspended(&mut self) -> Option<String> {
        self.suspended_by.take()
    }

    /// It is to be woken, for this cause.
    pub(crate) fn ask_to_wake(&mut self, cause: Cause) {
        self.woken_by = Some(Box::new(cause));
    }

    /// The cause for which it was to be woken, if it was.
    pub(crate) fn asked_to_wake(&mut self) -> Option<Cause> {
        self.woken_by.take().map(|cause| *cause)
    }

    /// Its supervisor has answered what it was asked.
    pub(crate) fn answered(&mut self, order: Order) {
        match order {
            Order::Suspend => self.suspended_by = None,
            Order::Resume => self.woken_by = None,
            Order::Why | Order::Usage | Order::Prepare | Order::Commit | Order::Abort => {}
        }
    }

    /// It woke; the wake is recorded later, when its sender is named or is not going to be
    /// ([`Self::take_wake`]).
    pub(crate) fn woke(&mut self, wake: Happening) {
        self.deadline_us = None;
        self.disposable = None;
        self.unnamed = Some(Box::new(wake));
    }

    /// Names the sender and the port of the wake that is not recorded yet.
    pub(crate) fn name_waker(&mut self, by: Option<String>, port: Option<u16>) {
        if let Some(cause) = self.unnamed.as_mut().and_then(|wake| wake.cause.as_mut()) {
            cause.by = cause.by.take().or(by);
            cause.port = cause.port.or(port);
        }
    }

    /// The wake that is not recorded yet.
    pub(crate) fn take_wake(&mut self) -> Option<Happening> {
        self.unnamed.take().map(|wake| *wake)
    }

    /// It is being ended, and what it listens on from now on takes the place of what it listened
    /// on.
    pub(crate) fn terminate(&mut self) {
        self.deadline_us = None;
        self.disposable = None;
        self.is_terminating = true;
    }

    /// True if it is being ended.
    pub(crate) fn is_terminating(&self) -> bool {
        self.is_terminating
    }

    /// Notes what its supervisor is to know of connections that wait. True if the supervisor has
    /// not been told so.
    pub(crate) fn is_news(&mut self, awaited: Awaited) -> bool {
        std::mem::replace(&mut self.awaited, awaited) != awaited
    }

    /// The connected hosts together with which this host can be terminated.
    pub(crate) fn set_disposable(&mut self, peers: Vec<Index>) {
        self.disposable = Some(peers);
    }

    /// It is told to end together with others.
    pub(crate) fn commit(&mut self) {
        self.disposable = None;
    }

    /// The hosts with which it is connected, if it can be terminated together with them.
    pub(crate) fn disposable_with(&self) -> Option<&[Index]> {
        self.disposable.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use imsup_wire::{CauseKind, EventKind};

    use super::*;

    fn cause(by: Option<&str>) -> Cause {
        Cause {
            kind: CauseKind::Connection,
            by: by.map(str::to_owned),
            port: None,
        }
    }

    #[test]
    fn the_sender_of_a_wake_is_named_once_and_the_wake_is_taken_once() {
        let mut sleep = Sleep::default();
        sleep.set_deadline(Some(7));
        sleep.set_disposable(Vec::new());
        sleep.woke(Happening {
            cause: Some(cause(None)),
            ..Happening::at(1, EventKind::Wake)
        });
        assert_eq!((sleep.deadline_us(), sleep.disposable_with()), (None, None));
        sleep.name_waker(Some("web".to_owned()), Some(80));
        sleep.name_waker(Some("db".to_owned()), Some(81));
        let named = sleep.take_wake().and_then(|wake| wake.cause).unwrap();
        assert_eq!((named.by.as_deref(), named.port), (Some("web"), Some(80)));
        assert!(sleep.take_wake().is_none());
    }

    #[test]
    fn who_has_asked_is_behind_one_suspend_and_one_wake() {
        let mut sleep = Sleep::default();
        sleep.ask_to_suspend("me");
        assert_eq!(sleep.suspended().as_deref(), Some("me"));
        assert_eq!(sleep.suspended(), None);
        sleep.ask_to_wake(cause(Some("web")));
        sleep.answered(Order::Why);
        assert_eq!(sleep.asked_to_wake(), Some(cause(Some("web"))));
        sleep.ask_to_wake(cause(Some("web")));
        sleep.answered(Order::Resume);
        assert_eq!(sleep.asked_to_wake(), None);
    }
}
