//! The arguments of every suite.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::sandbox::Sandbox;

/// What imsup is compared with that a machine may well not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    /// docker: needs root and Debian's docker.io.
    Docker,
    /// systemd-socket-activate and systemd-socket-proxyd.
    Systemd,
    /// A libc interposer.
    Proxychains4,
}

/// The arguments of every suite.
#[derive(Debug)]
pub struct Context {
    /// imsup, with directories of its own.
    pub sandbox: Sandbox,
    /// This program, which is also the guests.
    pub this: PathBuf,
    /// The directory of the tests' guests.
    pub guests: PathBuf,
    /// Whether a look is enough.
    pub quick: bool,
    /// Baselines that are left out.
    pub without: Vec<Baseline>,
}

/// The repository.
pub fn repository() -> PathBuf {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench).to_owned()
}

/// An imsup.
///
/// # Errors
/// There is none.
pub fn executable(path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        bail!(
            "there is no {}: 'make build' makes it, or name another with --imsup",
            path.display()
        );
    }
    path.canonicalize().context("finding imsup")
}

impl Context {
    /// Finds imsup and makes its directories.
    ///
    /// # Errors
    /// There is no imsup, or no directory can be made.
    pub fn new(imsup: Option<&Path>, guests: Option<&Path>, quick: bool) -> Result<Self> {
        let this = std::env::current_exe().context("finding this program")?;
        let beside = this.parent().unwrap_or(Path::new("."));
        let imsup = executable(&imsup.map_or_else(|| beside.join("imsup"), Path::to_owned))?;
        let guests = guests.map_or_else(|| beside.join("../guests"), Path::to_owned);
        let guests = guests.canonicalize().unwrap_or(guests);
        Ok(Self {
            sandbox: Sandbox::new(imsup)?,
            this,
            guests,
            quick,
            without: Vec::new(),
        })
    }

    /// An error if this baseline is left out.
    ///
    /// # Errors
    /// It is.
    pub fn wants(&self, baseline: Baseline) -> Result<()> {
        let name = baseline
            .to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned());
        anyhow::ensure!(!self.without.contains(&baseline), "left out with '--without {name}'");
        Ok(())
    }

    /// `full`, or `quick` if a short run suffices.
    pub fn count(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}
