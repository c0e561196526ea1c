//! The runtime of Go. The timers of a program are waited for in epoll_pwait(2), by whichever thread waits for the network (runtime/proc.go, findRunnable; a timer
//! initialises the network poller, runtime/time.go). The only waits of a futex that have a time limit are the runtime's: those of `sysmon`, which
//! sleeps for half of the longest time between two garbage collections, 60 s (runtime/proc.go, sysmon; runtime/os_linux.go, futexsleep: FUTEX_WAIT_PRIVATE with a
//! relative limit). C code in the same process waits with FUTEX_WAIT_BITSET (glibc) and does not count as the runtime.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::kernel::inspect;
use crate::sleep::deadlines::Call;

/// `FUTEX_WAIT_PRIVATE` (futex(2)).
const FUTEX_WAIT_PRIVATE: u64 = 128;

/// Sections that the linker writes into every program, stripped ones included (cmd/link/internal/ld/data.go).
const SECTIONS: [&[u8]; 2] = [b".go.buildinfo", b".gopclntab"];

pub(super) fn is_own_affair(call: &Call) -> bool {
    call.number == libc::SYS_futex && call.key.args[1] == FUTEX_WAIT_PRIVATE && is_program(call.pid)
}

/// Whether a process executes a program of Go's linker.
fn is_program(pid: i32) -> bool {
    let opened = inspect::as_owner(pid, || File::open(format!("/proc/{pid}/exe")));
    opened.is_ok_and(|program| has_sections(&program).unwrap_or(false))
}

/// Looks for the sections by name: elf(5), 64 bit.
fn has_sections(program: &impl FileExt) -> Option<bool> {
    const HEADER_BYTES: usize = 64;
    const MOST_NAMES: u64 = 1 << 16;
    let mut header = [0; 64];
    program.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let word = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let offset = u64::from_le_bytes(header.get(40..48)?.try_into().ok()?);
    let (size, names) = (word(58), word(62));
    // The header of the section that holds the names of all.
    let mut section = [0; HEADER_BYTES];
    program
        .read_exact_at(&mut section, offset.checked_add(names.checked_mul(size)?)?)
        .ok()?;
    let at = u64::from_le_bytes(section.get(24..32)?.try_into().ok()?);
    let length = u64::from_le_bytes(section.get(32..40)?.try_into().ok()?).min(MOST_NAMES);
    let mut text = vec![0; usize::try_from(length).ok()?];
    program.read_exact_at(&mut text, at).ok()?;
    Some(text.split(|byte| *byte == 0).any(|name| SECTIONS.contains(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of nothing but a header, a section header and names.
    fn program(names: &[u8]) -> std::fs::File {
        let mut bytes = vec![0; 128];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        bytes[40..48].copy_from_slice(&64u64.to_le_bytes());
        bytes[58..60].copy_from_slice(&64u16.to_le_bytes());
        bytes[64 + 24..64 + 32].copy_from_slice(&128u64.to_le_bytes());
        bytes[64 + 32..64 + 40].copy_from_slice(&(names.len() as u64).to_le_bytes());
        bytes.extend(names);
        let file = File::from(
            rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::CLOEXEC).expect("a file without a name"),
        );
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    #[test]
    fn programs_of_go_are_told_by_their_sections() {
        assert_eq!(has_sections(&program(b"\0.text\0.go.buildinfo\0")), Some(true));
        assert_eq!(has_sections(&program(b"\0.text\0.data\0")), Some(false));
        let own = File::open("/proc/self/exe").unwrap();
        assert_eq!(has_sections(&own), Some(false), "this test");
    }
}
