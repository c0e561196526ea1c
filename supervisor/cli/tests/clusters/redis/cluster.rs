//! Redis Cluster: six nodes; a killed master, and a stopped one.

use rustix::process::Signal;

use super::{cli, role};
use crate::common::{Project, need, wait_until};
use crate::{kill_and_let_peers_boot, report_recovery};

const NODES: [&str; 6] = ["node1", "node2", "node3", "node4", "node5", "node6"];
const KEYS: usize = 1000;

/// The replica of a master, as another node knows it.
fn replica_of(project: &Project, master: &str, as_known_by: &str) -> Option<&'static str> {
    let hosts = project.ps();
    let host_of = |line: &str| {
        let address = line.split_whitespace().nth(1)?.split(':').next()?;
        NODES
            .into_iter()
            .find(|node| hosts[*node].address.to_string() == address)
    };
    let nodes = cli(project, &["-h", as_known_by, "cluster", "nodes"]);
    let master = nodes.lines().find(|line| host_of(line) == Some(master))?;
    let id = master.split_whitespace().next()?;
    let replica = nodes.lines().find(|line| line.split_whitespace().nth(3) == Some(id))?;
    host_of(replica)
}

/// How many of the keys can be read through any node.
fn readable(project: &Project) -> usize {
    let script = format!("seq {KEYS} | sed 's/.*/get key:&/' | redis-cli -c -h node3 | grep -c '^value-'");
    let said = project.run(&["sh", "-c", &script]);
    said.stdout.trim().parse().unwrap_or_default()
}

#[test]
fn six_nodes_boot_from_the_creation_and_fail_over() {
    need(&["redis-server", "redis-cli"]);
    let project = Project::example("redis-cluster", &[]);
    let nodes = NODES.map(|node| format!("{node}:6379"));
    let mut create = vec!["--cluster", "create"];
    create.extend(nodes.iter().map(String::as_str));
    create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
    let said = cli(&project, &create);
    assert!(said.contains("All 16384 slots covered"), "{said}");
    let script = format!("seq {KEYS} | sed 's/.*/set key:& value-&/' | redis-cli -c -h node1 | grep -c '^OK$'");
    wait_until("all nodes to be ready", || {
        let ready = |node: &&str| cli(&project, &["-h", node, "cluster", "info"]).contains("cluster_state:ok");
        NODES.iter().all(ready)
    });
    let said = project.run(&["sh", "-c", &script]).expect_success("redis-cli");
    assert_eq!(said.trim(), KEYS.to_string());
    let masters: Vec<&str> = NODES
        .into_iter()
        .filter(|node| role(&project, node).as_deref() == Some("master"))
        .collect();
    assert_eq!(masters.len(), 3);
    for master in &masters {
        let keys: usize = cli(&project, &["-h", master, "dbsize"]).trim().parse().unwrap();
        assert!(keys > 100, "{master} has {keys} keys");
    }

    // A killed master is back before the others miss it.
    let peers: Vec<&str> = NODES.into_iter().filter(|node| *node != masters[0]).collect();
    let killed = kill_and_let_peers_boot(&project, masters[0], &peers);
    wait_until("all keys to be readable", || readable(&project) == KEYS);
    report_recovery("a master of the Redis cluster", killed);

    // A stopped master is missed: its replica takes over. Killed then, it comes back as a replica.
    let hung = masters[1];
    let mut replica = None;
    wait_until("its replica to be known", || {
        replica = replica_of(&project, hung, masters[2]);
        replica.is_some()
    });
    let replica = replica.unwrap();
    wait_until("its replica to have copied it", || {
        cli(&project, &["-h", replica, "info", "replication"]).contains("master_link_status:up")
    });
    let pid = project.host(hung).pid.unwrap();
    project.signal(pid, Signal::STOP);
    wait_until("its replica to take over", || {
        role(&project, replica).as_deref() == Some("master")
    });
    let peers: Vec<&str> = NODES.into_iter().filter(|node| *node != hung).collect();
    kill_and_let_peers_boot(&project, hung, &peers);
    wait_until("it to be a replica", || {
        role(&project, hung).as_deref() == Some("slave")
    });
    wait_until("all keys to be readable", || readable(&project) == KEYS);
}
