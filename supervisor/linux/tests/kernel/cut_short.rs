//! Calls that a stop cuts short, as described in signal(7) and write(2), and that are made to go on
//! with the rest: ptrace(2), PTRACE_SYSCALL.

use imsup_linux::carry::{Carry, Carrying};
use imsup_linux::stopped::{At, Stopped, stop};
use nix::libc;
use nix::sys::signal::Signal;

use crate::script::{LIMIT, Script, until};

const BYTES: i64 = 1 << 20;

/// A thread that writes more to a pipe than that holds.
const WRITER: &str = "
r, w = os.pipe()
room = ctypes.create_string_buffer(bytes(i * 7 % 251 for i in range(1 << 20)), 1 << 20)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
def write():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    say('write', *call(1, w, room, 1 << 20))
threading.Thread(target=write, daemon=True).start()
def drain():
    found = b''
    while len(found) < 1 << 20: found += os.read(r, 1 << 20)
    say('drained', found == room.raw)
";

/// Stops the script once the pipe is full, and returns the state of the writing thread's call.
fn stop_amid(script: &Script) -> (Stopped, i32, [u64; 6], i64) {
    script.await_calls(&[libc::SYS_read, libc::SYS_write]);
    let stopped = stop(&|| vec![script.pid()], LIMIT).unwrap();
    let cut = stopped.threads().iter().find_map(|thread| match thread.at {
        At::Completed { number, args, result } if number == libc::SYS_write => Some((thread.tid, args, result)),
        _ => None,
    });
    let (tid, args, result) = cut.expect("a write that was cut short");
    assert!(result > 0 && result < BYTES, "{result}");
    (stopped, tid, args, result)
}

fn carry(script: &Script) -> (Carrying, i64) {
    let (mut stopped, tid, args, done) = stop_amid(script);
    let mut rest = args;
    rest[1] += done.unsigned_abs();
    rest[2] -= done.unsigned_abs();
    let carry = Carry {
        pid: script.pid(),
        tid,
        done,
        base: done,
        counted: None,
        args: rest,
        patches: Vec::new(),
    };
    let carrying = stopped.carry(vec![carry]).unwrap();
    stopped.release();
    (carrying, done)
}

/// A call that has moved some bytes returns their number (write(2)), as after any stop.
#[test]
fn a_stop_cuts_a_write_short() {
    let mut script = Script::start(WRITER);
    let (stopped, _, _, done) = stop_amid(&script);
    stopped.release();
    assert_eq!(script.line(), format!("write {done} 0"));
}

#[test]
fn a_write_that_was_cut_short_goes_on_with_the_rest_and_says_the_sum() {
    let mut script = Script::start(WRITER);
    let (carrying, _) = carry(&script);
    assert!(!carrying.is_over(), "nobody has read yet");
    script.tell("drain()");
    let mut said = [script.line(), script.line()];
    said.sort();
    assert_eq!(said, ["drained True".to_owned(), format!("write {BYTES} 0")]);
    until("the tracer to end", || carrying.is_over());
}

/// A signal handler cuts a write short natively, so also here: no byte of the rest has been
/// written.
#[test]
fn a_signal_handler_cuts_the_rest_short() {
    let mut script = Script::start(WRITER);
    let (carrying, done) = carry(&script);
    script.await_calls(&[libc::SYS_read, libc::SYS_write]);
    script.signal(Signal::SIGUSR1);
    assert_eq!(script.line(), format!("write {done} 0"));
    until("the tracer to end", || carrying.is_over());
}

/// A program that is killed during the rest of a call ends.
#[test]
fn a_program_that_goes_on_with_the_rest_can_be_killed() {
    let mut script = Script::start(WRITER);
    let (carrying, _) = carry(&script);
    script.await_calls(&[libc::SYS_read, libc::SYS_write]);
    script.signal(Signal::SIGKILL);
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&script.wait()),
        Some(libc::SIGKILL)
    );
    until("the tracer to end", || carrying.is_over());
}

/// do_nanosleep (kernel/time/hrtimer.c): an interrupted sleep writes the remaining time, although
/// the sleep goes on (restart_syscall(2)) and no handler runs.
#[test]
fn a_stop_writes_how_much_of_a_sleep_is_left() {
    let mut script = Script::start(
        "
time = (ctypes.c_long * 2)(1000, 0)
threading.Thread(target=lambda: call(35, time, time), daemon=True).start()
",
    );
    script.await_calls(&[libc::SYS_read, libc::SYS_nanosleep]);
    assert_eq!(script.ask("time[:]"), "[1000, 0]");
    stop(&|| vec![script.pid()], LIMIT).unwrap().release();
    assert_eq!(script.ask("time[0] < 1000"), "True");
}

/// sk_stream_wait_close (net/core/stream.c): any stop ends the wait of a close that lingers
/// (SO_LINGER, socket(7)), which cannot be made again.
#[test]
fn a_stop_ends_a_close_that_lingers() {
    let mut script = Script::start(
        "
import socket, struct
listener = socket.create_server(('127.0.0.1', 0))
lingers = socket.create_connection(listener.getsockname())
peer = listener.accept()[0]
lingers.setblocking(False)
try:
    while True: lingers.send(bytes(1 << 16))
except BlockingIOError: pass
lingers.setblocking(True)
lingers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 1000))
threading.Thread(target=lambda: say('closed', *call(3, lingers.detach())), daemon=True).start()
",
    );
    script.await_calls(&[libc::SYS_read, libc::SYS_close]);
    let stopped = stop(&|| vec![script.pid()], LIMIT).unwrap();
    let is_over = |at: &At| matches!(at, At::Completed { number, result: 0, .. } if *number == libc::SYS_close);
    assert!(stopped.threads().iter().any(|thread| is_over(&thread.at)));
    stopped.release();
    assert_eq!(script.line(), "closed 0 0");
}
