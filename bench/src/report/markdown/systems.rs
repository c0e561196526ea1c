//! The compared systems: the isolation of each, its needs, and the fate of its connections.

use super::cells::grid;

/// Written by hand; the suites say what is measured.
const SYSTEMS: [[&str; 4]; 8] = [
    ["native: fork and exec", "a process", "nothing", "it never sleeps"],
    [
        "imsup",
        "a process with addresses and a name of its own; files, users, processes and the network are the machine's. The seccomp filter is \
         for trapping calls, and no sandbox",
        "no root, no change of the program, no library, any protocol; a broker for each project (no data passes it), a supervisor for each \
         host that runs",
        "stay open: the next byte or connection wakes it, nobody has to know that it slept",
    ],
    [
        "SIGSTOP and SIGCONT",
        "a process",
        "somebody who knows when to send them",
        "stay open, unanswered until somebody sends SIGCONT",
    ],
    [
        "docker on its bridge; docker run, start",
        "namespaces, cgroups, seccomp, capabilities, a root file system: a container",
        "root, a daemon, an image",
        "the container runs, or its connections end with it; a connection does not start it",
    ],
    [
        "docker pause, unpause",
        "the same: a container",
        "root, a daemon, an image; somebody who knows when",
        "stay open, unanswered until somebody unpauses it",
    ],
    [
        "systemd socket activation (here systemd-socket-activate)",
        "a process; as much more as its unit asks for",
        "a program that takes listening sockets from its environment (sd_listen_fds(3))",
        "the listening socket stays; the program runs on, or ends itself and its connections",
    ],
    [
        "systemd-socket-proxyd",
        "a process, and a relay before it",
        "nothing of the program; every byte is copied through the relay, which hides the client's address",
        "keep the relay and with it the program up; both end when there are none (--exit-idle-time=)",
    ],
    [
        "a libc interposer (proxychains4)",
        "a process",
        "a dynamically linked program that calls libc; no static or Go one",
        "nothing sleeps: it is here for the cost of a connect",
    ],
];

/// The table.
pub fn table() -> String {
    let lines = SYSTEMS.map(|system| system.map(str::to_owned).to_vec());
    let headers = ["", "isolation", "needs", "sleep, and its connections then"];
    let text = grid(&headers, &lines, headers.len());
    format!(
        "{text}\nA process is not a container: docker's numbers buy an isolation that none of the others gives. imsup needs no HTTP and no \
         knowledge of the protocol; of these, only systemd's and imsup's servers start on a connection, and only imsup's wake on one.\n"
    )
}
