//! The project of a verb, and the places of its files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use imsup_broker::client::Client;
use imsup_broker::paths::Paths;

use super::compose::{self, FileArgs};
use super::failure::hinted;

/// A project by name, with its directories.
#[derive(Clone, Debug)]
pub struct Project {
    /// The name.
    pub name: String,
    /// Its directories.
    pub paths: Paths,
}

impl Project {
    /// The project with this name.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            paths: Paths::of(&name),
            name,
        }
    }

    /// Whether a broker of the project answers.
    /// True if a broker answers.
    pub fn is_up(&self) -> bool {
        Client::connect(&self.name, &self.paths).is_ok()
    }

    /// A name made from a directory's name may be that of another directory's project, which is up.
    fn check_directory(&self, directory: &Path) -> Result<()> {
        let name = &self.name;
        match self.paths.directory_of_file() {
            Some(other) if other != directory.canonicalize().unwrap_or_else(|_| directory.to_owned()) => Err(hinted(
                anyhow!(
                    "the project '{name}' that is up is that of {}, not of {}",
                    other.display(),
                    directory.display()
                ),
                format!(
                    "say '-p {name}' where that one is meant; give this one another name with 'name:' in its compose file, or with -p"
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// `-p`: for verbs whose `-f` means something else.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ProjectArgs {
    /// The project [default: that of the compose file here or above, else the only one that is up]
    #[arg(
        short,
        long,
        value_name = "NAME",
        alias = "project-name",
        env = "COMPOSE_PROJECT_NAME"
    )]
    #[arg(hide_env_values = true, value_parser = name_or_nothing)]
    pub project: Option<String>,
}

/// `-p` and `-f`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ProjectAndFileArgs {
    /// The project
    #[command(flatten)]
    pub project: ProjectArgs,
    /// The compose files
    #[command(flatten)]
    pub files: FileArgs,
}

/// A project's name is part of paths, so not every name is possible.
fn name_or_nothing(name: &str) -> Result<String, String> {
    let fits = name.len() <= 63
        && !name.starts_with(['-', '_'])
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    if fits {
        Ok(name.to_owned())
    } else {
        Err("use 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter or digit".to_owned())
    }
}

impl ProjectArgs {
    /// The given name, if not empty.
    pub fn explicit(&self) -> Option<&str> {
        self.project.as_deref().filter(|name| !name.is_empty())
    }
}

impl ProjectAndFileArgs {
    /// The project meant: see [`choose`].
    ///
    /// # Errors
    /// As [`choose`].
    pub fn find(&self) -> Result<Project> {
        find(self.project.explicit(), &self.files)
    }
}

fn find(explicit: Option<&str>, files: &FileArgs) -> Result<Project> {
    let project = |(name, directory): (String, PathBuf)| {
        let project = Project::named(name);
        project.check_directory(&directory)?;
        Ok(project.name)
    };
    let from_file = || compose::project(files)?.map(project).transpose();
    choose(explicit, from_file, up).map(Project::named)
}

/// The given name, else that of the compose file, else the only project that is up.
///
/// # Errors
/// The file cannot be read, or the project cannot be determined.
fn choose(
    explicit: Option<&str>,
    from_file: impl FnOnce() -> Result<Option<String>>,
    up: impl FnOnce() -> Result<Vec<String>>,
) -> Result<String> {
    if let Some(name) = explicit {
        return Ok(name.to_owned());
    }
    if let Some(name) = from_file()? {
        return Ok(name);
    }
    let up = up()?;
    match up.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(hinted(
            anyhow!("there is no compose file here or above, and no project is up"),
            "go to the directory of a compose file, or name one with -f or its project with -p",
        )),
        several => Err(hinted(
            anyhow!(
                "there is no compose file here or above, and several projects are up: {}",
                several.join(", ")
            ),
            format!("say which with -p, for example '-p {}'", several[0]),
        )),
    }
}

/// The projects of this user whose brokers answer, sorted.
///
/// # Errors
/// The directory of all projects cannot be read.
pub fn up() -> Result<Vec<String>> {
    // The directory of all projects is the parent of any project's directory.
    let paths = Paths::of("any");
    let Some(base) = paths.runtime().parent() else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("looking for projects in {}", base.display())),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Project::named(name.as_str()).is_up())
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(explicit: Option<&str>, file: Option<&str>, up: &[&str]) -> Result<String> {
        choose(
            explicit,
            || Ok(file.map(str::to_owned)),
            || Ok(up.iter().map(|name| (*name).to_owned()).collect()),
        )
    }

    #[test]
    fn what_is_said_wins_over_what_is_found() {
        assert_eq!(pick(Some("a"), Some("b"), &["c"]).unwrap(), "a");
        assert_eq!(pick(None, Some("b"), &["c"]).unwrap(), "b");
        assert_eq!(pick(None, None, &["c"]).unwrap(), "c");
    }

    #[test]
    fn several_projects_are_listed() {
        let error = pick(None, None, &["shop", "blog"]).unwrap_err().to_string();
        assert!(error.contains("shop, blog"), "{error}");
        assert!(pick(None, None, &[]).is_err());
    }

    #[test]
    fn a_name_is_no_path() {
        assert!(name_or_nothing("shop_2-x").is_ok());
        for bad in ["../x", "a/b", "Shop", "-x", ".", &"x".repeat(64)] {
            assert!(name_or_nothing(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_name_is_none() {
        let args = ProjectArgs {
            project: Some(String::new()),
        };
        assert_eq!(args.explicit(), None);
    }
}
