//! The environment of all measured programs.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

/// The variables kept from the caller's environment.
const KEPT: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TERM",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "RUST_BACKTRACE",
    "RUSTUP_HOME",
    "CARGO_HOME",
];

/// Executes this program again without the other variables. Native programs and hosts would have
/// them, containers and systemd's units would not, and some variables cost time:
/// NODE_EXTRA_CA_CERTS 40 ms of each start of node.
///
/// # Errors
/// execve(2).
pub fn clear() -> Result<()> {
    let (kept, others): (Vec<_>, Vec<_>) =
        std::env::vars_os().partition(|(name, _)| KEPT.iter().any(|kept| name.to_str() == Some(*kept)));
    if others.is_empty() {
        return Ok(());
    }
    let this = std::env::current_exe().context("finding this program")?;
    let mut again = Command::new(this);
    again.args(std::env::args_os().skip(1)).env_clear().envs(kept);
    Err(again.exec()).context("executing this program again, with an environment of its own")
}
