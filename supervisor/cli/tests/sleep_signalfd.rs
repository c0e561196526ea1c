//! Programs that take their signals from a signalfd: they sleep, and a signal wakes them.

mod common;

use std::process::Command;

use common::client::{self, ask};
use common::{Project, need, wait_until};
use rustix::process::Signal;

/// Each way in which the guest waits for its signalfd.
const WAYS: [&str; 9] = [
    "read", "poll", "ppoll", "select", "pselect", "epoll", "edge", "nested", "thread",
];

#[test]
fn whoever_waits_for_a_signalfd_sleeps_and_is_woken_by_its_signals() {
    const ROUNDS: usize = 4;
    let mut compose = "x-imsup: { idle_after: 100ms, timer_slack: 200ms }\nservices:\n".to_owned();
    for way in WAYS {
        compose += &format!(
            "  {way}: {{ command: [\"@guests@/signalfds\", {way}, \"@dir@/of-{way}\", \"8080\"], expose: [\"8080\"] }}\n"
        );
    }
    let project = Project::up("signalfd", &compose);
    let watch = project.watch();
    let count = |way: &str| {
        let text = std::fs::read_to_string(project.path(&format!("of-{way}"))).unwrap_or_default();
        text.lines()
            .filter(|line| *line == format!("signal {}", Signal::USR1.as_raw()))
            .count()
    };
    project.ok(&[&["wake"][..], &WAYS].concat());
    for round in 1..=ROUNDS {
        let wakes = WAYS.map(|way| {
            let wakes = watch.asleep(&project, way);
            assert_eq!(count(way), round - 1, "{way}");
            let pid = project.host(way).pid.unwrap();
            let sent = Command::new("kill").args(["-USR1", &pid.to_string()]).status();
            assert!(sent.unwrap().success());
            wakes
        });
        for (way, wakes) in WAYS.into_iter().zip(wakes) {
            wait_until(&format!("the signal to come to {way}"), || count(way) == round);
            let wake = watch.wait(way, "wake", wakes + 1);
            assert_eq!(wake.cause.as_deref(), Some("signal"), "{way}");
            watch.slept_again(way, wakes + 1);
            assert_eq!(ask(project.at(way, 8080)).value("host"), way);
        }
    }
    for way in WAYS {
        let host = project.host(way);
        assert_eq!((host.boots, count(way)), (1, ROUNDS), "{way}");
    }
}

/// A signal that comes during a hold is not taken for an earlier one.
#[test]
fn a_signal_at_any_instant_of_falling_asleep_comes() {
    const SIGNALS: usize = 150;
    let project = Project::up(
        "instant",
        r#"
x-imsup: { idle_after: 10ms, timer_slack: 50ms }
services:
  read: { command: ["@guests@/signalfds", read, "@dir@/of-read", "8080"], expose: ["8080"] }
  select: { command: ["@guests@/signalfds", select, "@dir@/of-select", "8080"], expose: ["8080"] }
  epoll: { command: ["@guests@/signalfds", epoll, "@dir@/of-epoll", "8080"], expose: ["8080"] }
"#,
    );
    let watch = project.watch();
    let mut random = common::random::Random::new(common::random::Random::seed());
    let hosts = ["read", "select", "epoll"];
    project.ok(&[&["wake"][..], &hosts].concat());
    for host in hosts {
        watch.wait(host, "suspend", 1);
    }
    let pids = hosts.map(|host| project.host(host).pid.unwrap());
    let count = |host: &str| {
        let text = std::fs::read_to_string(project.path(&format!("of-{host}"))).unwrap_or_default();
        text.lines().count()
    };
    for number in 1..=SIGNALS {
        for pid in pids {
            project.signal(pid, Signal::USR1);
        }
        for host in hosts {
            wait_until(&format!("signal {number} to come to {host}"), || count(host) == number);
        }
        std::thread::sleep(random.between(std::time::Duration::ZERO, std::time::Duration::from_millis(30)));
    }
    for host in hosts {
        watch.wait(host, "suspend", SIGNALS / 10 + 1);
    }
}

/// bubblewrap's parent reads a signalfd while its child serves; s6-svscan and s6-supervise wait
/// with poll(2).
#[test]
fn s6_and_bubblewrap_sleep() {
    need(&["bwrap", "s6-svscan", "python3"]);
    let project = Project::new(
        "init",
        r#"
x-imsup: { idle_after: 100ms, timer_slack: 200ms }
services:
  s6: { command: [s6-svscan, "@dir@/scan"], expose: ["8080"] }
  bubblewrap:
    command: [bwrap, --dev-bind, /, /, --unshare-user, --unshare-pid, --as-pid-1, "@guests@/servers", edge, "8080"]
    expose: ["8080"]
  child: { command: [bwrap, --dev-bind, /, /, --unshare-user, --unshare-pid, "@guests@/servers", edge, "8080"], expose: ["8080"] }
"#,
    );
    std::fs::create_dir_all(project.path("scan/web")).unwrap();
    let run = project.expand("#!/bin/sh\nexec @guests@/servers edge 8080\n");
    std::fs::write(project.path("scan/web/run"), run).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(project.path("scan/web/run"), mode).unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    for round in 1..=3 {
        for host in ["s6", "bubblewrap", "child"] {
            assert_eq!(ask(project.at(host, 8080)).value("host"), host);
        }
        for host in ["s6", "bubblewrap", "child"] {
            watch.wait(host, "suspend", round);
        }
    }
    // The service of s6 has ended: its signal is taken, and the next is started.
    let before = ask(project.at("s6", 8080)).pid();
    watch.wait("s6", "suspend", 4);
    project.signal(before, Signal::KILL);
    // Natively a client is refused, or reset, meanwhile.
    let another = |line: String| client::Answer(line).pid() != before;
    watch.wait("s6", "wake", 4);
    wait_until("another server", || {
        client::ask_line(project.at("s6", 8080), "hello").is_ok_and(another)
    });
}
