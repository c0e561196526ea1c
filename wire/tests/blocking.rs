//! No call on the loop of the broker or a supervisor waits for anybody: a rule that this test reads
//! out of the sources.
//!
//! Every call of these crates that can wait (for a child, a lock, another process, a name service, a
//! walk over all processes or connections) is found by its name. Such a call is allowed if a
//! comment of its function, or the head of its file, says after the word `Blocking:` why no loop
//! waits: it runs on a thread of its own, before or after the loop, or its wait has a bound that is
//! named.

use std::fs;
use std::path::{Path, PathBuf};

/// The word that introduces a reason.
const REASON: &str = "Blocking:";

/// Calls that can wait, and for what.
const WAITS: &[(&str, &str)] = &[
    ("thread::sleep(", "time"),
    (".join();", "a thread"),
    (".recv()", "a channel"),
    ("recv_timeout(", "a channel"),
    (".wait()", "a child"),
    (".status()", "a child"),
    (".output()", "a child"),
    ("WaitOptions::empty()", "a child"),
    ("poll(&mut [", "a descriptor"),
    ("poll(&mut polled", "a descriptor"),
    ("waitid(", "a child"),
    ("FlockOperation::LockExclusive", "the holder of a lock"),
    ("FlockOperation::LockShared", "the holder of a lock"),
    ("UnixStream::connect(", "a listener whose queue is full"),
    ("TcpStream::connect(", "a peer"),
    ("to_socket_addrs(", "a name server"),
    ("User::from_", "a name service (nsswitch.conf(5))"),
    ("Group::from_", "a name service (nsswitch.conf(5))"),
    ("sync_all(", "a disk"),
    ("sync_data(", "a disk"),
    ("read_dir(\"/proc", "a walk over all processes"),
    ("leftovers::all(", "a walk over all processes"),
    ("Owners::open(", "a walk over all sockets"),
    ("peers::came(", "a walk over all connections"),
    ("peers::queue(", "a walk over all connections"),
    ("/proc/net/", "a list of all sockets"),
];

/// Marks of a poll(2) that only looks.
const LOOKS: &[&str] = &["Timespec::default()", "&at_once", "AT_ONCE", "&now", "tv_sec: 0"];

/// A call that can wait, without a reason.
#[derive(Debug, PartialEq, Eq)]
struct Wait {
    line: usize,
    call: &'static str,
    what: &'static str,
}

/// The calls of a source file, without its tests, that can wait and give no reason.
fn unreasoned(text: &str) -> Vec<Wait> {
    let lines: Vec<&str> = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").collect();
    let is_allowed_whole = lines
        .iter()
        .take_while(|line| line.starts_with("//!"))
        .any(|line| line.contains(REASON));
    if is_allowed_whole {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let code = line.trim();
        if code.starts_with("//") {
            continue;
        }
        for (call, what) in WAITS {
            let is_look = call.starts_with("poll(") && LOOKS.iter().any(|mark| code.contains(mark));
            if code.contains(call) && !is_look && !has_reason(&lines, number) {
                found.push(Wait {
                    line: number + 1,
                    call,
                    what,
                });
            }
        }
    }
    found
}

/// Whether a comment between the documentation of the function that this line is in and the line
/// itself gives a reason.
fn has_reason(lines: &[&str], number: usize) -> bool {
    let mut before = lines[..=number].iter().rev().map(|line| line.trim());
    let is_reason = |line: &str| line.starts_with("//") && line.contains(REASON);
    for line in before.by_ref() {
        if is_reason(line) {
            return true;
        }
        if is_function(line) {
            break;
        }
    }
    before
        .take_while(|line| line.starts_with("//") || line.starts_with("#["))
        .any(is_reason)
}

fn is_function(line: &str) -> bool {
    let item = line.strip_prefix("pub").map_or(line, |rest| {
        let rest = rest.trim_start();
        rest.strip_prefix('(')
            .and_then(|rest| rest.split_once(')'))
            .map_or(rest, |(_, rest)| rest)
    });
    item.trim_start().starts_with("fn ")
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") && !["tests.rs", "testing.rs"].contains(&name.as_str()) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The crates of the loops, and the crate that both call.
const CRATES: [&str; 3] = ["broker/src", "supervisor/src", "supervisor/linux/src"];

#[test]
fn no_call_on_a_loop_waits_without_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut waits = Vec::new();
    for path in CRATES.iter().flat_map(|name| sources(&root.join(name))) {
        let text = fs::read_to_string(&path).unwrap();
        let place = path.strip_prefix(&root).unwrap().display().to_string();
        waits.extend(
            unreasoned(&text)
                .into_iter()
                .map(|wait| format!("{place}:{}: `{}` waits for {}", wait.line, wait.call, wait.what)),
        );
    }
    assert!(
        waits.is_empty(),
        "a loop may wait there. Move the call to a thread, or say after `{REASON}` why no loop waits:\n{}",
        waits.join("\n")
    );
}

#[test]
fn a_wait_is_found_and_a_reason_is_heard_only_in_its_function() {
    let bare = "fn a() {\n    // Blocking: at the start only.\n    thread::sleep(LOOK);\n}\n\nfn b() {\n    thread::sleep(LOOK);\n}\n";
    let found = |text: &str| unreasoned(text).iter().map(|wait| wait.line).collect::<Vec<_>>();
    assert_eq!(found(bare), [7]);
    let documented =
        "/// Waits.\n///\n/// Blocking: a thread of its own.\n#[inline]\npub(super) fn a() {\n    child.wait();\n}\n";
    assert_eq!(found(documented), [] as [usize; 0]);
    assert_eq!(
        found(&format!("//! A thread.\n//! Blocking: it is one.\n{bare}")),
        [] as [usize; 0]
    );
    assert_eq!(
        found("#[cfg(test)]\nmod tests {\n    thread::sleep(LOOK);\n}\n"),
        [] as [usize; 0]
    );
    assert_eq!(found("    // thread::sleep( is not called\n"), [] as [usize; 0]);
}
