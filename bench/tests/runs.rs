//! The benchmarks with missing programs, failures, or interruptions.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than any step here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);

/// The benchmarks with directories of their own.
struct Runs {
    directory: TempDir,
}

impl Runs {
    fn new() -> Self {
        Self {
            directory: TempDir::with_prefix("imsup-bench-test-").expect("a directory"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// The benchmarks, whose temporary directory and results are in ours.
    fn command(&self, arguments: &[&str]) -> Command {
        let bench = Path::new(env!("CARGO_BIN_EXE_imsup-bench"));
        let imsup = bench.with_file_name("imsup");
        assert!(
            imsup.is_file(),
            "there is no {}: run 'cargo build -p imsup-supervisor' first, or all tests by 'make test'",
            imsup.display()
        );
        let mut command = Command::new(bench);
        command
            .args(arguments)
            .arg("--results")
            .arg(self.path("results"))
            .env("TMPDIR", self.path("tmp"))
            .stdin(Stdio::null());
        command
    }

    /// A directory with these programs of the machine, to be a PATH.
    fn programs(&self, names: &[&str]) -> PathBuf {
        let directory = self.path("bin");
        for name in names {
            let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(|place| Path::new(place).join(name));
            let program = places.iter().find(|path| path.exists());
            let program = program.unwrap_or_else(|| panic!("there is no {name}: run 'make setup'"));
            symlink(program, directory.join(name)).expect("a link");
        }
        directory
    }

    /// The results of the last run: Markdown and JSON.
    fn results(&self) -> [String; 2] {
        ["latest.md", "latest.json"].map(|name| fs::read_to_string(self.path("results").join(name)).expect(name))
    }

    /// A run leaves its results only: no process, no directory, no mount.
    fn assert_nothing_left(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:#?}");
            thread::sleep(LOOK);
        }
    }

    fn left(&self) -> Vec<String> {
        let ours = self.path("tmp");
        let text = ours.to_str().expect("a path");
        let entries = fs::read_dir(&ours).expect("our directory").flatten();
        let mut left: Vec<String> = entries.map(|entry| entry.path().display().to_string()).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        left.extend(mounts.lines().filter(|line| line.contains(text)).map(str::to_owned));
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let path = entry.path();
            // Every started process has our TMPDIR in its environment, or works in a directory
            // there, or names one.
            let of = |name: &str| String::from_utf8_lossy(&fs::read(path.join(name)).unwrap_or_default()).into_owned();
            let cwd = fs::read_link(path.join("cwd")).unwrap_or_default();
            if cwd.starts_with(&ours) || of("environ").contains(text) || of("cmdline").contains(text) {
                left.push(format!("{}: {}", path.display(), of("cmdline").replace('\0', " ")));
            }
        }
        left
    }
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the benchmarks start")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The programs needed besides imsup to start servers.
const NEEDED: [&str; 3] = ["setpriv", "setsid", "sh"];

#[test]
fn a_peer_that_is_missing_is_a_named_gap() {
    let runs = Runs::new();
    let path = runs.programs(&NEEDED);
    let output = run(runs.command(&["together", "--quick"]).env("PATH", path));
    assert!(output.status.success(), "{}", stderr(&output));
    let [markdown, json] = runs.results();
    let gap = "* **not measured**: docker start: there is no docker: install it";
    assert!(markdown.contains(gap), "{markdown}");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let section = &json["sections"][0];
    let gap = section["gaps"][0].as_str().expect("a gap");
    assert!(gap.starts_with("docker start: there is no docker"), "{gap}");
    let rows = section["rows"].as_array().expect("rows");
    let found: Vec<_> = rows
        .iter()
        .map(|row| row["variants"]["found"].as_str().expect("a variant"))
        .collect();
    assert!(
        found.contains(&"imsup") && !found.contains(&"docker start"),
        "{found:?}"
    );
    runs.assert_nothing_left();
}

#[test]
fn a_peer_that_fails_is_a_named_gap() {
    let runs = Runs::new();
    let path = runs.programs(&[&NEEDED[..], &["unshare", "mount", "mkdir"]].concat());
    for name in ["docker", "dockerd"] {
        let file = path.join(name);
        fs::write(&file, "#!/bin/sh\necho out of order >&2\nexit 1\n").expect("a program");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a program");
    }
    let output = run(runs.command(&["together", "--quick"]).env("PATH", path));
    assert!(output.status.success(), "{}", stderr(&output));
    let [markdown, _] = runs.results();
    let why = match rustix::process::geteuid().is_root() {
        true => "out of order: it ended with exit status: 1",
        false => "only root can",
    };
    let gap = "* **not measured**: docker start: dockerd could not be started";
    let line = markdown.lines().find(|line| line.starts_with(gap));
    assert!(line.is_some_and(|line| line.contains(why)), "{markdown}");
    assert!(!markdown.contains("| docker start"), "{markdown}");
    runs.assert_nothing_left();
}

#[test]
fn what_is_left_out_is_said() {
    let runs = Runs::new();
    let output = run(&mut runs.command(&["together", "--quick", "--without", "docker"]));
    assert!(output.status.success(), "{}", stderr(&output));
    let [markdown, _] = runs.results();
    let gap = "* **not measured**: docker start: left out with '--without docker'";
    assert!(markdown.contains(gap), "{markdown}");
}

#[test]
fn mistakes_are_told_to_people() {
    let runs = Runs::new();
    for (arguments, said) in [
        (&["conect"][..], "there is no suite 'conect'; there are: "),
        (
            &["--imsup", "/no/imsup"],
            "there is no /no/imsup: 'make build' makes it",
        ),
        (&["--without", "podman"], "invalid value 'podman'"),
        (
            &["--against", "/no/imsup"],
            "there is no /no/imsup: 'make build' makes it",
        ),
    ] {
        let output = run(&mut runs.command(arguments));
        assert!(!output.status.success(), "{arguments:?}");
        let text = stderr(&output);
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    let guests = runs.path("no-guests");
    let guests = guests.to_str().expect("a path");
    let output = run(&mut runs.command(&["memory", "--quick", "--guests", guests]));
    let [markdown, _] = runs.results();
    let missing = format!("a static C server: there is no {guests}/guest-musl: 'make guests' makes it");
    assert!(markdown.contains(&missing), "{markdown}{}", stderr(&output));
}

/// Starts a suite with native servers, hosts, and as root containers, and waits until they exist.
fn in_the_middle(runs: &Runs) -> Child {
    let log = runs.path("log").join("stderr");
    let mut child = runs
        .command(&["crowd"])
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("the benchmarks start");
    // The same server natively, twice, and as a host, and in a container.
    let wanted = if rustix::process::geteuid().is_root() { 4 } else { 3 };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = runs.left();
        let is_server = |line: &&String| line.contains("imsup-bench guest echo");
        let servers = left.iter().filter(is_server).count();
        if servers >= wanted {
            return child;
        }
        let log = fs::read_to_string(&log).unwrap_or_default();
        let ended = child.try_wait().expect("its state");
        assert!(ended.is_none(), "it ended with {ended:?}: {log}");
        assert!(Instant::now() < deadline, "it does not begin: {log}{left:#?}");
        thread::sleep(LOOK);
    }
}

fn interrupted_by(signal: Signal) {
    let runs = Runs::new();
    let mut child = in_the_middle(&runs);
    kill_process(Pid::from_child(&child), signal).expect("a signal");
    let status = child.wait().expect("its end");
    match signal {
        Signal::KILL => assert_eq!(status.signal(), Some(9)),
        _ => assert_eq!(status.code(), Some(1)),
    }
    runs.assert_nothing_left();
    // dockerd's, in each hierarchy.
    let ours = format!("imsup-bench-{}-", child.id());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    for mount in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let mount = mount.split(' ').nth(4).expect("a mount point");
        let entries = fs::read_dir(mount).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let left: Vec<_> = names.filter(|name| name.starts_with(&ours)).collect();
        assert!(left.is_empty(), "{mount}: {left:?}");
    }
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    interrupted_by(Signal::INT);
}

#[test]
fn a_termination_leaves_nothing_behind() {
    interrupted_by(Signal::TERM);
}

#[test]
fn being_killed_leaves_nothing_behind() {
    interrupted_by(Signal::KILL);
}
