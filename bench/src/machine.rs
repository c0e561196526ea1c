//! The machine of the measurements.

use std::process::Command;
use std::time::SystemTime;

use anyhow::Result;
use serde::Serialize;

use crate::command;
use crate::context::{Context, repository};

/// The machine, the programs and the date of the measurements.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The start, RFC 3339.
    pub time: String,
    /// The processors' name.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// True for a virtual machine's processors.
    pub virtual_machine: bool,
    /// The processors' frequency governor.
    pub governor: String,
    /// The kernel's active mitigations: name and state, without those that the processors do not
    /// need.
    pub mitigations: Vec<(String, String)>,
    /// Which cgroup hierarchies are mounted.
    pub cgroups: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// `uname -sr`.
    pub kernel: String,
    /// The load average over a minute at the start: other work disturbs.
    pub load: String,
    /// The same at the end; the benchmarks themselves are included.
    pub load_after: Option<String>,
    /// `imsup --version`.
    pub imsup: String,
    /// The commit, with `+` if files differ from it.
    pub commit: String,
    /// The programs of the measurements and their versions.
    pub programs: Vec<(String, String)>,
}

/// Programs whose versions matter, and the commands that print them.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("rustc", &["rustc", "--version"]),
    ("redis-server", &["redis-server", "--version"]),
    ("redis-benchmark", &["redis-benchmark", "--version"]),
    ("nginx", &["nginx", "-v"]),
    ("node", &["node", "--version"]),
    ("python3", &["python3", "--version"]),
    ("java", &["java", "-version"]),
    ("go", &["go", "version"]),
    ("wrk", &["wrk", "-v"]),
    ("iperf3", &["iperf3", "--version"]),
    ("systemd", &["systemd-socket-activate", "--version"]),
    // The program does not print its version.
    ("proxychains4", &["dpkg-query", "--show", "proxychains4"]),
    ("docker", &["docker", "--version"]),
    ("dockerd", &["dockerd", "--version"]),
    ("containerd", &["containerd", "--version"]),
    ("runc", &["runc", "--version"]),
];

impl Machine {
    /// Describes this machine.
    ///
    /// # Errors
    /// imsup cannot print its version.
    pub fn describe(context: &Context) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let uname = rustix::system::uname();
        Ok(Self {
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            virtual_machine: read("/proc/cpuinfo")
                .split_ascii_whitespace()
                .any(|flag| flag == "hypervisor"),
            governor: match read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim() {
                "" => "none".to_owned(),
                governor => governor.to_owned(),
            },
            mitigations: mitigations(),
            cgroups: cgroups(&read("/proc/self/mountinfo")),
            memory_mib: memory_kib / 1024,
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            load: load(),
            load_after: None,
            imsup: command::output(context.sandbox.command().arg("--version"))?
                .trim()
                .to_owned(),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            programs: PROGRAMS
                .iter()
                .map(|(name, words)| ((*name).to_owned(), version(words)))
                .collect(),
        })
    }
}

/// The load average over a minute.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        command::output(Command::new("git").arg("-C").arg(repository()).args(arguments))
            .ok()
            .map(|text| text.trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { hash } else { format!("{hash}+") })
}

/// The first line of a command's output.
fn version(words: &[&str]) -> String {
    let Some((path, arguments)) = words
        .split_first()
        .and_then(|(name, arguments)| Some((command::find_server(name)?, arguments)))
    else {
        return "missing".to_owned();
    };
    match command::said(Command::new(path).args(arguments)) {
        Ok(text) => text
            .lines()
            .next()
            .unwrap_or_default()
            .replace('\t', " ")
            .trim()
            .to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

/// The kernel's report of the processors' weaknesses (Documentation/admin-guide/hw-vuln).
fn mitigations() -> Vec<(String, String)> {
    let entries = std::fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    let of = |entry: std::fs::DirEntry| {
        let state = std::fs::read_to_string(entry.path()).ok()?;
        let state = state.trim();
        (state != "Not affected").then(|| (entry.file_name().to_string_lossy().into_owned(), state.to_owned()))
    };
    let mut all: Vec<_> = entries.into_iter().flatten().flatten().filter_map(of).collect();
    all.sort();
    all
}

/// The mounted hierarchies, of proc_pid_mountinfo(5).
fn cgroups(mounts: &str) -> String {
    let of = |kind: &str| mounts.lines().any(|line| line.contains(&format!(" - {kind} ")));
    match (of("cgroup"), of("cgroup2")) {
        (true, true) => "v1 with controllers, v2 beside it",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart() {
        let v1 = "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let v2 = "31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroups(v1), "v1");
        assert_eq!(cgroups(v2), "v2");
        assert_eq!(cgroups(&format!("{v1}{v2}")), "v1 with controllers, v2 beside it");
        assert_eq!(cgroups(""), "none");
    }

    #[test]
    fn a_version_is_read_wherever_it_is_said() {
        assert_eq!(version(&["sh", "-c", "echo v1; exit 1"]), "v1");
        assert_eq!(version(&["sh", "-c", "echo v2 >&2"]), "v2");
        assert_eq!(version(&["no-such-program-of-imsup"]), "missing");
    }
}
