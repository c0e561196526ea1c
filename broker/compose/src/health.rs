//! `healthcheck`.

use std::time::Duration;

use super::duration;
use super::error::Fault;
use super::read::{Path, boolean, map, number, text, texts};
use super::tree::Node;
use crate::cluster::HealthCheck;

const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The word of a check that is not done.
const NONE: &str = "NONE";

/// The health check of a service; `None` if the file says nothing of it.
pub(super) fn read(service: &Node, path: &Path<'_>) -> Result<Option<HealthCheck>, Fault> {
    let Some(check) = service.get("healthcheck").filter(|node| !node.is_null()) else {
        return Ok(None);
    };
    let path = path.key("healthcheck");
    map(check, &path)?;
    let time = |key| -> Result<Option<Duration>, Fault> {
        let Some(value) = check.get(key) else { return Ok(None) };
        let path = path.key(key);
        let time = duration::parse_within(text(value, &path)?, Duration::ZERO, LONGEST);
        // 0 stands for the default, as in docker.
        let time = time.map_err(|error| Fault::new(value.at, path, error))?;
        Ok(Some(time).filter(|time| !time.is_zero()))
    };
    let retries = match check.get("retries") {
        Some(value) => Some(number(value, &path.key("retries"), "a whole number from 0 up")?),
        None => None,
    };
    Ok(Some(HealthCheck {
        test: test(check, &path)?,
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start_period")?,
        start_interval: time("start_interval")?,
        retries: retries.filter(|count| *count > 0),
    }))
}

fn test(check: &Node, path: &Path<'_>) -> Result<Vec<String>, Fault> {
    if let Some(disabled) = check.get("disable")
        && boolean(disabled, &path.key("disable"))?
    {
        return Ok(vec![NONE.to_owned()]);
    }
    let Some(value) = check.get("test") else {
        return Ok(Vec::new());
    };
    let path = path.key("test");
    // Another first word is refused by `up` alone, as under docker compose.
    Ok(texts(value, &path)?.into_iter().map(str::to_owned).collect())
}
