//! `run`: a supervisor without a program. Its host's command is a list of actions, word by word:
//!
//! * `listen:PORT`, `udp:PORT`: has this socket at the VIP, as a program would, and announces the
//!   socket
//! * `twice:PORT`: has the socket twice, with SO_REUSEPORT
//! * `settle`: reports the end of its start
//! * `claims:PID`: claims that this is its program
//! * `leave`: starts a process in a session of its own, without ending the process
//! * `freeze:FILE`: starts a process that only a cgroup identifies as the host's, and freezes the
//!   process; writes the process's number and the cgroup into the file. Stopped, as a child, if no
//!   cgroup can be made
//! * `listener:FIFO`: sends the FIFO, open for writing, as the listener of the program's calls, and
//!   closes the own descriptor
//! * `fail:CODE`, `done`, `noexec`: the program ends in this way
//! * `die`: ends without a message
//! * `wait:FILE`: goes on when the file exists
//! * `sleep`: is idle, and sleeps until a connection or a wake-up
//! * `mute`: does not answer questions
//! * `serve`: answers every connection and datagram with its name and a newline, until it is told
//!   to stop

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use imsup_broker::paths::Paths;
use imsup_protocol::message::{Adoption, Role};
use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::{
    CauseKind, Endpoint, ErrorKind, ExitStatus, HostName, Index, Order, Planes, Report, Transport, Usage, WakeCause,
    Why,
};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::FlockOperation;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::peer::Peer;

/// The next deadline of each sleeper.
pub const DEADLINE_US: u64 = 4_000_000_000_000_000;

struct Supervisor {
    paths: Paths,
    project: String,
    host: HostName,
    boot: u64,
    index: Index,
    peer: Option<Peer>,
    retained: VecDeque<(Endpoint, OwnedFd)>,
    listening: Vec<(Endpoint, OwnedFd)>,
    settled: bool,
    /// The time since which the host sleeps: microseconds since the Unix epoch.
    asleep: Option<u64>,
    /// The reported usage: a second and a byte-second more with each question.
    used: u32,
    mute: bool,
    /// True if the next broker has no place for the host.
    rejected: bool,
    /// Left behind.
    left: Vec<std::process::Child>,
    /// The supervisor's cgroup, locked as supervisors do.
    cgroup: Option<File>,
    /// Held for as long as the supervisor lives.
    lock: File,
}

pub fn run() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str| {
        let place = arguments.iter().position(|argument| argument == flag).expect(flag);
        arguments[place + 1].clone()
    };
    let paths = Paths::of(&value("--project"));
    let host: HostName = value("--host").parse().expect("a name");
    let boot: u64 = value("--boot").parse().expect("a token");
    assert_eq!(std::env::var("IMSUP_BOOT").expect("IMSUP_BOOT"), boot.to_string());
    let request = imsup_protocol::zygote::read(std::io::stdin()).expect("what to run, on standard input");
    assert_eq!((&request.host, request.boot), (&host, boot));
    let words = request.program.command_text();
    rustix::process::setsid().expect("setsid(2)");
    let lock = lock_running(&paths, &host, boot).expect("running/HOST");

    let mut peer = Peer::connect(&paths);
    let role = Role::Launched { boot };
    peer.hello(Some(host.clone()), role, None);
    let (index, endpoints, sockets) = peer.welcome();
    let mut supervisor = Supervisor {
        paths,
        project: value("--project"),
        host,
        boot,
        index,
        peer: Some(peer),
        retained: endpoints.into_iter().zip(sockets).collect(),
        listening: Vec::new(),
        settled: false,
        asleep: None,
        used: 0,
        mute: false,
        rejected: false,
        left: Vec::new(),
        cgroup: None,
        lock,
    };
    if words[0] != "noexec" {
        let pid = std::process::id();
        supervisor.tell(&ToBroker::Started { pid }, Vec::new());
    }
    for word in &words {
        if let Some(code) = supervisor.perform(word) {
            return code;
        }
    }
    ExitCode::SUCCESS
}

/// Says that the host runs.
fn lock_running(paths: &Paths, host: &HostName, boot: u64) -> std::io::Result<File> {
    // Truncated below, once the lock is ours.
    let mut lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(paths.running(host.as_str()))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    lock.set_len(0)?;
    writeln!(lock, "{}\n{boot}", std::process::id())?;
    Ok(lock)
}

impl Supervisor {
    fn tell(&mut self, message: &ToBroker, fds: Vec<OwnedFd>) {
        if let Some(peer) = &mut self.peer {
            peer.tell(message, fds);
        }
    }

    fn perform(&mut self, word: &str) -> Option<ExitCode> {
        let (verb, value) = word.split_once(':').unwrap_or((word, ""));
        let number = || value.parse::<u16>().expect("a number");
        match verb {
            "listen" => self.listen(Transport::Tcp, number(), false),
            "udp" => self.listen(Transport::Udp, number(), false),
            "twice" => {
                self.listen(Transport::Tcp, number(), true);
                self.listen(Transport::Tcp, number(), true);
            }
            "settle" => {
                self.settled = true;
                self.tell(&ToBroker::Settled, Vec::new());
            }
            "claims" => {
                let pid = value.parse().expect("a pid");
                self.tell(&ToBroker::Started { pid }, Vec::new());
            }
            "leave" => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", "env -i setsid sleep 1000 & sleep 1000"])
                    .stdin(Stdio::null());
                self.left.push(command.process_group(0).spawn().expect("sh"));
            }
            "stay" => self.stay(number()),
            "listener" => {
                let writer = File::options().write(true).open(value).expect("a FIFO");
                self.tell(&ToBroker::NotifyListener, vec![writer.into()]);
            }
            "freeze" => self.freeze(std::path::Path::new(value)),
            "fail" => return Some(self.exit(ExitStatus::Code(i32::from(number())))),
            "oom" => {
                let limit_bytes = u64::from(number()) << 20;
                self.tell(&ToBroker::OutOfMemory { killed: 1, limit_bytes }, Vec::new());
                return Some(self.exit(ExitStatus::OutOfMemory(limit_bytes)));
            }
            "done" => return Some(self.exit(ExitStatus::Code(0))),
            "noexec" => return Some(self.exit(ExitStatus::NotExecuted(2))),
            "die" => return Some(ExitCode::from(9)),
            "sleep" => self.fall_asleep(),
            "mute" => self.mute = true,
            "wait" => crate::world::wait_for_file(std::path::Path::new(value)),
            "serve" => return Some(self.serve()),
            other => panic!("no such verb: {other}"),
        }
        None
    }

    /// The program's usage, which grows with each look.
    fn usage(&mut self) -> Usage {
        self.used += 1;
        Usage {
            cpu: Duration::from_secs(u64::from(self.used)),
            memory_byte_ms: u128::from(self.used) * 1000,
            resident_bytes: 4096,
        }
    }

    /// A process in a session of its own that goes on listening, whatever other process dies.
    fn stay(&mut self, port: u16) {
        let wanted = |(endpoint, _): &&(Endpoint, OwnedFd)| endpoint.address.port() == port;
        let (_, socket) = self.retained.iter().find(wanted).expect("a retained socket");
        let mut command = Command::new("setsid");
        command
            .args(["sleep", "1000"])
            .stdin(socket.try_clone().expect("dup(2)"));
        self.left.push(command.spawn().expect("setsid"));
    }

    fn freeze(&mut self, file: &std::path::Path) {
        let path = own_cgroup().join(format!("imsup.{}.{}", self.project, self.host));
        let made = std::fs::create_dir(&path);
        let mut command = Command::new("sh");
        match &made {
            // In a session of its own, and orphaned to the nearest subreaper.
            Ok(()) => command.args(["-c", "env -i setsid sleep 1000 & echo $!"]),
            Err(error) => {
                assert!(!rustix::process::geteuid().is_root(), "{}: {error}", path.display());
                command.args(["-c", "sleep 1000 & echo $!; kill -STOP $!; read line"])
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut pid = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        std::io::BufRead::read_line(&mut output, &mut pid).expect("a number");
        let pid = pid.trim();
        let mut cgroup = "";
        if made.is_ok() {
            std::fs::write(path.join("cgroup.procs"), pid).expect("cgroup.procs");
            std::fs::write(path.join("cgroup.freeze"), "1").expect("cgroup.freeze");
            let locked = File::open(&path).expect("the cgroup");
            rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive).expect("flock(2)");
            self.cgroup = Some(locked);
            cgroup = path.to_str().expect("UTF-8");
        }
        std::fs::write(file, format!("{pid}\n{cgroup}\n")).expect("the file");
        self.left.push(child);
    }

    /// Falls asleep, if awake.
    fn fall_asleep(&mut self) {
        if self.asleep.is_some() {
            return;
        }
        let time_us = now_us();
        self.asleep = Some(time_us);
        let suspended = ToBroker::Suspended {
            time_us,
            deadline_us: Some(DEADLINE_US),
            took: Duration::from_micros(300),
            usage: self.usage(),
        };
        self.tell(&suspended, Vec::new());
    }

    /// Wakes, if asleep.
    fn wake(&mut self, cause: WakeCause) {
        let Some(since_us) = self.asleep.take() else { return };
        let time_us = now_us();
        let woke = ToBroker::Woke {
            time_us,
            cause,
            named_later: false,
            slept: Duration::from_micros(time_us - since_us),
            ticks: 0,
            took: Duration::from_micros(90),
            usage: self.usage(),
        };
        self.tell(&woke, Vec::new());
    }

    fn answer_order(&mut self, id: u64, order: Order) {
        let report = match order {
            Order::Suspend => {
                self.fall_asleep();
                Report::Done
            }
            Order::Resume => {
                self.wake(WakeCause {
                    kind: CauseKind::Wake,
                    by: None,
                    port: None,
                });
                Report::Done
            }
            Order::Usage => Report::Usage(self.usage()),
            Order::Prepare | Order::Commit | Order::Abort => {
                Report::Failed(ErrorKind::Busy.because("it never is disposable"))
            }
            Order::Why if self.asleep.is_some() => Report::Why(Why::Asleep {
                waits: Vec::new(),
                deadline_us: Some(DEADLINE_US),
                deadline_of: None,
                terminates_in: None,
                not_terminated: None,
                method: "nothing".to_owned(),
            }),
            Order::Why => Report::Why(Why::Awake {
                reasons: Vec::new(),
                idle: Duration::from_secs(1),
                sleeps_in: None,
            }),
        };
        self.tell(&ToBroker::Answer { id, report }, Vec::new());
    }

    fn exit(&mut self, status: ExitStatus) -> ExitCode {
        let usage = self.usage();
        self.tell(&ToBroker::Exited { status, usage }, Vec::new());
        ExitCode::SUCCESS
    }

    fn listen(&mut self, transport: Transport, port: u16, share: bool) {
        let vip = Planes::default().vip(self.index);
        let endpoint = match transport {
            Transport::Tcp => Endpoint::tcp(vip, port),
            Transport::Udp => Endpoint::udp(vip, port),
        };
        let place = self.retained.iter().position(|(retained, _)| *retained == endpoint);
        let socket = match place.and_then(|place| self.retained.remove(place)) {
            Some((_, socket)) => {
                sockopt::set_socket_reuseport(&socket, share).expect("SO_REUSEPORT");
                socket
            }
            None => self.bind(endpoint, share),
        };
        if transport == Transport::Tcp {
            rustix::net::listen(&socket, 5).expect("listen(2)");
        }
        let copy = socket.try_clone().expect("dup(2)");
        self.tell(&ToBroker::Listening { endpoint }, vec![copy]);
        self.listening.push((endpoint, socket));
    }

    fn bind(&mut self, endpoint: Endpoint, share: bool) -> OwnedFd {
        let kind = match endpoint.transport {
            Transport::Tcp => SocketType::STREAM,
            Transport::Udp => SocketType::DGRAM,
        };
        let socket = rustix::net::socket_with(AddressFamily::INET, kind, rustix::net::SocketFlags::CLOEXEC, None)
            .expect("socket(2)");
        // As nearly every server does.
        sockopt::set_socket_reuseaddr(&socket, endpoint.transport == Transport::Tcp).expect("SO_REUSEADDR");
        sockopt::set_socket_reuseport(&socket, share).expect("SO_REUSEPORT");
        match rustix::net::bind(&socket, &SocketAddr::V4(endpoint.address)) {
            Ok(()) => socket,
            Err(rustix::io::Errno::ADDRINUSE) => {
                let peer = self.peer.as_mut().expect("a broker");
                peer.claim(endpoint).expect("a socket that is in the way is retained")
            }
            Err(errno) => panic!("bind(2): {errno}"),
        }
    }

    fn serve(&mut self) -> ExitCode {
        if let Some(peer) = &self.peer {
            peer.channel.socket().set_nonblocking(true).expect("fcntl(2)");
        }
        loop {
            // Even without an event of poll(2): a message may have come with the previous message.
            while let Some(peer) = &mut self.peer {
                match peer.channel.receive::<ToSupervisor>() {
                    Ok(Some(ToSupervisor::Stop { signal, .. })) => return self.exit(ExitStatus::Signal(signal)),
                    Ok(Some(ToSupervisor::Ask { id, order })) if !self.mute => self.answer_order(id, order),
                    Ok(Some(ToSupervisor::RetakeRunning)) => {
                        // If the directory is also gone, this message comes again.
                        if let Ok(lock) = lock_running(&self.paths, &self.host, self.boot) {
                            self.lock = lock;
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => self.peer = None,
                }
            }
            let mut fds: Vec<PollFd<'_>> = self
                .listening
                .iter()
                .map(|(_, socket)| PollFd::new(socket, PollFlags::IN))
                .collect();
            let broker = self.peer.as_ref().map(|peer| peer.channel.socket());
            if let Some(broker) = broker {
                fds.push(PollFd::new(broker, PollFlags::IN));
            }
            // Without a broker, looks for the next broker, and serves meanwhile.
            let soon = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 5_000_000,
            };
            let timeout = if self.peer.is_none() { Some(&soon) } else { None };
            rustix::event::poll(&mut fds, timeout).expect("poll(2)");
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            let came = self.listening.iter().zip(&ready).find(|(_, ready)| **ready);
            if let Some(((endpoint, _), _)) = came {
                let cause = WakeCause {
                    kind: CauseKind::Connection,
                    by: None,
                    port: Some(endpoint.address.port()),
                };
                self.wake(cause);
            }
            for (number, (endpoint, socket)) in self.listening.iter().enumerate() {
                if ready[number] {
                    answer(&self.host, *endpoint, socket);
                }
            }
            if self.peer.is_none() && !self.rejected {
                self.find_broker();
            }
        }
    }

    /// The broker is gone: introduces itself to the next broker, if any.
    fn find_broker(&mut self) {
        let Some(mut peer) = Peer::try_connect(&self.paths) else {
            return;
        };
        let adoption = Adoption {
            index: self.index,
            pid: std::process::id(),
            started_us: 1_700_000_000_000_000,
            ready: true,
            suspended_us: self.asleep,
            usage: self.usage(),
        };
        peer.hello(
            Some(self.host.clone()),
            Role::Launched { boot: self.boot },
            Some(adoption),
        );
        let (index, endpoints) = match peer.channel.receive::<ToSupervisor>() {
            Ok(Some(ToSupervisor::Welcome { index, retained, .. })) => (index, retained),
            Ok(Some(ToSupervisor::Rejected(_))) => {
                self.rejected = true;
                return;
            }
            // The connection may have been to the broker that is being killed.
            _ => return,
        };
        assert_eq!(index, self.index);
        assert!(endpoints.is_empty(), "an adopted host has its sockets");
        peer.channel.socket().set_nonblocking(true).expect("fcntl(2)");
        self.peer = Some(peer);
        let copies: Vec<(Endpoint, OwnedFd)> = self
            .listening
            .iter()
            .map(|(endpoint, socket)| (*endpoint, socket.try_clone().expect("dup(2)")))
            .collect();
        for (endpoint, socket) in copies {
            self.tell(&ToBroker::Listening { endpoint }, vec![socket]);
        }
        if self.settled {
            self.tell(&ToBroker::Settled, Vec::new());
        }
    }
}

/// The directory of the cgroup v2 that this process is in.
fn own_cgroup() -> std::path::PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let mount = mount.expect("cgroup v2 must be mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("/proc");
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .expect("cgroup v2");
    std::path::Path::new(mount.split(' ').nth(4).expect("a mount point")).join(own)
}

fn now_us() -> u64 {
    imsup_broker::events::now_us()
}

/// Answers waiting clients: a connection after a single byte was read, a datagram at once.
fn answer(host: &HostName, endpoint: Endpoint, socket: &OwnedFd) {
    let socket = socket.try_clone().expect("dup(2)");
    let name = format!("{host}\n");
    if endpoint.transport == Transport::Udp {
        let socket = UdpSocket::from(socket);
        if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
        return;
    }
    if let Ok(connection) = rustix::net::accept_with(&socket, rustix::net::SocketFlags::CLOEXEC) {
        let mut stream = TcpStream::from(connection);
        let _ = stream.set_nonblocking(false);
        if stream.read_exact(&mut [0]).is_ok() {
            let _ = stream.write_all(name.as_bytes());
        }
    }
}
