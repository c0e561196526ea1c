//! Redis Cluster, and Redis with Sentinel.

mod cluster;
mod sentinel;

use crate::common::Project;

#[track_caller]
fn cli(project: &Project, arguments: &[&str]) -> String {
    let mut all = vec!["redis-cli"];
    all.extend(arguments);
    project.run(&all).expect_success("redis-cli")
}

/// "master" or "slave", as the server itself says; `None` if the server ended the question's
/// connection. A Sentinel that changes a server's role sends `CLIENT KILL TYPE normal` with the
/// change (`sentinelSendSlaveOf` of Redis' sentinel.c), natively too.
fn role(project: &Project, host: &str) -> Option<String> {
    let said = project.run(&["redis-cli", "-h", host, "role"]);
    said.success()
        .then(|| said.stdout.lines().next().unwrap_or_default().to_owned())
}
