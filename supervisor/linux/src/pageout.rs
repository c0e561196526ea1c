//! Memory of other processes, paged out: process_madvise(2), proc_pid_maps(5).

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

use super::pidfd;
use super::syscall::syscall;

/// The number of ranges given to the kernel in one call (UIO_MAXIOV is 1024).
const BATCH: usize = 512;

/// Resident bytes of a process (proc_pid_statm(5)); 0 if the process is gone. Shared pages count.
pub fn resident(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let page_bytes = page.ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
    pages.unwrap_or(0) * page_bytes.unwrap_or(4096)
}

/// Asks the kernel to page out the mappings of a process: anonymous memory if there is swap, and
/// pages of files that no other process maps. Ranges that cannot be paged out (locked ranges,
/// ranges of devices) are skipped.
///
/// # Errors
/// EPERM without CAP_SYS_NICE, ESRCH if the process is gone, EACCES if the process may not be
/// inspected.
pub fn page_out(pid: i32) -> Result<(), Errno> {
    let pidfd = pidfd::open_process(pid)?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    for batch in ranges(&maps).chunks(BATCH) {
        page_out_ranges(&pidfd, batch)?;
    }
    Ok(())
}

fn page_out_ranges(pidfd: &OwnedFd, mut ranges: &[(usize, usize)]) -> Result<(), Errno> {
    while !ranges.is_empty() {
        let done = match advise(pidfd, ranges) {
            // The call stops at the first range that cannot be paged out, and returns the bytes
            // before this range. The next call fails at the range itself.
            Ok(bytes) => complete(ranges, bytes),
            Err(Errno::EINVAL | Errno::ENOMEM | Errno::EBADF) => 1,
            Err(errno) => return Err(errno),
        };
        ranges = &ranges[done.max(1)..];
    }
    Ok(())
}

/// How many ranges the first `bytes` are.
fn complete(ranges: &[(usize, usize)], mut bytes: usize) -> usize {
    let whole = ranges.iter().take_while(|(_, length)| {
        let within = *length <= bytes;
        bytes = bytes.saturating_sub(*length);
        within
    });
    whole.count()
}

fn advise(pidfd: &OwnedFd, ranges: &[(usize, usize)]) -> Result<usize, Errno> {
    let vector: Vec<libc::iovec> = ranges
        .iter()
        .map(|(start, length)| libc::iovec {
            iov_base: std::ptr::without_provenance_mut(*start),
            iov_len: *length,
        })
        .collect();
    // SAFETY: the kernel reads `vector`, which outlives the call; the addresses in `vector` are
    // addresses of the other process.
    let result = unsafe {
        syscall!(
            libc::SYS_process_madvise,
            pidfd.as_raw_fd(),
            vector.as_ptr(),
            vector.len(),
            libc::MADV_PAGEOUT,
            0
        )
    };
    result.map(|bytes| usize::try_from(bytes).unwrap_or(0))
}

/// Start and length of each mapping in /proc/PID/maps, without the kernel's own mappings.
fn ranges(maps: &str) -> Vec<(usize, usize)> {
    let parse = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let name = rest.split_whitespace().nth(4).unwrap_or("");
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        (!name.starts_with("[v") && end > start).then(|| (start, end - start))
    };
    maps.lines().filter_map(parse).collect()
}

/// True if there is swap, without which anonymous memory stays resident (proc_meminfo(5)).
pub fn has_swap() -> bool {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("SwapTotal:"));
    total.is_some_and(|total| total.trim() != "0 kB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_maps_is_left_out() {
        let maps = "\
55d0c8a00000-55d0c8a02000 r--p 00000000 08:01 123 /usr/bin/a file
7f10a0000000-7f10a0021000 rw-p 00000000 00:00 0
7ffd1c5d2000-7ffd1c5f3000 rw-p 00000000 00:00 0 [stack]
7ffd1c5f6000-7ffd1c5fa000 r--p 00000000 00:00 0 [vvar]
7ffd1c5fa000-7ffd1c5fc000 r-xp 00000000 00:00 0 [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";
        let expected = [
            (0x55d0_c8a0_0000, 0x2000),
            (0x7f10_a000_0000, 0x2_1000),
            (0x7ffd_1c5d_2000, 0x2_1000),
        ];
        assert_eq!(ranges(maps), expected);
    }

    #[test]
    fn a_partial_answer_goes_on_after_the_range_that_failed() {
        let ranges = [(0, 10), (20, 10), (40, 10)];
        assert_eq!(complete(&ranges, 0), 0);
        assert_eq!(complete(&ranges, 10), 1);
        assert_eq!(complete(&ranges, 15), 1);
        assert_eq!(complete(&ranges, 30), 3);
    }
}
