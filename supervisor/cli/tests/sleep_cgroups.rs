//! Programs that move themselves, or their children, to other cgroups: they are held wherever they
//! are, and seen while they run.
//!
//! Only root may move processes. For an ordinary user the same programs stay in place, and all else
//! is the same.

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::client::{PersistentConnection, ask};
use common::{LIMIT, Project, need, wait_until};

/// A cgroup of this test, if one can be made.
struct Elsewhere(PathBuf);

impl Elsewhere {
    fn make(label: &str) -> Self {
        let path = mount().join(format!("elsewhere-{label}-{}", std::process::id()));
        // An ordinary user cannot.
        let made = std::fs::create_dir(&path);
        assert_eq!(made.is_ok(), rustix::process::geteuid().is_root(), "{made:?}");
        Self(path)
    }

    /// True if a process is in it.
    fn has(&self, pid: u32) -> bool {
        group(pid).ends_with(self.0.file_name().unwrap().to_str().unwrap())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while self.0.exists() && std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// The mount point of cgroup v2.
fn mount() -> PathBuf {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    let mounted = if hybrid.exists() {
        hybrid
    } else {
        Path::new("/sys/fs/cgroup")
    };
    mounted.to_owned()
}

/// The cgroup of a process, from its mount.
fn group(pid: u32) -> String {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    group.unwrap_or_default().to_owned()
}

/// Whether a process is frozen or traced.
fn is_held(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    let events = std::fs::read_to_string(mount().join(group(pid)).join("cgroup.events"));
    tracer.unwrap().trim() != "0" || events.is_ok_and(|events| events.contains("frozen 1"))
}

const COMPOSE: &str = r#"
x-imsup: { idle_after: 200ms, terminate_after: 400ms }
services:
  whole: { command: [sh, "@dir@/move.sh", whole], expose: ["8080"] }
  partial: { command: [sh, "@dir@/move.sh", partial], expose: ["8080", "8081"] }
  below: { command: [sh, "@dir@/move.sh", below], expose: ["8080", "8081"] }
  late: { command: [sh, "@dir@/move.sh", late], expose: ["8080", "8081"] }
  busy: { command: [sh, "@dir@/move.sh", busy], expose: ["8080"] }
"#;

/// `late` lives for a while before it moves, `busy` never rests after its move.
const MOVE: &str = r#"
to() { echo $1 > $2/cgroup.procs; } 2>/dev/null
below=@mount@/$(sed -n 's,^0::/,,p' /proc/self/cgroup)/below
case $1 in
whole) to $$ @elsewhere@ ;;
partial) @guests@/servers edge 8081 & to $! @elsewhere@ ;;
below) mkdir $below 2>/dev/null; @guests@/servers edge 8081 & to $! $below ;;
late) @guests@/servers edge 8081 & (sleep 3; to $! @elsewhere@) & ;;
busy) to $$ @elsewhere@; exec python3 @dir@/busy.py ;;
esac
exec @guests@/servers edge 8080
"#;
const BUSY: &str = "
import socket
listener = socket.create_server(('', 8080))
while True:
    pass
";

/// The project is dropped before the cgroups of its programs.
fn project(label: &str) -> (Elsewhere, Project) {
    let elsewhere = Elsewhere::make(label);
    let project = Project::new(label, COMPOSE);
    let script = project
        .expand(MOVE)
        .replace("@mount@", mount().to_str().unwrap())
        .replace("@elsewhere@", elsewhere.0.to_str().unwrap());
    std::fs::write(project.path("move.sh"), script).unwrap();
    std::fs::write(project.path("busy.py"), BUSY).unwrap();
    project.ok(&["up", "-d"]);
    (elsewhere, project)
}

#[test]
fn a_program_in_another_cgroup_is_held_and_seen() {
    need(&["python3"]);
    let (elsewhere, project) = project("cgroups");
    let watch = project.watch();
    project.ok(&["wake", "busy"]);
    let hosts = [("whole", 8080), ("partial", 8081), ("below", 8081), ("late", 8081)];
    // The moved process has a connection all the time.
    let mut held = hosts.map(|(host, port)| PersistentConnection::connect(project.at(host, port)));
    let pids = [0, 1, 2, 3].map(|number| held[number].ask("first").pid());
    let root = rustix::process::geteuid().is_root();
    for (number, (host, _)) in hosts.into_iter().enumerate() {
        wait_until(&format!("{host} to have moved"), || match host {
            "below" => group(pids[number]).ends_with("/below") == root,
            _ => elsewhere.has(pids[number]) == root,
        });
    }
    for round in 1..=5 {
        for (number, (host, port)) in hosts.into_iter().enumerate() {
            wait_until(&format!("{host} to be held"), || {
                project.host(host).state == "suspended" && is_held(pids[number])
            });
            let wakes = watch.count(host, "wake");
            assert_eq!(held[number].ask(&format!("round {round}")).pid(), pids[number]);
            watch.wait(host, "wake", wakes + 1);
            assert_eq!(ask(project.at(host, port)).pid(), pids[number], "a new connection");
        }
    }
    for (host, _) in hosts {
        assert_eq!(watch.count(host, "terminate"), 0, "{host} has a connection");
    }
    // Without a connection the whole host is ended.
    drop(held);
    for (number, (host, _)) in hosts.into_iter().enumerate() {
        watch.wait(host, "terminate", 1);
        watch.wait(host, "exit", 1);
        assert!(common::command::wait_exit(pids[number], LIMIT), "{host}");
    }
    assert_eq!(watch.count("busy", "suspend"), 0, "what runs is not suspended");
    assert_eq!(elsewhere.has(project.host("busy").pid.unwrap()), root);
}

/// Requests at shorter intervals than the idle time meet one program, wherever it runs.
#[test]
fn traffic_keeps_a_program_in_another_cgroup_awake() {
    /// Shorter than the idle time.
    const LATE: Duration = Duration::from_millis(180);
    let (_elsewhere, project) = project("traffic");
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("whole", 8080));
    let mut before = Instant::now();
    let pid = held.ask("first").pid();
    let suspends = || {
        let names = project.event_names("whole");
        names.iter().filter(|name| *name == "suspend").count()
    };
    // The host may have slept before the first question.
    project.why("whole");
    let at_first = suspends();
    let until = Instant::now() + Duration::from_secs(4);
    let mut late = 0;
    while Instant::now() < until {
        // The host was idle for less than this: it may have handled a question as soon as it was
        // sent, and the next one when the answer came. A machine with other work may not reach this
        // line in time.
        let asked = Instant::now();
        assert_eq!(held.ask("again").pid(), pid);
        late += usize::from(before.elapsed() > LATE);
        before = asked;
        std::thread::sleep(Duration::from_millis(50));
    }
    project.why("whole");
    let slept = suspends() - at_first;
    late += usize::from(before.elapsed() > LATE);
    assert!(slept <= late, "slept {slept} times, {late} questions were late");
    assert_eq!(watch.count("whole", "terminate"), 0);
}

/// A sleeper's process is moved out of the cgroup whose freezer holds it: the process runs, so the
/// host does.
#[test]
fn a_sleeper_that_is_moved_elsewhere_is_awake() {
    let elsewhere = Elsewhere::make("moved");
    let project = Project::up(
        "moved",
        r#"
x-imsup: { idle_after: 200ms }
services:
  web: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    let pid = held.ask("first").pid();
    let wakes = watch.asleep(&project, "web");
    let moved = std::fs::write(elsewhere.0.join("cgroup.procs"), pid.to_string()).is_ok();
    if moved {
        watch.slept_again("web", wakes + 1);
        assert!(is_held(pid) && elsewhere.has(pid));
        let why = project.why("web");
        assert!(why["method"].as_str().unwrap().contains("left the cgroup"), "{why}");
    }
    assert_eq!(ask(project.at("web", 8080)).pid(), pid);
}
