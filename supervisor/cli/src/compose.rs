//! The compose file that a verb is about.

use std::path::PathBuf;

use anyhow::{Context, Result};
use imsup_compose::{self as compose, ComposeError, LoadOptions, Loaded, ServiceImage};

/// Reads these files, or the files of `COMPOSE_FILE`, or the file found here or above.
///
/// # Errors
/// There is no file, or the file has faults.
pub fn load(files: &[PathBuf], project: Option<&str>, profiles: &[String], strict: bool) -> Result<Loaded> {
    let options = LoadOptions {
        files: named(files),
        project: project.map(str::to_owned),
        profiles: profiles.to_vec(),
        strict,
        ..LoadOptions::from_process()
    };
    Ok(compose::load(&options)?)
}

/// The images that the services of these files name, even if the services could not be run.
///
/// # Errors
/// There is no file, or the file cannot be understood.
pub fn images(files: &[PathBuf], project: Option<&str>, profiles: &[String]) -> Result<Vec<ServiceImage>> {
    let options = LoadOptions {
        files: named(files),
        project: project.map(str::to_owned),
        profiles: profiles.to_vec(),
        ..LoadOptions::from_process()
    };
    Ok(compose::images_of(&options)?)
}

/// The project of these files, or of the file found here or above, and its directory; `None` if
/// there is none.
///
/// # Errors
/// Faults of the file.
pub fn project(files: &[PathBuf]) -> Result<Option<(String, PathBuf)>> {
    if !is_here(files)? {
        return Ok(None);
    }
    let options = LoadOptions {
        files: named(files),
        ..LoadOptions::from_process()
    };
    Ok(Some(compose::project_of(&options)?))
}

/// True if files are named, or a file is found here or above.
///
/// # Errors
/// The current directory is gone.
pub fn is_here(files: &[PathBuf]) -> Result<bool> {
    if !named(files).is_empty() {
        return Ok(true);
    }
    let here = std::env::current_dir().context("finding the current directory")?;
    match compose::find(&here) {
        Ok(_) => Ok(true),
        Err(ComposeError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The files named with `-f`, else with `COMPOSE_FILE`, separated by colons.
fn named(files: &[PathBuf]) -> Vec<PathBuf> {
    match (files, std::env::var_os("COMPOSE_FILE")) {
        ([], Some(list)) => std::env::split_paths(&list)
            .filter(|file| !file.as_os_str().is_empty())
            .collect(),
        _ => files.to_vec(),
    }
}
