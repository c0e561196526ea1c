//! Failures: a kind for programs, and a message for people.

use serde::{Deserialize, Serialize};

/// Defines the kinds with the names that are shown and sent.
macro_rules! error_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The kind of a failure. Kinds are sent by name, so that an older peer reads a newer kind
        /// as [`ErrorKind::Other`]. `--format json` shows the same names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "&'static str", from = "String")]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name, in kebab-case.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

error_kinds! {
    /// None of the kinds below, or a kind of a later version.
    Other = "other",
    /// The project has no host of this name.
    UnknownHost = "unknown-host",
    /// The name cannot be a host's.
    InvalidName = "invalid-name",
    /// The name is another host's.
    NameTaken = "name-taken",
    /// The host runs already.
    AlreadyRunning = "already-running",
    /// The host does not run.
    NotRunning = "not-running",
    /// The host is starting: the order comes too early.
    Starting = "starting",
    /// The host is being ended, or has ended meanwhile.
    Ending = "ending",
    /// No compose file says how the host is booted.
    NotDeclared = "not-declared",
    /// The program could not be started, or ended before it was ready.
    StartFailed = "start-failed",
    /// The host sleeps, and could not be woken.
    WakeFailed = "wake-failed",
    /// The host was not ready within its `hold_timeout`.
    TimedOut = "timed-out",
    /// The host is not idle, or something keeps it awake.
    Busy = "busy",
    /// The host's supervisor does not answer.
    NoAnswer = "no-answer",
    /// The project has no address left.
    NoAddress = "no-address",
    /// The host has another address than the supervisor was given.
    AddressChanged = "address-changed",
    /// No such boot is awaited.
    NotAwaited = "not-awaited",
    /// The supervisor does not say which host it is of.
    Unnamed = "unnamed",
    /// The project is being taken down.
    GoingDown = "going-down",
    /// The two processes have no version of the messages in common.
    VersionMismatch = "version-mismatch",
    /// The project is not up.
    NotUp = "not-up",
    /// The project's broker died, and left hosts or files.
    BrokerDied = "broker-died",
    /// The project's broker is starting or ending.
    BrokerBusy = "broker-busy",
    /// The project's broker cannot be reached.
    Unreachable = "unreachable",
    /// The compose file cannot be used.
    ComposeFile = "compose-file",
}

impl From<ErrorKind> for &'static str {
    fn from(kind: ErrorKind) -> Self {
        kind.name()
    }
}

impl From<String> for ErrorKind {
    fn from(name: String) -> Self {
        let known = Self::ALL.iter().find(|kind| kind.name() == name);
        known.copied().unwrap_or(Self::Other)
    }
}

impl ErrorKind {
    /// A failure of this kind.
    pub fn because(self, message: impl Into<String>) -> Failure {
        Failure {
            kind: self,
            message: message.into(),
        }
    }
}

/// A failure, as a peer is told and `--format json` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind.
    pub kind: ErrorKind,
    /// The failed step, the reason, and the next step of the user.
    pub message: String,
}

impl Failure {
    /// Several failures as one: the kind of the first, and a line for each message. `None` for no
    /// failure.
    pub fn joined(failures: &[Self]) -> Option<Self> {
        let kind = failures.first()?.kind;
        let messages: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
        Some(kind.because(messages.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_a_later_version_is_another() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from(kind.name().to_owned()), *kind);
        }
        assert_eq!(ErrorKind::from("a-kind-to-come".to_owned()), ErrorKind::Other);
    }

    #[test]
    fn several_failures_have_the_kind_of_the_first() {
        assert_eq!(Failure::joined(&[]), None);
        let failures = [ErrorKind::StartFailed.because("a"), ErrorKind::TimedOut.because("b")];
        assert_eq!(Failure::joined(&failures), Some(ErrorKind::StartFailed.because("a\nb")));
    }
}
