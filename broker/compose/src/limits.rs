//! `deploy.resources.limits`, and the older `mem_limit`, `cpus`, `pids_limit`.

use super::error::Fault;
use super::problem::Problem;
use super::read::{Path, number, text};
use super::size;
use super::tree::Node;
use crate::cluster::Limits;

/// The limits of a service; those of `deploy` win.
pub(super) fn read(service: &Node, path: &Path<'_>) -> Result<Limits, Fault> {
    let deploy = path.key("deploy");
    let resources = deploy.key("resources");
    let below = resources.key("limits");
    let node = service
        .get("deploy")
        .and_then(|node| node.get("resources"))
        .and_then(|node| node.get("limits"));
    let find = |key, older| match node.and_then(|node| node.get(key)) {
        Some(value) => Some((value, below.key(key))),
        None => service.get(older).map(|value| (value, path.key(older))),
    };
    let amount = |found: Option<(&Node, Path<'_>)>,
                  parse: fn(&str) -> Result<u64, size::SizeError>|
     -> Result<Option<u64>, Fault> {
        let Some((value, path)) = found else { return Ok(None) };
        let amount = parse(text(value, &path)?).map_err(|error| Fault::new(value.at, path, Problem::Size(error)))?;
        // 0 is no limit, as in docker.
        Ok(Some(amount).filter(|amount| *amount > 0))
    };
    Ok(Limits {
        memory_bytes: amount(find("memory", "mem_limit"), size::bytes)?,
        milli_cpus: amount(find("cpus", "cpus"), size::milli_cpus)?,
        pids: match find("pids", "pids_limit") {
            Some((value, path)) => {
                let pids: i64 = number(value, &path, "a whole number, or -1 for no limit")?;
                u64::try_from(pids).ok().filter(|pids| *pids > 0)
            }
            None => None,
        },
    })
}
