//! uname(2).

use std::os::unix::ffi::OsStrExt;

use super::Verdict;
use crate::host::Host;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::notify::{Answer, Notification};

/// The bytes of each field of `struct new_utsname` (include/uapi/linux/utsname.h), including the
/// final NUL.
const FIELD_BYTES: usize = 65;

/// Handles uname(2): all as the machine says, but for the node name.
pub(super) fn uname(host: &Host, call: &Notification) -> Verdict {
    let Ok(machine) = nix::sys::utsname::uname() else {
        return Answer::Continue.into();
    };
    let fields: [&[u8]; 6] = [
        machine.sysname().as_bytes(),
        host.hostname.as_bytes(),
        machine.release().as_bytes(),
        machine.version().as_bytes(),
        machine.machine().as_bytes(),
        machine.domainname().as_bytes(),
    ];
    match ThreadMemory::of(call.tid).write(call.args[0], &encode(fields)) {
        Ok(()) => Answer::Value(0).into(),
        Err(errno) => errno.into(),
    }
}

fn encode(fields: [&[u8]; 6]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(fields.len() * FIELD_BYTES);
    for (position, field) in fields.iter().enumerate() {
        bytes.extend(&field[..field.len().min(FIELD_BYTES - 1)]);
        bytes.resize((position + 1) * FIELD_BYTES, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_cut_and_padded() {
        let long = [b'x'; 100];
        let bytes = encode([b"Linux", b"web", b"6", b"#1", &long, b""]);
        assert_eq!(bytes.len(), 390);
        assert_eq!(&bytes[65..69], b"web\0");
        assert_eq!(bytes[4 * 65 + 63..4 * 65 + 66], [b'x', 0, 0]);
    }
}
