//! A supervisor's connection, spoken by hand.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use imsup_broker::paths::Paths;
use imsup_protocol::channel::Channel;
use imsup_protocol::control::Opening;
use imsup_protocol::message::{Adoption, Role};
use imsup_protocol::{Outcome, ToBroker, ToSupervisor};
use imsup_wire::{Awake, Endpoint, ErrorKind, HostName, Index, Order};

pub struct Peer {
    pub channel: Channel,
    opened: bool,
    next_question: u64,
}

impl Peer {
    pub fn connect(paths: &Paths) -> Self {
        Self::new(UnixStream::connect(paths.socket()).expect("the broker's socket"))
    }

    /// Connects, if there is a broker.
    pub fn try_connect(paths: &Paths) -> Option<Self> {
        UnixStream::connect(paths.socket()).ok().map(Self::new)
    }

    fn new(stream: UnixStream) -> Self {
        Self {
            channel: Channel::connected(stream),
            opened: false,
            next_question: 1,
        }
    }

    /// Introduces itself as a transient host.
    pub fn transient(paths: &Paths, name: Option<&str>) -> (Self, Index) {
        let mut peer = Self::connect(paths);
        peer.hello(name.map(|name| name.parse().expect("a name")), Role::Transient, None);
        let (index, _, _) = peer.welcome();
        (peer, index)
    }

    pub fn tell(&mut self, message: &ToBroker, fds: Vec<OwnedFd>) {
        if std::mem::replace(&mut self.opened, true) {
            // A failure means that the broker was killed, which the next receive reports.
            let _ = self.channel.send(message, fds);
        } else {
            let _ = self.channel.send(&Opening::Supervisor(message.clone()), fds);
        }
    }

    pub fn hello(&mut self, host: Option<HostName>, role: Role, adoption: Option<Adoption>) {
        let hello = ToBroker::Hello {
            host,
            role,
            command: vec!["fake".to_owned()],
            adoption,
        };
        self.tell(&hello, Vec::new());
    }

    /// Introduces itself as the supervisor that runs a host, and reports the end of the start.
    pub fn started(paths: &Paths, host: &str) -> Self {
        let mut peer = Self::connect(paths);
        peer.hello(Some(host.parse().expect("a name")), Role::Started, None);
        peer.welcome();
        peer.say(ToBroker::Started { pid: 4711 });
        peer.say(ToBroker::Settled);
        peer
    }

    /// Sends a message without a socket.
    pub fn say(&mut self, message: ToBroker) {
        self.tell(&message, Vec::new());
    }

    /// The next order, to be answered under the returned number.
    pub fn order(&mut self) -> (u64, Order) {
        match self.hear() {
            ToSupervisor::Ask { id, order } => (id, order),
            other => panic!("no question: {other:?}"),
        }
    }

    /// The host's new reasons to stay awake.
    pub fn awake(&mut self) -> Awake {
        match self.hear() {
            ToSupervisor::KeepAwake(awake) => awake,
            other => panic!("nothing about that: {other:?}"),
        }
    }

    pub fn hear(&mut self) -> ToSupervisor {
        self.channel.receive().expect("the broker lives").expect("a message")
    }

    /// The next message other than reasons to stay awake, for example a caller that waits for a
    /// port.
    fn hear_answer(&mut self) -> ToSupervisor {
        loop {
            match self.hear() {
                ToSupervisor::KeepAwake(_) => {}
                message => return message,
            }
        }
    }

    pub fn welcome(&mut self) -> (Index, Vec<Endpoint>, Vec<OwnedFd>) {
        match self.hear() {
            ToSupervisor::Welcome { index, retained, .. } => {
                let fds = self.channel.take_fds(retained.len()).expect("the sockets");
                (index, retained, fds)
            }
            other => panic!("no welcome: {other:?}"),
        }
    }

    pub fn rejection(&mut self) -> ErrorKind {
        match self.hear() {
            ToSupervisor::Rejected(failure) => failure.kind,
            other => panic!("no rejection: {other:?}"),
        }
    }

    /// Asks, and leaves the answer for [`Peer::outcome`].
    pub fn ask(&mut self, endpoint: Endpoint, can_wait: bool) -> u64 {
        let id = self.next_question;
        self.next_question += 1;
        let reach = ToBroker::Reach { id, endpoint, can_wait };
        self.tell(&reach, Vec::new());
        id
    }

    pub fn outcome(&mut self, question: u64) -> Outcome {
        match self.hear_answer() {
            ToSupervisor::Reached { id, outcome } => {
                assert_eq!(id, question, "the answer to another question");
                outcome
            }
            other => panic!("no answer: {other:?}"),
        }
    }

    pub fn reach(&mut self, endpoint: Endpoint, can_wait: bool) -> Outcome {
        let question = self.ask(endpoint, can_wait);
        self.outcome(question)
    }

    pub fn claim(&mut self, endpoint: Endpoint) -> Option<OwnedFd> {
        let id = self.next_question;
        self.next_question += 1;
        self.tell(&ToBroker::Claim { id, endpoint }, Vec::new());
        match self.hear_answer() {
            ToSupervisor::Claimed { found: true, .. } => self.channel.take_fds(1).expect("the socket").pop(),
            ToSupervisor::Claimed { .. } => None,
            other => panic!("no answer: {other:?}"),
        }
    }
}
