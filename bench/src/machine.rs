//! On what it was measured.

use std::process::Command;
use std::time::SystemTime;

use anyhow::Result;
use serde::Serialize;

use crate::command;
use crate::context::{Context, repository};

/// On what, with what and when it was measured.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// When it began, RFC 3339.
    pub time: String,
    /// The processors' name.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// `uname -sr`.
    pub kernel: String,
    /// The load average over a minute when it began: other work disturbs.
    pub load: String,
    /// The same when it ended; the benchmarks themselves are in it.
    pub load_after: Option<String>,
    /// `imsup --version`.
    pub imsup: String,
    /// The commit, with `+` where files differ from it.
    pub commit: String,
    /// The programs it was measured with and their versions.
    pub programs: Vec<(String, String)>,
}

/// Programs whose versions matter, and how they say it.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("redis-server", &["--version"]),
    ("redis-benchmark", &["--version"]),
    ("python3", &["--version"]),
    ("go", &["version"]),
    ("node", &["--version"]),
];

impl Machine {
    /// Describes this machine.
    ///
    /// # Errors
    /// imsup cannot say its version.
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
                .map(|(name, arguments)| ((*name).to_owned(), version(name, arguments)))
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

fn version(name: &str, arguments: &[&str]) -> String {
    let Some(path) = command::find(name) else {
        return "missing".to_owned();
    };
    match command::output(Command::new(path).args(arguments)) {
        Ok(text) => text.lines().next().unwrap_or_default().trim().to_owned(),
        Err(error) => format!("{error:#}"),
    }
}
