//! How terminals are read: termios(3).

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};

/// How a terminal is read that is not read by lines: how many bytes a read waits for at least (VMIN), and how long (VTIME). `None` for one that is, and for what
/// is no terminal.
pub fn reads_raw(fd: BorrowedFd<'_>) -> Option<(u8, Option<Duration>)> {
    const UNIT: Duration = Duration::from_millis(100);
    let settings = tcgetattr(fd).ok()?;
    if settings.local_modes.contains(LocalModes::ICANON) {
        return None;
    }
    let time = settings.special_codes[SpecialCodeIndex::VTIME];
    let time = (time > 0).then(|| UNIT * u32::from(time));
    Some((settings.special_codes[SpecialCodeIndex::VMIN], time))
}
