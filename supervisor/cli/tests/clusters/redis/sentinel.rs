//! Redis with Sentinel: a master that hangs.

use rustix::process::Signal;

use super::{cli, role};
use crate::common::{Project, need, wait_until};
use crate::{first_booted_by, kill_and_let_peers_boot};

const SENTINELS: [&str; 3] = ["sentinel1", "sentinel2", "sentinel3"];

#[track_caller]
fn ask(project: &Project, sentinel: &str, arguments: &[&str]) -> String {
    let mut all = vec!["-h", sentinel, "-p", "26379"];
    all.extend(arguments);
    cli(project, &all)
}

#[track_caller]
fn master(project: &Project, sentinel: &str) -> String {
    let said = ask(project, sentinel, &["sentinel", "get-master-addr-by-name", "main"]);
    said.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn sentinels_boot_from_one_question_and_replace_the_master() {
    need(&["redis-server", "redis-sentinel", "redis-cli"]);
    let project = Project::example("redis-sentinel", &[]);
    assert_eq!(master(&project, "sentinel1"), "redis1");
    for host in ["redis1", "redis2", "sentinel2", "sentinel3"] {
        let by = first_booted_by(&project, host);
        assert!(
            ["redis2", "sentinel1", "sentinel2", "sentinel3"].contains(&by.as_str()),
            "{host} by {by}"
        );
    }
    wait_until("every sentinel to see a replica in good order", || {
        SENTINELS.iter().all(|sentinel| {
            ask(&project, sentinel, &["sentinel", "replicas", "main"]).contains("master-link-status\nok")
        })
    });
    let first = master(&project, "sentinel1");
    let second = if first == "redis1" { "redis2" } else { "redis1" };
    // A write that the replica has acknowledged.
    let said = project
        .run(&[
            "sh",
            "-c",
            &format!("printf 'set greeting hello\\nwait 1 50000\\n' | redis-cli -h {first}"),
        ])
        .expect_success("redis-cli");
    assert_eq!(said, "OK\n1\n");

    let pid = project.host(&first).pid.unwrap();
    project.signal(pid, Signal::STOP);
    wait_until("the sentinels to name another master", || {
        SENTINELS.iter().all(|sentinel| master(&project, sentinel) == second)
    });
    assert_eq!(cli(&project, &["-h", second, "get", "greeting"]).trim(), "hello");
    let peers: Vec<&str> = SENTINELS.into_iter().chain([second]).collect();
    kill_and_let_peers_boot(&project, &first, &peers);
    wait_until("the old master to be a replica", || {
        role(&project, &first).as_deref() == Some("slave")
    });
    // An unsupervised client, by address.
    let address = project.host(second).address.to_string();
    assert_eq!(
        project
            .outside("redis-cli", &["-h", &address, "get", "greeting"])
            .trim(),
        "hello"
    );
}
