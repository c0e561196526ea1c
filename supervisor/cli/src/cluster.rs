//! Which cluster a broker is to have: the arguments that `up`, `broker` and `config` share.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use imsup_compose::cluster::{Cluster, Condition};
use imsup_compose::{self as compose, LoadOptions};

use imsup_wire::HostName;

use super::failure::hinted;
use super::project::{Project, ProjectAndFileArgs};
use super::{containers, limits};

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
    /// The options of a load.
    ///
    /// # Errors
    /// Standard input is a compose file, and cannot be read.
    pub fn options(&self) -> Result<LoadOptions> {
        Ok(LoadOptions {
            project: self.project.project.explicit().map(str::to_owned),
            profiles: self.profiles.clone(),
            strict: self.strict,
            ..self.project.files.options()?
        })
    }

    /// Reads the compose files; `warn` is called with the parts that have no effect, also before an
    /// error.
    ///
    /// # Errors
    /// Faults of the compose files.
    pub fn load(&self, mut warn: impl FnMut(&str) -> Result<()>) -> Result<Cluster> {
        let mut warnings = Vec::new();
        let loaded = compose::load_with(&self.options()?, &mut warnings);
        warnings.iter().try_for_each(|warning| warn(&warning.to_string()))?;
        Ok(loaded?.cluster)
    }

    /// The same for a broker: also has the images brought, and prepares this machine, and this process,
    /// for the hosts' volumes and limits.
    ///
    /// # Errors
    /// Faults of the files; if strict, also limits that would not hold.
    pub fn load_to_serve(&self, mut warn: impl FnMut(&str) -> Result<()>) -> Result<Cluster> {
        let mut warnings = Vec::new();
        let loaded = self.load(|warning| {
            warnings.push(warning.to_owned());
            Ok(())
        });
        // A project that is up is said to be so later, by its lock.
        let is_up = |cluster: &Cluster| Project::named(cluster.project.as_str()).is_up();
        if let Ok(cluster) = &loaded
            && is_up(cluster)
        {
            return loaded;
        }
        warnings.iter().try_for_each(|warning| warn(warning))?;
        let mut cluster = loaded?;
        containers::prepare(&mut cluster, &mut warn)?;
        check_health(&cluster)?;
        limits::prepare(&cluster, self.strict, warn)?;
        Ok(cluster)
    }

    /// The same for a project that is up, whose broker has prepared the machine.
    ///
    /// # Errors
    /// Faults of the files.
    pub fn load_to_apply(&self, mut warn: impl FnMut(&str) -> Result<()>) -> Result<Cluster> {
        let mut cluster = self.load(&mut warn)?;
        containers::prepare(&mut cluster, &mut warn)?;
        check_health(&cluster)?;
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
        let files = &self.project.files;
        for file in &files.files {
            option("--file", file.into());
        }
        for file in &files.env_files {
            option("--env-file", file.into());
        }
        if let Some(directory) = &files.project_directory {
            option("--project-directory", directory.into());
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

/// Checks the kinds of health checks, and that whoever is waited for to be healthy has one, the image's
/// included.
fn check_health(cluster: &Cluster) -> Result<()> {
    for host in &cluster.hosts {
        let kind = host.health.as_ref().and_then(|health| health.test.first());
        if let Some(kind) = kind.filter(|kind| !["CMD", "CMD-SHELL", "NONE"].contains(&kind.as_str())) {
            let name = &host.name;
            bail!("host '{name}': its healthcheck's test begins with '{kind}': write CMD, CMD-SHELL or NONE there");
        }
    }
    let is_checked = |name: &HostName| {
        let mut hosts = cluster.hosts.iter();
        let host = hosts.find(|host| host.name == *name);
        host.is_none_or(|host| host.health.as_ref().is_some_and(|health| health.command().is_some()))
    };
    for host in &cluster.hosts {
        let healthy = host
            .prerequisites
            .iter()
            .filter(|one| one.condition == Condition::Healthy);
        if let Some(unchecked) = healthy.map(|one| &one.host).find(|name| !is_checked(name)) {
            let error = anyhow!(
                "host '{}' waits for '{unchecked}' to be healthy, and no check says when it is",
                host.name
            );
            let hint = format!("give '{unchecked}' a `healthcheck`, or wait with `condition: service_started`");
            return Err(hinted(error, hint));
        }
    }
    Ok(())
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
            "--env-file=x.env",
            "--project-directory=d",
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
            again.project.files.files,
            [PathBuf::from("-a.yaml"), PathBuf::from("b c.yaml")]
        );
        assert_eq!(again.project.files.env_files, [PathBuf::from("x.env")]);
        assert_eq!(again.project.files.project_directory, Some(PathBuf::from("d")));
        assert_eq!((again.profiles, again.strict), (vec!["dev".to_owned()], true));
    }
}
