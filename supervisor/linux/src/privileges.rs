//! What a program natively may, where a supervisor with more privileges acts in its place: capabilities(7), ip(7).

use std::fs;

use nix::errno::Errno;
use nix::unistd::getuid;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::socket::errno_of;

use super::means::Means;
use super::process;

/// What binds privileged ports (linux/capability.h), as a mask.
pub const CAP_NET_BIND_SERVICE: u64 = 1 << 10;

/// What root's supervisor needs while its program runs:
///
/// * to look into the program's processes, whoever they are, and to stop and end them: SYS_PTRACE, DAC_OVERRIDE and DAC_READ_SEARCH (files in /proc/PID that
///   belong to another user), KILL, SYS_NICE (process_madvise(2));
/// * what the program may do to sockets that are made or bound in its place, as it natively would: NET_BIND_SERVICE, NET_ADMIN and NET_RAW (SO_MARK, SO_PRIORITY,
///   SO_BUSY_POLL ..., socket(7));
/// * a listener of its own beside the program's, which wants the program's user as the owner of its inode (`succession.rs`): CHOWN;
/// * descriptors under way to the broker beyond RLIMIT_NOFILE (unix(7), ETOOMANYREFS): SYS_RESOURCE.
pub const OF_A_SUPERVISOR: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_RESOURCE);

/// Keeps these capabilities at most, of the calling thread and those that it makes from now on. The bounding set stays: it matters to execve(2) alone, which
/// whoever calls this gives up as well.
///
/// # Errors
/// capset(2).
pub fn keep(kept: CapabilitySet) -> Result<(), Errno> {
    let mut sets = capabilities(None).map_err(errno_of)?;
    sets.effective &= kept;
    sets.permitted &= kept;
    sets.inheritable &= kept;
    set_capabilities(None, sets).map_err(errno_of)
}

/// The same of a supervisor. Root without CAP_SYS_PTRACE keeps all: it may look into its program only as long as it has what the program has (ptrace(2);
/// security/commoncap.c, cap_ptrace_access_check).
///
/// # Errors
/// capset(2).
pub fn keep_a_supervisors(means: Means) -> Result<(), Errno> {
    match means.as_owner {
        true => Ok(()),
        false => keep(OF_A_SUPERVISOR),
    }
}

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
