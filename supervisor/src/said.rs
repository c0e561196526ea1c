//! Standard error of long-lived processes. Output to any kind of standard error neither ends nor
//! stalls a process. A line that is not taken at once is left out, and the next line that is taken
//! is preceded by the number of lines left out.
//!
//! Standard error may be a pipe or a terminal without a reader, or a socket. Programs for which the
//! O_NONBLOCK flag matters share the same description. So the flag is not touched: a pipe and a
//! terminal are opened once more for each line (proc(5), /proc/PID/fd), and a socket is written
//! with MSG_DONTWAIT.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use imsup_linux::socket::errno_of;
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::SendFlags;

/// The bytes that a pipe takes without waiting after poll(2) reports writable (pipe(7), PIPE_BUF),
/// if no other process writes meanwhile.
const TAKEN_AT_ONCE: usize = 4096;

/// The number of lines left out since the last written line.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Says a line, which `text` ends with a newline.
pub fn say(text: &[u8]) {
    say_to(rustix::stdio::stderr(), &LEFT_OUT, text);
}

/// Standard error as an [`io::Write`]: each call is a line, and no call fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        say(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn say_to(stream: BorrowedFd<'_>, left_out: &AtomicU64, text: &[u8]) {
    let before = left_out.swap(0, Ordering::Relaxed);
    let told = if before > 0 {
        let note = format!("imsup: {before} lines are missing here, which standard error did not take\n");
        write_at_once(stream, note.as_bytes())
    } else {
        Ok(())
    };
    let missing = match told {
        Ok(()) => u64::from(write_at_once(stream, text).is_err()),
        Err(_) => before + 1,
    };
    left_out.fetch_add(missing, Ordering::Relaxed);
}

/// Writes without waiting for a reader. Fails if any part is not taken.
fn write_at_once(stream: BorrowedFd<'_>, text: &[u8]) -> io::Result<()> {
    match FileType::from_raw_mode(rustix::fs::fstat(stream)?.st_mode) {
        FileType::Socket => {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            write_all(text, |rest| rustix::net::send(stream, rest, flags).map_err(errno_of))
        }
        FileType::Fifo | FileType::CharacterDevice => match open_again(stream) {
            Ok(again) => write_all(text, |rest| rustix::io::write(&again, rest).map_err(errno_of)),
            // Another user's terminal, or no /proc.
            Err(_) => write_all(text, |rest| write_where_writable(stream, rest)),
        },
        _ => write_all(text, |rest| rustix::io::write(stream, rest).map_err(errno_of)),
    }
}

fn write_all(mut text: &[u8], write: impl Fn(&[u8]) -> Result<usize, Errno>) -> io::Result<()> {
    while !text.is_empty() {
        match write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => text = &text[count..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The same pipe or terminal with its own flags (open(2), O_NONBLOCK).
fn open_again(stream: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(errno_of)
}

fn write_where_writable(stream: BorrowedFd<'_>, text: &[u8]) -> Result<usize, Errno> {
    let mut polled = [PollFd::new(&stream, PollFlags::OUT)];
    rustix::event::poll(&mut polled, Some(&Timespec::default())).map_err(errno_of)?;
    if !polled[0].revents().contains(PollFlags::OUT) {
        return Err(Errno::EAGAIN);
    }
    rustix::io::write(stream.as_fd(), &text[..text.len().min(TAKEN_AT_ONCE)]).map_err(errno_of)
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Fills the stream until no more is taken.
    fn fill(stream: impl AsFd) -> usize {
        let mut count = 0;
        while write_at_once(stream.as_fd(), b"x\n").is_ok() {
            count += 1;
        }
        count
    }

    fn read(from: &mut impl Read, bytes: usize) -> String {
        let mut taken = vec![0; bytes];
        from.read_exact(&mut taken).unwrap();
        String::from_utf8(taken).unwrap()
    }

    fn assert_tells_what_is_missing(stream: impl AsFd, reader: &mut impl Read) {
        let left_out = AtomicU64::new(0);
        let filled = fill(&stream);
        assert!(filled > 0);
        for _ in 0..3 {
            say_to(stream.as_fd(), &left_out, b"lost\n");
        }
        read(reader, 2 * filled);
        let note = "imsup: 3 lines are missing here, which standard error did not take\nheard\nand heard\n";
        say_to(stream.as_fd(), &left_out, b"heard\n");
        say_to(stream.as_fd(), &left_out, b"and heard\n");
        assert_eq!(read(reader, note.len()), note);
    }

    #[test]
    fn a_pipe_that_is_full_is_not_waited_for_and_keeps_its_flags() {
        let (mut reader, writer) = pipe().unwrap();
        let before = rustix::fs::fcntl_getfl(&writer).unwrap();
        assert_tells_what_is_missing(&writer, &mut reader);
        assert_eq!(rustix::fs::fcntl_getfl(&writer).unwrap(), before);
        assert!(!before.contains(OFlags::NONBLOCK));
    }

    #[test]
    fn nor_is_a_socket() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        assert_tells_what_is_missing(&writer, &mut reader);
    }

    #[test]
    fn nor_is_a_terminal_that_may_not_be_opened_again() {
        let (reader, writer) = pipe().unwrap();
        let mut taken = 0;
        while let Ok(count) = write_where_writable(writer.as_fd(), &[b'x'; 10_000]) {
            taken += count;
        }
        assert_eq!(taken, rustix::pipe::fcntl_getpipe_size(&writer).unwrap());
        drop(reader);
    }

    #[test]
    fn what_takes_nothing_is_no_failure() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let gone = |(_, writer): (PipeReader, _)| writer;
        let gone = gone(pipe().unwrap());
        let left_out = AtomicU64::new(0);
        for stream in [full.as_fd(), gone.as_fd()] {
            say_to(stream, &left_out, b"lost\n");
        }
        assert_eq!(left_out.load(Ordering::Relaxed), 2);
    }
}
