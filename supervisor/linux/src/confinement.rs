//! What imsup's own processes and threads give up: capabilities, and system calls
//! ([`imsup_bpf_filters::confine()`]).
//!
//! A host runs without any of this. A refusal of the kernel is reported, and everything goes on.

use imsup_bpf_filters::{Confined, confine};
use rustix::thread::CapabilitySet;

use crate::privileges;
use crate::support::Support;

/// Confines a supervisor whose program runs: the program was forked before, and keeps its native
/// privileges.
pub fn confine_supervisor() {
    if let Err(errno) = privileges::keep_a_supervisors(Support::present()) {
        tracing::warn!(
            "this supervisor keeps capabilities that it does not need, since capset(2) says: {}. The host runs as it would; but hostile bytes of its program that took \
             the supervisor over would have root's capabilities",
            errno.desc()
        );
    }
    if let Err(error) = confine(Confined::Supervisor) {
        tracing::warn!(
            "this supervisor runs unconfined: {error}. The host runs as it would; but hostile bytes of its program that took the supervisor over could execute \
             programs"
        );
    }
}

/// Confines the calling thread, for `what`: a process or thread that only reads and answers
/// messages, and needs no capability but these.
pub fn confine_helper(what: &str, kept: CapabilitySet) {
    if let Err(errno) = privileges::keep(kept) {
        tracing::warn!(
            "{what} keeps capabilities that it does not need, since capset(2) says: {}. All works as it would; but hostile bytes from the network that took it over \
             would have them",
            errno.desc()
        );
    }
    if let Err(error) = confine(Confined::Helper) {
        tracing::warn!(
            "{what} runs unconfined: {error}. All works as it would; but hostile bytes from the network that took it over could execute programs"
        );
    }
}
