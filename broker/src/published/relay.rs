//! The relay's thread.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use imsup_wire::{Endpoint, Transport};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::PublishedListener;
use super::pair::{Pair, Progress};
use super::udp::Clients;
use super::vet::Vet;
use crate::helpers::Helper;

/// How soon a connection is tried again for which there was no descriptor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

const WAKER: Token = Token(usize::MAX);

/// Called before a host is connected to, with the endpoint and the client.
pub(crate) type OnArrival = Box<dyn Fn(Endpoint, SocketAddr) + Send>;

/// The running relay. The relay and its connections end when this is dropped.
pub(crate) struct Relay {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Serves these listeners, at most so many connections at once, and as many clients of
    /// datagrams.
    ///
    /// # Errors
    /// epoll_create(2) and similar calls, or a thread that cannot be made.
    pub(crate) fn start(
        listeners: Vec<PublishedListener>,
        most: usize,
        vet: Vet,
        on_arrival: OnArrival,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let listeners: Vec<Open> = listeners.into_iter().map(Open::new).collect();
        for (number, listener) in listeners.iter().enumerate() {
            let descriptor = listener.raw();
            poll.registry()
                .register(&mut SourceFd(&descriptor), Token(number), Interest::READABLE)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let first_client = listeners.len();
        let mut worker = Worker {
            poll,
            clients: Clients::new(first_client, most),
            first_pair: first_client + most,
            listeners,
            pairs: Vec::new(),
            live: 0,
            most,
            full: false,
            on_arrival,
            vet,
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new()
            .name("published".to_owned())
            .spawn(move || {
                Helper::Published.confine();
                worker.serve();
            })?;
        Ok(Self {
            stop,
            waker,
            thread: Some(thread),
        })
    }
}

impl Drop for Relay {
    // Blocking: after the loop, for a thread that was woken to end.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let woken = self.waker.wake().is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

enum Open {
    Tcp {
        socket: OwnedFd,
        target: Endpoint,
    },
    Udp {
        socket: mio::net::UdpSocket,
        target: Endpoint,
    },
}

impl Open {
    fn new(listener: PublishedListener) -> Self {
        let (socket, target) = (listener.socket, listener.target);
        match target.transport {
            Transport::Tcp => Self::Tcp { socket, target },
            Transport::Udp => Self::Udp {
                socket: mio::net::UdpSocket::from_std(socket.into()),
                target,
            },
        }
    }

    fn raw(&self) -> i32 {
        match self {
            Self::Tcp { socket, .. } => socket.as_raw_fd(),
            Self::Udp { socket, .. } => socket.as_raw_fd(),
        }
    }
}

struct Worker {
    poll: Poll,
    listeners: Vec<Open>,
    clients: Clients,
    first_pair: usize,
    /// Each pair has two tokens: for the client, and for the host.
    pairs: Vec<Option<Pair>>,
    live: usize,
    /// Connections relayed at once; more wait in the ports' backlogs.
    most: usize,
    /// True if connections may wait in a backlog because too many were relayed.
    full: bool,
    on_arrival: OnArrival,
    vet: Vet,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn serve(&mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stop.load(Ordering::Acquire) {
            let expiry = self
                .clients
                .deadline()
                .map(|due| due.saturating_duration_since(Instant::now()));
            // After a shortage of another kind, no end of a connection may come as an event.
            let again = (self.full && self.live < self.most).then_some(ACCEPT_AGAIN);
            let timeout = expiry.into_iter().chain(again).min();
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                if error.kind() != io::ErrorKind::Interrupted {
                    tracing::error!(%error, "published ports are no longer served");
                    return;
                }
                continue;
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    Token(number) if number < self.listeners.len() => self.arrive(number),
                    Token(number) if number >= self.first_pair => self.advance((number - self.first_pair) / 2),
                    token => self.pass_back(token),
                }
            }
            if self.full && self.live < self.most {
                self.full = false;
                (0..self.listeners.len()).for_each(|number| self.arrive(number));
            }
            self.clients.expire(self.poll.registry());
        }
    }

    fn arrive(&mut self, number: usize) {
        let Self {
            listeners,
            clients,
            poll,
            on_arrival,
            vet,
            ..
        } = self;
        match &listeners[number] {
            Open::Udp { socket, target } => {
                let came = |client| {
                    on_arrival(*target, crate::sockets::canonical(client));
                    vet.datagrams(*target)
                };
                clients.inwards(poll.registry(), number, socket, SocketAddr::V4(target.address), came);
            }
            Open::Tcp { .. } => self.accept(number),
        }
    }

    fn accept(&mut self, number: usize) {
        loop {
            if self.live >= self.most {
                self.full = true;
                return;
            }
            let Open::Tcp { socket, target } = &self.listeners[number] else {
                return;
            };
            let target = *target;
            match rustix::net::acceptfrom_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((client, from)) => {
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                    if let Some(from) = from.map(crate::sockets::canonical) {
                        self.admit(client, from, target);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "a connection to a published port could not be accepted");
                    self.full = true;
                    return;
                }
            }
        }
    }

    fn admit(&mut self, client: OwnedFd, from: SocketAddr, target: Endpoint) {
        (self.on_arrival)(target, from);
        let place = self.pairs.iter().position(Option::is_none).unwrap_or(self.pairs.len());
        let admitted = Pair::connect(client, from, SocketAddr::V4(target.address)).and_then(|pair| {
            if let Err(error) = self.vet.connection(&pair.host, target) {
                pair.reset();
                return Err(error);
            }
            let interest = Interest::READABLE | Interest::WRITABLE;
            for (side, socket) in [&pair.client, &pair.host].into_iter().enumerate() {
                let token = Token(self.first_pair + place * 2 + side);
                self.poll
                    .registry()
                    .register(&mut SourceFd(&socket.as_raw_fd()), token, interest)?;
            }
            Ok(pair)
        });
        match admitted {
            Ok(pair) => {
                if place == self.pairs.len() {
                    self.pairs.push(Some(pair));
                } else {
                    self.pairs[place] = Some(pair);
                }
                self.live += 1;
                self.advance(place);
            }
            Err(error) => tracing::warn!(%target, %error, "a connection to a published port is dropped"),
        }
    }

    fn advance(&mut self, place: usize) {
        let Some(slot) = self.pairs.get_mut(place) else { return };
        let progress = slot.as_mut().map_or(Progress::Goes, Pair::advance);
        if progress == Progress::Goes {
            return;
        }
        if let Some(pair) = slot.take() {
            self.live -= 1;
            // Dropping the pair closes both sides, which also removes both from the poll.
            if progress == Progress::Reset {
                pair.reset();
            }
        }
    }

    fn pass_back(&mut self, token: Token) {
        let listeners = &self.listeners;
        self.clients.outwards(token, |number, client, datagram| {
            if let Open::Udp { socket, .. } = &listeners[number] {
                let _ = socket.send_to(datagram, client);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};

    use imsup_wire::Planes;

    use super::*;
    use crate::trust::SharedTrust;
    use imsup_compose::cluster::Publish;

    fn publish(transport: Transport) -> Publish {
        Publish {
            machine_ip: Some(Ipv4Addr::LOCALHOST.into()),
            machine_port: None,
            port: 0,
            transport,
        }
    }

    fn relay(target: Endpoint) -> (Relay, SocketAddr, crossbeam_channel::Receiver<SocketAddr>) {
        let listeners = super::super::open(&publish(target.transport), target, &Planes::default(), Vec::new()).unwrap();
        let machine = listeners[0].machine;
        let (sender, arrivals) = crossbeam_channel::unbounded();
        let told = move |to: Endpoint, from: SocketAddr| {
            assert_eq!(to, target);
            sender.send(from).unwrap();
        };
        let trust = SharedTrust::default();
        trust.write().add(rustix::process::geteuid().as_raw());
        (
            Relay::start(listeners, 16, Vet::new(trust, Box::new(|_, _| ())), Box::new(told)).unwrap(),
            machine,
            arrivals,
        )
    }

    fn v4(address: SocketAddr) -> std::net::SocketAddrV4 {
        match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => panic!("an IPv4 address is expected"),
        }
    }

    fn tcp_target(listener: &TcpListener) -> Endpoint {
        let address = v4(listener.local_addr().unwrap());
        Endpoint::tcp(*address.ip(), address.port())
    }

    #[test]
    fn bytes_and_ends_are_passed_on_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_relay, machine, arrivals) = relay(tcp_target(&listener));
        let server = std::thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).unwrap();
            stream.write_all(&request).unwrap();
            from
        });
        let mut client = TcpStream::connect(machine).unwrap();
        let sent: Vec<u8> = (0..3_000_000u32).map(|number| number as u8).collect();
        let mut reader = client.try_clone().unwrap();
        let received = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        });
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(
            received.join().unwrap() == sent,
            "the bytes must come back as they were"
        );
        assert_eq!(server.join().unwrap().ip(), client.local_addr().unwrap().ip());
        assert_eq!(arrivals.recv().unwrap(), client.local_addr().unwrap());
    }

    #[test]
    fn a_reset_is_passed_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_relay, machine, _arrivals) = relay(tcp_target(&listener));
        let mut client = TcpStream::connect(machine).unwrap();
        let (server, _) = listener.accept().unwrap();
        crate::sockets::reset(server.into()).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

        drop(listener);
        let mut refused = TcpStream::connect(machine).unwrap();
        let error = refused.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn datagrams_find_their_way_back() {
        let host = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = v4(host.local_addr().unwrap());
        let (_relay, machine, arrivals) = relay(Endpoint::udp(*address.ip(), address.port()));
        let clients = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (number, client) in clients.iter().enumerate() {
            client.send_to(&[number as u8], machine).unwrap();
            assert_eq!(arrivals.recv().unwrap(), client.local_addr().unwrap());
            let mut buffer = [0; 8];
            let (count, from) = host.recv_from(&mut buffer).unwrap();
            host.send_to(&buffer[..count], from).unwrap();
            let (count, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..count], from), (&[number as u8][..], machine));
        }
    }
}
