//! open(2), as musl calls it to read /etc/hosts.

use std::fs::File;
use std::os::fd::AsFd;

use super::Verdict;
use crate::host::Host;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::notify::{Answer, Notification};

const HOSTS: &[u8] = b"/etc/hosts\0";

/// Handles open(2): opens the project's hosts in place of /etc/hosts. All other calls are left to
/// the kernel.
pub(super) fn open(host: &Host, call: &Notification) -> Verdict {
    let path = ThreadMemory::of(call.tid).read_array::<{ HOSTS.len() }>(call.args[0]);
    if path.is_ok_and(|path| path == HOSTS)
        && let Ok(file) = File::open(&host.hosts_file)
        && host.listener.answer_with_fd(call.id, file.as_fd(), true).is_ok()
    {
        return Verdict::Done;
    }
    Answer::Continue.into()
}
