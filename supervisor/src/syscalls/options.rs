//! getsockopt(2), for the option that would reveal a retained socket.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::{Verdict, socket_of};
use crate::host::Host;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::notify::{Answer, Notification};
use imsup_linux::socket;

/// Handles getsockopt(2) of SO_ACCEPTCONN. A socket that was bound and not listened on does not
/// accept. That also holds if a retained socket, which does accept, replaced the program's socket
/// at bind(2). HAProxy leaves listen(2) out if the option is true, and then imsup would not know
/// that HAProxy is ready.
pub(super) fn accept_conn(host: &mut Host, call: &Notification) -> Verdict {
    let (socket, _) = match socket_of(host, call) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let waits_for_listen = socket::inode(socket.as_fd()).is_ok_and(|inode| host.retained.waits_for_listen(inode));
    if !waits_for_listen {
        return Answer::Continue.into();
    }
    match write_option(&ThreadMemory::of(call.tid), call.args[3], call.args[4], 0) {
        Ok(()) => Answer::Value(0).into(),
        Err(errno) => errno.into(),
    }
}

/// Writes the value of an option as the kernel does (net/core/sock.c, sk_getsockopt): at most as
/// many bytes as there is room for, and how many that were.
fn write_option(memory: &impl TargetMemory, to: u64, length_at: u64, value: i32) -> Result<(), Errno> {
    let room = i32::from_ne_bytes(memory.read_array(length_at)?);
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let bytes = value.to_ne_bytes();
    let written = &bytes[..bytes.len().min(room)];
    if !written.is_empty() {
        memory.write(to, written)?;
    }
    let length = u32::try_from(written.len()).unwrap_or_default();
    memory.write(length_at, &length.to_ne_bytes())
}
