//! Hosts that end, in every way.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

use imsup_protocol::channel::Channel;
use imsup_protocol::control::Opening;
use imsup_protocol::{Outcome, Request};
use imsup_wire::{Endpoint, EventKind, HostState};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::peer::Peer;
use crate::trial;
use crate::world::{World, connect, exists, kill, request, stop, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("over_many_kills_no_connect_is_refused", kills),
        trial("what_a_killed_supervisor_leaves_is_ended", leftovers),
        trial("what_a_killed_supervisor_froze_is_ended", frozen),
        trial("what_was_frozen_is_ended_without_a_broker_too", frozen_without_broker),
        trial("the_next_broker_ends_what_was_left_frozen", frozen_before_up),
        trial("a_start_that_fails_is_retried_then_reset", failures),
        trial("a_program_that_is_missing_is_retried_then_reset", missing),
        trial("a_supervisor_that_dies_before_it_speaks_is_a_failure", silent_death),
        trial("a_program_that_never_listens_is_reset_at_hold_timeout", never_listens),
        trial("a_port_that_a_settled_host_does_not_listen_on_refuses", unused_port),
        trial("what_a_supervisor_said_last_is_heard_though_it_is_gone", last_words),
        trial("a_missing_working_directory_is_named", working_directory),
        trial("down_leaves_nothing", down),
        trial("down_survives_a_caller_that_has_hung_up", down_after_hang_up),
    ]
}

fn kills() {
    const KILLS: usize = 100;
    let world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let endpoint = world.tcp("web", 8080);
    let (mut killed, mut lost) = (0, 0);
    while killed < KILLS {
        match request(endpoint) {
            Ok(answer) if answer == "web" => {
                if let Some(pid) = world.host("web").pid {
                    // The process may have ended since the question.
                    kill(pid, Signal::KILL);
                    killed += 1;
                }
            }
            // The connection was made and its request was in flight.
            Ok(_) => lost += 1,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => lost += 1,
            Err(error) => panic!("after {killed} kills: {error}"),
        }
        // Requests come one after the other, so each kill ends one at most.
        assert!(lost <= killed, "{lost} requests were lost to {killed} kills");
    }
    assert_eq!(request(endpoint).unwrap_or_else(|_| request(endpoint).unwrap()), "web");
    assert!(world.host("web").boots as usize >= KILLS);
}

fn leftovers() {
    let world = World::up("web tcp=8080 -- leave listen:8080 settle serve");
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    let pid = world.host("web").pid.unwrap();
    let left = left_by(pid);
    kill(pid, Signal::KILL);
    world.wait_for_state("web", HostState::Imaginary);
    expect_ended(&left);
    let last = world.events().pop().unwrap();
    assert_eq!(last.kind, EventKind::Exit);
    assert!(last.detail.unwrap().contains("supervisor"));
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
}

/// A host with a frozen process: that process, and its cgroup.
fn with_frozen(world: &mut World) -> (u32, std::path::PathBuf) {
    let file = world.path("frozen");
    world.hosts = format!("web tcp=8080 -- freeze:{file} listen:8080 settle sleep serve");
    world.start();
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    let text = std::fs::read_to_string(&file).unwrap();
    let (pid, cgroup) = text.split_once('\n').unwrap();
    let (pid, cgroup) = (pid.parse().unwrap(), cgroup.trim_end());
    assert!(exists(pid));
    (pid, cgroup.into())
}

/// An ordinary user has no cgroup, so the path is empty and nowhere.
fn is_gone(frozen: &(u32, std::path::PathBuf)) -> bool {
    !exists(frozen.0) && !frozen.1.exists()
}

fn frozen() {
    let mut world = World::prepare("");
    let frozen = with_frozen(&mut world);
    kill(world.host("web").pid.unwrap(), Signal::KILL);
    world.wait_for_state("web", HostState::Imaginary);
    assert!(is_gone(&frozen), "{frozen:?} is left");
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web", "the next boot");
    world.down();
}

fn frozen_without_broker() {
    let mut world = World::prepare("");
    let frozen = with_frozen(&mut world);
    world.kill_broker();
    assert_eq!(
        imsup_broker::down_without_broker(&world.project, &world.paths).unwrap(),
        ["web"]
    );
    assert!(is_gone(&frozen), "{frozen:?} is left");
}

fn frozen_before_up() {
    let mut world = World::prepare("");
    let frozen = with_frozen(&mut world);
    let supervisor = world.host("web").pid.unwrap();
    world.kill_broker();
    kill(supervisor, Signal::KILL);
    until("its end", || (!exists(supervisor)).then_some(()));
    if frozen.1.as_os_str().is_empty() {
        // Not stopped by a process that could have died: as a program's own SIGSTOP.
        kill(frozen.0, Signal::KILL);
    }
    world.start();
    until("the end of what is frozen", || is_gone(&frozen).then_some(()));
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
}

/// The processes started by a supervisor's word `leave`: a shell, a child of the shell, and a
/// process without an environment in a session of its own.
pub fn left_by(supervisor: u32) -> Vec<u32> {
    until("the processes", || {
        let left = descendants(supervisor);
        (left.len() >= 3).then_some(left)
    })
}

/// Fails if any of these processes still exists.
#[track_caller]
pub fn expect_ended(processes: &[u32]) {
    for pid in processes {
        assert!(!exists(*pid), "process {pid} is left");
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<u32> = list
        .split_ascii_whitespace()
        .map(|child| child.parse().unwrap())
        .collect();
    let deeper: Vec<u32> = children.iter().flat_map(|child| descendants(*child)).collect();
    children.into_iter().chain(deeper).collect()
}

fn failures() {
    let world = World::up("web tcp=8080 -- fail:3");
    let mut client = connect(world.tcp("web", 8080)).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        world.kinds("web"),
        [
            EventKind::Allocate,
            EventKind::Boot,
            EventKind::Fail,
            EventKind::Boot,
            EventKind::Fail,
            EventKind::Boot,
            EventKind::Fail
        ]
    );
    let web = world.host("web");
    assert_eq!(web.state, HostState::Failed);
    assert_eq!(web.detail.as_deref(), Some("exited with status 3 before it listened"));
}

fn missing() {
    let world = World::up("web tcp=8080 -- noexec");
    let mut client = connect(world.tcp("web", 8080)).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let failed = [EventKind::Allocate, EventKind::Fail, EventKind::Fail, EventKind::Fail];
    assert_eq!(world.kinds("web"), failed);
    assert!(world.host("web").detail.unwrap().contains("could not be executed"));
}

fn silent_death() {
    let world = World::up("web tcp=8080 -- die");
    let hosts = vec!["web".parse().unwrap()];
    let wake = Request::Wake {
        hosts,
        by: "tester".to_owned(),
        exec: false,
    };
    let error = world.ask(wake).unwrap_err().to_string();
    assert!(error.contains("host 'web' could not be started"), "{error}");
    assert_eq!(world.host("web").state, HostState::Failed);
}

fn never_listens() {
    let world = World::up("web tcp=8080 hold=300 -- serve");
    let mut client = connect(world.tcp("web", 8080)).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(world.host("web").state, HostState::Booting);
}

fn unused_port() {
    // Longer than a slow boot takes, and shorter than the client waits.
    let world = World::up("web tcp=8080 tcp=8081 hold=20000 -- listen:8080 settle serve");
    let mut client = connect(world.tcp("web", 8081)).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let error = connect(world.tcp("web", 8081)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    let hosts = vec!["web".parse().unwrap()];
    world.ask(Request::Stop { hosts }).unwrap();
    connect(world.tcp("web", 8081)).expect("it may listen there at its next boot");
}

fn last_words() {
    let mut world = World::prepare("");
    let file = world.path("fails");
    world.hosts = format!("web tcp=8080 -- listen:8080 settle wait:{file} fail:7");
    world.start();
    let hosts = vec!["web".parse().unwrap()];
    let by = "tester".to_owned();
    world.ask(Request::Wake { hosts, by, exec: false }).unwrap();
    let supervisor = world.host("web").pid.unwrap();
    let mut client = Channel::connected(UnixStream::connect(world.paths.socket()).unwrap());
    // This connection is later, so the earlier connection has been accepted.
    world.host("web");
    kill(world.broker_pid(), Signal::STOP);
    // The broker reads the question first, and asks a supervisor that has sent the last messages
    // and is gone.
    let question = Opening::Control(Request::Why {
        host: "web".parse().unwrap(),
    });
    client.send(&question, Vec::new()).unwrap();
    world.touch("fails");
    until("the supervisor's end", || (!exists(supervisor)).then_some(()));
    kill(world.broker_pid(), Signal::CONT);
    let exit = world.wait_for_event("web", EventKind::Exit);
    assert!(exit.detail.as_ref().unwrap().contains('7'), "{exit:?}");
}

fn working_directory() {
    let world = World::up("web tcp=8080 dir=/nowhere/at/all -- serve");
    let mut client = connect(world.tcp("web", 8080)).unwrap();
    assert!(client.read(&mut [0]).is_err());
    let detail = world.wait_for_state("web", HostState::Failed).detail.unwrap();
    assert!(detail.contains("/nowhere/at/all"), "{detail}");
}

fn down() {
    let mut world = World::up("web tcp=8080 publish=8081 -- listen:8080 settle serve\ndb tcp=5432 -- serve");
    let web = world.host("web");
    let (endpoint, port) = (world.tcp("web", 8080), web.published[0].machine.port());
    assert_eq!(request(endpoint).unwrap(), "web");
    let waiting = connect(world.tcp("db", 5432)).unwrap();
    world.wait_for_state("db", HostState::Booting);
    world.down();
    drop(waiting);
    world.expect_no_processes();
    assert!(
        !world.paths.runtime().exists() && !world.paths.state().exists(),
        "files are left"
    );
    assert_eq!(connect(endpoint).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    let error = world.ask(Request::Hosts).unwrap_err().to_string();
    assert!(error.contains("is not up"), "{error}");
}

fn down_after_hang_up() {
    let mut world = World::up("web tcp=8080 -- serve");
    let (called, index) = Peer::transient(&world.paths, Some("called"));
    let (mut caller, _) = Peer::transient(&world.paths, Some("caller"));
    let endpoint = Endpoint::tcp(imsup_wire::Planes::default().vip(index), 9000);
    caller.ask(endpoint, true);
    // The second answer comes after the first question was heard: connections are served in order.
    let unknown = caller.ask(Endpoint::tcp([10, 0, 0, 1].into(), 80), true);
    assert_eq!(caller.outcome(unknown), Outcome::Unknown);
    let mut client = Channel::connected(UnixStream::connect(world.paths.socket()).unwrap());
    world.host("called");
    // The broker learns at the same time of the order to end and of the caller's end, in this
    // order.
    let broker = world.broker_pid();
    stop(broker);
    client.send(&Opening::Control(Request::Down), Vec::new()).unwrap();
    caller.channel.socket().shutdown(std::net::Shutdown::Both).unwrap();
    kill(broker, Signal::CONT);
    drop(called);
    assert!(world.broker.take().unwrap().wait().unwrap().success());
}
