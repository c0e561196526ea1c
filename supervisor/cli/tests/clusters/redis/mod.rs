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

/// "master" or "slave", as the server itself says.
fn role(project: &Project, host: &str) -> String {
    let said = cli(project, &["-h", host, "role"]);
    said.lines().next().unwrap_or_default().to_owned()
}
