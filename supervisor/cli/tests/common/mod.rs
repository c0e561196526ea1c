//! The harness of the end-to-end tests: projects that clean up after themselves, and bounded
//! commands.
//!
//! Every test has its own runtime and state directory and its own project. A test does not depend
//! on the user: `make test` runs the same tests as root and as an ordinary user.
#![allow(dead_code)] // each test binary uses its own part of the harness

pub mod client;
pub mod command;
pub mod control;
pub mod docker;
pub mod holdings;
pub mod leaks;
pub mod network;
pub mod random;
pub mod spark;
pub mod watch;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::Value;
use tempfile::TempDir;

pub use command::{Background, Finished, LIMIT};

/// One host, as `imsup ps --format json` prints it.
#[derive(Clone, Debug)]
pub struct Host {
    pub address: Ipv4Addr,
    pub state: String,
    pub pid: Option<u32>,
    pub boots: u64,
    pub json: Value,
}

/// One event, as `imsup events --format json` prints it.
#[derive(Clone, Debug)]
pub struct Event {
    pub host: String,
    pub event: String,
    pub cause: Option<String>,
    pub by: Option<String>,
    pub json: Value,
}

impl Event {
    /// True for an event of this kind at this host.
    pub fn is(&self, host: &str, kind: &str) -> bool {
        self.host == host && self.event == kind
    }
}

/// A project in directories of its own. On drop it is taken down, and the test fails if leftovers
/// are found.
pub struct Project {
    pub name: String,
    directory: TempDir,
}

/// Makes imsup do without the calls that Docker's default seccomp profile refuses: descriptors are
/// handed over by stopped threads.
pub const AS_IN_A_CONTAINER: [(&str, &str); 1] = [("IMSUP_WITHOUT", "pidfd_getfd,process_vm_readv")];

impl Project {
    /// A project with this compose file, not up yet. In the file `@guest@` stands for the guest
    /// with dials, `@guests@` for the directory of built guests, `@source@` for testdata/guests,
    /// and `@dir@` for the project's own directory.
    pub fn new(label: &str, compose: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short, because the path of a Unix socket has 107 bytes at most.
        let directory = tempfile::Builder::new().prefix("imsup-t").tempdir().unwrap();
        let project = Self {
            name: format!("{label}-{}-{count}", std::process::id()),
            directory,
        };
        project.write_compose(compose);
        project
    }

    /// A project that is up.
    pub fn up(label: &str, compose: &str) -> Self {
        let project = Self::new(label, compose);
        project.ok(&["up", "-d"]);
        project
    }

    /// The same, with these variables for imsup itself.
    pub fn up_with(label: &str, compose: &str, variables: &[(&str, &str)]) -> Self {
        let project = Self::new(label, compose);
        let mut up = project.imsup_command(&["up", "-d"]);
        up.envs(variables.iter().copied());
        command::run(up, LIMIT).expect_success("imsup up -d");
        project
    }

    /// A project of the directory `examples/NAME` itself, which is up. The state of its programs
    /// goes to `DATA`, a directory of this project; `variables` are those of its compose file.
    pub fn example(name: &str, variables: &[(&str, &str)]) -> Self {
        let project = Self::new(name, "services: {}");
        project.up_example(name, variables);
        project
    }

    /// The same as [`Project::example`], in a project that exists and is not up.
    #[track_caller]
    pub fn up_example(&self, name: &str, variables: &[(&str, &str)]) {
        let file = example(name).join("compose.yaml");
        let mut up = self.imsup_command(&["up", "-d", "-f", file.to_str().unwrap()]);
        up.env("DATA", self.path("data")).envs(variables.iter().copied());
        command::run(up, LIMIT).expect_success(&format!("imsup up of the example {name}"));
    }

    /// Replaces the compose file.
    pub fn write_compose(&self, compose: &str) {
        let text = self.expand(compose);
        std::fs::write(self.path("compose.yaml"), text).unwrap();
    }

    /// Replaces the placeholders of [`Project::new`].
    pub fn expand(&self, text: &str) -> String {
        text.replace("@guest@", guest("guest").to_str().unwrap())
            .replace("@guests@", guests_directory().to_str().unwrap())
            .replace("@source@", source("").to_str().unwrap().trim_end_matches('/'))
            .replace("@dir@", self.directory.path().to_str().unwrap())
    }

    /// A file in the project's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The project's runtime directory.
    pub fn runtime(&self) -> PathBuf {
        self.path("run").join(&self.name)
    }

    /// The project's state directory.
    pub fn state(&self) -> PathBuf {
        self.path("state").join(&self.name)
    }

    /// A command in the project's directory, whose processes the harness can find again.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("IMSUP_RUNTIME_DIR", self.path("run"))
            .env("IMSUP_STATE_DIR", self.path("state"))
            .env("IMSUP_IMAGE_DIR", self.path("images"))
            .env("HOME", self.directory.path())
            .env_remove("IMSUP_PROJECT")
            .env_remove("XDG_RUNTIME_DIR");
        command
    }

    /// `imsup VERB -p PROJECT ...`, to be run.
    pub fn imsup_command(&self, arguments: &[&str]) -> Command {
        let (verb, rest) = arguments.split_first().expect("a verb");
        let mut all = vec![*verb, "-p", &self.name];
        all.extend(rest);
        self.command(imsup(), &all)
    }

    /// Runs `imsup VERB -p PROJECT ...` to its end.
    pub fn imsup(&self, arguments: &[&str]) -> Finished {
        command::run(self.imsup_command(arguments), LIMIT)
    }

    /// Runs `imsup VERB ...`, which must succeed, and returns its output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.imsup(arguments)
            .expect_success(&format!("imsup {}", arguments.join(" ")))
    }

    /// Runs `imsup VERB ...`, which must fail with this status, and returns its message.
    #[track_caller]
    pub fn fails(&self, status: i32, arguments: &[&str]) -> String {
        let finished = self.imsup(arguments);
        assert_eq!(
            finished.code(),
            Some(status),
            "imsup {}: {finished}",
            arguments.join(" ")
        );
        finished.stderr
    }

    /// Runs a command as a transient host of the project.
    pub fn run(&self, command: &[&str]) -> Finished {
        let mut arguments = vec!["run", "--"];
        arguments.extend(command);
        self.imsup(&arguments)
    }

    /// Runs the guest with dials as a transient host, which must succeed; returns the output.
    #[track_caller]
    pub fn run_guest(&self, dials: &[&str]) -> String {
        let program = guest("guest");
        let mut command = vec![program.to_str().unwrap()];
        command.extend(dials);
        self.run(&command).expect_success(&format!("guest {}", dials.join(" ")))
    }

    /// Runs an ordinary unsupervised command, which must succeed, and returns its output.
    #[track_caller]
    pub fn outside(&self, program: &str, arguments: &[&str]) -> String {
        command::run(self.command(program, arguments), LIMIT).expect_success(program)
    }

    /// All hosts, by name.
    #[track_caller]
    pub fn ps(&self) -> BTreeMap<String, Host> {
        let text = self.ok(&["ps", "--format", "json"]);
        text.lines()
            .map(|line| {
                let json: Value = serde_json::from_str(line).expect("ps prints one JSON object a line");
                let text = |key: &str| {
                    json[key]
                        .as_str()
                        .unwrap_or_else(|| panic!("{key} in {json}"))
                        .to_owned()
                };
                let host = Host {
                    address: text("address").parse().expect("an address"),
                    state: text("state"),
                    pid: json["pid"].as_u64().map(|pid| u32::try_from(pid).unwrap()),
                    boots: json["boots"].as_u64().expect("boots"),
                    json: json.clone(),
                };
                assert!(json.get("ports").is_some() && json.get("since").is_some(), "{json}");
                (text("name"), host)
            })
            .collect()
    }

    /// One host.
    #[track_caller]
    pub fn host(&self, name: &str) -> Host {
        let all = self.ps();
        all.get(name)
            .unwrap_or_else(|| panic!("no host {name} in {all:?}"))
            .clone()
    }

    /// A port of a host.
    #[track_caller]
    pub fn at(&self, host: &str, port: u16) -> SocketAddr {
        (self.host(host).address, port).into()
    }

    /// All events since `up`.
    #[track_caller]
    pub fn events(&self) -> Vec<Event> {
        self.ok(&["events", "--format", "json"])
            .lines()
            .map(parse_event)
            .collect()
    }

    /// The events of one host as words.
    #[track_caller]
    pub fn event_names(&self, host: &str) -> Vec<String> {
        let events = self.events();
        events
            .into_iter()
            .filter(|event| event.host == host)
            .map(|event| event.event)
            .collect()
    }

    /// Waits for the `count`th event of this kind at this host (counted from `up`), and returns the
    /// event.
    #[track_caller]
    pub fn wait_event(&self, host: &str, kind: &str, count: usize) -> Event {
        let command = self.imsup_command(&["events", "--follow", "--format", "json"]);
        let mut follower = Background::spawn(command, Stdio::piped());
        let (sender, receiver) = crossbeam_channel::unbounded();
        let output = follower.child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let deadline = Instant::now() + LIMIT;
        let mut seen = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = receiver.recv_timeout(left) else {
                panic!("{seen} of {count} '{kind}' events of {host} within {LIMIT:?}");
            };
            let event = parse_event(&line);
            if event.host == host && event.event == kind {
                seen += 1;
                if seen == count {
                    return event;
                }
            }
        }
    }

    /// Waits until a host is in this state.
    #[track_caller]
    pub fn wait_state(&self, host: &str, state: &str) -> Host {
        let mut last = None;
        wait_until(&format!("{host} to be {state}"), || {
            let found = self.host(host);
            let there = found.state == state;
            last = Some(found);
            there
        });
        last.unwrap()
    }

    /// Follows the events from the first one on.
    #[track_caller]
    pub fn watch(&self) -> watch::Watch {
        watch::Watch::start(self)
    }

    /// The answer of `imsup why` about a host: the object `why`.
    #[track_caller]
    pub fn why(&self, host: &str) -> Value {
        let text = self.ok(&["why", host, "--format", "json"]);
        let json: Value = serde_json::from_str(&text).expect("why prints one JSON object");
        assert_eq!(json["host"], host, "{json}");
        json["why"].clone()
    }

    /// Waits until a sleeper reports this obstacle to its termination. A sleeper that ticks into
    /// work reports none, and is asked again.
    #[track_caller]
    pub fn wait_kept(&self, host: &str, reason: &str) {
        let mut last = Value::Null;
        let what = format!("{host} to say that '{reason}' keeps it");
        let deadline = Instant::now() + LIMIT;
        while !last["not_terminated"]
            .as_str()
            .is_some_and(|said| said.contains(reason))
        {
            assert!(Instant::now() < deadline, "waited {LIMIT:?} for {what}: {last}");
            last = self.why(host);
        }
    }

    /// The broker's process.
    #[track_caller]
    pub fn broker(&self) -> u32 {
        let mark = format!("{} broker", imsup().display());
        let mut found: Vec<u32> = self
            .processes()
            .into_iter()
            .filter(|process| process.command.starts_with(&mark))
            .map(|process| process.pid)
            .collect();
        // Its children have its command line until they execute.
        let brokers = found.clone();
        found.retain(|pid| parent(*pid).is_none_or(|parent| !brokers.contains(&parent)));
        assert_eq!(found.len(), 1, "one broker: {:?}", self.processes());
        found[0]
    }

    /// The keeper's process.
    #[track_caller]
    pub fn keeper(&self) -> u32 {
        self.find_keeper()
            .unwrap_or_else(|| panic!("no keeper: {:?}", self.processes()))
    }

    fn find_keeper(&self) -> Option<u32> {
        let mark = format!("{} keeper", imsup().display());
        let found = self
            .processes()
            .into_iter()
            .find(|process| process.command.starts_with(&mark));
        Some(found?.pid)
    }

    /// Kills the broker and the keeper, which would start the next broker: the project has neither.
    #[track_caller]
    pub fn kill_broker(&self) {
        let broker = self.broker();
        // The broker would start another keeper.
        self.signal(broker, Signal::STOP);
        if let Some(keeper) = self.find_keeper() {
            self.kill(keeper);
        }
        self.kill(broker);
    }

    /// Sends a signal to a process of the project.
    #[track_caller]
    pub fn signal(&self, pid: u32, signal: Signal) {
        assert!(
            self.processes().iter().any(|process| process.pid == pid),
            "{pid} is no process of this test"
        );
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
        rustix::process::pidfd_send_signal(&pidfd, signal).unwrap();
    }

    /// Kills a process of the project, and waits until it is gone.
    #[track_caller]
    pub fn kill(&self, pid: u32) {
        self.signal(pid, Signal::KILL);
        assert!(command::wait_exit(pid, LIMIT));
    }

    /// Takes the project down and checks for leftovers.
    #[track_caller]
    pub fn down(&self) {
        self.ok(&["down"]);
        self.expect_nothing_left();
    }

    /// Fails if a process, file, mount or cgroup of the project is left.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        let left = leaks::find(self.directory.path(), &self.name);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Processes of the project, imsup's own and the programs'.
    pub fn processes(&self) -> Vec<leaks::Process> {
        leaks::processes(self.directory.path())
    }

    /// A description of the project, for the output of a failing test.
    fn report(&self) -> String {
        let mut text = String::new();
        for arguments in [&["ps"][..], &["events"], &["logs"]] {
            let finished = self.imsup(arguments);
            text += &format!(
                "---- imsup {}\n{}{}",
                arguments.join(" "),
                finished.stdout,
                finished.stderr
            );
        }
        text
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
            self.imsup(&["down"]);
            leaks::kill_all(self.directory.path());
        } else {
            let finished = self.imsup(&["down"]);
            let left = leaks::find(self.directory.path(), &self.name);
            leaks::kill_all(self.directory.path());
            assert!(finished.success(), "imsup down: {finished}");
            assert!(left.is_empty(), "left behind after down: {left:#?}");
        }
    }
}

#[track_caller]
fn parse_event(line: &str) -> Event {
    let json: Value = serde_json::from_str(line).expect("events prints one JSON object a line");
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    for key in ["time", "host", "event", "cause", "by", "duration_us"] {
        assert!(json.get(key).is_some(), "{key} is missing in {line}");
    }
    Event {
        host: text("host").expect("host"),
        event: text("event").expect("event"),
        cause: text("cause"),
        by: text("by"),
        json,
    }
}

/// Stops a process of a project, and waits until all its threads have stopped.
pub fn stop(project: &Project, pid: u32) {
    project.signal(pid, Signal::STOP);
    wait_until("all threads to be stopped", || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        stats
            .into_iter()
            .all(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T")))
    });
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Waits until `condition` holds, for conditions without an event.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The binary under test.
pub fn imsup() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_imsup"))
}

fn guests_directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("guests")
}

/// A built guest.
pub fn guest(name: &str) -> PathBuf {
    let path = guests_directory().join(name);
    assert!(path.exists(), "{} is missing: run 'make guests'", path.display());
    path
}

/// A file of testdata/guests.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/guests")
        .canonicalize()
        .unwrap()
        .join(name)
}

/// The directory of an example.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .canonicalize()
        .unwrap()
        .join(name)
}

/// Fails if a program that the test needs is not installed.
#[track_caller]
pub fn need(programs: &[&str]) {
    for program in programs {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|directory| directory.join(program).exists());
        assert!(found, "{program} is not installed: run 'make setup'");
    }
}
