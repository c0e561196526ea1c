//! The native privileges of a program, on whose behalf a supervisor with more privileges acts:
//! capabilities(7), ip(7).

use std::fs;

use nix::errno::Errno;
use nix::unistd::getuid;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::socket::errno_of;

use super::process;
use super::support::Support;

/// The capability to bind privileged ports (linux/capability.h), as a mask.
pub const CAP_NET_BIND_SERVICE: u64 = 1 << 10;

/// The capabilities that root's supervisor needs while the program runs:
///
/// * to inspect, stop and end the program's processes, whatever their user: SYS_PTRACE,
///   DAC_OVERRIDE and DAC_READ_SEARCH (files in /proc/PID that belong to another user), KILL,
///   SYS_NICE (process_madvise(2));
/// * to let the program do all that is natively allowed with sockets made or bound on its behalf:
///   NET_BIND_SERVICE, NET_ADMIN and NET_RAW (SO_MARK, SO_PRIORITY, SO_BUSY_POLL ..., socket(7));
/// * to add a listener beside the program's, whose inode must be owned by the program's user
///   (`takeover.rs`): CHOWN;
/// * descriptors under way to the broker beyond RLIMIT_NOFILE (unix(7), ETOOMANYREFS):
///   SYS_RESOURCE.
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

/// Drops all but these capabilities of the calling thread and of threads started later. The
/// bounding set stays: it matters to execve(2) alone, which callers give up as well.
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

/// The same for a supervisor. Root without CAP_SYS_PTRACE keeps all capabilities: a supervisor may
/// inspect the program only while its own capabilities include the program's (ptrace(2);
/// security/commoncap.c, cap_ptrace_access_check).
///
/// # Errors
/// capset(2).
pub fn keep_a_supervisors(support: Support) -> Result<(), Errno> {
    match support.as_owner {
        true => Ok(()),
        false => keep(OF_A_SUPERVISOR),
    }
}

/// True if a thread may bind this port. Root's supervisor may bind all ports, even if the program
/// belongs to another user or has dropped its capabilities. The privileges of an ordinary user's
/// supervisor (`setcap` on imsup's executable) are meant for the user's programs, too.
pub fn may_bind(tid: i32, port: u16) -> bool {
    port == 0 || !getuid().is_root() || port >= first_unprivileged_port() || has_capability(tid, CAP_NET_BIND_SERVICE)
}

/// The first port that needs no privilege (ip(7), ip_unprivileged_port_start).
pub fn first_unprivileged_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// True if a thread has a capability in our user namespace. Capabilities in a user namespace of the
/// thread's own give no power over our namespace (user_namespaces(7)).
fn has_capability(tid: i32, capability: u64) -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).ok();
    let effective = process::status_field(tid, "CapEff:");
    let effective = effective.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    effective.is_some_and(|mask| mask & capability != 0) && namespace(&tid.to_string()) == namespace("self")
}
