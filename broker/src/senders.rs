//! Who has booted or woken a host: asked of the kernel by a thread of its own, since the answer takes it a walk over every connection of the
//! machine ([`crate::peers`]), which nobody is to wait for.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};

use imsup_wire::Endpoint;

use crate::helpers::{Confine, Helper};
use crate::peers;

/// Names a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question(pub(crate) u64);

/// Who has come, for each question; `None` if that cannot be told.
pub(crate) type Answers = Vec<(Question, Option<SocketAddr>)>;

/// The thread. It ends when this is dropped.
pub(crate) struct Senders {
    questions: Sender<(Question, Endpoint)>,
}

impl Senders {
    /// Starts it; it tells `found` what it has found. It stands back: what was woken on its processor, as the host that is
    /// just being booted, would wait for the end of the dump, several ms (measured; also with nice 19).
    ///
    /// # Errors
    /// A thread that cannot be made.
    pub(crate) fn start(
        found: impl Fn(Answers) + Send + 'static,
        stand_back: fn(),
        confine: Confine,
    ) -> io::Result<Self> {
        let (questions, asked) = mpsc::channel();
        std::thread::Builder::new().name("senders".to_owned()).spawn(move || {
            stand_back();
            confine(Helper::Senders);
            serve(&asked, &found);
        })?;
        Ok(Self { questions })
    }

    /// Asks who has come to an endpoint. Each question is answered once; false where it is not.
    pub(crate) fn ask(&self, question: Question, endpoint: Endpoint) -> bool {
        self.questions.send((question, endpoint)).is_ok()
    }
}

/// Answers all that have gathered by one dump.
fn serve(asked: &Receiver<(Question, Endpoint)>, tell: &impl Fn(Answers)) {
    while let Ok(first) = asked.recv() {
        let more = asked.try_iter().take(peers::AT_ONCE - 1);
        let (questions, endpoints): (Vec<_>, Vec<_>) = std::iter::once(first).chain(more).unzip();
        let found = peers::came(&endpoints);
        tell(questions.into_iter().zip(found).collect());
    }
}
