//! Clients that ask without pause: threads of the test, outside imsup, and guests that run as
//! hosts.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant as Clock};

use super::common::random::Random;
use super::common::{Background, LIMIT, Project, guest};
use super::ledger::{Instant, now};
use super::verdict::{Outcome, Request, Route};

/// The most requests over one connection, and of one guest.
const MOST_A_CONNECTION: u64 = 20;
const MOST_A_GUEST: u64 = 30;

/// State shared by clients and faults.
pub struct Shared {
    stop: AtomicBool,
    /// How many requests each client has finished.
    finished: Mutex<Vec<u64>>,
    more: Condvar,
    /// The address of the published port.
    pub published: SocketAddr,
}

impl Shared {
    pub fn new(published: SocketAddr) -> Self {
        Self {
            stop: AtomicBool::new(false),
            finished: Mutex::default(),
            more: Condvar::new(),
            published,
        }
    }

    /// Takes a number for one more client.
    pub fn register(&self) -> usize {
        let mut finished = self.finished.lock().unwrap();
        finished.push(0);
        finished.len() - 1
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn finish(&self, client: usize) {
        self.finished.lock().unwrap()[client] += 1;
        self.more.notify_all();
    }

    /// Waits until each of these clients (all, if none is named) has finished this many more
    /// requests. Returns the last of them; an error names the clients that have not.
    pub fn await_progress(&self, of: &[usize], requests: u64) -> Result<usize, String> {
        let mut last = 0;
        let deadline = Clock::now() + 2 * LIMIT;
        let mut finished = self.finished.lock().unwrap();
        let goal: Vec<u64> = finished.iter().map(|count| count + requests).collect();
        loop {
            let is_asked = |client: &usize| of.is_empty() || of.contains(client);
            let behind: Vec<usize> = (0..goal.len())
                .filter(|client| finished[*client] < goal[*client])
                .filter(is_asked)
                .collect();
            let Some(first) = behind.first() else {
                return Ok(last);
            };
            last = *first;
            let left = deadline.saturating_duration_since(Clock::now());
            if left.is_zero() {
                return Err(format!(
                    "clients {behind:?} have not finished {requests} requests within {:?}",
                    2 * LIMIT
                ));
            }
            finished = self.more.wait_timeout(finished, left).unwrap().0;
        }
    }
}

/// A thread of the test.
pub struct Client<'a> {
    pub number: usize,
    pub shared: &'a Shared,
    pub host: &'static str,
    pub route: Route,
    /// The host's own address.
    pub address: SocketAddr,
    /// True for a client that asks often over one connection.
    pub keeps: bool,
    /// The longest rest between requests.
    pub rest: Duration,
    pub random: Random,
}

impl Client<'_> {
    /// Asks until stopped, and returns all requests.
    pub fn work(mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut kept: Option<Connection> = None;
        while !self.shared.is_stopped() {
            std::thread::sleep(self.random.between(Duration::ZERO, self.rest));
            let connection = kept.take().map_or_else(|| self.connect(), Ok);
            let id = format!("{}.{}", self.number, requests.len());
            let (request, still) = self.ask(id, connection);
            kept = still.filter(|connection| self.keeps && connection.requests < MOST_A_CONNECTION);
            requests.push(request);
            self.shared.finish(self.number);
        }
        requests
    }

    fn connect(&self) -> Result<Connection, (Instant, io::Error)> {
        let address = match self.route {
            Route::Direct => self.address,
            Route::Published => self.shared.published,
        };
        let begin = now();
        Connection::open(address, begin).map_err(|error| (begin, error))
    }

    fn ask(&self, id: String, connection: Result<Connection, (Instant, io::Error)>) -> (Request, Option<Connection>) {
        let (own, connected, answer, connection) = match connection {
            Err((begin, error)) => (None, begin, Err(error), None),
            Ok(mut connection) => {
                let answer = connection.ask(&id);
                let rest = answer.is_ok().then_some(());
                (
                    Some(connection.own),
                    connection.begin,
                    answer,
                    rest.map(|()| connection),
                )
            }
        };
        let outcome = match answer {
            Ok(line) => parse_answer(&id, &line),
            Err(error) => failure(&error),
        };
        let request = Request {
            id,
            host: self.host,
            route: self.route,
            own,
            connected,
            end: now(),
            outcome,
        };
        (request, connection)
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
    own: SocketAddrV4,
    begin: Instant,
    requests: u64,
}

impl Connection {
    fn open(address: SocketAddr, begin: Instant) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let SocketAddr::V4(own) = stream.local_addr()? else {
            panic!("hosts have IPv4 addresses");
        };
        Ok(Self {
            stream: BufReader::new(stream),
            own,
            begin,
            requests: 0,
        })
    }

    fn ask(&mut self, id: &str) -> io::Result<String> {
        self.requests += 1;
        self.stream.get_mut().write_all(format!("{id}\n").as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn failure(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Outcome::Hung,
        kind => Outcome::Failed(format!("{kind:?}")),
    }
}

/// The guest's answer: see ledger.c.
#[track_caller]
fn parse_answer(id: &str, line: &str) -> Outcome {
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[0], id, "another request was answered: '{line}'");
    let pid = words[1].parse().unwrap();
    match words[2..] {
        [] => Outcome::Answered { pid, next: None },
        ["via", next] => Outcome::Answered {
            pid,
            next: Some(next.parse().unwrap()),
        },
        ["failed", error, own] => Outcome::NextFailed {
            pid,
            error: error.to_owned(),
            own: own.parse().ok(),
        },
        _ => panic!("an answer: '{line}'"),
    }
}

/// A guest that asks as a host, started again as often as it ends.
pub struct GuestClient<'a> {
    pub number: usize,
    pub shared: &'a Shared,
    pub project: &'a Project,
    pub host: &'static str,
    /// `["run"]`, or `["exec", HOST]`.
    pub by: &'static [&'static str],
}

/// A run of a guest that did not succeed.
pub struct Broken {
    /// The host whose identity the guest had, if that is a host of the compose file.
    pub identity: Option<&'static str>,
    pub begin: Instant,
    pub end: Instant,
    pub why: String,
}

impl GuestClient<'_> {
    /// Asks until stopped, and returns all requests, and the failed runs.
    pub fn work(self) -> (Vec<Request>, Vec<Broken>) {
        let (mut requests, mut broken) = (Vec::new(), Vec::new());
        let mut round = 0;
        while !self.shared.is_stopped() {
            let begin = now();
            let ended = self.run(&format!("{}.{round}", self.number), &mut requests);
            broken.extend(ended.err().map(|why| Broken {
                identity: self.by.get(1).copied(),
                begin,
                end: now(),
                why,
            }));
            // Any end counts as progress.
            self.shared.finish(self.number);
            round += 1;
        }
        (requests, broken)
    }

    fn run(&self, prefix: &str, requests: &mut Vec<Request>) -> Result<(), String> {
        let program = guest("ledger");
        let count = MOST_A_GUEST.to_string();
        let mut arguments = self.by.to_vec();
        arguments.extend([
            "--",
            program.to_str().unwrap(),
            "ask",
            self.host,
            "8080",
            prefix,
            &count,
        ]);
        let mut process = Background::spawn_to(self.project.imsup_command(&arguments), Stdio::piped(), Stdio::piped());
        let output = process.child.stdout.take().unwrap();
        for line in BufReader::new(output).lines() {
            requests.push(self.parse(&line.unwrap()));
            self.shared.finish(self.number);
        }
        let mut said = String::new();
        process.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = process.child.wait().unwrap();
        match status.success() {
            true => Ok(()),
            false => Err(format!("{arguments:?}: {status}: {said}")),
        }
    }

    #[track_caller]
    fn parse(&self, line: &str) -> Request {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let [id, connected, end, own, answer] = words[..] else {
            panic!("a line of the guest: '{line}'");
        };
        let outcome = match answer.strip_prefix('!') {
            Some("EAGAIN") => Outcome::Hung,
            Some(error) => Outcome::Failed(error.to_owned()),
            None => parse_answer(id, answer),
        };
        Request {
            id: id.to_owned(),
            host: self.host,
            route: Route::Direct,
            own: own.parse().ok(),
            connected: connected.parse().unwrap(),
            end: end.parse().unwrap(),
            outcome,
        }
    }
}
