//! Which cluster a broker is to have: the arguments that `up`, `broker` and `config` share.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use imsup_compose::cluster::Cluster;

use super::compose;
use super::limits;
use super::project::ProjectAndFileArgs;

/// What cluster it is.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClusterArgs {
    #[command(flatten)]
    pub project: ProjectAndFileArgs,
    /// Also take the services of this profile
    #[arg(long = "profile", value_name = "NAME")]
    pub profiles: Vec<String>,
    /// Refuse keys of the compose file that would have no effect
    #[arg(long)]
    pub strict: bool,
}

impl ClusterArgs {
    /// Reads the compose files; `warn` is called with the parts that have no effect.
    ///
    /// # Errors
    /// Faults of the compose files.
    pub fn load(&self, mut warn: impl FnMut(&str) -> Result<()>) -> Result<Cluster> {
        let files = &self.project.files;
        let loaded = compose::load(files, self.project.project.explicit(), &self.profiles, self.strict)?;
        for warning in &loaded.warnings {
            warn(&warning.to_string())?;
        }
        Ok(loaded.cluster)
    }

    /// The same for a broker: also prepares this machine, and this process, for the hosts' limits.
    ///
    /// # Errors
    /// Faults of the files; if strict, also limits that would not hold.
    pub fn load_to_serve(&self, mut warn: impl FnMut(&str) -> Result<()>) -> Result<Cluster> {
        let cluster = self.load(&mut warn)?;
        limits::prepare(&cluster, self.strict, warn)?;
        Ok(cluster)
    }

    /// The same as a command line.
    pub fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut option = |name: &str, value: OsString| {
            let mut argument = OsString::from(name);
            argument.push("=");
            argument.push(value);
            arguments.push(argument);
        };
        if let Some(project) = self.project.project.explicit() {
            option("--project", project.into());
        }
        for file in &self.project.files {
            option("--file", file.into());
        }
        for profile in &self.profiles {
            option("--profile", profile.into());
        }
        if self.strict {
            arguments.push("--strict".into());
        }
        arguments
    }
}

/// A cluster without hosts, for `imsup run` without a compose file.
pub fn empty(project: &str, directory: &Path) -> Cluster {
    Cluster {
        project: project.to_owned(),
        directory: PathBuf::from(directory),
        subnet: None,
        hosts: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        cluster: ClusterArgs,
    }

    #[test]
    fn a_command_line_survives_being_passed_on() {
        let given = [
            "x",
            "-p",
            "shop",
            "--file=-a.yaml",
            "--file=b c.yaml",
            "--profile=dev",
            "--strict",
        ];
        let cluster = Only::try_parse_from(given)
            .unwrap_or_else(|error| panic!("{error}"))
            .cluster;
        let passed = [OsString::from("x")].into_iter().chain(cluster.to_arguments());
        let again = Only::try_parse_from(passed)
            .unwrap_or_else(|error| panic!("{error}"))
            .cluster;
        assert_eq!(again.project.project.explicit(), Some("shop"));
        assert_eq!(
            again.project.files,
            [PathBuf::from("-a.yaml"), PathBuf::from("b c.yaml")]
        );
        assert_eq!((again.profiles, again.strict), (vec!["dev".to_owned()], true));
    }
}
