//! Runs a command to its end, with a time-out.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::interrupt;

/// No command that is run here takes nearly as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a child to end, at most [`PATIENCE`]; then the child is killed.
///
/// # Errors
/// The child did not end in time, or a signal came.
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

/// Runs a command and returns its standard output.
///
/// Both outputs are files: a daemon that kept a pipe open would make us wait for the daemon's end.
///
/// # Errors
/// The command cannot be started, fails, or does not end in time.
pub fn output(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    run(command).with_context(|| name)
}

fn run(command: &mut Command) -> Result<String> {
    let (status, out, err) = outputs(command)?;
    anyhow::ensure!(status.success(), "{status}: {}", err.trim());
    Ok(out)
}

/// Runs a command and returns all its output, whether the command failed or not: standard output,
/// then standard error.
///
/// # Errors
/// The command cannot be started, or does not end in time.
pub fn said(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    let (_, out, err) = outputs(command).with_context(|| name)?;
    Ok(out + &err)
}

fn outputs(command: &mut Command) -> Result<(ExitStatus, String, String)> {
    let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .spawn()?;
    let status = wait(&mut child)?;
    let read = |mut file: File| {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok((status, read(out)?, read(err)?))
}

/// Writes a file.
///
/// # Errors
/// As write(2), with the path.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    File::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

/// The place of a program by PATH. Shims (pyenv's and the like) are passed over, because the shell
/// script in front would be measured as well.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| !directory.ends_with("shims"))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The same for a server, which Debian may install in a directory of root's PATH alone.
pub fn find_server(program: &str) -> Option<PathBuf> {
    find(program).or_else(|| Some(Path::new("/usr/sbin").join(program)).filter(|path| path.is_file()))
}
