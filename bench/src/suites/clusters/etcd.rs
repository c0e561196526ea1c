//! etcd.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use serde::Deserialize;

use super::{Cluster, Commands, MEMBERS, Role, ask, directory, shell};
use crate::command;
use crate::context::Context;

pub fn cluster() -> Cluster {
    Cluster {
        what: "etcd",
        example: "etcd",
        hosts: ["etcd1", "etcd2", "etcd3"],
        port: 2379,
        missing: command::find("etcd")
            .is_none()
            .then_some("it is not installed (Debian: etcd-server)"),
        commands,
        role,
    }
}

/// The same as the example's member.sh, with addresses for names.
fn commands(context: &Context, addresses: [Ipv4Addr; MEMBERS]) -> Result<Commands> {
    let all = [0, 1, 2].map(|index| format!("etcd{}=http://{}:2380", index + 1, addresses[index]));
    let mut commands = [const { Vec::new() }; MEMBERS];
    for (index, command) in commands.iter_mut().enumerate() {
        let path = directory(context, "etcd", index)?;
        let address = addresses[index];
        *command = shell(&format!(
            "cd '{}' && exec etcd --name etcd{} --data-dir data --listen-client-urls http://{address}:2379 \
             --advertise-client-urls http://{address}:2379 --listen-peer-urls http://{address}:2380 \
             --initial-advertise-peer-urls http://{address}:2380 --initial-cluster {} \
             --initial-cluster-token imsup-bench 2>>log",
            path.display(),
            index + 1,
            all.join(",")
        ));
    }
    Ok(commands)
}

#[derive(Deserialize)]
struct Status {
    header: Header,
    /// The leader's id; unknown if this is missing.
    leader: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    member_id: String,
}

/// A member serves if a linearizable read succeeds (of a key that need not exist).
fn role(address: SocketAddrV4) -> Option<Role> {
    post(address, "/v3/kv/range", r#"{"key":"aW1zdXA="}"#)?;
    let status: Status = serde_json::from_str(&post(address, "/v3/maintenance/status", "{}")?).ok()?;
    let leads = status.leader? == status.header.member_id;
    Some(if leads { Role::Leader } else { Role::Follower })
}

/// The body of the reply, if the status is 200.
fn post(address: SocketAddrV4, path: &str, body: &str) -> Option<String> {
    let length = body.len();
    let answer = ask(
        address,
        &format!("POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}"),
    )?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}
