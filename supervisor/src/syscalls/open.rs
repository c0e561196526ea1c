//! open(2), as musl calls it to read /etc/hosts.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, memfd_create};

use super::Verdict;
use crate::host::Host;
use crate::own_hosts;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::notify::{Answer, Notification};

const HOSTS: &[u8] = b"/etc/hosts\0";

/// Handles open(2): opens the project's hosts in place of /etc/hosts. All other calls are left to
/// the kernel.
pub(super) fn open(host: &Host, call: &Notification) -> Verdict {
    let path = ThreadMemory::of(call.tid).read_array::<{ HOSTS.len() }>(call.args[0]);
    if path.is_ok_and(|path| path == HOSTS)
        && let Ok(file) = hosts(host)
        && host.listener.answer_with_fd(call.id, file.as_fd(), true).is_ok()
    {
        return Verdict::Done;
    }
    Answer::Continue.into()
}

/// The project's file, or a file without a name if the host shares its hostname.
fn hosts(host: &Host) -> io::Result<File> {
    let mut file = File::open(&host.hosts_file)?;
    let mut lines = String::new();
    file.read_to_string(&mut lines)?;
    let mut given = match own_hosts::of_host(&lines, &host.hostname, &host.identity) {
        Some(lines) => {
            let mut file = File::from(memfd_create(c"hosts", MemfdFlags::CLOEXEC)?);
            file.write_all(lines.as_bytes())?;
            file
        }
        None => file,
    };
    given.rewind()?;
    Ok(given)
}
