//! `imsup top`: the processes of hosts.

use std::fs;

use anyhow::Result;
use imsup_linux::process;

use super::connection;
use super::project::ProjectAndFileArgs;
use super::table::Table;

/// List the processes of hosts that run or sleep; to look wakes none
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Only these hosts [default: all]
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// No project that is up, or no such host.
pub fn run(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let wanted = connection::select(&project, &args.hosts)?;
    let mut table = Table::new(["HOST", "UID", "PID", "PPID", "CMD"]);
    for host in connection::hosts(&project)? {
        let Some(pid) = host.pid else { continue };
        if !wanted.is_empty() && !wanted.contains(&host.name) {
            continue;
        }
        for pid in of_host(pid.cast_signed()) {
            let field = |name| process::status_field(pid, name).unwrap_or_default();
            let user = field("Uid:").split_whitespace().next().unwrap_or_default().to_owned();
            let name = host.name.to_string();
            let cells = [name, user, pid.to_string(), field("PPid:"), command(pid)];
            table.row(cells.map(|cell| (cell, None)));
        }
    }
    table.print()
}

/// The processes of a host with this first process, parents before children. The supervisor is the
/// first process's parent, and takes the host's orphans.
fn of_host(first: i32) -> Vec<i32> {
    let supervisor = process::status_field(first, "PPid:").and_then(|parent| parent.parse().ok());
    let mut found = Vec::new();
    let mut next = supervisor.map_or_else(Vec::new, children);
    next.reverse();
    while let Some(pid) = next.pop() {
        found.push(pid);
        next.extend(children(pid).into_iter().rev());
    }
    found
}

/// The children of a process, of whichever of its threads (proc_tid_children(5)).
fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let all: String = lists.collect();
    all.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The arguments of a process (proc_pid_cmdline(5)), or its name if it has none.
fn command(pid: i32) -> String {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&arguments).replace('\0', " ");
    match text.trim_end() {
        "" => format!("[{}]", process::name(pid).unwrap_or_default()),
        text => text.to_owned(),
    }
}
