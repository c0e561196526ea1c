//! Sockets without duplicates of descriptors, as in a container: made by the supervisor, which
//! keeps copies. The conformance cases run so, too; these tests are about the copies: they are
//! never in the way.

mod common;

use common::Project;
use common::command::{Background, LIMIT};

const NOTHING: &str = "services: { other: { command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] } }\n";

/// Runs a Python program under `imsup run` without pidfd_getfd(2) and process_vm_readv(2); it
/// asserts, and prints the values that the test checks.
fn python(project: &Project, source: &str) -> (String, String) {
    let prelude = "import array, errno, fcntl, os, resource, socket, sys, threading\n";
    let mut command = project.imsup_command(&["run", "--", "python3", "-c", &format!("{prelude}{source}")]);
    command.env("IMSUP_WITHOUT", "pidfd_getfd,process_vm_readv");
    // Thousands of trapped calls: more than one command's limit on a busy machine.
    let finished = Background::collecting(command).finish(5 * LIMIT);
    assert!(finished.success(), "{finished}");
    (finished.stdout, finished.stderr)
}

#[test]
fn sockets_are_what_was_asked_for() {
    let project = Project::up("mirror", NOTHING);
    python(
        &project,
        r#"
def flags(kind):
    s = socket.socket(socket.AF_INET, kind)
    # Python itself asks for SOCK_CLOEXEC.
    return fcntl.fcntl(s, fcntl.F_GETFD), bool(fcntl.fcntl(s, fcntl.F_GETFL) & os.O_NONBLOCK)
assert flags(socket.SOCK_STREAM) == (1, False), flags(socket.SOCK_STREAM)
assert flags(socket.SOCK_STREAM | socket.SOCK_NONBLOCK) == (1, True)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def made(*arguments):
    number = libc.socket(*arguments)
    return number if number >= 0 else errno.errorcode[ctypes.get_errno()]
number = made(2, 2, 0)
assert fcntl.fcntl(number, fcntl.F_GETFD) == 0, "not close-on-exec"
assert made(2, 1, 17) == "EPROTONOSUPPORT"
assert made(2, 1 | 0x4000, 0) == "EINVAL"
assert made(10, 1, 6) > number
# As open(2) does, it takes the lowest number that is free, and fails where none is.
os.close(number)
assert made(2, 1, 0) == number
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (32, hard))
made_now = []
while isinstance(made_now[-1:] and made_now[-1] or 0, int): made_now.append(made(2, 1, 0))
assert made_now[-1] == "EMFILE", made_now
"#,
    );
}

/// Nor does epoll keep reporting a socket that was closed without EPOLL_CTL_DEL, whether it has a
/// port or none.
#[test]
fn a_program_is_not_told_of_a_closed_socket_for_ever() {
    let project = Project::up("mirror", NOTHING);
    python(
        &project,
        r#"
import select, time
def until_silent(poller):
    while poller.poll(0): time.sleep(0.01)
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    poller = select.epoll()
    s = socket.socket(socket.AF_INET, kind)
    poller.register(s, select.EPOLLIN | select.EPOLLOUT)
    s.close()
    until_silent(poller)
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); receiver.bind(("127.0.0.1", 0))
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for child in False, True:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0))
    poller.register(s, select.EPOLLIN)
    assert sender.sendto(b"x", s.getsockname()) == 1
    if child and os.fork() == 0:
        s.close()
        os._exit(0)
    s.close()
    until_silent(poller)
# What is open is as it was.
assert sender.sendto(b"y", receiver.getsockname()) == 1 and receiver.recv(9) == b"y"
"#,
    );
}

/// Nor is a socket taken for closed if only a thread other than the first has it: the first one has
/// ended, or has its own descriptor table.
#[test]
fn a_socket_of_another_thread_is_not_taken_for_closed() {
    for apart in [
        "while 'State:\tZ' not in open('/proc/self/status').read(): time.sleep(0.01)",
        "assert libc.unshare(0x400) == 0",
    ] {
        let project = Project::up("mirror", NOTHING);
        let source = format!("apart = {apart:?}\n")
            + r#"
import ctypes, select, time, traceback
libc = ctypes.CDLL(None)
def connect():
    exec(apart)
    s = socket.socket()
    # One that is closed for certain is looked for as often.
    poller = select.epoll()
    closed = socket.socket()
    poller.register(closed, select.EPOLLIN | select.EPOLLOUT)
    closed.close()
    while poller.poll(0): time.sleep(0.01)
    s.connect(("other", 8080))
    assert s.getsockname()[0].startswith("127.77."), s.getsockname()
def work():
    try: connect()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
thread = threading.Thread(target=work)
thread.start()
if "State" in apart: libc.syscall(60, 0)
thread.join()
"#;
        let (_, warned) = python(&project, &source);
        assert!(!warned.contains("made elsewhere"), "{apart}: {warned}");
    }
}

/// A copy is an open descriptor: it would keep a connection from ending, and a port from being
/// free.
#[test]
fn copies_neither_delay_an_end_nor_hold_a_port() {
    let project = Project::up("mirror", NOTHING);
    let (said, _) = python(
        &project,
        r#"
def listener():
    s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); return s
server = listener()
for connect in "blocking", "non-blocking":
    c = socket.socket()
    if connect == "non-blocking": c.setblocking(False)
    assert c.connect_ex(server.getsockname()) in (0, errno.EINPROGRESS)
    accepted, _ = server.accept()
    c.close()
    assert accepted.recv(1) == b"", "the end arrives"
# Connected outside the host, by the kernel.
outside = socket.socket(); outside.bind(("127.5.5.5", 0)); outside.listen()
c = socket.create_connection(outside.getsockname())
accepted, _ = outside.accept()
c.close()
assert accepted.recv(1) == b""

# A listener that was closed refuses.
address = server.getsockname()
server.close()
c = socket.socket()
assert c.connect_ex(address) == errno.ECONNREFUSED
# The same socket may try again.
server = socket.socket(); server.bind(address); server.listen()
assert c.connect_ex(address) == 0 and c.getpeername() == address

for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    for where in "127.0.0.1", "127.5.5.5":
        a = socket.socket(socket.AF_INET, kind); a.bind((where, 0)); port = a.getsockname()[1]
        b = socket.socket(socket.AF_INET, kind)
        try: b.bind((where, port)); raise AssertionError("bound twice")
        except OSError as error: assert error.errno == errno.EADDRINUSE
        a.close()
        b.bind((where, port))
        assert b.getsockname() == (where, port)
print("done")
"#,
    );
    assert_eq!(said, "done\n");
}

#[test]
fn sockets_are_found_in_every_process_that_has_them() {
    let project = Project::up("mirror", NOTHING);
    let (said, warned) = python(
        &project,
        r#"
ours, theirs = socket.socketpair()
bound = socket.socket(); bound.bind(("127.0.0.1", 0))
if os.fork() == 0:
    # Inherited: listened on here, though it was bound there.
    bound.listen(); print(bound.getsockname() == ("127.0.0.1", bound.getsockname()[1]), flush=True)
    # Made here, sent there.
    made = socket.socket()
    theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.fileno()]))])
    accepted, peer = bound.accept()
    print(accepted.getpeername() == peer, accepted.getsockname() == bound.getsockname(), flush=True)
    os._exit(0)
_, ancillary, _, _ = ours.recvmsg(1, 64)
received = socket.socket(fileno=array.array("i", ancillary[0][2])[0])
received.connect(bound.getsockname())
print(received.getpeername() == bound.getsockname(), flush=True)
os.wait()
"#,
    );
    assert_eq!(said.matches("True").count(), 4, "{said}");
    assert!(!said.contains("False"), "{said}");
    assert!(!warned.contains("made elsewhere"), "{warned}");
}

/// A socket inherited from outside is left to the kernel, with a message.
#[test]
fn a_socket_from_elsewhere_is_the_kernels() {
    let project = Project::up("mirror", NOTHING);
    let source = r#"
import os, socket
s = socket.socket(); os.set_inheritable(s.fileno(), True)
os.environ["IMSUP_WITHOUT"] = "pidfd_getfd,process_vm_readv"
inside = f"import socket; s = socket.socket(fileno={s.fileno()}); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[0])"
os.execvp(os.environ["IMSUP"], [os.environ["IMSUP"], "run", "-p", os.environ["NAME"], "--", "python3", "-c", inside])
"#;
    let mut command = project.command("python3", &["-c", source]);
    command.env("IMSUP", common::imsup()).env("NAME", &project.name);
    let finished = common::command::run(command, LIMIT);
    assert!(finished.success() && finished.stdout == "127.0.0.1\n", "{finished}");
    assert!(finished.stderr.contains("made elsewhere"), "{finished}");
}

/// The copy is dropped before the kernel chooses the port, if the connect is left to the kernel:
/// the second time within a second.
#[test]
fn a_connected_socket_shows_the_port_that_the_kernel_chose() {
    let project = Project::up("mirror", NOTHING);
    let (said, _) = python(
        &project,
        r#"
for turn in range(20):
    for bound in False, True:
        s = socket.socket()
        if bound: s.bind(("", 0))
        s.connect(("other", 8080))
        peer, own = s.getpeername(), s.getsockname()
        assert own[1] != 0 and own[0].startswith("127.77."), own
        assert peer == (socket.gethostbyname("other"), 8080), peer
print("done")
"#,
    );
    assert_eq!(said, "done\n");
}

/// Sockets come and go; imsup's holdings stay bounded, and so does the cost of a process that lives
/// on.
#[test]
fn copies_do_not_pile_up() {
    let project = Project::up("mirror", NOTHING);
    let (said, _) = python(
        &project,
        r#"
supervisor = os.getppid()
def held(): return len(os.listdir(f"/proc/{supervisor}/fd"))
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
most = 0
for turn in range(1000):
    socket.socket().close()
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(("127.0.0.1", 9)); u.close()
    c = socket.create_connection(server.getsockname()); a, _ = server.accept(); a.close(); c.close()
    most = max(most, held())
print(most)
"#,
    );
    let most: u32 = said.trim().parse().unwrap();
    assert!(most < 200, "{most} descriptors of the supervisor");
}
