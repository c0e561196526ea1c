//! A project's files are removed while it is up (by a cleaner of /tmp, a logout), or its imsup is
//! replaced.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::client::{self, ask};
use common::{LIMIT, Project, command, imsup, wait_until};

const COMPOSE: &str = r#"
services:
  web: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
  db: { command: ["@guests@/servers", edge, "5432"], expose: ["5432"] }
"#;

/// The processes of the supervisors that hold the files of running hosts.
fn holds(project: &Project, host: &str) -> bool {
    let path = project.runtime().join("running").join(host);
    let Ok(file) = fs::File::open(path) else { return false };
    let lock = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    lock == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Removes both of a project's directories at once.
fn remove_files(project: &Project) {
    for directory in [project.path("run"), project.path("state")] {
        let away = directory.with_extension("away");
        fs::rename(&directory, &away).unwrap();
        fs::remove_dir_all(away).unwrap();
    }
}

#[test]
fn a_project_whose_files_are_removed_stays_one() {
    let project = Project::up("cleaned", COMPOSE);
    let pid = ask(project.at("web", 8080)).pid();
    remove_files(&project);
    wait_until("the broker to be found", || project.imsup(&["ps"]).success());
    wait_until("web's supervisor to hold its file", || holds(&project, "web"));
    assert_eq!(project.host("web").pid, Some(pid));
    assert!(project.ok(&["up", "-d"]).contains("nothing has changed"));
    ask(project.at("db", 5432));
    assert_eq!(ask(project.at("web", 8080)).pid(), pid);
    assert!(project.state().join("logs/db.log").exists());
    // The next broker finds everything this broker knew.
    let address = project.host("db").address;
    project.kill_broker();
    project.ok(&["up", "-d"]);
    assert_eq!(
        (project.host("web").pid, project.host("db").address),
        (Some(pid), address)
    );
    assert_eq!(project.event_names("web").last().map(String::as_str), Some("ready"));
    project.down();
}

#[test]
fn hosts_whose_files_are_removed_without_a_broker_are_found() {
    let project = Project::up("orphaned", COMPOSE);
    let pid = ask(project.at("web", 8080)).pid();
    project.kill_broker();
    remove_files(&project);
    wait_until("web's supervisor to hold its file", || holds(&project, "web"));
    project.ok(&["up", "-d"]);
    assert_eq!(project.wait_state("web", "running").pid, Some(pid));
    assert_eq!(ask(project.at("web", 8080)).pid(), pid);
    project.down();
    assert!(command::wait_exit(pid, LIMIT));
}

#[test]
fn a_broker_that_nobody_finds_is_named_and_ended_by_down() {
    let project = Project::up("lost", COMPOSE);
    let pid = ask(project.at("web", 8080)).pid();
    let broker = project.broker();
    let (base, away) = (project.path("run"), project.path("away"));
    wait_until("a directory that is not made anew", || {
        let _ = fs::rename(&base, &away);
        let _ = fs::remove_dir_all(&away);
        fs::write(&base, "").is_ok()
    });
    let named = format!("its broker is process {broker}");
    for arguments in [&["up", "-d"][..], &["ps"]] {
        let said = project.fails(1, arguments);
        assert!(said.contains(&named) && said.contains("imsup down"), "{said}");
    }
    let down = project.imsup(&["down"]);
    assert!(down.success() && down.stderr.contains("is down"), "{down}");
    assert!(command::wait_exit(broker, LIMIT) && command::wait_exit(pid, LIMIT));
    fs::remove_file(base).unwrap();
}

/// Whether the keeper holds the lock by which others know that the next broker comes by itself.
fn is_kept(project: &Project) -> bool {
    let path = project.runtime().join("keeper.lock");
    let written = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let Ok(file) = fs::File::open(&path) else { return false };
    let lock = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    lock == Err(rustix::io::Errno::WOULDBLOCK) && written == Some(project.keeper())
}

#[test]
fn the_next_broker_comes_and_is_waited_for_after_files_were_removed() {
    let project = Project::up("followed", COMPOSE);
    let [web, db] = [("web", 8080), ("db", 5432)].map(|(host, port)| project.at(host, port));
    let pid = ask(web).pid();
    let keeper = project.keeper();
    let removals: [fn(&Project); 3] = [
        remove_files,
        |project| fs::remove_file(project.runtime().join("keeper.lock")).unwrap(),
        |project| fs::remove_dir_all(project.path("run")).unwrap_or_default(),
    ];
    for remove in removals {
        remove(&project);
        wait_until("the keeper to hold its file", || is_kept(&project));
        wait_until("web's supervisor to hold its file", || holds(&project, "web"));
        wait_until("the broker to be found", || project.imsup(&["ps"]).success());
        let broker = project.broker();
        // The keeper starts the next broker once continued.
        common::stop(&project, keeper);
        project.kill(broker);
        let mut waits = client::PersistentConnection::connect(db);
        waits.say("hello").unwrap();
        let up = command::Background::collecting(project.imsup_command(&["up", "-d"]));
        project.signal(keeper, rustix::process::Signal::CONT);
        let up = up.finish(LIMIT);
        assert!(up.stdout.contains("nothing has changed"), "{up}");
        assert!(waits.hear().is_ok());
        assert_eq!(project.ps().len(), 2);
        assert_ne!(project.broker(), broker);
        assert_eq!(project.keeper(), keeper);
        assert_eq!(ask(web).pid(), pid);
        project.ok(&["stop", "db"]);
    }
    project.down();
}

#[test]
fn files_that_are_removed_without_a_broker_are_made_anew_by_the_next_one() {
    let project = Project::up("between", COMPOSE);
    let (keeper, broker) = (project.keeper(), project.broker());
    common::stop(&project, keeper);
    project.kill(broker);
    remove_files(&project);
    project.signal(keeper, rustix::process::Signal::CONT);
    wait_until("the keeper to hold its file", || is_kept(&project));
    assert_eq!(project.ps().len(), 2);
    project.kill(project.broker());
    assert_eq!(project.ps().len(), 2);
    ask(project.at("db", 5432));
    project.down();
}

#[test]
fn files_that_are_removed_while_a_broker_comes_are_made_anew() {
    let project = Project::up("coming", COMPOSE);
    let pid = ask(project.at("web", 8080)).pid();
    let mut random = common::random::Random::new(common::random::Random::seed());
    // Each removal may cost the next broker one more attempt, of five a minute.
    for _ in 0..2 {
        project.kill(project.broker());
        std::thread::sleep(std::time::Duration::from_micros(random.below(60_000)));
        remove_files(&project);
        wait_until("the broker to be found", || project.imsup(&["ps"]).success());
        wait_until("its logs to have a place", || project.state().join("logs").is_dir());
        wait_until("the keeper to hold its file", || is_kept(&project));
        wait_until("web's supervisor to hold its file", || holds(&project, "web"));
        assert_eq!(project.wait_state("web", "running").pid, Some(pid));
    }
    project.down();
}

/// A copy of imsup of this project's own.
fn own_imsup(project: &Project) -> PathBuf {
    let copy = project.path("imsup");
    fs::copy(imsup(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// IMSUP_TRACE keeps a host from being made by the zygote, which was started before.
const EXECUTED: &str = r#"
services:
  web: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"], environment: { IMSUP_TRACE: "0" } }
  db: { command: ["@guests@/servers", edge, "5432"], expose: ["5432"], environment: { IMSUP_TRACE: "0" } }
"#;

#[test]
fn hosts_boot_after_imsup_was_replaced_or_deleted() {
    let project = Project::new("replaced", EXECUTED);
    let own = own_imsup(&project);
    let up = project.command(&own, &["up", "-d", "-p", &project.name]);
    command::run(up, LIMIT).expect_success("imsup up");
    let [web, db] = [("web", 8080), ("db", 5432)].map(|(host, port)| project.at(host, port));
    let other = project.path("other");
    fs::write(&other, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&other, &own).unwrap();
    let pid = ask(web).pid();
    fs::remove_file(&own).unwrap();
    ask(db);
    assert_eq!(project.event_names("db"), ["allocate", "boot", "ready"]);
    // Both keep their names.
    let supervisor = common::parent(pid).unwrap();
    let name = fs::read_to_string(format!("/proc/{supervisor}/comm")).unwrap();
    assert_eq!(name.trim(), "imsup");
    let line = fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap();
    assert!(line.starts_with(own.to_str().unwrap()), "{line}");
    project.down();
}
