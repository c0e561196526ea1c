//! Keys of a service.

use super::{Key, Shape, honoured, in_root, not, silent, unless, zero};

pub(super) const FILES: &str = "programs use this machine's own files";
const IMAGES: &str = "programs come from this machine, not from images";
const RIGHTS: &str = "programs have the rights of their user";
const LIMITS: &str = "only memory, cpus and pids are limited";
const KERNEL: &str = "programs share this machine's kernel settings and namespaces";
pub(super) const ONE_NETWORK: &str = "all hosts are on one network of this machine";
const NAMES: &str = "names are answered by imsup and this machine";
const DEVICES: &str = "programs use this machine's own devices";
const ORCHESTRATION: &str = "hosts run on this machine, each booted by its first signal";
const HOOKS: &str = "put it into the command";

/// Keys of a service.
pub(in super::super) const SERVICE: &[Key] = &[
    zero(honoured("command", Shape::Command)),
    zero(honoured("entrypoint", Shape::Command)),
    honoured("environment", Shape::Variables),
    honoured("env_file", Shape::EnvFiles),
    honoured("working_dir", Shape::Text),
    honoured("user", Shape::Text),
    honoured("hostname", Shape::Text),
    honoured("container_name", Shape::Text),
    honoured("networks", Shape::Networks),
    honoured("expose", Shape::Words),
    honoured("ports", Shape::Ports),
    honoured("depends_on", Shape::DependsOn),
    honoured("deploy", Shape::Keys(DEPLOY)),
    zero(honoured("scale", Shape::Whole)),
    honoured("restart", Shape::Text),
    honoured("stop_signal", Shape::Text),
    zero(honoured("stop_grace_period", Shape::Duration)),
    honoured("profiles", Shape::Texts),
    honoured("labels", Shape::Pairs),
    honoured("label_file", Shape::OneOrPaths),
    honoured("mem_limit", Shape::Bytes),
    honoured("cpus", Shape::Number),
    honoured("pids_limit", Shape::Whole),
    honoured("image", Shape::Text),
    // The health of a host is visible by connecting to the host.
    honoured("healthcheck", Shape::Keys(HEALTHCHECK)),
    // Every host has an init: its supervisor.
    zero(silent("init", Shape::Bool)),
    silent("annotations", Shape::Pairs),
    zero(silent("attach", Shape::Bool)),
    honoured("platform", Shape::Text),
    honoured("pull_policy", Shape::Text),
    silent("pull_refresh_after", Shape::Text),
    silent("links", Shape::Texts),
    honoured("logging", Shape::Logging),
    // Resolved before the keys are looked at.
    honoured("extends", Shape::Any),
    honoured("build", Shape::Build),
    not("develop", Shape::Keys(DEVELOP), IMAGES),
    in_root("volumes", Shape::Volumes, FILES),
    not("volumes_from", Shape::Texts, FILES),
    not("volume_driver", Shape::Text, FILES),
    in_root("tmpfs", Shape::OneOrTexts, FILES),
    in_root("read_only", Shape::Bool, FILES),
    not("storage_opt", Shape::Named(&Shape::Scalar), FILES),
    in_root("secrets", Shape::Mounts, FILES),
    in_root("configs", Shape::Mounts, FILES),
    in_root("shm_size", Shape::Bytes, FILES),
    in_root("devices", Shape::Devices, DEVICES),
    not("gpus", Shape::Gpus, DEVICES),
    not("device_cgroup_rules", Shape::Texts, DEVICES),
    in_root("cap_add", Shape::Texts, RIGHTS),
    in_root("cap_drop", Shape::Texts, RIGHTS),
    not("privileged", Shape::Bool, RIGHTS),
    in_root("security_opt", Shape::Texts, RIGHTS),
    not(
        "group_add",
        Shape::Words,
        "write 'user: USER:GROUP'; further groups are those of the user",
    ),
    not("userns_mode", Shape::Text, RIGHTS),
    not("credential_spec", Shape::Any, RIGHTS),
    not("use_api_socket", Shape::Bool, RIGHTS),
    not("blkio_config", Shape::Any, LIMITS),
    not("cpu_count", Shape::Whole, LIMITS),
    not("cpu_percent", Shape::Number, LIMITS),
    not("cpu_shares", Shape::Whole, LIMITS),
    not("cpu_quota", Shape::Whole, "write 'cpus'"),
    not("cpu_period", Shape::Whole, "write 'cpus'"),
    not("cpu_rt_period", Shape::Whole, LIMITS),
    not("cpu_rt_runtime", Shape::Whole, LIMITS),
    not("cpuset", Shape::Text, LIMITS),
    not("mem_reservation", Shape::Bytes, LIMITS),
    not("mem_swappiness", Shape::Bytes, LIMITS),
    not("memswap_limit", Shape::Bytes, LIMITS),
    not("oom_kill_disable", Shape::Bool, LIMITS),
    not("oom_score_adj", Shape::Whole, LIMITS),
    not("ulimits", Shape::Named(&Shape::Ulimit), LIMITS),
    unless("cgroup", &["host"], Shape::Text, KERNEL),
    not("cgroup_parent", Shape::Text, KERNEL),
    unless("ipc", &["host", "shareable", "none", "private"], Shape::Text, KERNEL),
    not("isolation", Shape::Text, KERNEL),
    unless("pid", &["host"], Shape::Text, KERNEL),
    not("runtime", Shape::Text, KERNEL),
    in_root("sysctls", Shape::Pairs, KERNEL),
    unless("uts", &["host"], Shape::Text, KERNEL),
    unless("network_mode", &["bridge", "default"], Shape::Text, ONE_NETWORK),
    not("mac_address", Shape::Text, ONE_NETWORK),
    not("external_links", Shape::Texts, ONE_NETWORK),
    not("dns", Shape::OneOrTexts, NAMES),
    not("dns_opt", Shape::Texts, NAMES),
    not("dns_search", Shape::OneOrTexts, NAMES),
    not("domainname", Shape::Text, NAMES),
    honoured("extra_hosts", Shape::ExtraHosts),
    not("models", Shape::Models, "imsup starts no models"),
    not("provider", Shape::Any, "imsup runs commands only"),
    not("post_start", Shape::Items(&Shape::Keys(HOOK)), HOOKS),
    not("pre_stop", Shape::Items(&Shape::Keys(HOOK)), HOOKS),
    not(
        "stdin_open",
        Shape::Bool,
        "a program's input is empty; 'imsup run' has a terminal",
    ),
    not(
        "tty",
        Shape::Bool,
        "a program's output goes to its log; 'imsup run' has a terminal",
    ),
];

pub(super) const BUILD: &[Key] = &[
    silent("context", Shape::Text),
    silent("dockerfile", Shape::Text),
    silent("dockerfile_inline", Shape::Text),
    silent("entitlements", Shape::Texts),
    silent("args", Shape::Variables),
    silent("ssh", Shape::Any),
    silent("labels", Shape::Pairs),
    silent("cache_from", Shape::Texts),
    silent("cache_to", Shape::Texts),
    silent("no_cache", Shape::Bool),
    silent("additional_contexts", Shape::Contexts),
    silent("network", Shape::Text),
    silent("provenance", Shape::Scalar),
    silent("sbom", Shape::Scalar),
    silent("pull", Shape::Bool),
    silent("target", Shape::Text),
    silent("shm_size", Shape::Bytes),
    silent("extra_hosts", Shape::ExtraHosts),
    silent("isolation", Shape::Text),
    silent("privileged", Shape::Bool),
    silent("secrets", Shape::Mounts),
    silent("tags", Shape::Texts),
    silent("ulimits", Shape::Named(&Shape::Ulimit)),
    silent("platforms", Shape::Texts),
];

pub(super) const ENV_FILE: &[Key] = &[
    honoured("path", Shape::Path),
    zero(honoured("required", Shape::Bool)),
    honoured("format", Shape::Text),
];

pub(super) const SERVICE_NETWORK: &[Key] = &[
    honoured("aliases", Shape::Texts),
    honoured("ipv4_address", Shape::Text),
    silent("priority", Shape::Whole),
    silent("gw_priority", Shape::Whole),
    not(
        "ipv6_address",
        Shape::Text,
        "the hosts' addresses are IPv4; IPv6 sockets get them v4-mapped",
    ),
    not("link_local_ips", Shape::Texts, ONE_NETWORK),
    not("mac_address", Shape::Text, ONE_NETWORK),
    not("driver_opts", Shape::Named(&Shape::Scalar), ONE_NETWORK),
    not("interface_name", Shape::Text, ONE_NETWORK),
];

pub(super) const PORT: &[Key] = &[
    honoured("target", Shape::Whole),
    honoured("published", Shape::Scalar),
    honoured("host_ip", Shape::Text),
    honoured("protocol", Shape::Text),
    silent("name", Shape::Text),
    silent("mode", Shape::Text),
    silent("app_protocol", Shape::Text),
];

pub(super) const DEPENDENCY: &[Key] = &[
    honoured("condition", Shape::Text),
    zero(honoured("required", Shape::Bool)),
    not(
        "restart",
        Shape::Bool,
        "a host that ends comes back on its next signal, and leaves the others alone",
    ),
];

pub(super) const DEPLOY: &[Key] = &[
    zero(honoured("replicas", Shape::Whole)),
    honoured("resources", Shape::Keys(RESOURCES)),
    honoured("restart_policy", Shape::Keys(RESTART_POLICY)),
    silent("labels", Shape::Pairs),
    unless("mode", &["replicated"], Shape::Text, ORCHESTRATION),
    unless(
        "endpoint_mode",
        &["dnsrr"],
        Shape::Text,
        "a name with several replicas resolves to their addresses",
    ),
    not("placement", Shape::Keys(PLACEMENT), ORCHESTRATION),
    not("rollback_config", Shape::Any, ORCHESTRATION),
    not("update_config", Shape::Any, ORCHESTRATION),
];

const PLACEMENT: &[Key] = &[
    silent("constraints", Shape::Texts),
    silent("preferences", Shape::Any),
    silent("max_replicas_per_node", Shape::Whole),
];

pub(super) const LOGGING: &[Key] = &[
    unless(
        "driver",
        &["json-file", "local"],
        Shape::Text,
        "'imsup logs' keeps what programs print",
    ),
    honoured("options", Shape::Named(&Shape::Scalar)),
];

const RESOURCES: &[Key] = &[
    honoured("limits", Shape::Keys(RESOURCE_LIMITS)),
    not(
        "reservations",
        Shape::Keys(RESERVATIONS),
        "a host that is absent reserves nothing",
    ),
];

const RESOURCE_LIMITS: &[Key] = &[
    honoured("memory", Shape::Bytes),
    honoured("cpus", Shape::Number),
    honoured("pids", Shape::Whole),
];

const RESERVATIONS: &[Key] = &[
    silent("memory", Shape::Bytes),
    silent("cpus", Shape::Number),
    silent("generic_resources", Shape::Any),
    silent("devices", Shape::Items(&Shape::Keys(GPU))),
];

const RESTART_POLICY: &[Key] = &[
    honoured("condition", Shape::Text),
    honoured("delay", Shape::Duration),
    honoured("max_attempts", Shape::Whole),
    honoured("window", Shape::Duration),
];

const HEALTHCHECK: &[Key] = &[
    honoured("test", Shape::Test),
    honoured("interval", Shape::Duration),
    honoured("timeout", Shape::Duration),
    zero(honoured("retries", Shape::Whole)),
    honoured("start_period", Shape::Duration),
    honoured("start_interval", Shape::Duration),
    honoured("disable", Shape::Bool),
];

const HOOK: &[Key] = &[
    zero(silent("command", Shape::Command)),
    silent("user", Shape::Text),
    silent("privileged", Shape::Bool),
    silent("working_dir", Shape::Text),
    silent("environment", Shape::Variables),
];

const DEVELOP: &[Key] = &[silent("watch", Shape::Items(&Shape::Keys(WATCH)))];

const WATCH: &[Key] = &[
    silent("path", Shape::Path),
    silent("action", Shape::Text),
    silent("target", Shape::Text),
    silent("ignore", Shape::OneOrTexts),
    silent("include", Shape::OneOrTexts),
    silent("initial_sync", Shape::Bool),
    silent("exec", Shape::Keys(HOOK)),
];

pub(super) const GPU: &[Key] = &[
    silent("capabilities", Shape::Texts),
    silent("count", Shape::Count),
    silent("device_ids", Shape::Texts),
    silent("driver", Shape::Text),
    silent("options", Shape::Pairs),
];

pub(super) const DEVICE: &[Key] = &[
    silent("source", Shape::Text),
    silent("target", Shape::Text),
    silent("permissions", Shape::Text),
];

pub(super) const MODEL: &[Key] = &[silent("endpoint_var", Shape::Text), silent("model_var", Shape::Text)];

/// A secret or config of a service.
pub(super) const MOUNT: &[Key] = &[
    silent("source", Shape::Text),
    silent("target", Shape::Text),
    silent("uid", Shape::Text),
    silent("gid", Shape::Text),
    silent("mode", Shape::Mode),
];

pub(super) const VOLUME: &[Key] = &[
    silent("type", Shape::Text),
    silent("source", Shape::Text),
    silent("target", Shape::Text),
    silent("read_only", Shape::Bool),
    silent("consistency", Shape::Text),
    silent("bind", Shape::Keys(BIND)),
    silent("volume", Shape::Keys(VOLUME_OPTIONS)),
    silent("tmpfs", Shape::Keys(TMPFS)),
    silent("image", Shape::Keys(IMAGE)),
];

const BIND: &[Key] = &[
    silent("propagation", Shape::Text),
    silent("create_host_path", Shape::Bool),
    silent("recursive", Shape::Text),
    silent("selinux", Shape::Text),
];

const VOLUME_OPTIONS: &[Key] = &[
    silent("labels", Shape::Pairs),
    silent("nocopy", Shape::Bool),
    silent("subpath", Shape::Text),
];

const TMPFS: &[Key] = &[silent("size", Shape::Bytes), silent("mode", Shape::Whole)];

const IMAGE: &[Key] = &[silent("subpath", Shape::Text)];
