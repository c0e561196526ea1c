//! Files that tell their news once, to whoever polls them first: a sleeper gets the news.

mod common;

use std::process::Command;

use common::client::ask;
use common::{Project, need, wait_until};

/// Each way in which the guest waits.
const WAYS: [&str; 6] = ["poll", "ppoll", "select", "epoll", "edge", "nested"];

/// Each guest has mounts of its own, and a file system is mounted there while it sleeps
/// (proc_pid_mounts(5)).
#[test]
fn a_sleeper_hears_of_mounts() {
    const ROUNDS: usize = 2;
    need(&["unshare", "nsenter"]);
    let mut compose = "x-imsup: { idle_after: 100ms, timer_slack: 200ms }\nservices:\n".to_owned();
    for way in WAYS {
        compose += &format!(
            "  {way}: {{ command: [unshare, --user, --map-root-user, --mount, \"@guests@/news\", {way}, \"@dir@/of-{way}\", \"8080\"], \
             expose: [\"8080\"] }}\n"
        );
    }
    let project = Project::up("news", &compose);
    let watch = project.watch();
    let count = |way: &str| {
        let text = std::fs::read_to_string(project.path(&format!("of-{way}"))).unwrap_or_default();
        text.lines().count()
    };
    project.ok(&[&["wake"][..], &WAYS].concat());
    for round in 1..=ROUNDS {
        for way in WAYS {
            watch.asleep(&project, way);
            let pid = project.host(way).pid.unwrap().to_string();
            let mounted = Command::new("nsenter")
                .args(["--target", &pid, "--user", "--mount", "--preserve-credentials"])
                .args(["mount", "-t", "tmpfs", "news", "/mnt"])
                .output()
                .unwrap();
            assert!(mounted.status.success(), "{way}: {mounted:?}");
        }
        for way in WAYS {
            wait_until(&format!("news {round} to come to {way}"), || count(way) == round);
            assert_eq!(ask(project.at(way, 8080)).value("host"), way);
        }
    }
}
