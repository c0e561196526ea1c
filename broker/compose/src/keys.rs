//! The table of compose's keys, with the treatment of each.

use How::{Honoured, Not, Silent};

/// The treatment of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// The key has its effect.
    Honoured,
    /// The key has no effect here, or is true of every imaginary machine anyway.
    Silent,
    /// The key is not supported; the reason, or an alternative.
    Not(&'static str),
}

/// The contents of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inside {
    /// Contents that are not checked.
    Opaque,
    /// These keys.
    Keys(&'static [Key]),
    /// Names chosen by the user, with these keys below each.
    Named(&'static [Key]),
    /// A list, of which mappings have these keys.
    Items(&'static [Key]),
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub how: How,
    pub inside: Inside,
    /// Values of an unsupported key that request no action.
    pub harmless: &'static [&'static str],
}

const fn key(name: &'static str, how: How) -> Key {
    Key {
        name,
        how,
        inside: Inside::Opaque,
        harmless: &["false", "0"],
    }
}

const fn honoured(name: &'static str, inside: Inside) -> Key {
    Key {
        inside,
        ..key(name, Honoured)
    }
}

const fn unless(name: &'static str, harmless: &'static [&'static str], why: &'static str) -> Key {
    Key {
        harmless,
        ..key(name, Not(why))
    }
}

const FILES: &str = "programs use this machine's own files";
const IMAGES: &str = "programs come from this machine, not from images";
const RIGHTS: &str = "programs have the rights of their user";
const LIMITS: &str = "only memory, cpus and pids are limited";
const KERNEL: &str = "programs share this machine's kernel settings and namespaces";
const ONE_NETWORK: &str = "all hosts are on one network of this machine";
const NAMES: &str = "names are answered by imsup and this machine";
const COPY: &str = "copy the keys, or use a YAML anchor and '<<'";
const ORCHESTRATION: &str = "hosts run on this machine, each booted by its first signal";

/// Keys of the file.
pub(super) const FILE: &[Key] = &[
    key("name", Honoured),
    honoured("services", Inside::Named(SERVICE)),
    honoured("networks", Inside::Named(NETWORK)),
    key("version", Silent),
    key("volumes", Not(FILES)),
    key("secrets", Not(FILES)),
    key("configs", Not(FILES)),
    key("models", Not("imsup starts no models")),
    key("include", Not("name its files with '-f' as well")),
];

/// Keys of a network of the file.
const NETWORK: &[Key] = &[
    key("name", Silent),
    key("labels", Silent),
    key("attachable", Silent),
    key("enable_ipv4", Silent),
    unless("driver", &["bridge", "default"], ONE_NETWORK),
    key("driver_opts", Not(ONE_NETWORK)),
    key(
        "external",
        Not("hosts reach what this machine reaches, not another project's network"),
    ),
    key("internal", Not("hosts reach what this machine reaches")),
    honoured("ipam", Inside::Keys(IPAM)),
    key(
        "enable_ipv6",
        Not("the hosts' addresses are IPv4; IPv6 sockets get them v4-mapped"),
    ),
];

const IPAM: &[Key] = &[
    unless("driver", &["default"], ONE_NETWORK),
    honoured("config", Inside::Items(IPAM_CONFIG)),
    key("options", Not(ONE_NETWORK)),
];

const IPAM_CONFIG: &[Key] = &[
    key("subnet", Honoured),
    key("ip_range", Not("imsup chooses a block of the subnet")),
    key("gateway", Not("hosts are on this machine, and need no gateway")),
    key("aux_addresses", Not("imsup knows no other machines")),
];

/// Keys of a service.
pub(super) const SERVICE: &[Key] = &[
    key("command", Honoured),
    key("entrypoint", Honoured),
    key("environment", Honoured),
    honoured("env_file", Inside::Items(ENV_FILE)),
    key("working_dir", Honoured),
    key("user", Honoured),
    key("hostname", Honoured),
    key("container_name", Honoured),
    honoured("networks", Inside::Named(SERVICE_NETWORK)),
    key("expose", Honoured),
    honoured("ports", Inside::Items(PORT)),
    honoured("depends_on", Inside::Named(DEPENDENCY)),
    honoured("deploy", Inside::Keys(DEPLOY)),
    key("scale", Honoured),
    key("restart", Honoured),
    key("stop_signal", Honoured),
    key("stop_grace_period", Honoured),
    key("profiles", Honoured),
    key("labels", Honoured),
    key("mem_limit", Honoured),
    key("cpus", Honoured),
    key("pids_limit", Honoured),
    // Named with the command that is run instead.
    key("image", Honoured),
    // The health of a host is visible by connecting to the host.
    Key {
        inside: Inside::Keys(HEALTHCHECK),
        ..key("healthcheck", Silent)
    },
    // Every host has an init: its supervisor.
    key("init", Silent),
    key("annotations", Silent),
    key("attach", Silent),
    key("platform", Silent),
    key("pull_policy", Silent),
    key("pull_refresh_after", Silent),
    key("links", Silent),
    key("build", Not(IMAGES)),
    key("develop", Not(IMAGES)),
    key("extends", Not(COPY)),
    key("volumes", Not(FILES)),
    key("volumes_from", Not(FILES)),
    key("volume_driver", Not(FILES)),
    key("tmpfs", Not(FILES)),
    key("read_only", Not(FILES)),
    key("storage_opt", Not(FILES)),
    key("secrets", Not(FILES)),
    key("configs", Not(FILES)),
    key("shm_size", Not(FILES)),
    key("devices", Not("programs use this machine's own devices")),
    key("gpus", Not("programs use this machine's own devices")),
    key("device_cgroup_rules", Not("programs use this machine's own devices")),
    key("cap_add", Not(RIGHTS)),
    key("cap_drop", Not(RIGHTS)),
    key("privileged", Not(RIGHTS)),
    key("security_opt", Not(RIGHTS)),
    key(
        "group_add",
        Not("write 'user: USER:GROUP'; further groups are those of the user"),
    ),
    key("userns_mode", Not(RIGHTS)),
    key("credential_spec", Not(RIGHTS)),
    key("use_api_socket", Not(RIGHTS)),
    key("blkio_config", Not(LIMITS)),
    key("cpu_count", Not(LIMITS)),
    key("cpu_percent", Not(LIMITS)),
    key("cpu_shares", Not(LIMITS)),
    key("cpu_quota", Not("write 'cpus'")),
    key("cpu_period", Not("write 'cpus'")),
    key("cpu_rt_period", Not(LIMITS)),
    key("cpu_rt_runtime", Not(LIMITS)),
    key("cpuset", Not(LIMITS)),
    key("mem_reservation", Not(LIMITS)),
    key("mem_swappiness", Not(LIMITS)),
    key("memswap_limit", Not(LIMITS)),
    key("oom_kill_disable", Not(LIMITS)),
    key("oom_score_adj", Not(LIMITS)),
    key("ulimits", Not(LIMITS)),
    unless("cgroup", &["host"], KERNEL),
    key("cgroup_parent", Not(KERNEL)),
    unless("ipc", &["host", "shareable", "none", "private"], KERNEL),
    key("isolation", Not(KERNEL)),
    unless("pid", &["host"], KERNEL),
    key("runtime", Not(KERNEL)),
    key("sysctls", Not(KERNEL)),
    unless("uts", &["host"], KERNEL),
    unless("network_mode", &["bridge", "default"], ONE_NETWORK),
    key("mac_address", Not(ONE_NETWORK)),
    key("external_links", Not(ONE_NETWORK)),
    key("dns", Not(NAMES)),
    key("dns_opt", Not(NAMES)),
    key("dns_search", Not(NAMES)),
    key("domainname", Not(NAMES)),
    key("extra_hosts", Not(NAMES)),
    key("label_file", Not("write 'labels'")),
    honoured("logging", Inside::Keys(LOGGING)),
    key("models", Not("imsup starts no models")),
    key("provider", Not("imsup runs commands only")),
    key("post_start", Not("put it into the command")),
    key("pre_stop", Not("put it into the command")),
    key(
        "stdin_open",
        Not("a program's input is empty; 'imsup run' has a terminal"),
    ),
    key(
        "tty",
        Not("a program's output goes to its log; 'imsup run' has a terminal"),
    ),
];

const ENV_FILE: &[Key] = &[
    key("path", Honoured),
    key("required", Honoured),
    key("format", Honoured),
];

const SERVICE_NETWORK: &[Key] = &[
    key("aliases", Honoured),
    key("ipv4_address", Honoured),
    key("priority", Silent),
    key("gw_priority", Silent),
    key(
        "ipv6_address",
        Not("the hosts' addresses are IPv4; IPv6 sockets get them v4-mapped"),
    ),
    key("link_local_ips", Not(ONE_NETWORK)),
    key("mac_address", Not(ONE_NETWORK)),
    key("driver_opts", Not(ONE_NETWORK)),
    key("interface_name", Not(ONE_NETWORK)),
];

const PORT: &[Key] = &[
    key("target", Honoured),
    key("published", Honoured),
    key("host_ip", Honoured),
    key("protocol", Honoured),
    key("name", Silent),
    key("mode", Silent),
    key("app_protocol", Silent),
];

const DEPENDENCY: &[Key] = &[
    key("condition", Honoured),
    key("required", Honoured),
    key(
        "restart",
        Not("a host that ends comes back on its next signal, and leaves the others alone"),
    ),
];

const DEPLOY: &[Key] = &[
    key("replicas", Honoured),
    honoured("resources", Inside::Keys(RESOURCES)),
    honoured("restart_policy", Inside::Keys(RESTART_POLICY)),
    key("labels", Silent),
    unless("mode", &["replicated"], ORCHESTRATION),
    unless(
        "endpoint_mode",
        &["dnsrr"],
        "a name with several replicas resolves to their addresses",
    ),
    key("placement", Not(ORCHESTRATION)),
    key("rollback_config", Not(ORCHESTRATION)),
    key("update_config", Not(ORCHESTRATION)),
];

const LOGGING: &[Key] = &[
    unless(
        "driver",
        &["json-file", "local"],
        "'imsup logs' keeps what programs print",
    ),
    key("options", Honoured),
];

const RESOURCES: &[Key] = &[
    honoured("limits", Inside::Keys(RESOURCE_LIMITS)),
    key("reservations", Not("a host that is absent reserves nothing")),
];

const RESOURCE_LIMITS: &[Key] = &[key("memory", Honoured), key("cpus", Honoured), key("pids", Honoured)];

const RESTART_POLICY: &[Key] = &[
    key("condition", Honoured),
    key("delay", Honoured),
    key("max_attempts", Honoured),
    key("window", Honoured),
];

const HEALTHCHECK: &[Key] = &[
    key("test", Silent),
    key("interval", Silent),
    key("timeout", Silent),
    key("retries", Silent),
    key("start_period", Silent),
    key("start_interval", Silent),
    key("disable", Silent),
];

/// The name most similar to `name`, if any is similar.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    // Typing errors change few letters; more than a third of different letters makes another word.
    let allowed = (lower.chars().count() / 3).max(1);
    known
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&lower, &candidate.to_ascii_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_stands_twice_in_a_table() {
        fn check(keys: &[Key]) {
            for (index, key) in keys.iter().enumerate() {
                assert!(
                    keys[index + 1..].iter().all(|other| other.name != key.name),
                    "{}",
                    key.name
                );
                if let Inside::Keys(inner) | Inside::Named(inner) | Inside::Items(inner) = key.inside {
                    check(inner);
                }
            }
        }
        check(FILE);
    }

    #[test]
    fn typing_errors_are_recognized() {
        let service = |name| nearest(name, SERVICE.iter().map(|key| key.name));
        assert_eq!(service("comand"), Some("command"));
        assert_eq!(service("Ports"), Some("ports"));
        assert_eq!(service("enviroment"), Some("environment"));
        assert_eq!(service("depend_on"), Some("depends_on"));
        assert_eq!(service("working-dir"), Some("working_dir"));
        assert_eq!(service("frobnicate"), None);
    }
}
