//! The unit of a run: a program of a suite, with many tests or one.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::common::{Project, imsup};
use crate::results::{Format, Results, WHOLE};

/// The time limit of a unit. Most take seconds, and some of node's that are not listed may wait for
/// ever.
const LIMIT: Duration = Duration::from_secs(400);

/// A program of a suite. `@dir@` in its arguments and variables stands for the working directory,
/// which is empty and its own.
#[derive(Clone, Debug)]
pub struct Unit {
    pub name: String,
    pub command: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    pub format: Format,
    /// Files that the working directory has copies of: the contents of a directory.
    pub copy: Option<PathBuf>,
    /// Tests whose results are not compared.
    pub left_out: &'static [&'static str],
    pub limit: Duration,
    /// True if root runs it as well.
    pub as_root: bool,
}

impl Unit {
    pub fn new(name: impl Into<String>, command: &[&str], format: Format) -> Self {
        Self {
            name: name.into(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            environment: Vec::new(),
            format,
            copy: None,
            left_out: &[],
            limit: LIMIT,
            as_root: false,
        }
    }
}

/// The results of a unit, and its output.
#[derive(Debug)]
pub struct Outcome {
    pub results: Results,
    pub said: String,
}

/// The place of a unit's run.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Native,
    Supervised,
}

/// Runs a unit to its end.
pub fn run(project: &Project, unit: &Unit, side: Side) -> Outcome {
    let directory = TempDir::with_prefix_in("suite-", project.path("")).unwrap();
    if let Some(from) = &unit.copy {
        let copied = Command::new("cp")
            .arg("-R")
            .arg(from.join("."))
            .arg(directory.path())
            .status();
        assert!(copied.unwrap().success(), "cp -R {}", from.display());
    }
    let place = |text: &str| text.replace("@dir@", directory.path().to_str().unwrap());
    let mut command = project.command("timeout", &["--kill-after=10", &unit.limit.as_secs().to_string()]);
    if matches!(side, Side::Supervised) {
        command.arg(imsup()).args(["run", "-p", &project.name, "--"]);
    }
    command.args(unit.command.iter().map(|word| place(word)));
    command.envs(unit.environment.iter().map(|(name, value)| (name, place(value))));
    let output = directory.path().join("output");
    // A file, not a pipe: a process that the unit leaves behind would keep a pipe open.
    let file = File::create(&output).unwrap();
    let mut child = command
        .current_dir(directory.path())
        .env("HOME", directory.path())
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stderr(file.try_clone().unwrap())
        .stdout(file)
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let group = Pid::from_child(&child);
    let status = child.wait().unwrap();
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let said = String::from_utf8_lossy(&std::fs::read(&output).unwrap()).into_owned();
    let text = match unit.format {
        Format::JUnit => std::fs::read_to_string(directory.path().join("results.xml")).unwrap_or_default(),
        _ => said.clone(),
    };
    let mut results = unit.format.parse(&text);
    results.retain(|test, _| !unit.left_out.contains(&test.as_str()));
    let skipped = said.contains("1..0 # Skipped") && matches!(unit.format, Format::Exit);
    results.entry(WHOLE.to_owned()).or_insert_with(|| match status.code() {
        Some(0) if skipped => "skip".to_owned(),
        Some(0) => "ok".to_owned(),
        Some(124 | 137) => "no end".to_owned(),
        _ => "fail".to_owned(),
    });
    Outcome { results, said }
}
