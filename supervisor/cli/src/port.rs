//! `imsup port`: where a port of a host is published.

use std::io::Write;

use anyhow::{Result, bail};
use imsup_wire::Transport;

use super::connection;
use super::output;
use super::project::ProjectAndFileArgs;

/// Print the address of this machine at which a host's port is published
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// The transport
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp", value_parser = ["tcp", "udp"])]
    protocol: String,
    /// The replica, by number
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// The host
    #[arg(value_name = "HOST")]
    host: String,
    /// The host's port
    #[arg(value_name = "PORT")]
    port: u16,
}

/// Runs the verb.
///
/// # Errors
/// No project that is up, no such host, or the port is not published.
pub fn run(args: &Args) -> Result<()> {
    let project = args.project.find()?;
    let transport = match args.protocol.as_str() {
        "udp" => Transport::Udp,
        _ => Transport::Tcp,
    };
    let wanted = match args.index {
        Some(index) => vec![connection::replica(&project, &args.host, index)?],
        None => connection::select(&project, std::slice::from_ref(&args.host))?,
    };
    let hosts = connection::hosts(&project)?;
    let published = hosts
        .iter()
        .filter(|host| wanted.contains(&host.name))
        .flat_map(|host| &host.published);
    let is_it =
        |endpoint: imsup_wire::Endpoint| endpoint.transport == transport && endpoint.address.port() == args.port;
    let found: Vec<String> = published
        .filter(|port| is_it(port.endpoint))
        .map(|port| port.machine.to_string())
        .collect();
    if found.is_empty() {
        bail!(
            "port {}/{transport} of '{}' is not published: `ports` of the compose file publishes it",
            args.port,
            args.host
        );
    }
    let mut out = output::stdout();
    found.iter().try_for_each(|address| writeln!(out, "{address}"))?;
    Ok(())
}
