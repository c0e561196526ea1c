//! How terminals are read: termios(3).

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};

/// The read limits of a terminal that is not read by lines: the least bytes of a read (VMIN), and
/// the time limit of a read (VTIME). `None` for a terminal that is read by lines, and for other
/// files.
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
