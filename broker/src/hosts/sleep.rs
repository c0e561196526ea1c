//! The known facts about the sleep of a host's instance.

use imsup_wire::{Awaited, Cause, Index, Order};

use crate::journal::Happening;

/// A supervisor's reports about its host's sleep, and requests to the supervisor.
#[derive(Debug, Default)]
pub(crate) struct Sleep {
    deadline_us: Option<u64>,
    /// A wake whose sender is still to be named.
    unnamed: Option<Box<Happening>>,
    /// The user who asked last for a wake of the host: the cause of the next wake if requested.
    woken_by: Option<Box<Cause>>,
    /// The user who asked to suspend the host, until the answer.
    suspended_by: Option<String>,
    is_terminating: bool,
    /// The supervisor's latest news of connections that wait for a port of the program.
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

    /// This user asks for a suspend of the host.
    pub(crate) fn ask_to_suspend(&mut self, by: &str) {
        self.suspended_by = Some(by.to_owned());
    }

    /// The host is suspended. Returns the user if a user asked for the suspend.
    pub(crate) fn suspended(&mut self) -> Option<String> {
        self.suspended_by.take()
    }

    /// The host is to be woken, for this cause.
    pub(crate) fn ask_to_wake(&mut self, cause: Cause) {
        self.woken_by = Some(Box::new(cause));
    }

    /// The cause for which the host was to be woken, if any.
    pub(crate) fn asked_to_wake(&mut self) -> Option<Cause> {
        self.woken_by.take().map(|cause| *cause)
    }

    /// The supervisor has answered this order.
    pub(crate) fn answered(&mut self, order: Order) {
        match order {
            Order::Suspend => self.suspended_by = None,
            Order::Resume => self.woken_by = None,
            Order::Why | Order::Usage | Order::Prepare | Order::Commit | Order::Abort => {}
        }
    }

    /// The host woke. The wake is recorded later, once the sender is named or is certain to stay
    /// unnamed ([`Self::take_wake`]).
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

    /// The host is being ended. Listeners reported from now on take the place of the listeners of
    /// the program.
    pub(crate) fn terminate(&mut self) {
        self.deadline_us = None;
        self.disposable = None;
        self.is_terminating = true;
    }

    /// True if the host is being ended.
    pub(crate) fn is_terminating(&self) -> bool {
        self.is_terminating
    }

    /// Notes the supervisor's latest news of connections that wait. True if the news differ from
    /// the last.
    pub(crate) fn is_news(&mut self, awaited: Awaited) -> bool {
        std::mem::replace(&mut self.awaited, awaited) != awaited
    }

    /// The connected hosts together with which this host can be terminated.
    pub(crate) fn set_disposable(&mut self, peers: Vec<Index>) {
        self.disposable = Some(peers);
    }

    /// The host is told to end together with other hosts.
    pub(crate) fn commit(&mut self) {
        self.disposable = None;
    }

    /// The hosts connected with this host, if all can be terminated together.
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
