//! Keys of the file, and of what services refer to: networks, volumes, secrets, configs.

use super::service::{ONE_NETWORK, SERVICE};
use super::{Key, Shape, honoured, not, silent, unless};

/// Keys of the file.
pub(in super::super) const FILE: &[Key] = &[
    honoured("name", Shape::Text),
    honoured("services", Shape::Named(&Shape::Keys(SERVICE))),
    honoured("networks", Shape::Named(&Shape::Keys(NETWORK))),
    silent("version", Shape::Text),
    honoured("volumes", Shape::Named(&Shape::Keys(VOLUME))),
    honoured("secrets", Shape::Named(&Shape::Keys(SECRET))),
    honoured("configs", Shape::Named(&Shape::Keys(CONFIG))),
    not("models", Shape::Named(&Shape::Any), "imsup starts no models"),
    honoured("include", Shape::Any),
];

/// Keys of an item of `include`.
pub(in super::super) const INCLUDE: &[Key] = &[
    honoured("path", Shape::OneOrTexts),
    honoured("env_file", Shape::OneOrTexts),
    honoured("project_directory", Shape::Text),
];

/// Keys of a network of the file.
const NETWORK: &[Key] = &[
    silent("name", Shape::Text),
    silent("labels", Shape::Pairs),
    silent("attachable", Shape::Bool),
    silent("enable_ipv4", Shape::Bool),
    unless("driver", &["bridge", "default"], Shape::Text, ONE_NETWORK),
    not("driver_opts", Shape::Named(&Shape::Scalar), ONE_NETWORK),
    silent("external", Shape::External),
    not("internal", Shape::Bool, "hosts reach what this machine reaches"),
    honoured("ipam", Shape::Keys(IPAM)),
    not(
        "enable_ipv6",
        Shape::Bool,
        "the hosts' addresses are IPv4; IPv6 sockets get them v4-mapped",
    ),
];

const IPAM: &[Key] = &[
    unless("driver", &["default"], Shape::Text, ONE_NETWORK),
    honoured("config", Shape::Ipam),
    not("options", Shape::Named(&Shape::Scalar), ONE_NETWORK),
];

pub(super) const IPAM_CONFIG: &[Key] = &[
    honoured("subnet", Shape::Text),
    not("ip_range", Shape::Text, "imsup chooses a block of the subnet"),
    not("gateway", Shape::Text, "hosts are on this machine, and need no gateway"),
    not(
        "aux_addresses",
        Shape::Named(&Shape::Text),
        "imsup knows no other machines",
    ),
];

const VOLUME: &[Key] = &[
    silent("name", Shape::Text),
    silent("driver", Shape::Text),
    silent("driver_opts", Shape::Named(&Shape::Scalar)),
    silent("external", Shape::External),
    silent("labels", Shape::Pairs),
];

const SECRET: &[Key] = &[
    silent("name", Shape::Text),
    silent("environment", Shape::Text),
    silent("file", Shape::Path),
    silent("external", Shape::External),
    silent("labels", Shape::Pairs),
    silent("driver", Shape::Text),
    silent("driver_opts", Shape::Named(&Shape::Scalar)),
    silent("template_driver", Shape::Text),
];

const CONFIG: &[Key] = &[
    silent("name", Shape::Text),
    silent("content", Shape::Text),
    silent("environment", Shape::Text),
    silent("file", Shape::Path),
    silent("external", Shape::External),
    silent("labels", Shape::Pairs),
    silent("template_driver", Shape::Text),
];
