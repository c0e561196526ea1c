//! The ids of a child in a user namespace of its own, which its parent sets (user_namespaces(7),
//! "User and group ID mappings").

use std::path::PathBuf;
use std::process::{Command, Stdio};

use imsup_wire::Ids;
use imsup_wire::root::IdRange;
use nix::unistd::{Pid, getgid, getuid};

/// Why a child's ids could not be set.
#[derive(Debug, thiserror::Error)]
pub enum IdsError {
    /// A file of /proc could not be written.
    #[error("the ids of its user namespace cannot be set ({}): {source}; are user namespaces allowed here (sysctl user.max_user_namespaces)?", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The program that knows subordinate ids is missing, or cannot be executed.
    #[error("{program} cannot be executed ({source}): Debian's package uidmap has it")]
    NoProgram {
        /// The program's name.
        program: &'static str,
        /// The reason.
        source: std::io::Error,
    },
    /// The program refused.
    #[error("{program} refused: {said}")]
    Refused {
        /// The program's name.
        program: &'static str,
        /// What it printed.
        said: String,
    },
}

/// Sets the ids of a child that was made in a user namespace.
///
/// # Errors
/// Any [`IdsError`].
pub(crate) fn set(child: Pid, ids: &Ids) -> Result<(), IdsError> {
    match ids {
        Ids::Identity => Ok(()),
        Ids::One { uid, gid } => {
            // Before gid_map, if the writer is no root (user_namespaces(7), "The
            // /proc/pid/setgroups file").
            write(child, "setgroups", "deny")?;
            write(child, "gid_map", &format!("{gid} {} 1", getgid()))?;
            write(child, "uid_map", &format!("{uid} {} 1", getuid()))
        }
        Ids::Ranges { users, groups } => {
            by_program("newgidmap", child, groups)?;
            by_program("newuidmap", child, users)
        }
    }
}

fn write(child: Pid, name: &str, content: &str) -> Result<(), IdsError> {
    let path = PathBuf::from(format!("/proc/{child}/{name}"));
    std::fs::write(&path, content).map_err(|source| IdsError::Map { path, source })
}

/// newuidmap(1) or newgidmap(1).
///
/// Blocking: a supervisor starts its program before its loop, and the child waits for its ids.
fn by_program(program: &'static str, child: Pid, ranges: &[IdRange]) -> Result<(), IdsError> {
    let mut command = Command::new(program);
    command.arg(child.to_string()).stdin(Stdio::null());
    for range in ranges {
        command.args([range.inside, range.outside, range.count].map(|number| number.to_string()));
    }
    let output = command
        .output()
        .map_err(|source| IdsError::NoProgram { program, source })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(IdsError::Refused {
            program,
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}
