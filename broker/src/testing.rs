//! Items shared by unit tests of several modules.

use std::collections::BTreeMap;
use std::path::PathBuf;

use imsup_wire::Planes;
use imsup_wire::root::DEFAULT_CAPABILITIES;

use imsup_compose::cluster::{Cluster, Container, HostSpec, ProgramSpec, Settings};

/// Planes of their own, so that tests do not meet real projects.
pub(crate) fn planes_for_tests() -> Planes {
    Planes {
        vip: [127, 97],
        localhost: [127, 98],
        v6_shadow: [127, 99],
    }
}

/// A host with only a name.
pub(crate) fn host(name: &str) -> HostSpec {
    HostSpec {
        name: name.parse().expect("a name"),
        hostname: name.to_owned(),
        aliases: Vec::new(),
        extra_hosts: Vec::new(),
        networks: Vec::new(),
        address: None,
        program: ProgramSpec {
            working_dir: PathBuf::from("/"),
            ..ProgramSpec::new(["true"])
        },
        container: None,
        expose: Vec::new(),
        published: Vec::new(),
        restart: None,
        dependencies: Vec::new(),
        prerequisites: Vec::new(),
        health: None,
        labels: BTreeMap::new(),
        imsup: Settings::default(),
    }
}

/// A container of an image of which nothing else is said.
pub(crate) fn container(image: &str) -> Container {
    Container {
        image: image.to_owned(),
        platform: None,
        pull: "missing".to_owned(),
        is_built: false,
        entrypoint: None,
        command: None,
        working_dir: None,
        has_stop_signal: false,
        mounts: Vec::new(),
        read_only: false,
        shm_bytes: None,
        capabilities: DEFAULT_CAPABILITIES,
        sysctls: Vec::new(),
        exposed: Vec::new(),
        no_new_privs: false,
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
