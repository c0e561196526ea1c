//! A sleeper may be ended, if asked for, and clients that come meanwhile do not notice.

mod common;

use std::time::Duration;

use common::client::{self, Answer, PersistentConnection, ask, get};
use common::command::wait_exit;
use common::random::Random;
use common::{LIMIT, Project, need, wait_until};

#[test]
fn a_sleeper_is_terminated_and_the_next_connection_boots_it() {
    let project = Project::up(
        "terminate",
        r#"
x-imsup: { idle_after: 50ms, terminate_after: 200ms }
services:
  edge: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
  prefork: { command: ["@guests@/servers", prefork, "8080"], expose: ["8080"] }
  threads: { command: ["@guests@/servers", threads, "8080"], expose: ["8080"] }
  never: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"], x-imsup: { terminate_after: never } }
"#,
    );
    let watch = project.watch();
    project.ok(&["wake", "never"]);
    for round in 1..=3 {
        for host in ["edge", "prefork", "threads"] {
            assert_eq!(ask(project.at(host, 8080)).value("host"), host);
        }
        for host in ["edge", "prefork", "threads"] {
            let event = watch.wait(host, "terminate", round);
            assert_eq!(event.cause.as_deref(), Some("idle"), "{host}");
            let slept = event.json["duration_us"].as_u64().unwrap();
            assert!(slept >= 200_000, "{host} slept {slept} us");
            watch.wait(host, "exit", round);
            let host = project.wait_state(host, "imaginary");
            assert_eq!((host.pid, host.boots), (None, round as u64));
        }
    }
    assert_eq!(project.host("never").state, "suspended");
    assert_eq!(watch.count("never", "terminate"), 0);
    // The host may have slept between a connection and its request.
    let mut names: Vec<_> = watch
        .events()
        .into_iter()
        .filter(|event| event.host == "edge" && event.event != "wake")
        .map(|event| event.event)
        .collect();
    names.dedup();
    assert_eq!(
        names[..6],
        ["allocate", "boot", "ready", "suspend", "terminate", "exit"]
    );
}

#[test]
fn an_established_connection_or_a_pending_timer_keeps_a_sleeper() {
    let project = Project::up(
        "kept",
        r#"
x-imsup: { idle_after: 50ms, terminate_after: 100ms, timer_slack: 300ms }
services:
  held: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
  forked: { command: ["@guests@/servers", fork, "8080"], expose: ["8080"] }
  cron: { command: ["@guests@/oddities", --cron, "@dir@/cron", "600000", "0", "8080"], expose: ["8080"] }
  timer: { command: ["@guests@/delays", timerfd-epoll, "3000", "8080"], expose: ["8080"] }
  bystander: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("held", 8080));
    let mut forked = PersistentConnection::connect(project.at("forked", 8080));
    let (pid, child) = (held.ask("first").pid(), forked.ask("first").pid());
    project.ok(&["wake", "cron"]);
    let mut timer = PersistentConnection::connect(project.at("timer", 8080));
    timer.say("later").unwrap();
    for host in ["held", "forked", "cron", "timer"] {
        watch.wait(host, "suspend", 1);
    }
    // Others of the same age are gone, three times over.
    for round in 1..=3 {
        ask(project.at("bystander", 8080));
        watch.wait("bystander", "terminate", round);
    }
    for (host, reason) in [("held", "connection"), ("forked", "connection"), ("cron", "timer")] {
        project.wait_state(host, "suspended");
        project.wait_kept(host, reason);
    }
    assert_eq!((held.ask("second").pid(), forked.ask("second").pid()), (pid, child));
    assert!(timer.hear().unwrap().starts_with("later method=timerfd-epoll"));
    for host in ["held", "forked", "cron", "timer"] {
        assert_eq!(watch.count(host, "terminate"), 0, "{host}");
    }
    // When the last connection ends, the host is ended.
    drop((held, forked, timer));
    for host in ["held", "forked", "timer"] {
        watch.wait(host, "terminate", 1);
    }
}

#[test]
fn nginx_redis_and_python_are_terminated_and_come_back() {
    need(&["nginx", "redis-server", "redis-cli", "python3"]);
    let project = Project::new(
        "programs",
        r#"
x-imsup: { idle_after: 100ms, terminate_after: 300ms }
services:
  nginx: { command: [/usr/sbin/nginx, -e, stderr, -c, "@dir@/nginx.conf"], expose: ["8080"] }
  redis: { command: [redis-server, --save, "900", "1", --dir, "@dir@", --port, "8080"], expose: ["8080"] }
  python: { command: [python3, "@source@/asyncio_server.py", "8080"], expose: ["8080"] }
"#,
    );
    let nginx = "daemon off; pid @dir@/nginx.pid; error_log stderr; worker_processes 2; events {}
        http { access_log off; client_body_temp_path @dir@/b; proxy_temp_path @dir@/p; fastcgi_temp_path @dir@/f;
        uwsgi_temp_path @dir@/u; scgi_temp_path @dir@/s; server { listen 8080; location / { return 200 'nginx'; } } }";
    std::fs::write(project.path("nginx.conf"), project.expand(nginx)).unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    let hosts = project.ps();
    let redis = hosts["redis"].address.to_string();
    for round in 1..=2 {
        assert_eq!(get((hosts["nginx"].address, 8080).into()), "nginx");
        assert!(get((hosts["python"].address, 8080).into()).contains("host=python"));
        let incr = || project.outside("redis-cli", &["-h", &redis, "-p", "8080", "incr", "boots"]);
        let mut said = incr();
        // The answer of a redis that is still reading its file, natively as well.
        while said.starts_with("LOADING") {
            said = incr();
        }
        assert_eq!(
            said.trim(),
            round.to_string(),
            "it ended in order, and kept what it knew"
        );
        for host in ["nginx", "redis", "python"] {
            watch.wait(host, "terminate", round);
            watch.wait(host, "exit", round);
        }
    }
}

/// While it ends, this program accepts all connections and resets them; that takes half a second.
#[test]
fn clients_that_come_while_a_program_ends_are_answered_by_its_next_boot() {
    let project = Project::up(
        "takeover",
        r#"
x-imsup: { idle_after: 50ms, terminate_after: 100ms }
services:
  web: { command: ["@guests@/oddities", --slow-term, "500", "8080"], expose: ["8080"], stop_grace_period: 30s }
"#,
    );
    let watch = project.watch();
    let address = project.at("web", 8080);
    let mut last = ask_line(address);
    for round in 1..=5 {
        watch.wait("web", "terminate", round);
        // The old program lives, and accepts.
        let crowd: Vec<_> = (0..20)
            .map(|_| client::connect(address).expect("a connection is never refused"))
            .collect();
        let mut pids: Vec<u32> = crowd
            .into_iter()
            .map(|mut one| Answer(client::talk(&mut one, "hello").expect("an answer, no reset")).pid())
            .collect();
        pids.dedup();
        assert_eq!(pids.len(), 1);
        assert_ne!(pids[0], last, "the next boot answers");
        last = pids[0];
    }
    assert_eq!(project.host("web").boots, 6);
    assert_eq!(watch.count("web", "fail"), 0);
}

fn ask_line(address: std::net::SocketAddr) -> u32 {
    Answer(client::ask_line(address, "hello").unwrap()).pid()
}

/// Clients that come at random instants around the termination.
#[test]
fn a_connection_at_any_instant_of_a_termination_is_answered() {
    const ROUNDS: usize = 60;
    const TERMINATIONS: usize = 4;
    let project = Project::up(
        "instants",
        r#"
x-imsup: { idle_after: 10ms, terminate_after: 30ms }
services:
  slow: { command: ["@guests@/oddities", --slow-term, "20", "8080"], expose: ["8080"] }
  threads: { command: ["@guests@/servers", threads, "8080"], expose: ["8080"] }
  prefork: { command: ["@guests@/servers", prefork, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    let hosts = project.ps();
    let mut random = Random::new(Random::seed());
    std::thread::scope(|scope| {
        for host in ["slow", "threads", "prefork"] {
            for _ in 0..2 {
                let (mut random, watch) = (Random::new(random.below(u64::MAX)), &watch);
                let address = (hosts[host].address, 8080).into();
                scope.spawn(move || {
                    // On a busy machine there is seldom time for a termination between two
                    // requests.
                    let enough = |round| round >= ROUNDS && watch.count(host, "terminate") >= TERMINATIONS;
                    for round in (0..10 * ROUNDS).take_while(|round| !enough(*round)) {
                        PersistentConnection::connect(address).ask(&format!("round {round}"));
                        std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(200)));
                    }
                });
            }
        }
    });
    for host in ["slow", "threads", "prefork"] {
        let (terminated, boots) = (watch.count(host, "terminate"), project.host(host).boots);
        eprintln!("{host}: {terminated} terminations, {boots} boots");
        watch.wait(host, "terminate", TERMINATIONS);
    }
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_after_its_grace() {
    let project = Project::up(
        "grace",
        r#"
x-imsup: { idle_after: 50ms, terminate_after: 100ms }
services:
  web:
    command: ["@guests@/oddities", --ignore-term, "8080"]
    expose: ["8080"]
    stop_grace_period: 300ms
"#,
    );
    let watch = project.watch();
    let pid = PersistentConnection::connect(project.at("web", 8080))
        .ask("hello")
        .pid();
    watch.wait("web", "terminate", 1);
    let exit = watch.wait("web", "exit", 1);
    assert!(
        exit.json["detail"].as_str().unwrap().contains("signal 9"),
        "{:?}",
        exit.json
    );
    assert!(wait_exit(pid, LIMIT));
    assert_ne!(
        PersistentConnection::connect(project.at("web", 8080))
            .ask("hello")
            .pid(),
        pid
    );
    assert_eq!(watch.count("web", "fail"), 0);
}

/// A datagram socket has no successor that could be told apart: a datagram sent while the program
/// ends may be lost with it, a later one boots it.
#[test]
fn a_datagram_boots_a_terminated_host() {
    let project = Project::up(
        "datagram",
        r#"
x-imsup: { idle_after: 50ms, terminate_after: 100ms }
services:
  time: { command: ["@guest@", --udp, "5353"], expose: ["5353/udp"] }
"#,
    );
    let watch = project.watch();
    for round in 1..=3 {
        client::ask_datagram(project.at("time", 5353));
        watch.wait("time", "terminate", round);
        watch.wait("time", "exit", round);
        project.wait_state("time", "imaginary");
    }
}

#[test]
fn resume_and_why_say_what_is_so_of_a_host_that_is_to_be_terminated() {
    let project = Project::up(
        "due",
        r#"
x-imsup: { idle_after: 50ms, terminate_after: 1h }
services:
  web: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    project.ok(&["wake", "web"]);
    watch.wait("web", "suspend", 1);
    let left = project.why("web")["terminates_in_s"]
        .as_f64()
        .expect("when it is terminated");
    assert!(left > 3000.0 && left <= 3600.0, "{left}");
    assert!(project.ok(&["why", "web"]).contains("terminated in"));
    project.ok(&["resume", "web"]);
    wait_until("it to sleep again", || watch.count("web", "suspend") == 2);
}

/// Each has a timer in an hour; `hub` has a connection with each `spoke`, and `client` with
/// `other`.
const CONNECTED: &str = r#"
x-imsup: { idle_after: 100ms, terminate_after: 200ms, timer_slack: 300ms, disposable: true }
services:
  hub: { command: [python3, hub.py], expose: ["9000"] }
  spoke: { command: [python3, spoke.py, hub], deploy: { replicas: 2 } }
  other: { command: [python3, hub.py], expose: ["9000"] }
  client: { command: [python3, spoke.py, other], x-imsup: { disposable: false } }
"#;
const HUB: &str = r#"
import select, socket
sockets = [socket.create_server(("", 9000))]
while True:
    for ready in select.select(sockets, [], [], 3600)[0]:
        if ready is sockets[0]:
            sockets.append(ready.accept()[0])
        elif data := ready.recv(100):
            ready.send(data)
        else:
            sockets.remove(ready)
            ready.close()
"#;
const SPOKE: &str = r#"
import select, socket, sys
hub = socket.create_connection((sys.argv[1], 9000))
listener = socket.create_server(("", 9001))
hub.send(b"hello")
while True:
    for ready in select.select([hub], [], [], 3600)[0]:
        if not ready.recv(100):
            sys.exit(3)
"#;

#[test]
fn disposable_sleepers_that_are_connected_are_terminated_together() {
    need(&["python3"]);
    let project = Project::new("disposable", CONNECTED);
    std::fs::write(project.path("hub.py"), HUB).unwrap();
    std::fs::write(project.path("spoke.py"), SPOKE).unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    let together = ["hub", "spoke-1", "spoke-2"];
    for round in 1..=2 {
        for host in ["spoke-1", "spoke-2"] {
            project.ok(&["wake", host]);
        }
        for host in together {
            assert_eq!(watch.wait(host, "terminate", round).cause.as_deref(), Some("idle"));
        }
        for host in together {
            let exit = watch.wait(host, "exit", round);
            let detail = exit.json["detail"].as_str().unwrap().to_owned();
            assert!(!detail.contains("status 3"), "{host} saw its peer go: {detail}");
            project.wait_state(host, "imaginary");
        }
    }
    // A host that is not disposable keeps the other, and `why` says so.
    project.ok(&["wake", "client"]);
    for host in ["client", "other"] {
        watch.wait(host, "suspend", 1);
    }
    wait_until("other to say what keeps it", || {
        let why = project.why("other");
        why["not_terminated"]
            .as_str()
            .is_some_and(|why| why.contains("connected with 1 host"))
    });
    // A client outside keeps a hub, and with it the spokes.
    let held = PersistentConnection::connect(project.at("hub", 9000));
    project.ok(&["wake", "spoke-1"]);
    wait_until("the hub to say what keeps it", || {
        let why = project.why("hub");
        why["not_terminated"]
            .as_str()
            .is_some_and(|why| why.contains("established"))
    });
    // The next broker also hears of hosts that slept all the time.
    wait_until("the spoke to say what keeps it", || {
        let why = project.why("spoke-1");
        why["not_terminated"]
            .as_str()
            .is_some_and(|why| why.contains("connected with 1 host"))
    });
    project.kill_broker();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    drop(held);
    for host in ["hub", "spoke-1"] {
        watch.wait(host, "terminate", 3);
    }
    assert_eq!(watch.count("other", "terminate"), 0);
}

/// A client is answered at whatever instant it comes, and no client finds the other end of its
/// connection gone.
#[test]
fn a_connection_at_any_instant_of_a_common_termination_is_answered() {
    need(&["python3"]);
    const ROUNDS: usize = 12;
    const TERMINATIONS: usize = 3;
    let project = Project::new(
        "common",
        r#"
x-imsup: { idle_after: 20ms, terminate_after: 40ms, timer_slack: 100ms, disposable: true }
services:
  hub: { command: [python3, hub.py], expose: ["9000"], depends_on: [spoke], x-imsup: { boot_dependencies: true } }
  spoke: { command: [python3, spoke.py, hub], deploy: { replicas: 2 } }
"#,
    );
    std::fs::write(project.path("hub.py"), HUB).unwrap();
    std::fs::write(project.path("spoke.py"), SPOKE).unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    let address = project.at("hub", 9000);
    let mut random = Random::new(Random::seed());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (mut random, watch) = (Random::new(random.below(u64::MAX)), &watch);
            scope.spawn(move || {
                let enough = |round| round >= ROUNDS && watch.count("hub", "terminate") >= TERMINATIONS;
                for round in (0..10 * ROUNDS).take_while(|round| !enough(*round)) {
                    PersistentConnection::connect(address).ask(&format!("round {round}"));
                    std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(800)));
                }
            });
        }
    });
    for host in ["hub", "spoke-1", "spoke-2"] {
        project.wait_state(host, "imaginary");
    }
    watch.wait("hub", "terminate", TERMINATIONS);
    let ends = watch.count("hub", "terminate");
    eprintln!("{ends} terminations, {} boots", project.host("hub").boots);
    for host in ["spoke-1", "spoke-2"] {
        for exit in watch.of(host, "exit").iter().chain(&watch.of(host, "fail")) {
            let detail = exit.json["detail"].as_str().unwrap();
            assert!(!detail.contains("status"), "{host} saw its peer go: {detail}");
        }
    }
}
