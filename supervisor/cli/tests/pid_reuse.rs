//! Numbers of processes and threads that are used again: imsup's knowledge of the earlier owner
//! must not be applied to the next.
//!
//! In a pid namespace of the test's own, whose last number can be set (proc(5), ns_last_pid), so
//! that a number comes again at once.

mod common;

use common::command::run;
use common::{Finished, LIMIT, Project, need};

/// `fork_as(number)` forks a child that has this number; in the child it returns true.
const PRELUDE: &str = r#"
import ctypes, os, socket, threading
def fork_as(number):
    while True:
        with open("/proc/sys/kernel/ns_last_pid", "w") as last: last.write(str(number - 1))
        child = os.fork()
        if child == 0:
            if os.getpid() == number: return True
            os._exit(9)  # imsup itself has just made a process or thread.
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if child == number:
            assert status == 0, status
            return False
def in_thread(work):
    "Does it in a thread, and gives the number that the thread had, and nobody has any more."
    numbers = []
    def whole(): numbers.append(threading.get_native_id()); work()
    thread = threading.Thread(target=whole)
    thread.start(); thread.join()
    while os.path.exists(f"/proc/self/task/{numbers[0]}"): os.sched_yield()
    return numbers[0]
"#;

/// Runs a Python program under `imsup run`, in namespaces of its own, with or without pidfds of
/// threads.
fn python(without: &str, source: &str) -> Finished {
    need(&["unshare", "python3"]);
    let project = Project::up(
        "reuse",
        "services: { other: { command: [\"@guest@\", --tcp, \"8080\"] } }\n",
    );
    let imsup = common::imsup();
    let program = format!("{PRELUDE}{source}");
    let inside = [
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--mount-proc",
        imsup.to_str().unwrap(),
        "run",
        "-p",
        &project.name,
        "--",
        "python3",
        "-c",
        &program,
    ];
    let mut command = project.command("unshare", &inside);
    command.env("IMSUP_WITHOUT", without);
    let finished = run(command, LIMIT);
    assert!(
        finished.success(),
        "(user and pid namespaces, and CONFIG_CHECKPOINT_RESTORE for ns_last_pid, are needed) {finished}"
    );
    finished
}

/// A thread has made calls and ended, and its number is another process's: calls of that process
/// are about its own sockets.
#[test]
fn a_process_with_a_number_that_a_thread_had_is_served_with_its_own_sockets() {
    for without in ["", "pidfd_thread"] {
        python(
            without,
            r#"
first = socket.socket()
number = in_thread(lambda: first.bind(("127.0.0.1", 7001)))
if fork_as(number):
    fd = first.detach()
    os.close(fd)
    second = socket.socket()
    assert second.fileno() == fd
    second.bind(("127.0.0.1", 7002))
    assert second.getsockname() == ("127.0.0.1", 7002), second.getsockname()
    os._exit(0)
assert first.getsockname() == ("127.0.0.1", 7001), first.getsockname()
"#,
        );
    }
}

/// Without pidfds of threads a thread's own descriptors cannot be duplicated. Those of its process
/// under the same numbers are different ones, and are left alone.
#[test]
fn a_threads_own_descriptors_are_not_taken_for_its_processs() {
    const SOURCE: &str = r#"
CLONE_FILES = 0x400
shared = socket.socket()
def work():
    assert ctypes.CDLL(None).unshare(CLONE_FILES) == 0
    fd = shared.fileno()
    os.close(fd)
    own = socket.socket()
    assert own.fileno() == fd
    own.bind(("127.0.0.1", 0))
    assert own.getsockname()[1] != 0
in_thread(work)
assert shared.getsockname() == ("0.0.0.0", 0), shared.getsockname()
"#;
    python("", SOURCE);
    let finished = python("pidfd_thread", SOURCE);
    assert!(finished.stderr.contains("cannot be inspected"), "{finished}");
}
