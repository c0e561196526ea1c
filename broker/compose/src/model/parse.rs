//! Values that a document has as text.

use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};

use super::super::duration::parse;
use super::{NetworkMode, PullPolicy};

type Text = Option<String>;

/// Bytes; -1 is no limit.
pub(super) fn bytes<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Text::deserialize(deserializer)?.as_deref() {
        None | Some("-1") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(D::Error::custom),
    }
}

/// Permissions in octal.
pub(super) fn mode<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = Text::deserialize(deserializer)?;
    text.map(|text| u32::from_str_radix(&text, 8))
        .transpose()
        .map_err(D::Error::custom)
}

pub(super) fn duration_or_none<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = Text::deserialize(deserializer)?;
    text.map(|text| parse(&text)).transpose().map_err(D::Error::custom)
}

pub(super) fn duration<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Duration, D::Error> {
    Ok(duration_or_none(deserializer)?.unwrap_or_default())
}

/// `NAME=ADDRESS`.
pub(super) fn extra_hosts<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    let hosts = Vec::<String>::deserialize(deserializer)?;
    let pair = |host: String| {
        let (name, address) = host.split_once('=').ok_or_else(|| D::Error::custom("no address"))?;
        Ok((name.to_owned(), address.to_owned()))
    };
    hosts.into_iter().map(pair).collect()
}

pub(super) fn network_mode<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<NetworkMode>, D::Error> {
    let mode = |text: String| match text.split_once(':') {
        Some(("service", name)) => NetworkMode::Service(name.to_owned()),
        Some(("container", name)) => NetworkMode::Container(name.to_owned()),
        _ if text == "none" => NetworkMode::None,
        _ if text == "host" => NetworkMode::Host,
        _ => NetworkMode::Other(text),
    };
    Ok(Text::deserialize(deserializer)?.map(mode))
}

pub(super) fn pull_policy<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<PullPolicy>, D::Error> {
    let policy = |text: String| match text.as_str() {
        "always" => PullPolicy::Always,
        "never" => PullPolicy::Never,
        "missing" | "if_not_present" => PullPolicy::Missing,
        "build" => PullPolicy::Build,
        _ => PullPolicy::Older(text),
    };
    Ok(Text::deserialize(deserializer)?.map(policy))
}
