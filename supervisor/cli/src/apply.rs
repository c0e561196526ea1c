//! `imsup up` on a project that is up: applies what has changed in its compose file.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};
use imsup_broker::containers;
use imsup_compose::cluster::{Cluster, Start};
use imsup_protocol::control::{Change, Recreate};
use imsup_protocol::{Request, Response};
use imsup_wire::HostName;

use super::background;
use super::caller;
use super::cluster::ClusterArgs;
use super::connection;
use super::output::{self, BOLD, paint};
use super::project::Project;

/// Which hosts begin anew.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RecreateArgs {
    /// End and begin all hosts anew, also those that have not changed
    #[arg(long, conflicts_with = "no_recreate")]
    force_recreate: bool,
    /// Leave hosts that exist as they are; only add new ones
    #[arg(long)]
    no_recreate: bool,
    /// Remove hosts that the compose file does not have any more
    #[arg(long)]
    remove_orphans: bool,
}

impl RecreateArgs {
    fn recreate(&self) -> Recreate {
        match (self.force_recreate, self.no_recreate) {
            (true, _) => Recreate::All,
            (_, true) => Recreate::Never,
            _ => Recreate::Changed,
        }
    }
}

/// Applies the compose file to the project, which is up.
///
/// # Errors
/// Faults of the file, the project is another directory's, or its broker refuses.
pub fn apply(cluster: &ClusterArgs, args: &RecreateArgs) -> Result<Project> {
    let project = cluster.project.find()?;
    let file = cluster.load_to_apply(|warning| {
        output::warning(warning);
        Ok(())
    })?;
    leave(&project, &file)?;
    let before = background::broker_pid(&project)?;
    let request = Request::Apply {
        recreate: args.recreate(),
        remove_orphans: args.remove_orphans,
    };
    let mut changes = Vec::new();
    for answer in connection::ask(&project, request)? {
        match answer? {
            Response::Change { host, change } => changes.push((host, change)),
            other => bail!("the broker answered something else than changes: {other:?}"),
        }
    }
    await_next(&project, before, &changes)?;
    let _ = containers::remove(&project.paths.roots().join(containers::GONE));
    tell(&project, &changes)?;
    start_again(&project, &file, &changes)?;
    Ok(project)
}

/// Leaves the cluster where the broker takes it. Variables may be secrets.
fn leave(project: &Project, cluster: &Cluster) -> Result<()> {
    let path = project.paths.next();
    let failed = || format!("writing {}", path.display());
    let _ = fs::remove_file(&path);
    let text = serde_json::to_vec(cluster).with_context(failed)?;
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(failed)?;
    file.write_all(&text).with_context(failed)
}

/// Waits until another broker answers, where one takes the place of the last.
fn await_next(project: &Project, before: i32, changes: &[(HostName, Change)]) -> Result<()> {
    let is_new = |(_, change): &(HostName, Change)| *change != Change::Orphan;
    while changes.iter().any(is_new) && background::broker_pid(project)? == before {
        // The last one is still about to end.
        background::await_change(project)?;
    }
    Ok(())
}

/// Says what has changed.
fn tell(project: &Project, changes: &[(HostName, Change)]) -> Result<()> {
    let mut lines = output::Lines::to_stdout();
    if changes.iter().all(|(_, change)| *change == Change::Orphan) {
        lines.add(&format!("{}: nothing has changed", paint(BOLD, &project.name)))?;
    }
    for (host, change) in changes {
        match change {
            Change::Orphan => output::warning(&format!(
                "host '{host}' is not in the compose file any more, and stays as it was: --remove-orphans removes it"
            )),
            change => lines.add(&format!("  {host}: {}", sentence(change)))?,
        }
    }
    lines.write()?;
    Ok(())
}

fn sentence(change: &Change) -> String {
    match change {
        Change::New => "new".to_owned(),
        Change::Changed { keys } if keys.is_empty() => "begins anew".to_owned(),
        Change::Changed { keys } => format!("changed ({}), begins anew", keys.join(", ")),
        Change::Removed => "removed".to_owned(),
        Change::Orphan => "not in the file".to_owned(),
    }
}

/// Boots hosts that have ended and that start with `up`, without waiting for them. Those that are new
/// are booted by their broker.
fn start_again(project: &Project, cluster: &Cluster, changes: &[(HostName, Change)]) -> Result<()> {
    let has_ended = |name: &HostName| {
        let changed = changes.iter().find(|(host, _)| host == name);
        changed.is_some_and(|(_, change)| matches!(change, Change::Changed { .. }))
    };
    let starts = cluster
        .hosts
        .iter()
        .filter(|host| host.imsup.start == Some(Start::Up) || host.imsup.keep_awake);
    let hosts: Vec<HostName> = starts.map(|host| host.name.clone()).filter(has_ended).collect();
    if !hosts.is_empty() {
        let (by, exec) = (caller::name(), false);
        drop(connection::ask(project, Request::Wake { hosts, by, exec })?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_said_in_the_words_of_the_file() {
        let keys = ["image", "environment"].map(str::to_owned).to_vec();
        assert_eq!(
            sentence(&Change::Changed { keys }),
            "changed (image, environment), begins anew"
        );
        assert_eq!(sentence(&Change::Changed { keys: Vec::new() }), "begins anew");
    }
}
