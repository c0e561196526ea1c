//! The project's files are removed while the project is up: by a cleaner of /tmp, a logout, a
//! person.

use std::fs;
use std::path::Path;

use imsup_broker::client::ClientError;
use imsup_broker::{has_broker, lost};
use imsup_protocol::Request;
use imsup_wire::{EventKind, HostState};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::trial;
use crate::world::{World, exists, kill, request, stop, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_runtime_directory_that_is_removed_is_made_anew", whole_directory),
        trial("each_file_that_is_removed_is_made_anew", single_files),
        trial("a_state_directory_that_is_removed_is_made_anew", state),
        trial("a_broker_that_cannot_make_its_files_anew_is_found", cannot_be_made),
        trial("a_project_that_was_moved_away_is_found_by_its_history", other_directory),
    ]
}

const HOSTS: &str = "web tcp=8080 -- listen:8080 settle serve\ndb tcp=5432 -- listen:5432 settle serve";

/// A project of which one host runs.
fn running() -> World {
    let world = World::up(HOSTS);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    world
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Waits until all files exist again, and checks that the project is the same.
fn expect_whole(world: &World) {
    let paths = &world.paths;
    let host = until("the broker's socket", || world.ask(Request::Hosts).ok()).len();
    assert_eq!(host, 2);
    until("the broker's lock", || has_broker(paths).then_some(()));
    assert_eq!(read(paths.lock()).trim(), world.broker_pid().to_string());
    let web = world.host("web");
    until("the host's lock", || {
        let running = read(paths.running("web"));
        (running.lines().next() == Some(&web.pid.unwrap().to_string())).then_some(())
    });
    assert!(read(paths.hosts()).contains("web"));
    assert!(paths.cgroups().exists());
    assert_eq!(paths.directory_of_file().as_deref(), Some(Path::new("/")));
    let failure = world.failure();
    assert!(failure.contains("is already up"), "{failure}");
}

/// Removes a directory at once, even if files are made there meanwhile.
fn remove(directory: &Path) {
    let away = directory.with_extension("away");
    fs::rename(directory, &away).unwrap();
    fs::remove_dir_all(away).unwrap();
}

fn whole_directory() {
    let mut world = running();
    let before = world.host("web");
    remove(world.paths.runtime());
    expect_whole(&world);
    // As a cleaner does: file by file, while they are made anew.
    let _ = fs::remove_dir_all(world.paths.runtime());
    expect_whole(&world);
    remove(world.paths.runtime().parent().unwrap());
    expect_whole(&world);
    assert_eq!(world.host("web").pid, before.pid);
    assert_eq!(request(world.tcp("db", 5432)).unwrap(), "db", "hosts boot");
    world.kill_broker();
    match world.ask(Request::Hosts) {
        Err(ClientError::Dead { mut hosts, .. }) => {
            hosts.sort();
            assert_eq!(hosts, ["db", "web"]);
        }
        other => panic!("the broker is dead, and yet: {other:?}"),
    }
    world.start();
    let web = world.wait_for_state("web", HostState::Running);
    assert_eq!(
        (web.pid, web.address),
        (before.pid, before.address),
        "the next broker adopts it"
    );
    world.down();
    assert!(!exists(before.pid.unwrap()));
    assert!(!world.paths.runtime().exists() && !world.paths.state().exists());
}

fn single_files() {
    let world = running();
    let paths = &world.paths;
    let files = [
        paths.socket(),
        paths.lock(),
        paths.hosts(),
        paths.cgroups(),
        paths.runtime().join("directory"),
        paths.running("web"),
    ];
    for file in files {
        fs::remove_file(&file).unwrap();
        until(&format!("{}", file.display()), || file.exists().then_some(()));
        expect_whole(&world);
    }
    remove(&paths.running(""));
    expect_whole(&world);
    assert_eq!(request(world.tcp("db", 5432)).unwrap(), "db", "hosts boot");
}

fn state() {
    let mut world = running();
    let before = world.kinds("web");
    let base = world.paths.state().parent().unwrap().to_owned();
    // The broker looks only after the complete removal: after a move of the history, the next file
    // has only the accounts.
    stop(world.broker_pid());
    remove(&base);
    kill(world.broker_pid(), Signal::CONT);
    until("the history", || world.paths.events().exists().then_some(()));
    assert_eq!(request(world.tcp("db", 5432)).unwrap(), "db", "hosts boot");
    assert!(world.paths.log("db").exists());
    let history = until("the events that follow", || {
        let history = read(world.paths.events());
        history.contains("\"db\",\"event\":\"ready\"").then_some(history)
    });
    assert!(history.contains("\"web\",\"event\":\"ready\""), "{history}");
    let address = world.vip("db");
    world.kill_broker();
    world.start();
    assert_eq!(world.kinds("web"), before);
    assert_eq!(world.of_kind("db", EventKind::Boot).len(), 1);
    assert_eq!(world.vip("db"), address);
    world.down();
    assert!(world.paths.projects().exists());
}

/// Removes a directory, and prevents a new directory in the same place. A missing permission would
/// not prevent root.
fn block(directory: &Path) {
    let away = directory.with_extension("away");
    until("a directory that is not made anew", || {
        // The directory may be just being made anew.
        let _ = fs::rename(directory, &away);
        let _ = fs::remove_dir_all(&away);
        fs::write(directory, "").ok()
    });
}

fn cannot_be_made() {
    let mut world = running();
    let before = world.host("web");
    let base = world.paths.runtime().parent().unwrap().to_owned();
    block(&base);
    match world.ask(Request::Hosts) {
        Err(ClientError::Lost { pid, .. }) => assert_eq!(pid, world.broker_pid()),
        other => panic!("nobody finds it, and yet: {other:?}"),
    }
    let failure = world.failure();
    let said = format!("its broker is process {}", world.broker_pid());
    assert!(failure.contains(&said), "{failure}");
    assert!(exists(before.pid.unwrap()), "its hosts run on");

    fs::remove_file(&base).unwrap();
    expect_whole(&world);
    assert_eq!(world.host("web").pid, before.pid);

    block(&base);
    let lost = until("the broker", || lost::find(&world.paths));
    lost.end().unwrap();
    assert!(!exists(before.pid.unwrap()), "all is taken down");
    assert!(world.broker.take().unwrap().wait().unwrap().success());
    assert!(lost::find(&world.paths).is_none());
}

/// As if `$XDG_RUNTIME_DIR` is another now, or missing.
fn other_directory() {
    let mut world = running();
    let pid = world.broker_pid();
    let base = world.paths.runtime().parent().unwrap().to_owned();
    block(&base);
    let elsewhere = world.directory.path().join("elsewhere");
    let state = world.directory.path().join("state");
    let variable = |name: &str| match name {
        "IMSUP_RUNTIME_DIR" => Some(elsewhere.clone()),
        _ => Some(state.clone()),
    };
    let paths = imsup_broker::paths::Paths::new(&world.project, 0, variable, |_| true);
    let lost = until("the broker", || lost::find(&paths));
    assert_eq!(lost.pid, pid);
    lost.end().unwrap();
    world.broker.take().unwrap().wait().unwrap();
}
