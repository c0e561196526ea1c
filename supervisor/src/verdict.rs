//! The outcome of a trapped call.

use imsup_linux::notify::Answer;
use nix::errno::Errno;

use crate::pending::PendingCall;

/// The outcome of a trapped call.
#[derive(Debug)]
pub enum Verdict {
    /// The answer to the call.
    Answer(Answer),
    /// The call waits.
    Pending(Box<PendingCall>),
    /// The call has been answered, or its caller is gone.
    Done,
}

impl From<Answer> for Verdict {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl From<Errno> for Verdict {
    fn from(errno: Errno) -> Self {
        Self::Answer(Answer::errno(errno))
    }
}
