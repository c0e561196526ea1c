//! etcd: three members, their leader killed.

use crate::common::{LIMIT, Project, command, need, wait_until};
use crate::{first_booted_by, kill_and_let_peers_boot, report_recovery};

const MEMBERS: [&str; 3] = ["etcd1", "etcd2", "etcd3"];

#[track_caller]
fn etcdctl(project: &Project, endpoint: &str, command: &[&str]) -> String {
    let mut all = vec![
        "etcdctl",
        "--endpoints",
        endpoint,
        "--dial-timeout=50s",
        "--command-timeout=50s",
    ];
    all.extend(command);
    let mut run = vec!["run", "--", "env", "ETCDCTL_API=3"];
    run.extend(all);
    project.ok(&run)
}

/// The member that claims to lead, if all answer.
fn leader(project: &Project) -> Option<&'static str> {
    let said = project.imsup(&[
        "run",
        "--",
        "env",
        "ETCDCTL_API=3",
        "etcdctl",
        "--endpoints=etcd1:2379,etcd2:2379,etcd3:2379",
        "endpoint",
        "status",
    ]);
    // The endpoint, an id, the version, a size, the leadership, and so on.
    let leads = |line: &str| line.split(", ").nth(4) == Some("true");
    let answered = said.stdout.lines().count() == MEMBERS.len();
    let line = said.stdout.lines().find(|line| leads(line)).filter(|_| answered)?;
    MEMBERS.into_iter().find(|member| line.starts_with(member))
}

#[test]
fn a_cluster_boots_from_one_put_and_survives_its_leader() {
    need(&["etcd", "etcdctl"]);
    let project = Project::example("etcd", &[]);
    assert_eq!(
        etcdctl(&project, "etcd1:2379", &["put", "greeting", "hello"]).trim(),
        "OK"
    );
    assert!(first_booted_by(&project, "etcd1").starts_with("run-"));
    for member in ["etcd2", "etcd3"] {
        let by = first_booted_by(&project, member);
        assert!(MEMBERS.contains(&by.as_str()), "{member} was booted by {by}");
    }
    let members = etcdctl(&project, "etcd3:2379", &["member", "list"]);
    assert_eq!(members.matches(", started, etcd").count(), 3, "{members}");

    let mut found = None;
    wait_until("a leader", || {
        found = leader(&project);
        found.is_some()
    });
    let leader = found.unwrap();
    let peers: Vec<&str> = MEMBERS.into_iter().filter(|member| *member != leader).collect();
    let killed = kill_and_let_peers_boot(&project, leader, &peers);
    let endpoint = format!("{leader}:2379");
    assert_eq!(etcdctl(&project, &endpoint, &["put", "again", "hello"]).trim(), "OK");
    report_recovery("the leader of the etcd cluster", killed);
    // An unsupervised client, by address.
    let url = format!("http://{}", project.at(leader, 2379));
    let mut command = project.command(
        "etcdctl",
        &["--endpoints", &url, "get", "--print-value-only", "greeting"],
    );
    command.env("ETCDCTL_API", "3");
    let said = command::run(command, LIMIT).expect_success("etcdctl outside");
    assert_eq!(said.trim(), "hello");
    let hosts = project.ps();
    assert_eq!(hosts[leader].boots, 2);
    assert!(peers.iter().all(|peer| hosts[*peer].boots == 1), "{hosts:?}");

    // The members end at different times, and look for each other meanwhile.
    project.ok(&["stop"]);
    let left: Vec<_> = project
        .ps()
        .into_iter()
        .filter(|(_, host)| host.state != "imaginary")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let said = etcdctl(
        &project,
        &format!("{}:2379", peers[0]),
        &["get", "--print-value-only", "again"],
    );
    assert_eq!(said.trim(), "hello");
}
