//! `imsup config`: the compose file, checked and resolved.

use std::io::Write;

use anyhow::Result;
use imsup_compose as compose;

use super::cluster::ClusterArgs;
use super::output;

/// Check the compose file, and print it with everything resolved
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How to write it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: ConfigFormat,
    /// Only check
    #[arg(short, long)]
    quiet: bool,
    /// Print only the names of the hosts
    #[arg(long, alias = "services", conflicts_with = "format")]
    hosts: bool,
}

/// How the configuration is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum ConfigFormat {
    /// A compose file again.
    #[default]
    Yaml,
    /// The same as JSON.
    Json,
}

/// Runs the verb.
///
/// # Errors
/// Faults of the file.
pub fn run(args: &Args) -> Result<()> {
    let mut warnings = Vec::new();
    let resolved = compose::resolve(&args.cluster.options()?, &mut warnings);
    for warning in &warnings {
        output::warning(&warning.to_string());
    }
    let (loaded, document) = resolved?;
    let mut out = output::stdout();
    if args.quiet {
        return Ok(());
    }
    if args.hosts {
        let hosts = &loaded.cluster.hosts;
        hosts.iter().try_for_each(|host| writeln!(out, "{}", host.name))?;
        return Ok(());
    }
    match args.format {
        ConfigFormat::Yaml => out.write_all(document.yaml().as_bytes())?,
        ConfigFormat::Json => writeln!(out, "{}", document.json())?,
    }
    Ok(())
}
