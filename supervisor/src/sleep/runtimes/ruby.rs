//! Ruby. Each process of the interpreter (MRI 2.6 to 3.2) has a POSIX timer that sends SIGVTALRM
//! (thread_pthread.c, UBF_TIMER_POSIX). The timer is armed only while a thread is being woken from
//! a call, not while all threads wait. Ruby code has no access to POSIX timers, and the time limits
//! of Ruby threads are the limits of the threads' calls.

use std::io::{BufRead, BufReader};

use imsup_linux::inspect;

/// The signals of the interpreter's own timers.
pub(super) const OWN_TIMERS: &[i32] = &[libc::SIGVTALRM];

/// True if a process is Ruby's interpreter: the library is mapped, or the program has that name and
/// contains the library.
pub(super) fn is_interpreter(pid: i32) -> bool {
    let opened = inspect::as_owner(pid, || std::fs::File::open(format!("/proc/{pid}/maps")));
    opened.is_ok_and(|maps| {
        let mut lines = BufReader::new(maps).lines().map_while(Result::ok);
        lines.any(|line| line.rsplit('/').next().is_some_and(is_ruby))
    })
}

/// Whether this is the name of Ruby's library (`libruby.so.3.1`, `libruby-3.1.so.3.1.2`) or program
/// (`ruby`, `ruby3.1`).
fn is_ruby(file: &str) -> bool {
    let is_version = |rest: &str| {
        rest.chars()
            .all(|part| part.is_ascii_digit() || part == '.' || part == '-')
    };
    match file.strip_prefix("libruby") {
        Some(rest) => rest.starts_with(['.', '-']) && rest.contains(".so"),
        None => file.strip_prefix("ruby").is_some_and(is_version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ruby_is_known_by_its_library_or_program() {
        for file in ["libruby.so.3.1", "libruby-3.1.so.3.1.2", "ruby", "ruby3.1", "ruby-2.7"] {
            assert!(is_ruby(file), "{file}");
        }
        for file in ["libc.so.6", "libruby_parser.so", "rubyd", "truffleruby", ""] {
            assert!(!is_ruby(file), "{file}");
        }
    }
}
