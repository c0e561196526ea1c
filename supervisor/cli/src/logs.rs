//! `imsup logs`: the output of the programs.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use imsup_broker::logs::{From, Logs};
use imsup_wire::HostName;

use super::compose::FileArgs;
use super::connection;
use super::failure::hinted;
use super::output::{self, paint, prefix_style};
use super::project::{Project, ProjectAndFileArgs, ProjectArgs};

/// Show what the programs of hosts print
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectArgs,
    /// The compose files (-f means --follow here)
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Files of variables instead of .env
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// The directory of relative paths
    #[arg(long, value_name = "DIRECTORY")]
    project_directory: Option<PathBuf>,
    /// Stay and show what they print
    #[arg(short, long)]
    follow: bool,
    /// Begin with only the last N lines of each host
    #[arg(short = 'n', long, value_name = "N|all", value_parser = tail)]
    tail: Option<From>,
    #[arg(short, long, hide = true)]
    timestamps: bool,
    #[arg(long, hide = true)]
    since: Option<String>,
    #[arg(long, hide = true)]
    until: Option<String>,
    /// No difference: the colours of programs are theirs (NO_COLOR turns off those of names)
    #[arg(long, hide = true)]
    no_color: bool,
    /// Do not begin lines with the host's name
    #[arg(long)]
    no_log_prefix: bool,
    /// Only these hosts [default: all]
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
}

impl Args {
    fn project(&self) -> Result<Project> {
        let project = ProjectAndFileArgs {
            project: self.project.clone(),
            files: FileArgs {
                files: self.files.clone(),
                env_files: self.env_files.clone(),
                project_directory: self.project_directory.clone(),
            },
        };
        project.find()
    }
}

fn tail(text: &str) -> Result<From> {
    if text == "all" {
        return Ok(From::Beginning);
    }
    Ok(From::Tail(text.parse()?))
}

fn timeless() -> anyhow::Error {
    let error =
        anyhow!("a log is what programs print, without times: --timestamps, --since and --until have none to go by");
    hinted(
        error,
        "`imsup events` has the times of what happened, `imsup logs --tail N` the latest lines",
    )
}

/// Runs the verb.
///
/// # Errors
/// No project that is up, or no such host.
pub fn run(args: &Args) -> Result<()> {
    if args.timestamps || args.since.is_some() || args.until.is_some() {
        return Err(timeless());
    }
    let project = args.project()?;
    let all: Vec<HostName> = connection::hosts(&project)?.into_iter().map(|host| host.name).collect();
    let selected = connection::select(&project, &args.hosts)?;
    let prefixes = match (selected.as_slice(), args.no_log_prefix) {
        (_, true) | ([_], false) => None,
        ([], false) => Some(Prefixes::new(&all)),
        (several, false) => Some(Prefixes::new(several)),
    };
    let from = args.tail.unwrap_or(From::Beginning);
    let logs = open(&project, &selected, from)?;
    Ok(show(logs, args.follow, prefixes.as_ref())?)
}

/// The new output of all hosts, for [`follow_all`].
///
/// # Errors
/// The logs cannot be read.
pub fn from_now(project: &Project) -> Result<Logs> {
    open(project, &[], From::Now)
}

/// Shows the output of all hosts, each line after its host's name, until the project is gone.
///
/// # Errors
/// The logs cannot be read, or standard output be written.
pub fn follow_all(logs: Logs, hosts: &[HostName]) -> Result<()> {
    Ok(show(logs, true, Some(&Prefixes::new(hosts)))?)
}

fn open(project: &Project, hosts: &[HostName], from: From) -> Result<Logs> {
    let hosts: Vec<String> = hosts.iter().map(HostName::to_string).collect();
    Logs::open(&project.paths, &hosts, from).with_context(|| format!("opening the logs of project '{}'", project.name))
}

fn show(mut logs: Logs, follow: bool, prefixes: Option<&Prefixes>) -> std::io::Result<()> {
    let mut print = |host: &str, line: &[u8]| {
        let mut out = output::stdout();
        if let Some(prefixes) = prefixes {
            write!(out, "{}", prefixes.prefix(host))?;
        }
        // Programs colour lines; these colours are left unchanged on a terminal and removed
        // elsewhere.
        out.write_all(line)?;
        out.write_all(b"\n")
    };
    loop {
        logs.read(&mut print)?;
        for (host, bytes) in logs.take_missed() {
            output::warning(&format!(
                "{bytes} bytes that {host} printed were dropped before they could be shown: its log keeps what `logging: options: max-size` says"
            ));
        }
        if !follow || !logs.wait()? {
            logs.finish(&mut print)?;
            return Ok(());
        }
    }
}

/// The prefixes of lines.
struct Prefixes {
    hosts: Vec<String>,
    width: usize,
}

impl Prefixes {
    fn new(hosts: &[HostName]) -> Self {
        Self {
            width: hosts.iter().map(|host| host.as_str().len()).max().unwrap_or(0),
            hosts: hosts.iter().map(HostName::to_string).collect(),
        }
    }

    /// `web   | `, in the host's colour.
    fn prefix(&self, host: &str) -> String {
        let position = self.hosts.iter().position(|known| known == host);
        let style = prefix_style(position.unwrap_or(self.hosts.len()));
        let text = format!("{host:<width$} |", width = self.width);
        format!("{} ", paint(style, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_aligned_and_told_apart() {
        let hosts: Vec<HostName> = ["web", "cache"].map(|name| name.parse().unwrap()).to_vec();
        let prefixes = Prefixes::new(&hosts);
        let plain = |host: &str| anstream::adapter::strip_str(&prefixes.prefix(host)).to_string();
        assert_eq!(plain("web"), "web   | ");
        assert_eq!(plain("cache"), "cache | ");
        assert_eq!(plain("later-one"), "later-one | ");
        assert_ne!(
            prefixes.prefix("web").replace("web  ", "cache"),
            prefixes.prefix("cache")
        );
    }
}
