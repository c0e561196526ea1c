//! `x-imsup`: at the top of the file for all hosts, in a service for the service's hosts.

use std::time::Duration;

use super::duration;
use super::error::Fault;
use super::ipam::Pinned;
use super::keys::nearest;
use super::problem::Problem;
use super::read::{Path, boolean, map, text};
use super::tree::{Location, Node};
use crate::cluster::{Settings, Start};

const KEYS: [&str; 10] = [
    "idle_after",
    "terminate_after",
    "disposable",
    "timer_slack",
    "reclaim",
    "prefetch",
    "hold_timeout",
    "keep_awake",
    "start",
    "boot_dependencies",
];

const SUBNET: &str = "subnet";

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Shortest `idle_after`: a host that sleeps between two packets would only suspend and wake.
const SHORTEST_IDLE: Duration = Duration::from_millis(10);

/// Shortest `hold_timeout`: no program starts in less.
const SHORTEST_HOLD_TIMEOUT: Duration = Duration::from_millis(10);

/// The contents of the file's own `x-imsup`.
pub(super) struct FileSettings {
    /// The settings of every host whose service has no overriding settings.
    pub defaults: Settings,
    /// The subnet, and the place of its pin.
    pub subnet: Option<Pinned>,
}

/// The `x-imsup` of the file.
pub(super) fn of_file(node: Option<&Node>) -> Result<FileSettings, Fault> {
    let path = Path::Root.key("x-imsup");
    let mut defaults = Settings::default();
    let mut subnet = None;
    if let Some(node) = node {
        read(node, &path, &mut defaults, &mut |node, path| {
            let fault = |error| Fault::new(node.at, path, Problem::Subnet(error));
            subnet = Some(Pinned {
                subnet: text(node, path)?.parse().map_err(fault)?,
                at: node.at,
                path: path.to_string(),
            });
            Ok(())
        })?;
    }
    Ok(FileSettings { defaults, subnet })
}

/// The `x-imsup` of a service, over the file's.
pub(super) fn of_service(node: Option<&Node>, path: &Path<'_>, defaults: &Settings) -> Result<Settings, Fault> {
    let mut settings = defaults.clone();
    if let Some(node) = node {
        read(node, path, &mut settings, &mut |node, path| {
            Err(Fault::new(node.at, path, Problem::SubnetInService))
        })?;
    }
    Ok(settings)
}

fn read(
    node: &Node,
    path: &Path<'_>,
    settings: &mut Settings,
    on_subnet: &mut dyn FnMut(&Node, &Path<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let is_file = path.keys::<1>().is_some();
    for name in map(node, path)?.keys() {
        // Null takes the default, as a key that isn't there.
        let Some(value) = node.get(name) else {
            if !(KEYS.contains(&&**name) || is_file && **name == *SUBNET) {
                return Err(unknown_here(node.at, path, name, is_file));
            }
            continue;
        };
        let at = path.key(name);
        let within = |shortest, longest| {
            let result = duration::parse_within(text(value, &at)?, shortest, longest);
            result.map_err(|error| Fault::new(value.at, at, error))
        };
        let or_never = |shortest, longest| match text(value, &at)? {
            "never" => Ok(None),
            _ => within(shortest, longest).map(Some),
        };
        match &**name {
            "idle_after" => settings.idle_after = or_never(SHORTEST_IDLE, YEAR)?,
            "terminate_after" => settings.terminate_after = or_never(Duration::ZERO, YEAR)?,
            "timer_slack" => settings.timer_slack = within(Duration::ZERO, 3600 * SECOND)?,
            "hold_timeout" => settings.hold_timeout = within(SHORTEST_HOLD_TIMEOUT, DAY)?,
            "reclaim" => settings.reclaim = boolean(value, &at)?,
            "disposable" => settings.disposable = boolean(value, &at)?,
            "boot_dependencies" => settings.boot_dependencies = boolean(value, &at)?,
            "keep_awake" => settings.keep_awake = boolean(value, &at)?,
            "start" => {
                settings.start = Some(match text(value, &at)? {
                    "up" => Start::Up,
                    "connection" => Start::Connection,
                    other => {
                        let problem = Problem::Word {
                            expected: "'up' or 'connection'",
                            found: other.to_owned(),
                        };
                        return Err(Fault::new(value.at, at, problem));
                    }
                })
            }
            "prefetch" => {
                settings.prefetch_dns = match text(value, &at)? {
                    "dns" => true,
                    "none" | "false" | "no" => false,
                    other => {
                        let problem = Problem::Word {
                            expected: "'dns' (the look-up of its name boots the host) or 'none'",
                            found: other.to_owned(),
                        };
                        return Err(Fault::new(value.at, at, problem));
                    }
                }
            }
            SUBNET => on_subnet(value, &at)?,
            _ => return Err(unknown_here(value.at, path, name, is_file)),
        }
    }
    Ok(())
}

fn unknown_here(at: Location, path: &Path<'_>, name: &str, is_file: bool) -> Fault {
    let known: Vec<&'static str> = KEYS.into_iter().chain(is_file.then_some(SUBNET)).collect();
    unknown(at, &path.key(name), name, &known)
}

fn unknown(at: Location, path: &Path<'_>, name: &str, known: &[&'static str]) -> Fault {
    Fault::new(
        at,
        path,
        Problem::UnknownSetting {
            suggestion: nearest(name, known.iter().copied()),
            known: known.join(", "),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    fn file(text: &str) -> Result<FileSettings, String> {
        let node = parse(text, 0).unwrap().remove(0);
        of_file(Some(&node)).map_err(|fault| format!("{}: {}", fault.path, fault.problem))
    }

    fn message(text: &str) -> String {
        file(text).err().unwrap()
    }

    #[test]
    fn every_setting_is_read() {
        let text = "{idle_after: never, terminate_after: 1h, disposable: true, timer_slack: 0s, reclaim: true, prefetch: dns, \
                    hold_timeout: 90s, keep_awake: yes, start: up, boot_dependencies: true, subnet: 127.77.9.0/24}";
        let read = file(text).unwrap();
        assert_eq!(read.subnet.unwrap().subnet.to_string(), "127.77.9.0/24");
        assert_eq!(
            read.defaults,
            Settings {
                idle_after: None,
                terminate_after: Some(3600 * SECOND),
                disposable: true,
                timer_slack: Duration::ZERO,
                reclaim: true,
                prefetch_dns: true,
                hold_timeout: 90 * SECOND,
                keep_awake: true,
                start: Some(Start::Up),
                boot_dependencies: true,
            }
        );
        assert_eq!(file("{idle_after: }").unwrap().defaults, Settings::default());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert!(message("{idle_afer: 1s}").contains("did you mean 'idle_after'"));
        assert!(message("{idle_afer: }").contains("did you mean 'idle_after'"));
        assert!(message("{idle_after: 1ms}").contains("too short"));
        assert!(message("{hold_timeout: 0s}").contains("too short"));
        assert!(message("{hold_timeout: never}").contains("no duration"));
        assert!(message("{timer_slack: -1s}").contains("negative"));
        assert!(message("{prefetch: all}").contains("'dns'"));
        assert!(message("{start: never}").contains("'up' or 'connection'"));
        assert!(message("{subnet: 10.0.0.0/8}").starts_with("x-imsup.subnet: '10.0.0.0/8' is more"));
    }

    #[test]
    fn a_service_has_no_subnet() {
        let node = parse("{subnet: 127.77.9.0/24}", 0).unwrap().remove(0);
        let root = Path::Root;
        let services = root.key("services");
        let web = services.key("web");
        let fault = of_service(Some(&node), &web.key("x-imsup"), &Settings::default()).unwrap_err();
        assert_eq!(fault.path, "services.web.x-imsup.subnet");
    }
}
