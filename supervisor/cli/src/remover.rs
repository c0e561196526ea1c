//! `imsup remover`: removes directories whose files belong to subordinate ids (subuid(5)), which
//! only root of a user namespace over these ids can. A process of its own, since the namespace is
//! for a whole process.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};
use imsup_linux::single_thread::SingleThread;
use imsup_linux::user_namespace::enter_subordinate;

/// Remove directories of programs of images
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directories
    #[arg(value_name = "DIRECTORY", required = true)]
    directories: Vec<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// The user has no subordinate ids, or a directory cannot be removed.
pub fn run(args: &Args) -> Result<()> {
    let thread = SingleThread::prove().context("entering a user namespace")?;
    enter_subordinate(&thread)?;
    for directory in &args.directories {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", directory.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
