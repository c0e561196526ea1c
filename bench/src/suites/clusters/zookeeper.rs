//! ZooKeeper.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Cluster, Commands, MEMBERS, Role, ask, directory, shell};
use crate::command;
use crate::context::{Context, repository};

pub fn cluster() -> Cluster {
    let there = command::find("java").is_some() && Path::new("/usr/share/java/zookeeper.jar").is_file();
    Cluster {
        what: "ZooKeeper",
        example: "zookeeper",
        hosts: ["zk1", "zk2", "zk3"],
        port: 2181,
        missing: (!there).then_some("it is not installed (Debian: zookeeper)"),
        commands,
        role,
    }
}

/// The example's own script and configuration, with addresses for names.
fn commands(context: &Context, addresses: [Ipv4Addr; MEMBERS]) -> Result<Commands> {
    let example = repository().join("examples/zookeeper");
    let mut config = std::fs::read_to_string(example.join("zoo.cfg")).context("reading the example's zoo.cfg")?;
    for (index, address) in addresses.iter().enumerate() {
        config = config.replace(&format!("=zk{}:", index + 1), &format!("={address}:"));
    }
    let mut commands = [const { Vec::new() }; MEMBERS];
    for (index, command) in commands.iter_mut().enumerate() {
        let path = directory(context, "zookeeper", index)?;
        // Otherwise each would bind the wildcard, and the second bind would fail.
        let own = format!("{config}clientPortAddress={}\n", addresses[index]);
        command::write_file(&path.join("zoo.cfg"), &own)?;
        *command = shell(&format!(
            "cd '{}' && exec env ID={} DATA=. sh '{}' 2>>log",
            path.display(),
            index + 1,
            example.join("server.sh").display()
        ));
    }
    Ok(commands)
}

fn role(address: SocketAddrV4) -> Option<Role> {
    let said = ask(address, "srvr")?;
    match said.lines().find_map(|line| line.strip_prefix("Mode: "))? {
        "leader" => Some(Role::Leader),
        "follower" => Some(Role::Follower),
        _ => None,
    }
}
