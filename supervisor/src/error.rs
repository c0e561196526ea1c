//! Why a program cannot be run.

use std::path::PathBuf;

use imsup_protocol::channel::ChannelError;
use imsup_wire::Failure;
use nix::errno::Errno;

use crate::running::RunningLockError;
use crate::user::UserError;
use imsup_linux::root::PlanError;
use imsup_linux::spawn::SpawnError;

/// The reason why a program could not be run at all. A failed execution is not an error here but an
/// [`ExitStatus`](imsup_wire::ExitStatus).
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum RunError {
    /// There is no command to run.
    #[error("no command to run")]
    NoCommand,
    /// A NUL in the command.
    #[error("the command has an argument with a NUL byte in it, which no program can be given")]
    NulInCommand,
    /// The broker cannot be reached.
    #[error("cannot reach the project's broker at {path}: {source}; is the project up?")]
    Broker { path: PathBuf, source: ChannelError },
    /// The broker does not take us.
    #[error(transparent)]
    Rejected(#[from] Failure),
    /// The broker sent a message that makes no sense in this state.
    #[error("the broker answered out of turn; are imsup and the broker of the same version?")]
    OutOfTurn,
    /// The user does not exist, or may not be used.
    #[error(transparent)]
    User(#[from] UserError),
    /// The root of its image cannot be described to the kernel.
    #[error(transparent)]
    Root(#[from] PlanError),
    /// The directories of its root cannot be made.
    #[error("the directories of its root cannot be made: {0}")]
    RootDirectories(#[source] std::io::Error),
    /// The child could not be prepared.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The host runs already.
    #[error(transparent)]
    Running(#[from] RunningLockError),
    /// A system call of our own failed.
    #[error("{what}: {source}")]
    System { what: &'static str, source: Errno },
}

/// Adds the attempted action to an errno.
pub(crate) trait Trying<T> {
    fn trying(self, what: &'static str) -> Result<T, RunError>;
}

impl<T> Trying<T> for Result<T, Errno> {
    fn trying(self, what: &'static str) -> Result<T, RunError> {
        self.map_err(|source| RunError::System { what, source })
    }
}
