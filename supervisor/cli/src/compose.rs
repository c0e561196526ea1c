//! The compose files that a verb is about.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use imsup_compose::{self as compose, LoadOptions, ServiceImage};
use rustix::fs::{MemfdFlags, memfd_create};

/// Which files, and the variables beside them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FileArgs {
    /// A compose file; the next ones change what the ones before say; '-' is standard input
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A file of variables instead of .env; the next ones change what the ones before say
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// The directory of relative paths [default: that of the first compose file]
    #[arg(long, value_name = "DIRECTORY")]
    pub project_directory: Option<PathBuf>,
}

impl FileArgs {
    /// The options of a load.
    ///
    /// # Errors
    /// Standard input is a compose file, and cannot be read.
    pub fn options(&self) -> Result<LoadOptions> {
        let is_asked = self.files.iter().any(|file| file.as_os_str() == "-");
        Ok(LoadOptions {
            files: self.files.clone(),
            stdin: is_asked.then(stdin).transpose()?,
            env_files: self.env_files.clone(),
            project_directory: self.project_directory.clone(),
            ..LoadOptions::from_process()
        })
    }
}

/// The content of standard input, once it was read as a compose file.
static CONTENT: OnceLock<Arc<[u8]>> = OnceLock::new();

/// Standard input for a broker that reads the compose file again; `None` if this process has not
/// read its own, which the broker then inherits.
///
/// # Errors
/// memfd_create(2), write(2).
pub fn stdin_again() -> io::Result<Option<File>> {
    let Some(content) = CONTENT.get() else {
        return Ok(None);
    };
    let mut file = File::from(memfd_create(c"imsup-compose", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(Some(file))
}

/// Standard input, which can be read once, for several loads.
fn stdin() -> Result<Arc<[u8]>> {
    if let Some(content) = CONTENT.get() {
        return Ok(content.clone());
    }
    let mut content = Vec::new();
    let limit = compose::MAX_FILE_BYTES + 1;
    let mut input = std::io::stdin().lock().take(limit);
    input.read_to_end(&mut content).context("reading standard input")?;
    Ok(CONTENT.get_or_init(|| content.into()).clone())
}

/// The images that the services of these files name, even if the services could not be run.
///
/// # Errors
/// There is no file, or the file cannot be understood.
pub fn images(files: &FileArgs, project: Option<&str>, profiles: &[String]) -> Result<Vec<ServiceImage>> {
    let options = LoadOptions {
        project: project.map(str::to_owned),
        profiles: profiles.to_vec(),
        ..files.options()?
    };
    Ok(compose::images_of(&options)?)
}

/// The project of these files, or of the file found here or above, and its directory; `None` if
/// there is none.
///
/// # Errors
/// Faults of the file.
pub fn project(files: &FileArgs) -> Result<Option<(String, PathBuf)>> {
    let options = files.options()?;
    if !compose::is_here(&options)? {
        return Ok(None);
    }
    Ok(Some(compose::project_of(&options)?))
}

/// True if files are named, or a file is found here or above.
///
/// # Errors
/// The current directory is gone.
pub fn is_here(files: &FileArgs) -> Result<bool> {
    Ok(compose::is_here(&files.options()?)?)
}
