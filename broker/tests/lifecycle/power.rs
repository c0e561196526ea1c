//! Requests of the command line about sleep.

use std::time::{Duration, Instant};

use imsup_protocol::control::HostUsage;
use imsup_protocol::message::Role;
use imsup_protocol::{Request, Response, ToBroker, ToSupervisor};
use imsup_wire::{Awake, CauseKind, ErrorKind, EventKind, HostState, Order, Report, Usage, WakeCause, Why};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::peer::Peer;
use crate::trial;
use crate::world::{World, kill, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("suspend_and_resume_answer_when_done", verbs),
        trial("a_wake_and_an_exec_resume_a_sleeper", wake_sleeper),
        trial("suspend_and_resume_of_an_absent_host_say_so", absent),
        trial("what_a_supervisor_refuses_is_passed_on", refused),
        trial("whoever_waits_for_a_supervisor_that_dies_is_answered", dead_supervisor),
        trial("a_client_that_hangs_up_is_forgotten", hung_up),
        trial("why_is_answered_by_whoever_knows", why),
        trial("a_lease_is_told_and_outlives_boots_and_brokers", lease),
        trial("commands_keep_their_host_awake", commands),
        trial("usage_adds_up_and_outlives_brokers", usage_kept),
        trial("a_mute_supervisor_does_not_hold_up_usage", mute),
    ]
}

fn suspend(host: &str) -> Request {
    Request::Suspend {
        hosts: vec![host.parse().unwrap()],
        by: "tester".to_owned(),
    }
}

fn resume(host: &str) -> Request {
    Request::Resume {
        hosts: vec![host.parse().unwrap()],
        by: "tester".to_owned(),
    }
}

fn wake(host: &str, exec: bool) -> Request {
    Request::Wake {
        hosts: vec![host.parse().unwrap()],
        by: "tester".to_owned(),
        exec,
    }
}

fn keep_awake(host: &str, seconds: u64) -> Request {
    Request::KeepAwake {
        host: host.parse().unwrap(),
        lease: Duration::from_secs(seconds),
        by: "tester".to_owned(),
    }
}

fn usage_of(world: &World, host: &str) -> HostUsage {
    let hosts = vec![host.parse().unwrap()];
    match world.ask(Request::Usage { hosts }).unwrap().remove(0) {
        Response::Usage(usage) => usage,
        other => panic!("no usage: {other:?}"),
    }
}

fn verbs() {
    let world = World::up("web -- settle serve\ndb -- settle serve");
    world.ask(wake("web", false)).unwrap();
    world.ask(suspend("web")).unwrap();
    assert_eq!(world.host("web").state, HostState::Suspended);
    world.ask(suspend("web")).expect("it sleeps already");
    let cause = world.wait_for_event("web", EventKind::Suspend).cause.unwrap();
    assert_eq!((cause.kind, cause.by.as_deref()), (CauseKind::Wake, Some("tester")));
    assert_eq!(world.of_kind("web", EventKind::Suspend).len(), 1);
    world.ask(resume("web")).unwrap();
    assert_eq!(world.host("web").state, HostState::Running);
    world.ask(resume("web")).expect("it runs already");
    let cause = world.wait_for_event("web", EventKind::Wake).cause.unwrap();
    assert_eq!((cause.kind, cause.by.as_deref()), (CauseKind::Wake, Some("tester")));
    assert_eq!(world.host("web").wakes, 1);
    let all = Request::Suspend {
        hosts: Vec::new(),
        by: "tester".to_owned(),
    };
    world.ask(all).expect("all that run");
    assert_eq!(world.host("web").state, HostState::Suspended);
    assert_eq!(world.host("db").state, HostState::Imaginary);
    let hosts = vec!["web".parse().unwrap()];
    world
        .ask(Request::Stop { hosts })
        .expect("sleepers are stopped like any other");
    assert_eq!(world.host("web").state, HostState::Imaginary);
}

fn wake_sleeper() {
    let world = World::up("web -- settle sleep serve");
    world.ask(wake("web", false)).unwrap();
    world.wait_for_state("web", HostState::Suspended);
    world.ask(wake("web", true)).unwrap();
    assert_eq!(world.host("web").state, HostState::Running);
    let cause = world.wait_for_event("web", EventKind::Wake).cause.unwrap();
    assert_eq!((cause.kind, cause.by.as_deref()), (CauseKind::Exec, Some("tester")));
    assert_eq!(world.host("web").boots, 1);
}

fn absent() {
    let world = World::up("web -- serve");
    for (request, verb) in [(suspend("web"), "suspend"), (resume("web"), "resume")] {
        let error = world.ask(request).unwrap_err().to_string();
        assert!(
            error.contains("host 'web' does not run") && error.contains(&format!("nothing to {verb}")),
            "{error}"
        );
    }
    let error = world.ask(keep_awake("wep", 60)).unwrap_err().to_string();
    assert!(error.contains("did you mean 'web'"), "{error}");
    assert_eq!(world.host("web").state, HostState::Imaginary);
}

fn refused() {
    let world = World::up("web -- serve");
    let mut peer = Peer::started(&world.paths, "web");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| world.ask(suspend("web")).unwrap_err());
        let (id, order) = peer.order();
        assert_eq!(order, Order::Suspend);
        let report = Report::Failed(ErrorKind::Busy.because("cat 7 is in uninterruptible sleep; try again"));
        peer.say(ToBroker::Answer { id, report });
        let error = asked.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy, "as its supervisor says");
        assert!(error.to_string().contains("'web' is not suspended: cat 7"), "{error}");

        peer.say(asleep());
        world.wait_for_state("web", HostState::Suspended);
        let asked = scope.spawn(|| world.ask(resume("web")).unwrap_err());
        let (id, order) = peer.order();
        assert_eq!(order, Order::Resume);
        let report = Report::Failed(ErrorKind::Other.because("the freezer does not answer"));
        peer.say(ToBroker::Answer { id, report });
        let error = asked.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::WakeFailed);
        assert!(
            error.to_string().contains("'web' could not be woken: the freezer"),
            "{error}"
        );
    });
    assert_eq!(world.host("web").state, HostState::Suspended);
    // Answers to a question that was not asked, and to a question that was answered.
    for id in [0, 1, 77] {
        let report = Report::Done;
        peer.say(ToBroker::Answer { id, report });
    }
    assert_eq!(world.host("web").state, HostState::Suspended);
}

fn asleep() -> ToBroker {
    ToBroker::Suspended {
        time_us: 1_700_000_000_000_000,
        deadline_us: None,
        took: Duration::from_micros(300),
        usage: Usage::default(),
    }
}

fn dead_supervisor() {
    let world = World::up("web -- serve");
    let why = Request::Why {
        host: "web".parse().unwrap(),
    };
    for request in [suspend("web"), why] {
        let mut peer = Peer::started(&world.paths, "web");
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| world.ask(request).unwrap_err().to_string());
            peer.order();
            drop(peer);
            let error = asked.join().unwrap();
            assert!(error.contains("'web'") && error.contains("has ended"), "{error}");
        });
        world.wait_for_state("web", HostState::Imaginary);
    }
    let mut peer = Peer::started(&world.paths, "web");
    peer.say(asleep());
    world.wait_for_state("web", HostState::Suspended);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| world.ask(resume("web")).unwrap_err().to_string());
        assert_eq!(peer.order().1, Order::Resume);
        drop(peer);
        let error = asked.join().unwrap();
        assert!(error.contains("'web'") && error.contains("disappeared"), "{error}");
    });
}

fn hung_up() {
    let world = World::up("web -- serve");
    let mut peer = Peer::started(&world.paths, "web");
    let client = imsup_broker::client::Client::connect(&world.project, &world.paths).unwrap();
    let responses = client.request(suspend("web")).unwrap();
    let (id, _) = peer.order();
    drop(responses);
    // Connections are served in order, so the earlier connection's place is free when this
    // connection is answered.
    world.host("web");
    let report = Report::Done;
    peer.say(ToBroker::Answer { id, report });
    peer.say(asleep());
    world.wait_for_state("web", HostState::Suspended);
}

fn why() {
    let world = World::up("web tcp=8080 udp=5353 publish=8081 -- settle serve\njob -- fail:3");
    let why = |host: &str| {
        let host = host.parse().unwrap();
        match world.ask(Request::Why { host }).unwrap().remove(0) {
            Response::Why { state, why, .. } => (state, why),
            other => panic!("no why: {other:?}"),
        }
    };
    let (state, Why::Absent { detail }) = why("web") else {
        panic!("it is absent")
    };
    assert_eq!(state, HostState::Imaginary);
    for part in [
        "8080/tcp",
        "5353/udp",
        "8081/tcp",
        "the machine's",
        "`imsup wake web` boots it",
    ] {
        assert!(detail.contains(part), "{detail}");
    }
    world.ask(wake("job", false)).unwrap_err();
    let (_, Why::Absent { detail }) = why("job") else {
        panic!("it is absent")
    };
    assert!(detail.contains("exited with status 3"), "{detail}");
    world.ask(wake("web", false)).unwrap();
    assert!(matches!(why("web"), (HostState::Running, Why::Awake { .. })));
    world.ask(suspend("web")).unwrap();
    assert!(matches!(why("web"), (HostState::Suspended, Why::Asleep { .. })));
}

fn lease() {
    let mut world = World::up("web -- settle serve\ndb -- serve");
    world.ask(keep_awake("web", 600)).unwrap();
    assert_eq!(world.host("web").state, HostState::Running, "it is booted for it");
    let cause = world.events()[0].cause.clone().unwrap();
    assert_eq!((cause.kind, cause.by.as_deref()), (CauseKind::Wake, Some("tester")));

    let mut db = Peer::started(&world.paths, "db");
    let asked = Instant::now();
    world.ask(keep_awake("db", 600)).unwrap();
    let (left, lease) = (db.awake().lease.unwrap(), Duration::from_secs(600));
    assert!(left <= lease && left + asked.elapsed() >= lease, "{left:?}");
    db.say(asleep());
    world.wait_for_state("db", HostState::Suspended);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| world.ask(keep_awake("db", 300)).unwrap());
        assert!(
            db.awake().lease.unwrap() <= Duration::from_secs(300),
            "the lease comes first"
        );
        let (id, order) = db.order();
        assert_eq!(order, Order::Resume);
        db.say(ToBroker::Woke {
            time_us: imsup_broker::events::now_us(),
            cause: WakeCause {
                kind: CauseKind::Wake,
                by: None,
                port: None,
            },
            named_later: false,
            slept: Duration::from_secs(1),
            ticks: 0,
            took: Duration::from_micros(90),
            usage: Usage::default(),
        });
        asked.join().unwrap();
        let report = Report::Done;
        db.say(ToBroker::Answer { id, report });
    });
    drop(db);
    world.wait_for_state("db", HostState::Imaginary);
    world.kill_broker();
    world.start();
    let (db, awake) = started(&world, "db");
    assert!(
        awake.lease.is_some_and(|left| left <= Duration::from_secs(300)),
        "{awake:?}"
    );
    drop(db);
    world.wait_for_state("db", HostState::Imaginary);
    world.ask(keep_awake("db", 0)).unwrap();
    assert_eq!(world.host("db").state, HostState::Imaginary, "an end boots nobody");
    assert_eq!(started(&world, "db").1, Awake::default());
}

fn started(world: &World, host: &str) -> (Peer, Awake) {
    let mut peer = Peer::connect(&world.paths);
    peer.hello(Some(host.parse().unwrap()), Role::Started, None);
    match peer.hear() {
        ToSupervisor::Welcome { awake, .. } => {
            peer.say(ToBroker::Settled);
            (peer, awake)
        }
        other => panic!("no welcome: {other:?}"),
    }
}

fn commands() {
    let world = World::up("web -- serve");
    let mut web = Peer::started(&world.paths, "web");
    let command = || {
        let mut peer = Peer::connect(&world.paths);
        peer.hello(Some("web".parse().unwrap()), Role::Exec, None);
        peer.welcome();
        peer
    };
    let one = command();
    assert_eq!(web.awake().commands, 1);
    let two = command();
    assert_eq!(web.awake().commands, 2);
    drop(one);
    assert_eq!(web.awake().commands, 1);
    drop(web);
    world.wait_for_state("web", HostState::Imaginary);
    assert_eq!(started(&world, "web").1.commands, 1, "it is beside the next one");
    drop(two);
}

fn seconds(usage: &HostUsage, state: HostState) -> f64 {
    let found = usage.states.iter().find(|(known, _)| *known == state);
    found.map_or(0.0, |(_, time)| time.as_secs_f64())
}

fn usage_kept() {
    let mut world = World::up("web -- settle serve\nidle -- serve");
    world.ask(wake("web", false)).unwrap();
    world.ask(suspend("web")).unwrap();
    world.ask(resume("web")).unwrap();
    // The supervisor reports a second more each time: with a sleep, with a wake, and when asked. An
    // answer that comes too late for the broker counts the next time.
    let usage = until("what it says when it is asked", || {
        Some(usage_of(&world, "web")).filter(|usage| usage.cpu >= Duration::from_secs(3))
    });
    assert_eq!((usage.boots, usage.wakes), (1, 1));
    assert_eq!(usage.memory_byte_ms, usage.cpu.as_millis());
    let all = world.ask(Request::Usage { hosts: Vec::new() }).unwrap();
    assert_eq!(all.len(), 2, "hosts that never ran have accounts, too");
    let idle = usage_of(&world, "idle");
    assert_eq!(idle.states.len(), 1);
    assert_eq!(idle.since_us, usage.since_us);

    world.ask(suspend("web")).unwrap();
    let before = usage_of(&world, "web");
    world.kill_broker();
    world.start();
    world.wait_for_state("web", HostState::Suspended);
    let after = usage_of(&world, "web");
    assert_eq!((after.since_us, after.boots, after.wakes), (before.since_us, 1, 1));
    for state in [HostState::Imaginary, HostState::Booting, HostState::Running] {
        let (before, after) = (seconds(&before, state), seconds(&after, state));
        assert!((before - after).abs() < 0.001, "{state}: {before} s, then {after} s");
    }
    assert!(seconds(&after, HostState::Suspended) >= seconds(&before, HostState::Suspended));
    assert!(after.cpu >= before.cpu && after.memory_byte_ms >= before.memory_byte_ms);

    kill(world.host("web").pid.unwrap(), Signal::KILL);
    world.wait_for_state("web", HostState::Imaginary);
    let dead = usage_of(&world, "web");
    assert!(dead.cpu >= after.cpu, "what was known of it last is not lost with it");
    world.kill_broker();
    world.start();
    assert_eq!(usage_of(&world, "web").cpu, dead.cpu);
    let sum: Duration = dead.states.iter().map(|(_, time)| *time).sum();
    let now_us = imsup_broker::events::now_us();
    assert!(
        sum <= Duration::from_micros(now_us - dead.since_us),
        "more time than there was"
    );
}

fn mute() {
    let world = World::up("web -- settle mute serve");
    world.ask(wake("web", false)).unwrap();
    let usage = usage_of(&world, "web");
    assert_eq!((usage.boots, usage.cpu), (1, Duration::ZERO));
    until("its state", || {
        (world.host("web").state == HostState::Running).then_some(())
    });
}
