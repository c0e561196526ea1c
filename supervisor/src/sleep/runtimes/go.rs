//! The runtime of Go. The timers of a program are waited for in epoll_pwait(2), by whichever thread
//! waits for the network (runtime/proc.go, findRunnable; a timer initialises the network poller,
//! runtime/time.go). The only waits of a futex that have a time limit are the runtime's: those of
//! `sysmon`, which sleeps for half of the longest time between two garbage collections, 60 s
//! (runtime/proc.go, sysmon; runtime/os_linux.go, futexsleep: FUTEX_WAIT_PRIVATE with a relative
//! limit). C code in the same process waits with FUTEX_WAIT_BITSET (glibc) and does not count as
//! the runtime.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::sleep::deadlines::Call;
use imsup_linux::inspect;

/// `FUTEX_WAIT_PRIVATE` (futex(2)).
const FUTEX_WAIT_PRIVATE: u64 = 128;

/// The linker's mark in every program, stripped programs included: a section of this name with this
/// beginning (debug/buildinfo).
const SECTION: &[u8] = b".go.buildinfo";
const MAGIC: &[u8] = b"\xff Go buildinf:";

/// Flag in the byte after the next: the version follows, as since Go 1.18. Before Go 1.14 a thread
/// of the runtime's waited for the program's timers in the same way as `sysmon` (runtime/time.go,
/// timerproc), so of older programs nothing is known.
const VERSION_FOLLOWS: u8 = 2;

pub(super) fn is_own_affair(call: &Call) -> bool {
    call.number == libc::SYS_futex && call.key.args[1] == FUTEX_WAIT_PRIVATE && is_program(call.pid)
}

/// Whether a process executes a program of Go's linker.
fn is_program(pid: i32) -> bool {
    let opened = inspect::as_owner(pid, || File::open(format!("/proc/{pid}/exe")));
    opened.is_ok_and(|program| is_linked(&program).unwrap_or(false))
}

/// Searches for the section by name: elf(5), 64 bit.
fn is_linked(program: &impl FileExt) -> Option<bool> {
    const MOST_NAMES: u64 = 1 << 16;
    let header: [u8; 64] = read(program, 0)?;
    if !header.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let [size, count, names] = [58, 60, 62].map(|at| u64::from(u16::from_le_bytes([header[at], header[at + 1]])));
    let section =
        |number: u64| -> Option<[u8; 64]> { read(program, word(&header, 40)?.checked_add(number.checked_mul(size)?)?) };
    let texts = section(names)?;
    let mut text = vec![0; usize::try_from(word(&texts, 32)?.min(MOST_NAMES)).ok()?];
    program.read_exact_at(&mut text, word(&texts, 24)?).ok()?;
    let is_it = |section: &[u8; 64]| {
        let at = u32::from_le_bytes([section[0], section[1], section[2], section[3]]);
        let name = usize::try_from(at).ok().and_then(|at| text.get(at..));
        name.is_some_and(|name| name.starts_with(SECTION) && name.get(SECTION.len()) == Some(&0))
    };
    let found = (0..count).filter_map(section).find(is_it);
    let Some(found) = found else { return Some(false) };
    let begins: [u8; 16] = read(program, word(&found, 24)?)?;
    Some(begins.starts_with(MAGIC) && begins[15] & VERSION_FOLLOWS != 0)
}

fn read<const N: usize>(file: &impl FileExt, at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn word(bytes: &[u8; 64], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with only a header, the header of a section with this name, the header of the section
    /// of names, the names, and the beginning of the section.
    fn program(name: &[u8], begins: &[u8]) -> File {
        const NAMES: u64 = 192;
        const CONTENT: u64 = 256;
        let mut bytes = vec![0; 272];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        bytes[40..48].copy_from_slice(&64u64.to_le_bytes());
        for (at, number) in [(58, 64u16), (60, 2), (62, 1)] {
            bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
        }
        bytes[64..68].copy_from_slice(&1u32.to_le_bytes());
        bytes[64 + 24..64 + 32].copy_from_slice(&CONTENT.to_le_bytes());
        bytes[128 + 24..128 + 32].copy_from_slice(&NAMES.to_le_bytes());
        bytes[128 + 32..128 + 40].copy_from_slice(&64u64.to_le_bytes());
        bytes[193..193 + name.len()].copy_from_slice(name);
        bytes[256..256 + begins.len()].copy_from_slice(begins);
        let file = File::from(
            rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::CLOEXEC).expect("a file without a name"),
        );
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    #[test]
    fn programs_of_go_are_told_by_a_section() {
        let of = |name: &[u8], begins: &[u8]| is_linked(&program(name, begins));
        assert_eq!(of(b".go.buildinfo", b"\xff Go buildinf:\x08\x02"), Some(true));
        assert_eq!(
            of(b".go.buildinfo", b"\xff Go buildinf:\x08\x00"),
            Some(false),
            "Go 1.13"
        );
        assert_eq!(of(b".go.buildinfo", b""), Some(false));
        assert_eq!(of(b".data", b"\xff Go buildinf:\x08\x02"), Some(false));
        let own = File::open("/proc/self/exe").unwrap();
        assert_eq!(is_linked(&own), Some(false), "this test");
    }
}
