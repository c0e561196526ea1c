//! When a broker goes down by itself, and when it is over.

/// How far a broker is in its life.
#[derive(Debug)]
pub(crate) struct Lifetime {
    /// It ends when the last supervisor has left (`imsup run` has started it for itself).
    is_ephemeral: bool,
    is_going_down: bool,
    /// Another broker takes its place.
    is_handed_over: bool,
    had_supervisors: bool,
}

/// What is left of the project.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    /// A host has an instance, or a supervisor is connected.
    pub(super) is_used: bool,
    /// A connection has said nothing yet: an `imsup run` that is about to introduce itself.
    pub(super) is_undecided: bool,
}

/// What the loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Serve,
    /// It ends everything, and is over with that.
    GoDown,
    /// Nothing is left to wait for.
    Over,
}

impl Lifetime {
    /// Of a broker that starts.
    pub(crate) fn new(is_ephemeral: bool) -> Self {
        Self {
            is_ephemeral,
            is_going_down: false,
            is_handed_over: false,
            had_supervisors: false,
        }
    }

    /// Begins the end; false if it has begun.
    pub(super) fn go_down(&mut self) -> bool {
        !std::mem::replace(&mut self.is_going_down, true)
    }

    /// Ends this broker, and nothing else.
    pub(super) fn hand_over(&mut self) {
        self.is_handed_over = true;
    }

    /// True if another broker takes its place.
    pub(super) fn is_handed_over(&self) -> bool {
        self.is_handed_over
    }

    /// A supervisor has introduced itself.
    pub(super) fn note_supervisor(&mut self) {
        self.had_supervisors = true;
    }

    pub(super) fn is_going_down(&self) -> bool {
        self.is_going_down
    }

    pub(super) fn is_ephemeral(&self) -> bool {
        self.is_ephemeral
    }

    pub(super) fn had_supervisors(&self) -> bool {
        self.had_supervisors
    }

    /// True if what is left makes no difference.
    pub(super) fn goes_on(&self) -> bool {
        !self.is_going_down && !self.is_ephemeral && !self.is_handed_over
    }

    /// Decides by what is left.
    pub(super) fn decide(&self, left: &Left) -> Next {
        match (self.is_going_down, left.is_used) {
            _ if self.is_handed_over => Next::Over,
            (true, false) => Next::Over,
            (false, false) if self.is_ephemeral && self.had_supervisors && !left.is_undecided => Next::GoDown,
            _ => Next::Serve,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Left = Left {
        is_used: false,
        is_undecided: false,
    };
    const USED: Left = Left {
        is_used: true,
        ..NOTHING
    };
    const UNDECIDED: Left = Left {
        is_undecided: true,
        ..NOTHING
    };

    #[test]
    fn only_a_broker_that_was_started_for_somebody_ends_by_itself_when_that_has_left() {
        let mut lasting = Lifetime::new(false);
        lasting.note_supervisor();
        assert!(lasting.goes_on());
        assert_eq!(lasting.decide(&NOTHING), Next::Serve);
        let mut ephemeral = Lifetime::new(true);
        assert!(!ephemeral.goes_on());
        assert_eq!(
            ephemeral.decide(&NOTHING),
            Next::Serve,
            "its first supervisor is still to come"
        );
        ephemeral.note_supervisor();
        assert_eq!(ephemeral.decide(&NOTHING), Next::GoDown);
        for left in [USED, UNDECIDED] {
            assert_eq!(ephemeral.decide(&left), Next::Serve, "{left:?}");
        }
    }

    #[test]
    fn a_broker_that_goes_down_waits_for_what_is_used_only() {
        let mut lifetime = Lifetime::new(false);
        assert!(lifetime.go_down() && !lifetime.go_down());
        assert!(!lifetime.goes_on());
        assert_eq!(lifetime.decide(&USED), Next::Serve);
        assert_eq!(lifetime.decide(&UNDECIDED), Next::Over);
        assert_eq!(lifetime.decide(&NOTHING), Next::Over);
    }
}
