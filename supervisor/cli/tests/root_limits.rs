//! Limits of hosts, which root's cgroups enforce: run by `make test` for root, never by a plain
//! `cargo test`.

mod common;

use std::path::{Path, PathBuf};

use common::client::ask;
use common::{Project, wait_until};

const HOSTS: &str = r#"
services:
  web:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
    x-imsup: { idle_after: 200ms }
    deploy: { resources: { limits: { memory: 64m, cpus: "0.5", pids: 50 } } }
"#;

/// The directory of a process's cgroup that has this file, in any version.
fn with_file(pid: u32, file: &str) -> Option<PathBuf> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_controllers = imsup_linux::cgroup_paths::CONTROLLERS
        .iter()
        .flat_map(|controller| imsup_linux::cgroup_paths::of_controller(controller, &own, &mounts));
    let mut directories = of_controllers.chain(imsup_linux::cgroup_paths::unified(&own, &mounts));
    // In version 2 the limits are those of the cgroup around the program's.
    directories.find_map(|directory| {
        let named = directory.ancestors().find(|path| is_a_hosts(path));
        let found = named.map(|path| path.join(file)).filter(|path| path.exists());
        found.map(|path| path.parent().unwrap().to_owned())
    })
}

fn is_a_hosts(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("imsup."))
}

/// The content of one of these files of the process's cgroups: its name in version 1 and in version
/// 2.
fn value(pid: u32, names: [&str; 2]) -> String {
    let found = names.iter().find_map(|name| Some(with_file(pid, name)?.join(name)));
    let file = found.unwrap_or_else(|| panic!("{pid} is in no cgroup of imsup's with one of {names:?}"));
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}

#[test]
fn these_tests_are_run_by_root() {
    assert!(rustix::process::geteuid().is_root(), "run them with: sudo make test");
}

#[test]
fn the_program_is_limited_and_its_supervisor_is_not() {
    let project = Project::new("limited", HOSTS);
    let up = project.imsup(&["up", "-d", "--strict"]);
    assert!(up.success() && up.stderr.is_empty(), "{up}");
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    let pid = project.host("web").pid.unwrap();
    assert_eq!(value(pid, ["memory.limit_in_bytes", "memory.max"]), "67108864");
    assert_eq!(value(pid, ["pids.max", "pids.max"]), "50");
    let quota = value(pid, ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let supervisor = common::parent(pid).unwrap();
    for file in [
        "memory.limit_in_bytes",
        "memory.max",
        "cpu.cfs_quota_us",
        "cpu.max",
        "pids.max",
    ] {
        assert_eq!(with_file(supervisor, file), None, "{file}");
    }

    // The host sleeps and wakes like any other, and a command in it shares its limits.
    project.wait_state("web", "suspended");
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    let beside = project.ok(&["exec", "web", "cat", "/proc/self/cgroup"]);
    let name = format!("imsup.{}.web", project.name);
    assert!(beside.contains(&name), "{beside}");
    project.ok(&["stop", "web"]);
    project.down();
}

#[test]
fn a_limit_holds_from_the_first_instruction_on() {
    let project = Project::up(
        "first",
        "services: { says: { command: [cat, /proc/self/cgroup], mem_limit: 32m, pids_limit: 5, cpus: 1 } }",
    );
    project.ok(&["wake", "says"]);
    let said = project.ok(&["logs", "says"]);
    let name = format!("imsup.{}.says", project.name);
    let of_it = said.lines().filter(|line| line.contains(&name));
    let controllers: Vec<&str> = of_it.map(|line| line.split(':').nth(1).unwrap()).collect();
    let has = |wanted| controllers.iter().any(|controller| controller.contains(wanted));
    assert!(
        has("memory") && has("cpu") && has("pids") || said.contains(&format!("{name}/program")),
        "{said}"
    );
}

#[test]
fn too_much_memory_is_a_failure_with_its_reason_and_the_next_connection_boots_anew() {
    let project = Project::up(
        "eats",
        r#"
services:
  eats: { command: [tail, /dev/zero], mem_limit: 16m }
  shell: { command: [sh, -c, "tail /dev/zero; exit $$?"], mem_limit: 16m }
  worker: { command: [sh, -c, "tail /dev/zero; exec @guest@ --tcp 8080"], mem_limit: 16m, expose: ["8080"] }
"#,
    );
    for host in ["eats", "shell"] {
        let said = project.fails(1, &["wake", host]);
        assert!(said.contains("out of memory: its limit is 16 MB"), "{said}");
        let failed = project.host(host);
        assert_eq!(failed.state, "failed");
        assert_eq!(failed.json["detail"], "was killed, out of memory: its limit is 16 MB");
        assert!(
            project
                .why(host)
                .to_string()
                .contains("out of memory: its limit is 16 MB")
        );
        project.wait_event(host, "oom", 1);
        project.fails(1, &["wake", host]);
        assert_eq!(project.host(host).boots, 2);
    }
    // A worker is killed, and the program goes on.
    assert_eq!(ask(project.at("worker", 8080)).value("host"), "worker");
    let told = project.wait_event("worker", "oom", 1);
    assert_eq!(
        told.json["detail"],
        "the kernel killed a process of it, out of memory: its limit is 16 MB"
    );
    assert_eq!(project.host("worker").state, "running");
}

#[test]
fn processes_and_processors_are_counted() {
    let project = Project::up(
        "counted",
        r#"
services:
  forks: { command: [sh, -c, "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait"], pids_limit: 6 }
  burns: { command: [sh, -c, "while :; do :; done"], cpus: 0.05, x-imsup: { hold_timeout: 1s } }
"#,
    );
    project.fails(1, &["wake", "forks"]);
    let said = project.ok(&["logs", "forks"]).to_lowercase();
    assert!(said.contains("fork"), "{said}");
    project.imsup(&["wake", "burns"]);
    let pid = project.host("burns").pid.unwrap();
    let directory = with_file(pid, "cpu.cfs_quota_us")
        .or_else(|| with_file(pid, "cpu.max"))
        .unwrap();
    wait_until("it to be throttled", || {
        let text = std::fs::read_to_string(directory.join("cpu.stat")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.is_some_and(|count| count != "0")
    });
}

#[test]
fn commands_beside_the_program_end_with_it() {
    let project = Project::up("beside", HOSTS);
    project.ok(&["wake", "web"]);
    let beside = common::Background::collecting(project.imsup_command(&["exec", "web", "sleep", "1000"]));
    let pid = project.host("web").pid.unwrap();
    let directory = with_file(pid, "pids.max").unwrap();
    wait_until("the command to be in the cgroup", || {
        let count = std::fs::read_to_string(directory.join("pids.current")).unwrap();
        count.trim() == "2"
    });
    project.ok(&["stop", "web"]);
    let finished = beside.finish(common::LIMIT);
    assert_eq!(finished.code(), Some(137), "{finished}");
    assert!(!directory.exists());
}

#[test]
fn nothing_is_left_of_supervisors_and_brokers_that_are_killed() {
    let project = Project::up("killed", HOSTS);
    let name = format!("imsup.{}.", project.name);
    let left = || common::leaks::cgroups(Path::new("/sys/fs/cgroup"), &name);
    project.ok(&["wake", "web"]);
    let pid = project.host("web").pid.unwrap();
    project.kill(common::parent(pid).unwrap());
    // The supervisor looks for processes outside of the cgroup after the cgroup is gone, and until
    // then takes the host for running.
    wait_until("the broker to clean up", || {
        left().is_empty() && project.host("web").state == "imaginary"
    });

    project.ok(&["wake", "web"]);
    assert!(!left().is_empty());
    let pid = project.host("web").pid.unwrap();
    let supervisor = common::parent(pid).unwrap();
    let broker = project.broker();
    // Stopped, so that it does not clean up itself.
    project.signal(broker, rustix::process::Signal::STOP);
    project.kill(supervisor);
    project.kill_broker();
    assert!(!left().is_empty());
    project.ok(&["up", "-d"]);
    assert!(left().is_empty(), "{:?}", left());
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    project.down();
    assert!(left().is_empty(), "{:?}", left());
}

#[test]
fn limits_hold_under_the_broker_that_a_keeper_starts() {
    let hosts = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], mem_limit: 64m, pids_limit: 50, x-imsup: { idle_after: never } }
  again: { command: [sh, -c, "exit 3"], restart: always }
"#;
    let project = Project::up("followed", hosts);
    let name = format!("imsup.{}.", project.name);
    let left = || common::leaks::cgroups(Path::new("/sys/fs/cgroup"), &name);
    let pid = ask(project.at("web", 8080)).pid();
    let before = left();
    assert!(!before.is_empty());
    project.imsup(&["wake", "again"]);
    project.wait_event("again", "restart", 2);
    project.kill(project.broker());
    assert_eq!(project.wait_state("web", "running").pid, Some(pid));
    assert_eq!(left().iter().filter(|path| before.contains(path)).count(), before.len());
    assert_eq!(value(pid, ["memory.limit_in_bytes", "memory.max"]), "67108864");
    let beside = project.ok(&["exec", "web", "cat", "/proc/self/cgroup"]);
    assert!(beside.contains(&format!("{name}web")), "{beside}");
    // A host that was about to come back does, and the next boot has the same limits.
    project.wait_event("again", "restart", 4);
    project.ok(&["stop", "web"]);
    let pid = ask(project.at("web", 8080)).pid();
    assert_eq!(value(pid, ["pids.max", "pids.max"]), "50");
    project.down();
    assert!(left().is_empty(), "{:?}", left());
}
