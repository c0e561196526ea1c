//! Sleeping hosts, as reported by supervisors.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use imsup_protocol::message::Role;
use imsup_protocol::{Request, ToBroker, ToSupervisor};
use imsup_wire::{CauseKind, Endpoint, EventKind, ExitStatus, HostState, Usage, WakeCause};
use libtest_mimic::Trial;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::Signal;

use crate::peer::Peer;
use crate::trial;
use crate::world::{World, connect, kill, request, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_sleep_and_its_end_are_events", events),
        trial("a_wake_waits_for_its_senders_name_and_no_longer", named_later),
        trial("ticks_are_told_and_not_written", ticks),
        trial("a_sleeper_keeps_its_sockets_and_is_reached", reached),
        trial("the_next_broker_shows_sleepers_as_they_are", adopted),
        trial("what_happened_while_no_broker_ran_is_accounted_for", missed),
        trial("who_comes_while_a_host_is_terminated_gets_its_next_boot", terminated),
        trial("a_supervisor_killed_while_its_host_sleeps_is_an_end", killed),
        trial("supervisors_are_told_when_to_suspend", policy),
    ]
}

pub fn usage(cpu_ms: u64) -> Usage {
    Usage {
        cpu: Duration::from_millis(cpu_ms),
        memory_byte_ms: 1000,
        resident_bytes: 4096,
    }
}

pub fn suspended(deadline_us: Option<u64>) -> ToBroker {
    ToBroker::Suspended {
        time_us: SLEPT_US,
        deadline_us,
        took: Duration::from_micros(300),
        usage: usage(10),
    }
}

const SLEPT_US: u64 = 1_699_999_999_000_000;
const WOKE_US: u64 = 1_700_000_000_000_000;

pub fn woke(kind: CauseKind, by: Option<SocketAddr>, named_later: bool) -> ToBroker {
    ToBroker::Woke {
        time_us: WOKE_US,
        cause: WakeCause {
            kind,
            by,
            port: Some(8080),
        },
        named_later,
        slept: Duration::from_millis(3200),
        ticks: 3,
        took: Duration::from_micros(90),
        usage: usage(11),
    }
}

fn events() {
    let world = World::up("web -- serve\nclient -- serve");
    let mut peer = Peer::started(&world.paths, "web");
    peer.say(suspended(Some(5)));
    let web = world.wait_for_state("web", HostState::Suspended);
    assert_eq!((web.next_deadline_us, web.wakes), (Some(5), 0));
    let suspend = world.wait_for_event("web", EventKind::Suspend);
    assert_eq!(suspend.cause.unwrap().kind, CauseKind::Idle);
    assert_eq!(suspend.duration, Some(Duration::from_micros(300)));
    assert_eq!(suspend.usage, Some(usage(10)));

    let by = SocketAddr::from((world.vip("client"), 40_000));
    peer.say(woke(CauseKind::Data, Some(by), true));
    let wake = world.wait_for_event("web", EventKind::Wake);
    let cause = wake.cause.unwrap();
    assert_eq!(
        (cause.kind, cause.by.as_deref(), cause.port),
        (CauseKind::Data, Some("client"), Some(8080))
    );
    assert_eq!(wake.time_us, WOKE_US, "when it was, not when it was heard of");
    assert_eq!(wake.detail.as_deref(), Some("slept 3.2 s, 3 ticks"));
    assert_eq!(wake.usage, Some(usage(11)));
    let web = world.host("web");
    assert_eq!(
        (web.state, web.next_deadline_us, web.wakes),
        (HostState::Running, None, 1)
    );
    assert_eq!(web.since_us, WOKE_US);

    peer.say(suspended(None));
    peer.say(ToBroker::Reclaimed {
        bytes: 2 << 20,
        took: Duration::from_millis(1),
        detail: Some("anonymous memory needs swap, and there is none".to_owned()),
    });
    let reclaim = world.wait_for_event("web", EventKind::Reclaim);
    assert_eq!(
        reclaim.detail.as_deref(),
        Some("2.0 MiB came back; anonymous memory needs swap, and there is none")
    );
    assert_eq!(world.host("web").state, HostState::Suspended);
    peer.say(ToBroker::Exited {
        status: ExitStatus::Signal(9),
        usage: usage(12),
    });
    drop(peer);
    let exit = world.wait_for_event("web", EventKind::Exit);
    assert_eq!(exit.usage, Some(usage(12)));
    assert_eq!(world.host("web").state, HostState::Imaginary);
}

fn named_later() {
    let world = World::up("web -- serve\nclient -- serve");
    let mut peer = Peer::started(&world.paths, "web");
    let by = |name| Some(SocketAddr::from((world.vip(name), 40_000)));
    peer.say(suspended(None));
    peer.say(woke(CauseKind::Connection, None, true));
    let web = until("the wake", || Some(world.host("web")).filter(|host| host.wakes == 1));
    assert_eq!(web.state, HostState::Running, "the state does not wait");
    assert!(world.of_kind("web", EventKind::Wake).is_empty(), "the event does");
    // A host that settles, or asks something, in between.
    peer.say(ToBroker::Settled);
    peer.say(ToBroker::Binds { uid: 4242 });
    peer.say(ToBroker::WokenBy {
        by: by("client"),
        port: Some(81),
    });
    let cause = world.wait_for_event("web", EventKind::Wake).cause.unwrap();
    assert_eq!((cause.by.as_deref(), cause.port), (Some("client"), Some(8080)));

    peer.say(suspended(None));
    peer.say(woke(CauseKind::Descriptor, None, true));
    peer.say(suspended(None));
    until("the second wake", || {
        (world.of_kind("web", EventKind::Wake).len() == 2).then_some(())
    });
    let kinds = world.kinds("web");
    let sleep = [EventKind::Suspend, EventKind::Wake, EventKind::Suspend];
    assert_eq!(kinds[kinds.len() - 3..], sleep, "what follows ends its wait");

    peer.say(woke(CauseKind::Descriptor, None, true));
    until("the third wake", || (world.host("web").wakes == 3).then_some(()));
    drop(peer);
    world.wait_for_event("web", EventKind::Exit);
    let kinds = world.kinds("web");
    assert_eq!(
        kinds[kinds.len() - 2..],
        [EventKind::Wake, EventKind::Exit],
        "as does its end"
    );
}

fn ticks() {
    let world = World::up("web -- serve");
    let mut peer = Peer::started(&world.paths, "web");
    peer.say(suspended(Some(5)));
    let since_us = world.wait_for_state("web", HostState::Suspended).since_us;
    peer.say(ToBroker::Ticked {
        deadline_us: Some(6),
        took: Duration::from_micros(700),
    });
    let tick = world.wait_for_event("web", EventKind::Tick);
    assert_eq!(tick.duration, Some(Duration::from_micros(700)));
    let web = world.host("web");
    assert_eq!(
        (web.state, web.next_deadline_us, web.wakes),
        (HostState::Suspended, Some(6), 0)
    );
    assert_eq!(web.since_us, since_us);
    let written = std::fs::read_to_string(world.paths.events()).unwrap();
    assert!(written.contains("suspend") && !written.contains("tick"), "{written}");
}

fn reached() {
    let world = World::up("web tcp=8080 -- listen:8080 settle sleep serve");
    let endpoint = world.tcp("web", 8080);
    assert_eq!(
        request(endpoint).unwrap(),
        "web",
        "the signal that boots it is what wakes it"
    );
    let wake = world.wait_for_event("web", EventKind::Wake);
    assert_eq!(wake.cause.unwrap().kind, CauseKind::Connection);
    let suspend = Request::Suspend {
        hosts: vec!["web".parse().unwrap()],
        by: "tester".to_owned(),
    };
    world.ask(suspend).unwrap();
    assert_eq!(world.host("web").state, HostState::Suspended);
    let (mut caller, _) = Peer::transient(&world.paths, None);
    assert_eq!(caller.reach(endpoint, true), imsup_protocol::Outcome::Connect);
    assert_eq!(request(endpoint).unwrap(), "web");
    let web = world.wait_for_state("web", HostState::Running);
    assert_eq!((web.boots, web.wakes), (1, 2));
}

fn adopted() {
    let mut world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let endpoint = world.tcp("web", 8080);
    assert_eq!(request(endpoint).unwrap(), "web");
    let suspend = Request::Suspend {
        hosts: vec!["web".parse().unwrap()],
        by: "tester".to_owned(),
    };
    world.ask(suspend).unwrap();
    let before = world.host("web");
    world.kill_broker();
    world.start();
    let web = world.wait_for_state("web", HostState::Suspended);
    assert!(web.since_us <= before.since_us && web.since_us > before.since_us - 60_000_000);
    assert_eq!((web.boots, web.wakes), (1, 0));
    until("its deadline", || {
        (world.host("web").next_deadline_us == Some(crate::fake_supervisor::DEADLINE_US)).then_some(())
    });
    assert_eq!(
        world.of_kind("web", EventKind::Suspend).len(),
        1,
        "it has been told already"
    );
    until("its socket", || (!world.host("web").ports.is_empty()).then_some(()));
    assert_eq!(request(endpoint).unwrap(), "web");
    let wake = world.wait_for_event("web", EventKind::Wake);
    assert_eq!(wake.cause.unwrap().port, Some(8080));
    world.kill_broker();
    world.start();
    let web = world.wait_for_state("web", HostState::Running);
    assert_eq!((web.boots, web.wakes), (1, 1), "wakes are counted on");
}

fn missed() {
    let mut world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let endpoint = world.tcp("web", 8080);
    let suspend = Request::Suspend {
        hosts: vec!["web".parse().unwrap()],
        by: "tester".to_owned(),
    };
    assert_eq!(request(endpoint).unwrap(), "web");
    world.ask(suspend).unwrap();
    world.kill_broker();
    assert_eq!(request(endpoint).unwrap(), "web", "sleepers wake without a broker");
    world.start();
    let wake = world.wait_for_event("web", EventKind::Wake);
    assert_eq!(wake.detail.as_deref(), Some("while no broker ran"));
    let web = world.host("web");
    assert_eq!((web.state, web.wakes), (HostState::Running, 1));
    assert_eq!(web.since_us, wake.time_us);
}

/// A second socket at this endpoint, which takes its connections from now on.
fn successor(endpoint: Endpoint) -> OwnedFd {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    rustix::net::bind(&socket, &SocketAddr::V4(endpoint.address)).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    socket
}

fn terminated() {
    let world = World::up("web tcp=8080 -- listen:8080 settle serve");
    let endpoint = world.tcp("web", 8080);
    let mut peer = Peer::connect(&world.paths);
    peer.hello(Some("web".parse().unwrap()), Role::Started, None);
    let (_, _, mut sockets) = peer.welcome();
    let old = sockets.pop().unwrap();
    peer.tell(&ToBroker::Listening { endpoint }, vec![old.try_clone().unwrap()]);
    peer.say(ToBroker::Settled);
    peer.say(suspended(None));
    world.wait_for_state("web", HostState::Suspended);
    let wake = Request::Wake {
        hosts: vec!["web".parse().unwrap()],
        by: "tester".to_owned(),
        exec: false,
    };
    std::thread::scope(|scope| {
        let woken = scope.spawn(|| world.ask(wake).unwrap());
        let (id, _) = peer.order();
        peer.say(ToBroker::Terminating {
            slept: Duration::from_secs(60),
            usage: usage(10),
        });
        let new = successor(endpoint);
        peer.tell(&ToBroker::Listening { endpoint }, vec![new]);
        peer.say(ToBroker::Answer {
            id,
            report: imsup_wire::Report::Failed(imsup_wire::ErrorKind::Ending.because("it is being ended")),
        });
        let terminate = world.wait_for_event("web", EventKind::Terminate);
        assert_eq!(terminate.duration, Some(Duration::from_secs(60)));
        assert_eq!(world.host("web").ports, [endpoint]);
        // As a program does that is told to end and is in no hurry.
        rustix::net::shutdown(&old, rustix::net::Shutdown::Read).unwrap();
        drop(old);
        let client = scope.spawn(|| request(endpoint).unwrap());
        // The connection is made once in the successor's queue; then the program ends.
        let in_queue = || {
            let rows = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let port = format!(":{:04X} ", 8080);
            let address = format!("{:08X}", u32::from_ne_bytes(endpoint.address.ip().octets()));
            rows.lines()
                .any(|row| row.contains(&format!("{address}{port}")) && row.contains(" 01 "))
                .then_some(())
        };
        until("the client", in_queue);
        peer.say(ToBroker::Exited {
            status: ExitStatus::Signal(15),
            usage: usage(11),
        });
        drop(peer);
        assert_eq!(client.join().unwrap(), "web", "the next boot answers");
        woken.join().unwrap();
    });
    let kinds = world.kinds("web");
    let end = kinds.iter().position(|kind| *kind == EventKind::Terminate).unwrap();
    assert_eq!(
        kinds[end..],
        [
            EventKind::Terminate,
            EventKind::Exit,
            EventKind::Allocate,
            EventKind::Boot,
            EventKind::Ready
        ]
    );
}

fn killed() {
    let world = World::up("web tcp=8080 -- leave listen:8080 settle serve");
    let endpoint = world.tcp("web", 8080);
    assert_eq!(request(endpoint).unwrap(), "web");
    let suspend = Request::Suspend {
        hosts: vec!["web".parse().unwrap()],
        by: "tester".to_owned(),
    };
    world.ask(suspend).unwrap();
    kill(world.host("web").pid.unwrap(), Signal::KILL);
    world.wait_for_state("web", HostState::Imaginary);
    assert_eq!(request(endpoint).unwrap(), "web");
    let exit = world.wait_for_event("web", EventKind::Exit);
    assert_eq!(
        exit.usage.unwrap().cpu,
        Duration::from_secs(1),
        "what was known of it last"
    );
    assert_eq!(connect(endpoint).map(drop).map_err(|error| error.kind()), Ok(()));
}

fn policy() {
    let world = World::up("web idle=50 terminate=200 -- serve\nkept keep=1 idle=50 terminate=200 -- serve");
    let welcome = |name: Option<&str>, role| {
        let mut peer = Peer::connect(&world.paths);
        peer.hello(name.map(|name| name.parse().unwrap()), role, None);
        match peer.hear() {
            ToSupervisor::Welcome { sleep, awake, .. } => (peer, sleep, awake),
            other => panic!("no welcome: {other:?}"),
        }
    };
    let (web, sleep, awake) = welcome(Some("web"), Role::Started);
    let sleep = sleep.unwrap();
    let millis = |ms| Some(Duration::from_millis(ms));
    assert_eq!((sleep.idle_after, sleep.terminate_after), (millis(50), millis(200)));
    assert_eq!((sleep.stop_signal, sleep.stop_grace), (15, Duration::from_secs(2)));
    assert_eq!(awake, imsup_wire::Awake::default());
    let (_command, sleep, _) = welcome(Some("web"), Role::Exec);
    assert_eq!(sleep, None, "a command is not suspended");
    let (_transient, sleep, _) = welcome(None, Role::Transient);
    let sleep = sleep.unwrap();
    assert_eq!((sleep.idle_after, sleep.terminate_after), (millis(5000), None));
    drop(web);
}
