//! `imsup hosts` and `imsup resolve`: the names of hosts, for unsupervised clients.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;

use anyhow::Result;
use imsup_protocol::Request;
use serde::Serialize;

use super::connection;
use super::output;
use super::project::ProjectAndFileArgs;
use super::table::Format;

/// Print lines for /etc/hosts
#[derive(Debug, clap::Args)]
pub struct HostsArgs {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// How to write it: lines for /etc/hosts, or JSON
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

/// Print the address of a host's name
#[derive(Debug, clap::Args)]
pub struct ResolveArgs {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// A host's name, or another name it answers to
    #[arg(value_name = "NAME")]
    name: String,
    /// How to write it: an address a line, or JSON
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

/// A name as JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    address: Ipv4Addr,
}

/// `imsup hosts`.
///
/// # Errors
/// No project that is up.
pub fn hosts(args: &HostsArgs) -> Result<()> {
    let project = args.project.find()?;
    let names = connection::names(&project)?;
    let mut out = output::stdout();
    match args.format {
        Format::Table => out.write_all(etc_hosts(&names).as_bytes())?,
        Format::Json => json(&mut out, &names)?,
    }
    Ok(())
}

/// `imsup resolve`.
///
/// # Errors
/// No project that is up, or an unknown name.
pub fn resolve(args: &ResolveArgs) -> Result<()> {
    let project = args.project.find()?;
    let request = Request::Resolve {
        name: args.name.clone(),
    };
    let found = connection::addresses(connection::ask(&project, request)?)?;
    let mut out = output::stdout();
    match args.format {
        Format::Table => found.iter().try_for_each(|(_, address)| writeln!(out, "{address}"))?,
        Format::Json => json(&mut out, &found)?,
    }
    Ok(())
}

fn json(out: &mut impl Write, names: &[(String, Ipv4Addr)]) -> Result<()> {
    names.iter().try_for_each(|(name, address)| {
        let row = Row {
            name,
            address: *address,
        };
        output::json_line(out, &row)
    })
}

/// A line per address, with all names of the address in the order given.
fn etc_hosts(names: &[(String, Ipv4Addr)]) -> String {
    let mut lines: BTreeMap<Ipv4Addr, Vec<&str>> = BTreeMap::new();
    for (name, address) in names {
        lines.entry(*address).or_default().push(name);
    }
    lines
        .into_iter()
        .map(|(address, names)| format!("{address}\t{}\n", names.join(" ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_line() {
        let web = Ipv4Addr::new(127, 77, 5, 1);
        let db = Ipv4Addr::new(127, 77, 5, 2);
        let names = [("web".into(), web), ("db".into(), db), ("www".into(), web)];
        assert_eq!(etc_hosts(&names), "127.77.5.1\tweb www\n127.77.5.2\tdb\n");
    }
}
