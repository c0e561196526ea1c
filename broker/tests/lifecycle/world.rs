//! A separate project for a test: directories, a broker, and ways to inspect the project.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use imsup_broker::client::{self, ClientError};
use imsup_broker::paths::Paths;
use imsup_protocol::{Request, Response};
use imsup_wire::{Endpoint, Event, EventKind, HostState, HostStatus};
use rustix::process::{Pid, Signal, kill_process};

/// Far more than any step takes; reached only if there is a defect.
const TIMEOUT: Duration = Duration::from_secs(60);

static PROJECTS: AtomicU32 = AtomicU32::new(0);

/// Locked while this process starts another.
static STARTS: Mutex<()> = Mutex::new(());

/// Keeps the other tests from starting processes. A process being started has copies of all
/// descriptors until execve(2), so a socket closed by a test may live on in the process. A broker
/// may also take the addresses of a stopped broker, which must get the same addresses again.
pub fn no_starts() -> MutexGuard<'static, ()> {
    STARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct World {
    pub directory: tempfile::TempDir,
    pub project: String,
    pub paths: Paths,
    pub hosts: String,
    pub broker: Option<Child>,
    pub ephemeral: bool,
    /// Whether a keeper follows the broker.
    pub keeper: bool,
    /// The broker's limit of descriptors, if different from the test's.
    pub descriptors: Option<u64>,
    /// Held while the broker is down for a while.
    no_starts: Option<MutexGuard<'static, ()>>,
}

impl World {
    /// A project with these hosts (see `fake_broker`), up.
    pub fn up(hosts: &str) -> Self {
        let mut world = Self::prepare(hosts);
        world.start();
        world
    }

    /// A project that is not up yet.
    pub fn prepare(hosts: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let number = PROJECTS.fetch_add(1, Ordering::Relaxed);
        let project = format!("t{}-{number}", std::process::id());
        let base = directory.path().to_owned();
        let variable = |name: &str| match name {
            "IMSUP_RUNTIME_DIR" => Some(base.join("run")),
            "IMSUP_STATE_DIR" => Some(base.join("state")),
            _ => None,
        };
        let paths = Paths::new(&project, 0, variable, |_| true);
        std::fs::write(base.join("resolv.conf"), "").unwrap();
        Self {
            directory,
            project,
            paths,
            hosts: hosts.to_owned(),
            broker: None,
            ephemeral: false,
            keeper: false,
            descriptors: None,
            no_starts: None,
        }
    }

    pub fn command(&self) -> Command {
        let base = self.directory.path();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg("broker")
            .env("FAKE_PROJECT", &self.project)
            .env("FAKE_HOSTS", &self.hosts)
            .env("FAKE_RESOLV_CONF", base.join("resolv.conf"))
            .env("IMSUP_RUNTIME_DIR", base.join("run"))
            .env("IMSUP_STATE_DIR", base.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if self.ephemeral {
            command.env("FAKE_EPHEMERAL", "1");
        }
        if self.keeper {
            command.env("FAKE_KEEPER", "1");
        }
        if let Some(descriptors) = self.descriptors {
            command.env("FAKE_DESCRIPTORS", descriptors.to_string());
        }
        command
    }

    /// Starts the broker and waits until every host exists.
    pub fn start(&mut self) {
        let _starts = self.no_starts.take().unwrap_or_else(no_starts);
        let mut child = self.command().spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        self.broker = Some(child);
    }

    /// The error of a broker that cannot start.
    pub fn failure(&self) -> String {
        let _starts = no_starts();
        let output = self.command().output().unwrap();
        assert!(!output.status.success(), "it started");
        let text = String::from_utf8(output.stdout).unwrap();
        text.strip_prefix("error: ").expect("an error").to_owned()
    }

    pub fn broker_pid(&self) -> u32 {
        self.broker.as_ref().unwrap().id()
    }

    /// Kills the broker without any warning.
    pub fn kill_broker(&mut self) {
        self.no_starts.get_or_insert_with(no_starts);
        let mut broker = self.broker.take().unwrap();
        broker.kill().unwrap();
        broker.wait().unwrap();
    }

    /// Takes the project down and waits for the broker's end.
    pub fn down(&mut self) {
        self.no_starts.get_or_insert_with(no_starts);
        self.ask(Request::Down).unwrap();
        let status = self.broker.take().unwrap().wait().unwrap();
        assert!(status.success());
    }

    pub fn ask(&self, request: Request) -> Result<Vec<Response>, ClientError> {
        client::ask(&self.project, &self.paths, request)
    }

    pub fn host(&self, name: &str) -> HostStatus {
        let responses = self.ask(Request::Hosts).unwrap();
        let mut hosts = responses.into_iter().map(|response| match response {
            Response::Host(host) => host,
            other => panic!("no host: {other:?}"),
        });
        hosts.find(|host| host.name.as_str() == name).expect("the host")
    }

    pub fn vip(&self, name: &str) -> Ipv4Addr {
        self.host(name).address
    }

    pub fn tcp(&self, name: &str, port: u16) -> Endpoint {
        Endpoint::tcp(self.vip(name), port)
    }

    pub fn events(&self) -> Vec<Event> {
        let request = Request::Events {
            follow: false,
            hosts: Vec::new(),
        };
        let responses = self.ask(request).unwrap().into_iter();
        responses
            .map(|response| match response {
                Response::Event(event) => event,
                other => panic!("no event: {other:?}"),
            })
            .collect()
    }

    /// What happened to a host.
    pub fn kinds(&self, name: &str) -> Vec<EventKind> {
        let events = self.events().into_iter();
        events
            .filter(|event| event.host.as_str() == name)
            .map(|event| event.kind)
            .collect()
    }

    /// The events of a host, of a single kind, oldest first.
    pub fn of_kind(&self, name: &str, kind: EventKind) -> Vec<Event> {
        let mut events = self.events();
        events.retain(|event| event.host.as_str() == name && event.kind == kind);
        events
    }

    /// The first event of a kind that happens to a host.
    pub fn wait_for_event(&self, name: &str, kind: EventKind) -> Event {
        until(&format!("{name} to {kind}"), || self.of_kind(name, kind).pop())
    }

    pub fn wait_for_state(&self, name: &str, state: HostState) -> HostStatus {
        until(&format!("{name} to be {state}"), || {
            Some(self.host(name)).filter(|host| host.state == state)
        })
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes a file that a supervisor waits for.
    pub fn touch(&self, name: &str) {
        std::fs::write(self.path(name), "").unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            if self.ask(Request::Down).is_err() {
                // The broker cannot be found, or has ended.
                let _ = kill_process(Pid::from_child(&broker), Signal::TERM);
            }
            let _ = broker.wait();
        }
        let _ = imsup_broker::down_without_broker(&self.project, &self.paths);
        self.end_strays();
    }
}

impl World {
    /// The project's processes, with arguments: the broker, the keeper, supervisors, and all
    /// children. A process has the project's directory in the environment, unless the environment
    /// was emptied.
    pub fn processes(&self) -> Vec<(u32, Vec<String>)> {
        let directory = self.directory.path().as_os_str().as_encoded_bytes();
        let own = std::process::id();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let of_project = pids.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            *pid != own && environment.windows(directory.len()).any(|part| part == directory)
        });
        of_project
            .map(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let arguments = line.split(|byte| *byte == 0);
                (
                    pid,
                    arguments
                        .map(|part| String::from_utf8_lossy(part).into_owned())
                        .collect(),
                )
            })
            .collect()
    }

    /// Fails if a process of the project is left.
    #[track_caller]
    pub fn expect_no_processes(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "processes are left: {left:?}");
    }

    /// Ends the project's processes: tests leave some that only the test knows, on purpose, and
    /// some hold sockets.
    fn end_strays(&self) {
        for (pid, _) in self.processes() {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Waits until a condition holds. The condition is about other processes, which do not notify.
pub fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < TIMEOUT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn wait_for_file(path: &Path) {
    until("a file", || path.exists().then_some(()));
}

pub fn connect(endpoint: Endpoint) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(endpoint.address), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// One request: returns the name of the host that answers.
pub fn request(endpoint: Endpoint) -> std::io::Result<String> {
    let mut stream = connect(endpoint)?;
    stream.write_all(b"?")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Stops a process, and waits for the stop.
pub fn stop(pid: u32) {
    kill(pid, Signal::STOP);
    until("the stop", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.contains(") T ").then_some(())
    });
}

pub fn exists(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub fn socket_address(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(address, port))
}
