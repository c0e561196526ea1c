//! What a program natively may, where a supervisor with more privileges acts in its place: capabilities(7), ip(7).

use std::fs;

use nix::unistd::getuid;

use super::process;

/// What binds privileged ports (linux/capability.h), as a mask.
pub const CAP_NET_BIND_SERVICE: u64 = 1 << 10;

/// Whether a thread may bind this port. A supervisor of root's may bind all, also for a program that is somebody else or has laid down its capabilities. What an
/// ordinary user's supervisor may (`setcap` on imsup's executable), his programs are meant to.
pub fn may_bind(tid: i32, port: u16) -> bool {
    port == 0 || !getuid().is_root() || port >= first_unprivileged_port() || has_capability(tid, CAP_NET_BIND_SERVICE)
}

/// The first port that anybody may bind (ip(7), ip_unprivileged_port_start).
pub fn first_unprivileged_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// Whether a thread has a capability in our user namespace: those that it has in one of its own are over nothing of ours (user_namespaces(7)).
fn has_capability(tid: i32, capability: u64) -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).ok();
    let effective = process::status_field(tid, "CapEff:");
    let effective = effective.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    effective.is_some_and(|mask| mask & capability != 0) && namespace(&tid.to_string()) == namespace("self")
}
