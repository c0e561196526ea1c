//! The Java virtual machine. The threads of the machine and of the class library have names, which
//! the kernel shows (`-XX` options do not change the names). Each thread has one duty, and none
//! runs work that a program has scheduled.

use std::io::{BufRead, BufReader};

use crate::sleep::deadlines::Call;
use crate::sleep::waitset::is_epoll;
use imsup_linux::inspect;
use imsup_linux::process;

/// The threads of HotSpot (`NamedThread`, `JavaThread` in src/hotspot) and of the modules of the
/// JDK that are daemons, which do not keep a machine alive either. Numbers at the end are left out.
const OWN: [&str; 40] = [
    "Attach Listener",
    "C1 CompilerThread",
    "C2 CompilerThread",
    "Cleaner-",
    "Common-Cleaner",
    "Concurrent Mark GC Thread",
    "DestroyJavaVM",
    "Finalizer",
    "G1 Conc#",
    "G1 Main Marker",
    "G1 Refine#",
    "G1 Service",
    "G1 Young RemSet Sampling",
    "GC Daemon",
    "GC Thread#",
    "HTTP-Dispatcher",
    "JFR Periodic Tasks",
    "JFR Recorder Thread",
    "JFR Thread Sampler",
    "Keep-Alive-SocketCleaner",
    "Keep-Alive-Timer",
    "Monitor Deflation Thread",
    "Notification Thread",
    "Reference Handler",
    "Service Thread",
    "Shenandoah Control Thread",
    "Signal Dispatcher",
    "StringDedupThread",
    "Sweeper thread",
    "VM Periodic Task Thread",
    "VM Thread",
    "ZDirector",
    "ZDriver",
    "ZStat",
    "ZUncommitter",
    "ZUnmapper",
    "idle-timeout-task",
    "process reaper",
    "req-rsp-timeout-task",
    "server-timer",
];

/// How much of a thread's name the kernel shows.
const ROOM: usize = 15;

/// The thread that also runs a program's handlers, which may wait for other events.
const DISPATCHER: &str = "HTTP-Dispatcher";

/// The thread that waits for the sockets of a `java.net.http.HttpClient`, as long as the client
/// exists. Every 1 to 3 s the thread checks if the client is still in use, and checks the limits of
/// requests, which have connections (jdk.internal.net.http.HttpClientImpl, SelectorManager). The
/// number is in the middle of the name.
const CLIENT: (&str, &str) = ("HttpClient-", "-SelectorManager");

pub(super) fn is_own_affair(tid: i32, call: &Call) -> bool {
    let is_known = |name: String| match is_epoll(call.wait.call) {
        true => is_own(&name) || is_client(&name),
        false => is_own(&name) && name != DISPATCHER,
    };
    process::name(tid).is_some_and(is_known) && is_machine(call.pid)
}

/// True if a process is a Java virtual machine: the library of the machine is mapped.
pub(super) fn is_machine(pid: i32) -> bool {
    let opened = inspect::as_owner(pid, || std::fs::File::open(format!("/proc/{pid}/maps")));
    opened.is_ok_and(|maps| {
        let mut lines = BufReader::new(maps).lines().map_while(Result::ok);
        lines.any(|line| line.ends_with("/libjvm.so"))
    })
}

/// True if a thread of this name belongs to the machine. Long names are shortened: the machine cuts
/// the end off, or since JDK 21 a part in the middle: `VM Peri..Thread`.
fn is_own(shown: &str) -> bool {
    let stem = shown.trim_end_matches(|digit: char| digit.is_ascii_digit());
    OWN.iter().any(|name| match stem.split_once("..") {
        Some((head, tail)) => name.starts_with(head) && name.ends_with(tail) && name.len() + 1 >= ROOM,
        None => stem == *name || (shown.len() == ROOM && name.starts_with(shown)),
    })
}

/// True if this is [`CLIENT`]. False if so much of the name is cut off that the thread may be a
/// worker.
fn is_client(shown: &str) -> bool {
    if let Some((head, tail)) = shown.split_once("..") {
        return CLIENT.0.starts_with(head) && CLIENT.1.ends_with(tail) && shown.len() == ROOM;
    }
    let rest = shown
        .strip_prefix(CLIENT.0)
        .map(|rest| rest.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    rest.is_some_and(|rest| rest == CLIENT.1 || (rest.len() > 1 && shown.len() == ROOM && CLIENT.1.starts_with(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_of_an_http_client_is_told_from_its_workers() {
        for name in ["HttpClient-1-Se", "HttpClient-12-S", "HttpCli..anager"] {
            assert!(is_client(name), "{name}");
        }
        for name in [
            "HttpClient-1-Wo",
            "HttpClient-123-",
            "HttpClient-1",
            "HttpCli..rker-0",
            "HttpClient",
            "",
        ] {
            assert!(!is_client(name), "{name}");
        }
    }

    #[test]
    fn the_machines_threads_are_known_by_their_names() {
        for name in [
            "VM Thread",
            "VM Periodic Tas",
            "VM Peri..Thread",
            "C2 CompilerThre",
            "C2 Comp..hread0",
            "GC Thread#1",
            "Common-Cleaner",
            "idle-timeout-ta",
            "G1 Service",
        ] {
            assert!(is_own(name), "{name}");
        }
        for name in [
            "pool-1-thread-1",
            "Timer-0",
            "main",
            "java",
            "VM",
            "",
            "scheduling-1",
            "ForkJoinPool.co",
        ] {
            assert!(!is_own(name), "{name}");
        }
    }
}
