//! Making a prefix outside of 127.0.0.0/8 local on the machine, and undoing it: one route for each
//! project.
//!
//! `local SUBNET dev lo src 127.0.0.1 table local`, with a metric of the project's own. Routes with
//! different metrics exist side by side (net/ipv4/fib_trie.c, fib_table_insert; pinned in
//! supervisor/linux/tests/kernel/routes.rs). So projects that share a prefix are independent, and
//! the prefix is local until the last project has removed its route. A route is recorded before the
//! kernel makes the route, so that a later process can find the route after the broker's death.
//! Routes of others are left alone.
//!
//! The route's preferred source makes the prefix behave as 127.0.0.0/8: a client without a bound
//! address comes from 127.0.0.1.

mod judge;
pub(crate) mod netlink;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::files;
use crate::paths::Paths;
use imsup_compose::subnet::Subnet;
use judge::{Obstacle, Verdict};
use netlink::Netlink;

/// Why the prefix could not be made local, or the route not be taken away.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum RouteError {
    /// No privilege.
    #[error(
        "the addresses {subnet} are not this machine's, and to make them so takes CAP_NET_ADMIN: run imsup as root; or have an \
         administrator run `ip route add local {subnet} dev lo src 127.0.0.1`; or pin a subnet inside 127.0.0.0/8, which needs no \
         privilege (`x-imsup: {{subnet: 127.77.0.0/16}}`, in a file of its own after `-f` if this one is to stay as it is)"
    )]
    NotPermitted { subnet: Subnet },
    /// The machine needs these addresses.
    #[error(
        "the addresses {subnet} cannot be hosts': {obstacle}; to make them local would cut this machine off from it. \
         Pin another subnet with `x-imsup.subnet`"
    )]
    InTheWay { subnet: Subnet, obstacle: Obstacle },
    /// Hosts live with addresses of another prefix.
    #[error(
        "hosts of the project still run with addresses in {before}, and the compose file now has {now}: \
         take the project down first (`imsup down`)"
    )]
    Changed { before: Subnet, now: Subnet },
    /// The route is still there.
    #[error(
        "the route `local {subnet} dev lo metric {metric}` that the project made could not be taken away ({source}): repeat `imsup down` as root"
    )]
    Left {
        subnet: Subnet,
        metric: u32,
        source: io::Error,
    },
    /// rtnetlink(7) failed.
    #[error("{what} failed: {source}")]
    Netlink { what: &'static str, source: io::Error },
    /// The route could not be written down.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

/// A subnet of a project, and the metric of the project's route, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    subnet: Subnet,
    metric: Option<u32>,
}

/// Makes the project's subnet local, and removes the route to its former subnet. `hosts_live`:
/// supervisors of an earlier broker live.
///
/// # Errors
/// [`RouteError`]; then no route is made.
pub(crate) fn make_local(subnet: Subnet, paths: &Paths, hosts_live: bool) -> Result<(), RouteError> {
    let before = read(paths);
    let same_planes = |record: &Record| record.subnet.planes() == subnet.planes();
    if hosts_live {
        let had = before.first().map_or(Subnet::default(), |record| record.subnet);
        if !before.iter().any(same_planes) && had.planes() != subnet.planes() {
            return Err(RouteError::Changed {
                before: had,
                now: subnet,
            });
        }
    }
    let kept = before.iter().find(|record| record.subnet == subnet).copied();
    let mut record = kept.unwrap_or(Record { subnet, metric: None });
    if !subnet.is_loopback() {
        let mut netlink = Netlink::open().map_err(failed("netlink(7)"))?;
        let routes = netlink.routes().map_err(failed("reading the routes (RTM_GETROUTE)"))?;
        let addresses = netlink
            .addresses()
            .map_err(failed("reading the addresses (RTM_GETADDR)"))?;
        match judge::judge(&subnet, &routes, &addresses) {
            Verdict::Obstacle(obstacle) => return Err(RouteError::InTheWay { subnet, obstacle }),
            Verdict::Local => {}
            Verdict::Free => {
                let metric = record.metric.unwrap_or_else(new_metric);
                record.metric = Some(metric);
                let mut all = before.clone();
                all.retain(|other| *other != record);
                all.insert(0, record);
                write(paths, &all)?;
                if let Err(error) = netlink.add(&subnet, metric) {
                    write(paths, &before)?;
                    return Err(match error.kind() {
                        io::ErrorKind::PermissionDenied => RouteError::NotPermitted { subnet },
                        _ => RouteError::Netlink {
                            what: "adding a route (RTM_NEWROUTE)",
                            source: error,
                        },
                    });
                }
            }
        }
    }
    for other in before.iter().filter(|other| **other != record) {
        remove(other)?;
    }
    let usual = Record {
        subnet: Subnet::default(),
        metric: None,
    };
    match before.as_slice() {
        // The file is right already, and a full disk may have no room for another.
        [only] if *only == record => Ok(()),
        [] if record == usual => Ok(()),
        _ => write(paths, &[record]),
    }
}

/// Removes the project's routes. Does nothing if there are none.
///
/// # Errors
/// [`RouteError::Left`], [`RouteError::Netlink`].
pub(crate) fn release(paths: &Paths) -> Result<(), RouteError> {
    read(paths).iter().try_for_each(remove)
}

/// The record of a project's routes, to be written again if its file is removed.
#[derive(Debug)]
pub(crate) struct Noted(Vec<Record>);

impl Noted {
    /// The present record.
    pub(crate) fn read(paths: &Paths) -> Self {
        Self(read(paths))
    }

    /// Writes the record if there is no file.
    ///
    /// # Errors
    /// [`RouteError::File`].
    pub(crate) fn restore(&self, paths: &Paths) -> Result<(), RouteError> {
        match self.0.is_empty() || paths.subnet().exists() {
            true => Ok(()),
            false => write(paths, &self.0),
        }
    }
}

fn remove(record: &Record) -> Result<(), RouteError> {
    let Some(metric) = record.metric else { return Ok(()) };
    let removed = Netlink::open().and_then(|mut netlink| netlink.remove(&record.subnet, metric));
    removed.map_err(|source| RouteError::Left {
        subnet: record.subnet,
        metric,
        source,
    })
}

/// True if the address is a project's according to a route made by imsup. If the routes cannot be
/// read, no address is.
pub(crate) fn hosts_addresses() -> impl Fn(Ipv4Addr) -> bool {
    let routes = Netlink::open()
        .and_then(|mut netlink| netlink.routes())
        .unwrap_or_default();
    move |address| routes.iter().any(|route| route.ours && route.covers(address))
}

/// A metric that no other project has: any of four thousand million.
fn new_metric() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    let [a, b, c, d, ..] = RandomState::new().hash_one(std::process::id()).to_le_bytes();
    // 0 is the metric of routes that name none.
    u32::from_le_bytes([a, b, c, d]).max(1)
}

/// One record per line: `10.77.0.0/16 4711`, or `127.77.0.0/16`.
fn read(paths: &Paths) -> Vec<Record> {
    let text = std::fs::read_to_string(paths.subnet()).unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Record> {
    let mut words = line.split_ascii_whitespace();
    let subnet = words.next()?.parse().ok()?;
    let metric = words.next().map(str::parse).transpose().ok()?;
    Some(Record { subnet, metric })
}

fn write(paths: &Paths, records: &[Record]) -> Result<(), RouteError> {
    let path = paths.subnet();
    let text: String = records
        .iter()
        .map(|record| match record.metric {
            Some(metric) => format!("{} {metric}\n", record.subnet),
            None => format!("{}\n", record.subnet),
        })
        .collect();
    files::replace(&path, text.as_bytes()).map_err(|source| RouteError::File { path, source })
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> RouteError {
    move |source| RouteError::Netlink { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new("shop", 0, |_| Some(directory.path().to_owned()), |_| true);
        std::fs::create_dir_all(paths.runtime()).unwrap();
        assert_eq!(read(&paths), []);
        let records = [("10.77.0.0/16", Some(7)), ("127.77.0.0/16", None)].map(|(subnet, metric)| Record {
            subnet: subnet.parse().unwrap(),
            metric,
        });
        write(&paths, &records).unwrap();
        assert_eq!(read(&paths), records);
    }

    #[test]
    fn the_prefix_of_hosts_that_live_does_not_change() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new("shop", 0, |_| Some(directory.path().to_owned()), |_| true);
        std::fs::create_dir_all(paths.runtime()).unwrap();
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        let refused = |now: &str| matches!(make_local(subnet(now), &paths, true), Err(RouteError::Changed { .. }));
        assert!(refused("127.50.0.0/16"), "nothing is written: they have the default");
        make_local(subnet("127.50.0.0/16"), &paths, false).unwrap();
        assert!(refused("127.77.0.0/16"));
        make_local(subnet("127.50.3.0/24"), &paths, true).unwrap();
    }
}
