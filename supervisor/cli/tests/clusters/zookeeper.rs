//! ZooKeeper: three servers, their leader killed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::common::command::run;
use crate::common::{Project, client, need, wait_until};
use crate::{first_booted_by, kill_and_let_peers_boot, report_recovery};

const SERVERS: [&str; 3] = ["zk1", "zk2", "zk3"];

/// Four JVMs start on a machine that is busy with other tests.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The output of zkCli.sh, a JVM that waits for its session, and gives up after a while.
#[track_caller]
fn zkcli(project: &Project, server: &str, command: &[&str]) -> String {
    let mut all = vec![
        "run",
        "--",
        "/usr/share/zookeeper/bin/zkCli.sh",
        "-timeout",
        "250000",
        "-waitforconnection",
        "-server",
        server,
    ];
    all.extend(command);
    let finished = run(project.imsup_command(&all), TIMEOUT);
    // zkCli.sh prints "Created" on standard error.
    assert!(finished.success(), "zkCli.sh: {finished}");
    finished.stderr + &finished.stdout
}

/// "leader" or "follower"; `None` if the server does not serve, by the four-letter word of an
/// unsupervised client.
fn mode(address: SocketAddr) -> Option<String> {
    let mut stream = client::connect(address).ok()?;
    stream.write_all(b"srvr").ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    said.lines()
        .find_map(|line| line.strip_prefix("Mode: "))
        .map(str::to_owned)
}

fn modes(project: &Project) -> BTreeMap<&'static str, Option<String>> {
    SERVERS.map(|server| (server, mode(project.at(server, 2181)))).into()
}

fn leader(project: &Project) -> Option<&'static str> {
    let modes = modes(project);
    let of = |mode: &str| {
        let mut these = modes.iter().filter(|(_, of)| of.as_deref() == Some(mode));
        (these.clone().count(), these.next().map(|(server, _)| *server))
    };
    match (of("leader"), of("follower")) {
        ((1, leader), (2, _)) => leader,
        _ => None,
    }
}

#[track_caller]
fn wait_for_leader(project: &Project) -> &'static str {
    let mut found = None;
    wait_until("a leader and two followers", || {
        found = leader(project);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn an_ensemble_boots_from_one_client_and_survives_its_leader() {
    need(&["java"]);
    let project = Project::example("zookeeper", &[]);
    assert!(project.ps().values().all(|host| host.state == "imaginary"));
    let said = zkcli(&project, "zk1", &["create", "/greeting", "hello"]);
    assert!(said.contains("Created /greeting"), "{said}");
    assert!(first_booted_by(&project, "zk1").starts_with("run-"));
    for server in ["zk2", "zk3"] {
        let by = first_booted_by(&project, server);
        assert!(SERVERS.contains(&by.as_str()), "{server} was booted by {by}");
    }

    let leader = wait_for_leader(&project);
    let peers: Vec<&str> = SERVERS.into_iter().filter(|server| *server != leader).collect();
    let killed = kill_and_let_peers_boot(&project, leader, &peers);
    let address = project.at(leader, 2181);
    wait_until("the killed server to serve", || mode(address).is_some());
    report_recovery("the leader of the ZooKeeper ensemble", killed);
    wait_for_leader(&project);
    let said = zkcli(&project, leader, &["get", "/greeting"]);
    assert_eq!(said.lines().last(), Some("hello"), "{said}");
    let hosts = project.ps();
    assert_eq!(hosts[leader].boots, 2);
    assert!(peers.iter().all(|peer| hosts[*peer].boots == 1), "{hosts:?}");
}
