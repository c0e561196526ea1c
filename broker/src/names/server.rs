//! The name server's thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use imsup_protocol::asked;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::answer::{self, Decision, Over};
use super::anywhere::Anywhere;
use super::connections::{Connections, Place};
use super::forward::{self, Asker, Finished, Forwarder, Via};
use super::resolv_conf::{ResolvConf, Upstream};
use super::{Names, SharedNames};
use crate::helpers::Helper;

/// The maximum silence of a TCP connection.
const TCP_IDLE: Duration = Duration::from_secs(5);

const WAKER: Token = Token(usize::MAX);
/// The token of the first socket that was added; the forwarder's are below.
const FIRST_ADDED: usize = usize::MAX / 2;

/// Called on look-ups of names: with the host's address, and the address of the asker.
pub(crate) type OnLookup = Arc<dyn Fn(Ipv4Addr, IpAddr) + Send + Sync>;

/// The running name server. Ends when dropped.
pub(crate) struct NameServer {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    added: Sender<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// A handle to add sockets to a running name server.
#[derive(Clone)]
pub(crate) struct NameServerHandle {
    added: Sender<OwnedFd>,
    waker: Arc<Waker>,
}

impl NameServerHandle {
    /// Adds a UDP socket bound to the wildcard of a namespace where all addresses are local, which
    /// reports the asked address (IP_PKTINFO, IPV6_RECVPKTINFO).
    pub(crate) fn add(&self, socket: OwnedFd) {
        // Sending fails only if the name server has ended.
        if self.added.send(socket).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

impl std::fmt::Debug for NameServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NameServerHandle")
    }
}

impl NameServer {
    /// Answers on these sockets.
    ///
    /// # Errors
    /// epoll_create(2) and similar calls, or a thread that cannot be made.
    pub(crate) fn start(
        sockets: &[(UdpSocket, TcpListener)],
        names: SharedNames,
        resolv_conf: PathBuf,
        on_lookup: OnLookup,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut own = Vec::new();
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for (one, other) in sockets {
            own.push(one.local_addr()?.ip());
            one.set_nonblocking(true)?;
            other.set_nonblocking(true)?;
            udp.push(mio::net::UdpSocket::from_std(one.try_clone()?));
            tcp.push(mio::net::TcpListener::from_std(other.try_clone()?));
        }
        let interest = Interest::READABLE;
        for (number, socket) in udp.iter_mut().enumerate() {
            poll.registry().register(socket, Token(number), interest)?;
        }
        for (number, listener) in tcp.iter_mut().enumerate() {
            poll.registry()
                .register(listener, Token(udp.len() + number), interest)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (added, to_add) = crossbeam_channel::unbounded();
        let forwarder = Forwarder::new(udp.len() + tcp.len());
        let mut server = Server {
            poll,
            udp,
            tcp,
            anywhere: Vec::new(),
            to_add,
            forwarder,
            names,
            resolv_conf: ResolvConf::new(resolv_conf, own),
            on_lookup,
            connections: Connections::default(),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new().name("names".to_owned()).spawn(move || {
            Helper::Names.confine();
            server.serve();
        })?;
        Ok(Self {
            stop,
            waker,
            added,
            thread: Some(thread),
        })
    }

    /// The handle to add sockets.
    pub(crate) fn handle(&self) -> NameServerHandle {
        NameServerHandle {
            added: self.added.clone(),
            waker: Arc::clone(&self.waker),
        }
    }
}

impl Drop for NameServer {
    // Blocking: after the loop, for a thread that was woken to end.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let woken = self.waker.wake().is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

struct Server {
    poll: Poll,
    udp: Vec<mio::net::UdpSocket>,
    tcp: Vec<mio::net::TcpListener>,
    anywhere: Vec<Anywhere>,
    to_add: Receiver<OwnedFd>,
    forwarder: Forwarder,
    names: SharedNames,
    resolv_conf: ResolvConf,
    on_lookup: OnLookup,
    connections: Connections,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn serve(&mut self) {
        let mut events = Events::with_capacity(128);
        while !self.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            let timeout = self.forwarder.deadline().map(|due| due.saturating_duration_since(now));
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                if error.kind() != io::ErrorKind::Interrupted {
                    tracing::error!(%error, "the name server has stopped");
                    return;
                }
                continue;
            }
            for event in &events {
                match event.token() {
                    WAKER => self.add(),
                    Token(number) if number >= FIRST_ADDED => self.receive_anywhere(number - FIRST_ADDED),
                    Token(number) if number < self.udp.len() => self.receive(number),
                    Token(number) if number < self.udp.len() + self.tcp.len() => self.accept(number - self.udp.len()),
                    token => {
                        let finished = self.forwarder.ready(self.poll.registry(), token);
                        finished.into_iter().for_each(|finished| self.reply(&finished));
                    }
                }
            }
            for finished in self.forwarder.expire(self.poll.registry()) {
                self.reply(&finished);
            }
        }
    }

    fn receive(&mut self, number: usize) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let (count, client) = match self.udp[number].recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The client of an earlier answer was gone, which is no fault here.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "a question could not be received");
                    return;
                }
            };
            let via = Via::Own(number);
            self.answer(&buffer[..count], Asker { client, via });
        }
    }

    fn receive_anywhere(&mut self, number: usize) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            match self.anywhere[number].receive(&mut buffer) {
                Ok(Some((count, client, asked))) => {
                    let via = Via::Anywhere { number, asked };
                    self.answer(&buffer[..count], Asker { client, via });
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a question could not be received");
                    return;
                }
            }
        }
    }

    fn add(&mut self) {
        while let Ok(socket) = self.to_add.try_recv() {
            let token = Token(FIRST_ADDED + self.anywhere.len());
            let added = Anywhere::new(socket).and_then(|socket| {
                let mut source = SourceFd(&socket.as_raw_fd());
                self.poll.registry().register(&mut source, token, Interest::READABLE)?;
                Ok(socket)
            });
            match added {
                Ok(socket) => self.anywhere.push(socket),
                Err(error) => tracing::warn!(%error, "the name server cannot answer in a namespace"),
            }
        }
    }

    fn answer(&mut self, query: &[u8], asker: Asker) {
        let upstream = self.resolv_conf.current();
        let (search, client) = (&upstream.search, asker.client);
        match decide(query, &self.names.read(), search, Over::Udp, client, &self.on_lookup) {
            Decision::Answer { bytes: answer, .. } => self.reply(&Finished { asker, answer }),
            Decision::Forward => {
                let registry = self.poll.registry();
                let servers = upstream.servers_from(asker.asked());
                if let Some(finished) = self.forwarder.ask(registry, query, asker, &servers) {
                    self.reply(&finished);
                }
            }
            Decision::Ignore => {}
        }
    }

    fn reply(&self, finished: &Finished) {
        let Finished { asker, answer } = finished;
        // A client whose buffer is full asks again.
        match asker.via {
            Via::Own(number) => drop(self.udp[number].send_to(answer, asker.client)),
            Via::Anywhere { number, asked } => self.anywhere[number].send(answer, asker.client, asked),
        }
    }

    fn accept(&mut self, number: usize) {
        loop {
            match self.tcp[number].accept() {
                Ok((stream, client)) => self.serve_connection(stream.into(), client),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn serve_connection(&mut self, stream: TcpStream, client: SocketAddr) {
        let stream = Arc::new(stream);
        let Some(place) = self.connections.enter(Arc::clone(&stream)) else {
            return;
        };
        let names = Arc::clone(&self.names);
        let upstream = self.resolv_conf.current().clone();
        let on_lookup = Arc::clone(&self.on_lookup);
        // If no thread can be made, the connection ends with its place.
        let work = move || drop(converse(&stream, &place, client, &names, &upstream, &on_lookup));
        let _ = std::thread::Builder::new().name("names-tcp".to_owned()).spawn(work);
    }
}

/// Answers one TCP connection until it ends or falls silent.
fn converse(
    stream: &TcpStream,
    place: &Place,
    client: SocketAddr,
    names: &SharedNames,
    upstream: &Upstream,
    on_lookup: &OnLookup,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TCP_IDLE))?;
    stream.set_write_timeout(Some(TCP_IDLE))?;
    let mut servers = upstream.servers.clone();
    loop {
        let query = forward::read_framed(stream)?;
        // The client's supervisor first sends the address of the asked server.
        if let Some(asked) = asked::parse(&query) {
            servers = upstream.servers_from(Some(asked));
            continue;
        }
        let decision = decide(&query, &names.read(), &upstream.search, Over::Tcp, client, on_lookup);
        let answer = match decision {
            Decision::Answer { bytes, .. } => Some(bytes),
            Decision::Forward => forward::ask_over_tcp(&query, &servers),
            Decision::Ignore => None,
        };
        match answer {
            Some(answer) => forward::write_framed(stream, &answer)?,
            None => return Ok(()),
        }
        place.was_served();
    }
}

fn decide(
    query: &[u8],
    names: &Names,
    search: &[String],
    over: Over,
    client: SocketAddr,
    on_lookup: &OnLookup,
) -> Decision {
    let decision = answer::decide(query, names, search, over, client.ip());
    if let Decision::Answer { wake, .. } = &decision {
        wake.iter().for_each(|address| on_lookup(*address, client.ip()));
    }
    decision
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use parking_lot::RwLock;
    use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};

    use super::*;

    /// A name server, and the directory of its resolv.conf.
    struct Fixture {
        address: SocketAddr,
        _server: NameServer,
        _directory: tempfile::TempDir,
        lookups: Receiver<(Ipv4Addr, IpAddr)>,
    }

    fn start(resolv_conf: &str) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        std::fs::write(&path, resolv_conf).unwrap();
        // An address of its own: the server never asks itself.
        let udp = UdpSocket::bind("127.97.203.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).unwrap();
        let (sender, lookups) = crossbeam_channel::unbounded();
        let names = Arc::new(RwLock::new(super::super::tests::names()));
        let on_lookup: OnLookup = Arc::new(move |address, by| sender.send((address, by)).unwrap());
        let server = NameServer::start(&[(udp, tcp)], names, path, on_lookup).unwrap();
        Fixture {
            address,
            _server: server,
            _directory: directory,
            lookups,
        }
    }

    fn query(name: &str) -> Vec<u8> {
        let mut packet = Packet::new_query(77);
        let question = Question::new(Name::new(name).unwrap(), TYPE::A.into(), CLASS::IN.into(), false);
        packet.questions.push(question);
        packet.build_bytes_vec().unwrap()
    }

    fn ask(server: SocketAddr, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.connect(server).unwrap();
        socket.send(query).unwrap();
        let mut buffer = vec![0; 65_535];
        let count = socket.recv(&mut buffer).unwrap();
        buffer.truncate(count);
        buffer
    }

    /// Answers any query with itself and a mark; over TCP with another mark.
    fn upstream() -> SocketAddr {
        // A port that is free for both.
        let (udp, tcp, address) = std::iter::repeat_with(|| {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = udp.local_addr().unwrap();
            Some((udp, TcpListener::bind(address).ok()?, address))
        })
        .find_map(|both| both)
        .unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((count, client)) = udp.recv_from(&mut buffer) {
                let mut answer = buffer[..count].to_vec();
                answer.extend(b"over udp");
                udp.send_to(&answer, client).unwrap();
            }
        });
        std::thread::spawn(move || {
            while let Ok((stream, _)) = tcp.accept() {
                let mut answer = forward::read_framed(&stream).unwrap();
                answer.extend(b"over tcp");
                forward::write_framed(&stream, &answer).unwrap();
            }
        });
        address
    }

    #[test]
    fn hosts_are_answered_over_udp_and_tcp_and_their_look_up_is_told() {
        let fixture = start("");
        let answer = ask(fixture.address, &query("db"));
        assert_eq!(Packet::parse(&answer).unwrap().answers.len(), 1);
        let (address, by) = fixture.lookups.recv().unwrap();
        assert_eq!((address, by.is_loopback()), (Ipv4Addr::new(127, 77, 5, 3), true));
        let stream = TcpStream::connect(fixture.address).unwrap();
        for _ in 0..2 {
            forward::write_framed(&stream, &query("web")).unwrap();
            let answer = forward::read_framed(&stream).unwrap();
            assert_eq!(Packet::parse(&answer).unwrap().answers.len(), 2);
        }
    }

    #[test]
    fn other_names_are_forwarded_as_they_are_past_servers_that_are_not_there() {
        let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let live = upstream();
        let line = |address: SocketAddr| format!("nameserver [{}]:{}\n", address.ip(), address.port());
        let fixture = start(&(line(dead) + &line(live)));
        let query = query("example.com");
        let mut expected = query.clone();
        expected.extend(b"over udp");
        assert_eq!(ask(fixture.address, &query), expected);

        let stream = TcpStream::connect(fixture.address).unwrap();
        forward::write_framed(&stream, &query).unwrap();
        let mut expected = query.clone();
        expected.extend(b"over tcp");
        assert_eq!(forward::read_framed(&stream).unwrap(), expected);
    }

    /// An unmodified resolver may have as many open questions natively.
    #[test]
    fn many_questions_are_out_at_once() {
        const MANY: u16 = 400;
        // As in a broker; the questions may use a part of the broker's descriptors.
        crate::limits::raise(1, false).unwrap();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let fixture = start(&format!("nameserver [{}]:{}\n", address.ip(), address.port()));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(fixture.address).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        let mut buffer = [0; 512];
        let mut query = query("example.com");
        let out: Vec<(Vec<u8>, SocketAddr)> = (0..MANY)
            .map(|number| {
                query[..2].copy_from_slice(&number.to_be_bytes());
                client.send(&query).unwrap();
                let (count, forwarder) = server.recv_from(&mut buffer).unwrap();
                (buffer[..count].to_vec(), forwarder)
            })
            .collect();
        for (question, forwarder) in out {
            let answer = [&question[..], b"answer"].concat();
            server.send_to(&answer, forwarder).unwrap();
            let count = client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..count], answer);
        }
    }

    #[test]
    fn the_server_that_was_asked_over_tcp_is_asked_first() {
        let [first, second] = [0; 2].map(|_| upstream());
        let line = |address: SocketAddr| format!("nameserver [{}]:{}\n", address.ip(), address.port());
        // There is no server at the first: a client that asked the second is answered without the
        // first.
        let silent = TcpListener::bind("127.0.0.2:0").unwrap();
        let fixture = start(&(line(silent.local_addr().unwrap()) + &line(first) + &line(second)));
        let mut stream = TcpStream::connect(fixture.address).unwrap();
        stream.write_all(&asked::frame(first.ip())).unwrap();
        let query = query("example.com");
        for _ in 0..2 {
            forward::write_framed(&stream, &query).unwrap();
            assert_eq!(
                forward::read_framed(&stream).unwrap(),
                [&query[..], b"over tcp"].concat()
            );
        }
        silent.set_nonblocking(true).unwrap();
        assert_eq!(silent.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn clients_that_say_nothing_keep_nobody_out() {
        let fixture = start("");
        let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(fixture.address).unwrap()).collect();
        let asking = TcpStream::connect(fixture.address).unwrap();
        asking.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        forward::write_framed(&asking, &query("web")).unwrap();
        let answer = forward::read_framed(&asking).unwrap();
        assert!(Packet::parse(&answer).unwrap().has_flags(PacketFlag::RESPONSE));
        // The earliest connections have made room.
        silent[0].set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!((&silent[0]).read(&mut [0]).unwrap(), 0);
    }

    /// The first answers only once the second was asked, which never answers.
    #[test]
    fn a_late_answer_is_taken() {
        let [late, silent] = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        let line = |socket: &UdpSocket| {
            let address = socket.local_addr().unwrap();
            format!("nameserver [{}]:{}\n", address.ip(), address.port())
        };
        let fixture = start(&(line(&late) + &line(&silent)));
        std::thread::spawn(move || {
            let (mut first, mut second) = ([0; 512], [0; 512]);
            let (count, client) = late.recv_from(&mut first).unwrap();
            silent.recv_from(&mut second).unwrap();
            late.send_to(&[&first[..count], b"late"].concat(), client).unwrap();
        });
        let query = query("example.com");
        assert_eq!(ask(fixture.address, &query), [&query[..], b"late"].concat());
    }

    #[test]
    fn without_anybody_to_ask_the_answer_is_a_failure_at_once() {
        let fixture = start("");
        let answer = ask(fixture.address, &query("example.com"));
        let packet = Packet::parse(&answer).unwrap();
        assert_eq!(packet.rcode(), RCODE::ServerFailure);
        assert!(packet.has_flags(PacketFlag::RESPONSE));
    }
}
