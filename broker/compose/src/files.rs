//! Which files are read: those named by options or variables, else those found; and the variables
//! of environment files, which may name the files.

use std::io;
use std::path::{Path as FilePath, PathBuf};

use super::LoadOptions;
use super::dotenv::Variables;
use super::environment::read_dotenv;
use super::error::ComposeError;
use super::source::{STDIN, clean};
use super::trust::Trusted;
use super::variables::Environment;

/// The environment file beside a compose file.
const DOTENV: &str = ".env";

/// The files of a load.
pub(super) struct Files<'a> {
    /// Each with the name that messages use.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The project's directory.
    pub directory: PathBuf,
    pub environment: Environment<'a>,
}

/// The files to read, the project's directory, and the variables.
pub(super) fn files(options: &LoadOptions) -> Result<Files<'_>, ComposeError> {
    let start = start(options)?;
    let mut environment = Environment::new(&options.environment, start.to_string_lossy().into_owned());
    let trusted = options
        .files
        .is_empty()
        .then(|| Trusted::by(environment.get("SUDO_UID")));
    let chosen = options
        .project_directory
        .as_ref()
        .map(|directory| clean(&start.join(directory)));
    let env_files = env_files(options, &environment);
    if env_files.is_empty() {
        // The file may name the compose files, so their directory is not known yet.
        let first = options.files.first().map(|file| directory_of(&start, file));
        let beside = chosen.clone().or(first).unwrap_or_else(|| start.clone());
        add_dotenv(&mut environment, &beside, trusted.as_ref())?;
    } else {
        add_files(&mut environment, &start, &env_files)?;
    }
    let shown = match named(options, &environment) {
        named if !named.is_empty() => named,
        _ => {
            let found = super::find(&start)?;
            let over = super::find_override(&found);
            let found: Vec<PathBuf> = std::iter::once(found).chain(over).collect();
            for file in &found {
                check(file, &found[0], trusted.as_ref())?;
            }
            found
        }
    };
    let directory = chosen.unwrap_or_else(|| directory_of(&start, &shown[0]));
    if env_files.is_empty() {
        add_dotenv(&mut environment, &directory, trusted.as_ref())?;
    }
    let files = shown.into_iter().map(|file| match file.as_os_str() == STDIN {
        true => (file.clone(), file),
        false => (clean(&start.join(&file)), file),
    });
    Ok(Files {
        files: files.collect(),
        directory,
        environment,
    })
}

/// True if files are named, by an option or a variable, or a file is found.
///
/// # Errors
/// [`ComposeError`] for environment files that cannot be read.
pub fn is_here(options: &LoadOptions) -> Result<bool, ComposeError> {
    match files(options) {
        Ok(_) => Ok(true),
        Err(ComposeError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn start(options: &LoadOptions) -> Result<PathBuf, ComposeError> {
    let start = if options.directory.as_os_str().is_empty() {
        FilePath::new(".")
    } else {
        &options.directory
    };
    let absolute = std::path::absolute(start).map_err(|source| ComposeError::Read {
        file: start.to_owned(),
        source,
    })?;
    Ok(clean(&absolute))
}

/// The directory of a compose file; the current one for standard input.
fn directory_of(start: &FilePath, file: &FilePath) -> PathBuf {
    if file.as_os_str() == STDIN {
        return start.to_owned();
    }
    let file = clean(&start.join(file));
    file.parent().unwrap_or(start).to_owned()
}

/// The files named with `-f`, else those of COMPOSE_FILE.
fn named(options: &LoadOptions, environment: &Environment<'_>) -> Vec<PathBuf> {
    if !options.files.is_empty() {
        return options.files.clone();
    }
    let separator = environment
        .get("COMPOSE_PATH_SEPARATOR")
        .filter(|text| !text.is_empty());
    let list = environment.get("COMPOSE_FILE").unwrap_or_default();
    let files = list.split(separator.unwrap_or(":"));
    files.filter(|file| !file.is_empty()).map(PathBuf::from).collect()
}

/// The files named with `--env-file`, else those of COMPOSE_ENV_FILES.
fn env_files(options: &LoadOptions, environment: &Environment<'_>) -> Vec<PathBuf> {
    if !options.env_files.is_empty() {
        return options.env_files.clone();
    }
    let list = environment.get("COMPOSE_ENV_FILES").unwrap_or_default();
    list.split(',')
        .filter(|file| !file.is_empty())
        .map(PathBuf::from)
        .collect()
}

fn add_dotenv(
    environment: &mut Environment<'_>,
    directory: &FilePath,
    trusted: Option<&Trusted>,
) -> Result<(), ComposeError> {
    let file = directory.join(DOTENV);
    if file.is_dir() {
        return Ok(());
    }
    // To name the compose file is to mean this file as well.
    let named = super::find(directory).unwrap_or_else(|_| file.clone());
    check(&file, &named, trusted)?;
    let known = environment.clone();
    environment.add(read_dotenv(&file, &|name| known.get(name).map(str::to_owned))?);
    Ok(())
}

/// Adds the variables of files that are named: the later files win.
fn add_files(environment: &mut Environment<'_>, start: &FilePath, files: &[PathBuf]) -> Result<(), ComposeError> {
    let mut all = Variables::new();
    for file in files {
        let path = start.join(file);
        if let Err(source) = path.metadata() {
            let file = file.clone();
            return Err(ComposeError::Read { file, source });
        }
        let lookup = |name: &str| {
            let known = environment.get(name).map(str::to_owned);
            known.or_else(|| all.get(name).cloned().flatten())
        };
        let variables = read_dotenv(&path, &lookup)?;
        all.extend(variables);
    }
    environment.add(all);
    Ok(())
}

/// Refuses a file that was found, and that others may have written.
fn check(file: &FilePath, named: &FilePath, trusted: Option<&Trusted>) -> Result<(), ComposeError> {
    let Some(trusted) = trusted else { return Ok(()) };
    let why = trusted.check(file).map_err(|source: io::Error| ComposeError::Read {
        file: file.to_owned(),
        source,
    })?;
    match why {
        None => Ok(()),
        Some(why) => Err(ComposeError::Untrusted {
            file: file.to_owned(),
            why,
            named: named.to_owned(),
        }),
    }
}
