//! The Java virtual machine. Its own threads, and those of its class library, have names, which the kernel shows (`-XX` options do not change
//! them). Each has one duty, and none runs what a program has scheduled.

use std::io::{BufRead, BufReader};

use crate::kernel::inspect;
use crate::kernel::process;
use crate::sleep::deadlines::Call;
use crate::sleep::waitset::is_epoll;

/// The threads of HotSpot (`NamedThread`, `JavaThread` in src/hotspot) and of the modules of the JDK that are daemons, which do not keep a machine alive either.
/// Numbers at the end are left out.
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

/// The one that also runs a program's handlers, which may wait for something else.
const DISPATCHER: &str = "HTTP-Dispatcher";

pub(super) fn is_own_affair(tid: i32, call: &Call) -> bool {
    process::name(tid).is_some_and(|name| is_own(&name) && (name != DISPATCHER || is_epoll(call.wait.call)))
        && is_machine(call.pid)
}

/// Whether a process is a Java virtual machine: its library is mapped.
pub(super) fn is_machine(pid: i32) -> bool {
    let opened = inspect::as_owner(pid, || std::fs::File::open(format!("/proc/{pid}/maps")));
    opened.is_ok_and(|maps| {
        let mut lines = BufReader::new(maps).lines().map_while(Result::ok);
        lines.any(|line| line.ends_with("/libjvm.so"))
    })
}

/// Whether a thread of this name is one of the machine's. Linux has room for 15 characters; the machine cuts the end off, or since JDK 21 something in the
/// middle: `VM Peri..Thread`.
fn is_own(shown: &str) -> bool {
    const ROOM: usize = 15;
    let stem = shown.trim_end_matches(|digit: char| digit.is_ascii_digit());
    OWN.iter().any(|name| match stem.split_once("..") {
        Some((head, tail)) => name.starts_with(head) && name.ends_with(tail) && name.len() + 1 >= ROOM,
        None => stem == *name || (shown.len() == ROOM && name.starts_with(shown)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
