//! `logging`: the amount of programs' output that is kept.

use super::error::Fault;
use super::problem::Problem;
use super::read::{Path, map, number, text};
use super::size;
use super::tree::{Node, Value};
use crate::cluster::LogBound;

/// The default bound of docker's driver `local`.
const LOCAL: LogBound = LogBound {
    max_size: Some(20 << 20),
    max_files: 5,
};

const SIZE: &str = "a size such as 10m, or -1 for no bound";
const FILES: &str = "a whole number from 1 up";

/// The bound of a service's log. Drivers that send the log elsewhere have none of these options.
pub(super) fn read(service: &Node, path: &Path<'_>) -> Result<LogBound, Fault> {
    let path = path.key("logging");
    let Some(logging) = service.get("logging").filter(|node| !matches!(node.value, Value::Null)) else {
        return Ok(LogBound::default());
    };
    map(logging, &path)?;
    let driver = logging
        .get("driver")
        .map(|node| text(node, &path.key("driver")))
        .transpose()?;
    let default = match driver {
        None | Some("json-file") => LogBound::default(),
        Some("local") => LOCAL,
        Some(_) => return Ok(LogBound::default()),
    };
    let Some(options) = logging.get("options").filter(|node| !matches!(node.value, Value::Null)) else {
        return Ok(default);
    };
    let path = path.key("options");
    map(options, &path)?;
    let size = options
        .get("max-size")
        .map(|node| max_size(node, &path.key("max-size")));
    let files = options
        .get("max-file")
        .map(|node| max_file(node, &path.key("max-file")));
    let (size, files) = (size.transpose()?, files.transpose()?);
    Ok(LogBound {
        max_size: size.unwrap_or(default.max_size),
        max_files: files.unwrap_or(match (size, driver) {
            // As docker's json-file.
            (Some(_), None | Some("json-file")) => 1,
            _ => default.max_files,
        }),
    })
}

fn max_size(node: &Node, path: &Path<'_>) -> Result<Option<u64>, Fault> {
    let found = text(node, path)?;
    if found == "-1" {
        return Ok(None);
    }
    match size::bytes(found) {
        Ok(bytes @ 1..) => Ok(Some(bytes)),
        _ => {
            let found = found.to_owned();
            Err(Fault::new(node.at, path, Problem::Range { range: SIZE, found }))
        }
    }
}

fn max_file(node: &Node, path: &Path<'_>) -> Result<u32, Fault> {
    let files = number(node, path, FILES)?;
    if files == 0 {
        let found = "0".to_owned();
        return Err(Fault::new(node.at, path, Problem::Range { range: FILES, found }));
    }
    Ok(files)
}
