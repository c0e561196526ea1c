//! Questions to the kernel that take a walk over every connection of the machine
//! ([`crate::peers`]): who has booted or woken a host, and who waits in a listener. Two threads ask
//! them, so that the loop never waits for such a walk:
//!
//! * The patient one stands back behind everybody. It names senders for events that nobody is about
//!   to read.
//! * The prompt one runs as any thread does. It names senders for a client that asks for events, or
//!   if the patient one has taken too long, and looks into the queues of listeners, which decides
//!   whether a host boots.
//!
//! Blocking: threads of their own; the broker calls [`answers`] after its loop, too.

use std::io;
use std::net::SocketAddr;

use crossbeam_channel::{Receiver, Sender, unbounded};
use imsup_wire::Endpoint;

use crate::helpers::Helper;
use crate::ids::SocketId;
use crate::peers;

/// Names a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question(pub(crate) u64);

/// Who has come, for each question; `None` if that cannot be told.
pub(crate) type Answers = Vec<(Question, Option<SocketAddr>)>;

/// What the threads tell.
#[derive(Debug)]
pub(crate) enum Found {
    /// Who has come.
    Peers(Answers),
    /// How many connections stand in the queue of a listener, and the peers of those that somebody
    /// waits for an answer on.
    Queue {
        listener: Listener,
        length: usize,
        peers: Vec<SocketAddr>,
    },
}

/// A listener whose queue is looked into. The thread has no descriptor of the listener: what the
/// loop closes is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) socket: SocketId,
    /// Tells this listener from a later one in the same place.
    pub(crate) inode: u64,
    pub(crate) endpoint: Endpoint,
}

/// What the prompt thread is asked.
enum Prompt {
    /// Who has come, for each of these.
    Peers(Vec<(Question, Endpoint)>),
    /// Who waits in this listener.
    Queue(Listener),
}

/// The threads. They end when this is dropped.
pub(crate) struct PeerLookup {
    patient: Sender<(Question, Endpoint)>,
    prompt: Sender<Prompt>,
}

impl PeerLookup {
    /// Starts the threads; they tell `found` what they have found. The patient one stands back:
    /// what was woken on its processor, as the host that is just being booted, would wait for the
    /// end of the dump, several ms (measured; also with nice 19).
    ///
    /// # Errors
    /// A thread that cannot be made.
    pub(crate) fn start(found: impl Fn(Found) + Clone + Send + 'static, stand_back: fn()) -> io::Result<Self> {
        let (patient, asked_patiently) = unbounded();
        let (prompt, asked_promptly) = unbounded();
        let for_prompt = found.clone();
        std::thread::Builder::new().name("senders".to_owned()).spawn(move || {
            stand_back();
            Helper::PeerLookup.confine();
            serve_patiently(&asked_patiently, &found);
        })?;
        std::thread::Builder::new().name("queues".to_owned()).spawn(move || {
            Helper::PeerLookup.confine();
            serve_promptly(&asked_promptly, &for_prompt);
        })?;
        Ok(Self { patient, prompt })
    }

    /// Asks for the sender of a connection to an endpoint. Each question is answered once; false if
    /// the question cannot be asked.
    pub(crate) fn ask(&self, question: Question, endpoint: Endpoint) -> bool {
        self.patient.send((question, endpoint)).is_ok()
    }

    /// Asks the same promptly. A question that [`PeerLookup::ask`] has asked is then answered twice.
    /// False if it is not answered.
    pub(crate) fn ask_promptly(&self, questions: Vec<(Question, Endpoint)>) -> bool {
        self.prompt.send(Prompt::Peers(questions)).is_ok()
    }

    /// Asks who waits in a listener. Each question is answered once; false if it is not.
    pub(crate) fn ask_queue(&self, listener: Listener) -> bool {
        self.prompt.send(Prompt::Queue(listener)).is_ok()
    }
}

/// Answers all gathered questions by a single dump.
fn serve_patiently(asked: &Receiver<(Question, Endpoint)>, tell: &impl Fn(Found)) {
    while let Ok(first) = asked.recv() {
        let more = asked.try_iter().take(peers::AT_ONCE - 1);
        let questions: Vec<_> = std::iter::once(first).chain(more).collect();
        tell(Found::Peers(answers(&questions)));
    }
}

fn serve_promptly(asked: &Receiver<Prompt>, tell: &impl Fn(Found)) {
    for prompt in asked {
        match prompt {
            Prompt::Peers(questions) => {
                for questions in questions.chunks(peers::AT_ONCE) {
                    tell(Found::Peers(answers(questions)));
                }
            }
            Prompt::Queue(listener) => {
                let (length, peers) = peers::queue(listener.inode, listener.endpoint);
                tell(Found::Queue {
                    listener,
                    length,
                    peers,
                });
            }
        }
    }
}

/// The answers to up to [`peers::AT_ONCE`] questions.
pub(crate) fn answers(questions: &[(Question, Endpoint)]) -> Answers {
    let (questions, endpoints): (Vec<_>, Vec<_>) = questions.iter().copied().unzip();
    questions.into_iter().zip(peers::came(&endpoints)).collect()
}
