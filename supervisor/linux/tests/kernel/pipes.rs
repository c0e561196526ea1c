//! Pipes that are opened by their names: proc(5), /proc/PID/fd.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{Gid, Uid, fchown};
use rustix::pipe::{PipeFlags, pipe_with};

/// A user without any privilege.
const NOBODY: u32 = 65_534;

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer)
}

/// fs/pipe.c, fifo_open: there is nothing to truncate, and nothing is written at an offset.
#[test]
fn a_pipe_that_is_opened_anew_keeps_what_is_in_it() {
    let (mut reader, writer) = pipe();
    let name = format!("/proc/self/fd/{}", writer.as_raw_fd());
    File::from(writer.try_clone().unwrap()).write_all(b"one ").unwrap();
    let again = OpenOptions::new().write(true).create(true).truncate(true).open(&name);
    again.unwrap().write_all(b"two ").unwrap();
    File::from(writer).write_all(b"three").unwrap();
    let mut all = String::new();
    reader.read_to_string(&mut all).unwrap();
    assert_eq!(all, "one two three");
}

/// The pipe's inode has an owner and the mode 0600 (fs/pipe.c, get_pipe_inode), which are checked when
/// it is opened by its name. Only root can be two users, so an ordinary user is its own owner.
#[test]
fn a_pipe_is_opened_by_its_owner_alone() {
    let is_root = rustix::process::geteuid().is_root();
    for is_owner in [false, true] {
        let (mut reader, writer) = pipe();
        if is_owner && is_root {
            fchown(&writer, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY))).unwrap();
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo opened > /dev/stdout"]).stderr(Stdio::null());
        if is_root {
            shell.uid(NOBODY).gid(NOBODY);
        }
        let status = shell.stdout(writer).status().unwrap();
        drop(shell);
        assert_eq!(status.success(), is_owner || !is_root);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said == "opened\n", status.success(), "{said}");
    }
}
