//! Running a command to its end, with a bound.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::interrupt;

/// No command that is run here takes nearly as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a child to end, at most [`PATIENCE`]; it is killed when that is over.
///
/// # Errors
/// It did not end in time, or a signal came.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .context("watching a process")
        .and_then(|pidfd| interrupt::readable(&pidfd, PATIENCE));
    if let Ok(true) = ended {
        return child.wait().context("waiting for a process");
    }
    let _ = child.kill();
    let _ = child.wait();
    ended?;
    bail!("it did not end within {} s", PATIENCE.as_secs());
}

/// Runs a command and gives its standard output.
///
/// Both outputs are files: a daemon that kept a pipe open would make us wait for its end.
///
/// # Errors
/// It cannot be started, fails, or does not end in time.
pub fn output(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    run(command).with_context(|| name)
}

fn run(command: &mut Command) -> Result<String> {
    let mut out = tempfile::tempfile()?;
    let mut err = tempfile::tempfile()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .spawn()?;
    let status = wait(&mut child)?;
    let mut text = String::new();
    if !status.success() {
        err.rewind()?;
        err.read_to_string(&mut text)?;
        bail!("{status}: {}", text.trim());
    }
    out.rewind()?;
    out.read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a file.
///
/// # Errors
/// As write(2), with the path.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::File::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

/// Where a program is by PATH; pyenv's and the like's shims are passed over, since a shell script in front would be
/// measured with it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| !directory.ends_with("shims"))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
