//! What the unit tests of several modules share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use imsup_wire::Planes;

use imsup_compose::cluster::{Cluster, HostSpec, Limits, LogBound, Settings};

/// Planes of their own, so that tests do not meet real projects.
pub(crate) fn planes_for_tests() -> Planes {
    Planes {
        vip: [127, 97],
        localhost: [127, 98],
        v6_shadow: [127, 99],
    }
}

/// A host with nothing but a name.
pub(crate) fn host(name: &str) -> HostSpec {
    HostSpec {
        name: name.parse().expect("a name"),
        hostname: name.to_owned(),
        aliases: Vec::new(),
        address: None,
        command: vec!["true".to_owned()],
        environment: BTreeMap::new(),
        working_dir: PathBuf::from("/"),
        user: None,
        expose: Vec::new(),
        published: Vec::new(),
        stop_signal: 15,
        stop_grace: Duration::from_secs(10),
        restart: None,
        limits: Limits::default(),
        logging: LogBound::default(),
        dependencies: Vec::new(),
        labels: BTreeMap::new(),
        imsup: Settings::default(),
    }
}

/// A cluster of these hosts.
pub(crate) fn cluster(project: &str, hosts: Vec<HostSpec>) -> Cluster {
    Cluster {
        project: project.to_owned(),
        directory: PathBuf::from("/"),
        subnet: None,
        hosts,
    }
}
