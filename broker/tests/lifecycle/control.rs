//! The command line's requests.

use std::io;

use imsup_broker::client::Client;
use imsup_protocol::message::Role;
use imsup_protocol::{Outcome, Request, Response, ToBroker, ToSupervisor};
use imsup_wire::{CauseKind, Endpoint, ErrorKind, EventKind, HostName, HostState, Planes};
use libtest_mimic::Trial;

use crate::peer::Peer;
use crate::trial;
use crate::world::{World, connect, request};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("wake_stop_and_restart_answer_when_done", verbs),
        trial("a_wake_that_fails_says_why", failing_wake),
        trial("unknown_hosts_are_named_with_the_nearest", unknown_host),
        trial("a_service_means_all_its_replicas", replicas),
        trial("events_are_streamed_to_those_who_follow", follow),
        trial("a_host_that_runs_is_not_started_again", started_twice),
        trial("transient_hosts_come_and_go", transient),
        trial("a_restart_leaves_transient_hosts_alone", transient_restart),
        trial("a_transient_hosts_claimed_socket_ends_with_it", transient_claim),
        trial("a_command_beside_a_program_has_its_identity", command),
        trial("an_ephemeral_broker_ends_with_its_last_supervisor", ephemeral),
    ]
}

fn names(names: &[&str]) -> Vec<HostName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn wake(hosts: &[&str]) -> Request {
    Request::Wake {
        hosts: names(hosts),
        by: "tester".to_owned(),
        exec: true,
    }
}

fn verbs() {
    let world = World::up("a -- listen:8080 settle serve\nb -- settle serve\njob -- done");
    world.ask(wake(&["a", "b"])).unwrap();
    assert_eq!(
        (world.host("a").state, world.host("b").state),
        (HostState::Running, HostState::Running)
    );
    let cause = world.events()[0].cause.clone().unwrap();
    assert_eq!((cause.kind, cause.by.as_deref()), (CauseKind::Exec, Some("tester")));
    world.ask(wake(&["a"])).unwrap();
    assert_eq!(world.host("a").boots, 1, "it ran already");
    world
        .ask(wake(&["job"]))
        .expect("a program that does its work and ends is no failure");

    world.ask(Request::Stop { hosts: names(&["a"]) }).unwrap();
    assert_eq!(
        (world.host("a").state, world.host("b").state),
        (HostState::Imaginary, HostState::Running)
    );
    assert_eq!(world.kinds("a").last(), Some(&EventKind::Exit));

    let restart = Request::Restart {
        hosts: Vec::new(),
        by: "tester".to_owned(),
    };
    world.ask(restart).unwrap();
    assert_eq!(
        (world.host("a").boots, world.host("b").boots),
        (1, 2),
        "only those that ran"
    );
    world.ask(Request::Stop { hosts: Vec::new() }).unwrap();
    assert_eq!(world.host("b").state, HostState::Imaginary);
    let Response::Broker {
        project, hosts, pid, ..
    } = world.ask(Request::Broker).unwrap().remove(0)
    else {
        panic!("no broker");
    };
    assert_eq!((project, hosts, pid), (world.project.clone(), 3, world.broker_pid()));
}

fn transient_restart() {
    let world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let (mut job, _) = Peer::transient(&world.paths, Some("job"));
    job.say(ToBroker::Started { pid: 4711 });
    job.say(ToBroker::Settled);
    world.wait_for_state("job", HostState::Running);
    world.ask(wake(&["web"])).unwrap();
    let restart = |hosts: &[&str]| {
        world.ask(Request::Restart {
            hosts: names(hosts),
            by: "tester".to_owned(),
        })
    };
    let error = restart(&["web", "job"]).unwrap_err().to_string();
    assert!(
        error.contains("'job' was made by `imsup run`") && error.contains("`imsup stop job`"),
        "{error}"
    );
    assert_eq!(world.host("web").boots, 1, "nothing was restarted");
    restart(&[]).unwrap();
    assert_eq!(
        (world.host("web").boots, world.host("job").state),
        (2, HostState::Running)
    );
    // The job got no message before this.
    job.reach(world.tcp("web", 8080), true);
}

fn failing_wake() {
    let world = World::up("a -- fail:4\nb -- settle serve");
    let error = world.ask(wake(&["a", "b"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StartFailed);
    let error = error.to_string();
    assert!(error.contains("'a'") && error.contains("status 4"), "{error}");
    assert_eq!(world.host("b").state, HostState::Running);
}

fn unknown_host() {
    let world = World::up("gateway -- serve");
    let error = world.ask(wake(&["gatewya"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownHost);
    assert!(error.to_string().contains("did you mean 'gateway'"), "{error}");
    let resolve = Request::Resolve {
        name: "nothing".to_owned(),
    };
    assert_eq!(world.ask(resolve).unwrap_err().kind(), ErrorKind::UnknownHost);
    let resolve = Request::Resolve {
        name: "no name".to_owned(),
    };
    assert_eq!(world.ask(resolve).unwrap_err().kind(), ErrorKind::InvalidName);
}

fn replicas() {
    let world = World::up("web-1 alias=web -- settle serve\nweb-2 alias=web -- settle serve\ndb -- settle serve");
    world.ask(wake(&["web"])).unwrap();
    let states = ["web-1", "web-2", "db"].map(|name| world.host(name).state);
    assert_eq!(states, [HostState::Running, HostState::Running, HostState::Imaginary]);
    let resolved = world.ask(Request::Resolve { name: "WEB".to_owned() }).unwrap();
    assert_eq!(resolved.len(), 2);
    assert_eq!(world.ask(Request::Names).unwrap().len(), 5);
}

fn follow() {
    let world = World::up("a -- settle serve\nb -- settle serve");
    world.ask(wake(&["a"])).unwrap();
    let events = Request::Events {
        follow: true,
        hosts: names(&["b"]),
    };
    let mut responses = Client::connect(&world.project, &world.paths)
        .unwrap()
        .request(events)
        .unwrap();
    world.ask(wake(&["b"])).unwrap();
    for kind in [EventKind::Allocate, EventKind::Boot, EventKind::Ready] {
        let Some(Ok(Response::Event(event))) = responses.next() else {
            panic!("no event");
        };
        assert_eq!((event.host.as_str(), event.kind), ("b", kind));
    }
}

fn started_twice() {
    let world = World::up("a tcp=8080 -- settle serve");
    let host: Option<HostName> = Some("a".parse().unwrap());
    let mut first = Peer::connect(&world.paths);
    first.hello(host.clone(), Role::Started, None);
    let (_, retained, _) = first.welcome();
    assert_eq!(retained, [world.tcp("a", 8080)]);
    assert_eq!(world.host("a").state, HostState::Booting);
    let mut second = Peer::connect(&world.paths);
    second.hello(host.clone(), Role::Started, None);
    assert_eq!(second.rejection(), ErrorKind::AlreadyRunning);
    let mut late = Peer::connect(&world.paths);
    late.hello(host, Role::Launched { boot: 7 }, None);
    assert_eq!(late.rejection(), ErrorKind::NotAwaited);
    assert_eq!(world.events()[0].cause.as_ref().unwrap().kind, CauseKind::Exec);
}

fn transient() {
    let world = World::up("a alias=first -- serve");
    let (_one, _) = Peer::transient(&world.paths, None);
    let (two, _) = Peer::transient(&world.paths, Some("tool"));
    let hosts = std::fs::read_to_string(world.paths.hosts()).unwrap();
    for name in ["a first", "run-1", "tool"] {
        assert!(hosts.contains(&format!(" {name}\n")), "{name} is missing in\n{hosts}");
    }
    assert!(!world.host("tool").declared);
    let mut taken = Peer::connect(&world.paths);
    taken.hello(Some("first".parse().unwrap()), Role::Transient, None);
    assert_eq!(taken.rejection(), ErrorKind::NameTaken);
    drop(two);
    crate::world::until("its end", || {
        let hosts = std::fs::read_to_string(world.paths.hosts()).unwrap();
        (!hosts.contains("tool")).then_some(())
    });
    let (_again, _) = Peer::transient(&world.paths, Some("tool"));
}

fn transient_claim() {
    let world = World::up("a -- serve");
    let (mut tool, index) = Peer::transient(&world.paths, Some("tool"));
    let endpoint = Endpoint::tcp(Planes::default().vip(index), 18_300);
    // As a supervisor whose program finds its port in use (a published port of the same number has
    // every address).
    let socket = tool.claim(endpoint).expect("a socket made for it");
    let copy = socket.try_clone().unwrap();
    tool.tell(&ToBroker::Listening { endpoint }, vec![copy]);
    tool.tell(&ToBroker::Settled, Vec::new());
    assert_eq!(
        tool.reach(endpoint, true),
        Outcome::Connect,
        "it listens, settled or not"
    );
    connect(endpoint).unwrap();
    drop((tool, socket));
    crate::world::until("its end", || {
        let hosts = std::fs::read_to_string(world.paths.hosts()).unwrap();
        (!hosts.contains("tool")).then_some(())
    });
    assert_eq!(connect(endpoint).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

fn command() {
    let world = World::up("a tcp=8080 -- listen:8080 settle serve");
    let mut peer = Peer::connect(&world.paths);
    peer.hello(Some("a".parse().unwrap()), Role::Exec, None);
    let (index, retained, _) = peer.welcome();
    assert!(retained.is_empty(), "the sockets are the program's");
    assert_eq!(imsup_wire::Planes::default().vip(index), world.vip("a"));
    assert!(peer.claim(world.tcp("a", 8080)).is_none());
    assert_eq!(request(world.tcp("a", 8080)).unwrap(), "a");
    drop(peer);
    assert_eq!(
        world.host("a").state,
        HostState::Running,
        "its end is not the program's"
    );
}

fn ephemeral() {
    let mut world = World::prepare("a -- settle serve");
    world.ephemeral = true;
    world.start();
    let (mut one, _) = Peer::transient(&world.paths, None);
    let (two, _) = Peer::transient(&world.paths, None);
    drop(two);
    assert_eq!(world.host("a").state, HostState::Imaginary);
    world.ask(wake(&["a"])).unwrap();
    let runner = world.host("run-1");
    assert!(!runner.declared);
    world.ask(Request::Stop { hosts: names(&["a"]) }).unwrap();
    one.channel.socket().set_nonblocking(true).unwrap();
    assert!(
        matches!(one.channel.receive::<ToSupervisor>(), Ok(None)),
        "nobody stops a transient host"
    );
    drop(one);
    let status = world.broker.take().unwrap().wait().unwrap();
    assert!(status.success());
    assert!(!world.paths.runtime().exists());
}
