//! Leftovers that a project must not have: processes, files, mounts, cgroups. Sockets live in
//! processes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

/// A process that carries the test's directory in its environment, or works in it.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub command: String,
}

/// The time that a process may take from its last act to its disappearance from /proc, on a busy
/// machine. A leaked process stays for ever.
const GRACE: Duration = Duration::from_secs(30);

/// All leftovers of the project whose files are in `directory`.
pub fn find(directory: &Path, project: &str) -> Vec<String> {
    let mut left: Vec<String> = Vec::new();
    let deadline = Instant::now() + GRACE;
    loop {
        let running = processes(directory);
        if running.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            left.extend(
                running
                    .iter()
                    .map(|process| format!("process {} ({})", process.pid, process.command)),
            );
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for kind in ["run", "state"] {
        let path = directory.join(kind).join(project);
        if path.exists() {
            let files: Vec<_> = walk(&path);
            left.push(format!("files {files:?}"));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mark = directory.to_str().unwrap();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(mark))
            .map(|line| format!("mount {line}")),
    );
    // The whole name: `x-1-1` begins the names of `x-1-10` and the following, which may be other
    // tests' projects.
    left.extend(cgroups(Path::new("/sys/fs/cgroup"), &format!(".{project}.")));
    left
}

/// Processes whose environment names `directory`, or that work in it (redis writes its title over
/// its environment), except the test itself. Zombies have neither.
pub fn processes(directory: &Path) -> Vec<Process> {
    let mark = directory.as_os_str().as_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let named = std::fs::read(entry.path().join("environ"))
            .is_ok_and(|environment| environment.windows(mark.len()).any(|window| window == mark));
        let works_there = || std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
        if named || works_there() {
            let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            found.push(Process {
                pid,
                command: command.replace('\0', " "),
            });
        }
    }
    found
}

/// Ends what a failed test left. Only processes that carry the test's own directory are touched,
/// through pidfds that are opened before that is checked once more.
pub fn kill_all(directory: &Path) {
    for _ in 0..20 {
        let running = processes(directory);
        if running.is_empty() {
            return;
        }
        for process in running {
            let Some(pid) = Pid::from_raw(i32::try_from(process.pid).unwrap()) else {
                continue;
            };
            let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            if processes(directory).iter().any(|again| again.pid == process.pid) {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn walk(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return vec![path.display().to_string()];
    };
    let mut files: Vec<String> = entries.flatten().flat_map(|entry| walk(&entry.path())).collect();
    if files.is_empty() {
        files.push(format!("{}/", path.display()));
    }
    files
}

/// The cgroups whose names contain `mark`. Those of a project are `imsup.PROJECT.HOST`.
pub fn cgroups(directory: &Path, mark: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(mark) {
            found.push(format!("cgroup {}", entry.path().display()));
        }
        found.extend(cgroups(&entry.path(), mark));
    }
    found
}
