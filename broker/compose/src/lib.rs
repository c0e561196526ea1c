//! Compose files as a [`Cluster`].
//!
//! [`load()`] the files, or [`resolve()`] them to a [`Document`] that shows what docker compose shows.
//! Loading goes one way: files and variables (`files`, `variables`) → text → tree with places (`yaml`,
//! `tree`, `map`) → for each file, variables interpolated (`interpolate`), short forms made long
//! (`canonical`), `extends` and `include` resolved (`layers`) → files merged (`merge`) → keys checked
//! against the table (`schema`, `keys`) → defaults and variables of services (`finish`,
//! `environment`) → references checked (`references`) → hosts (`service` and the modules for keys) →
//! values for a single host only (`check`). No YAML is left in the result.
#![forbid(unsafe_code)]

mod canonical;
mod check;
pub mod cluster;
mod command;
mod conflict;
mod container;
mod dependencies;
mod dotenv;
mod duration;
mod environment;
mod error;
mod extra_hosts;
mod files;
mod find;
mod finish;
mod health;
mod hostnames;
mod images;
mod interpolate;
mod ipam;
mod keys;
mod layers;
mod limits;
mod load;
mod logging;
mod merge;
pub mod model;
mod network;
mod ports;
mod problem;
mod project;
mod publish;
mod read;
mod references;
mod restart;
mod scalar;
mod schema;
mod service;
mod settings;
mod show;
mod size;
mod source;
pub mod subnet;
mod tree;
mod trust;
mod user;
mod variables;
mod words;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use conflict::Conflict;
pub use duration::{DurationError, parse_within as parse_duration};
pub use error::{ComposeError, Place, Site, Warning, WarningKind};
pub use files::is_here;
pub use find::{find, find_override};
pub use images::ServiceImage;
pub use interpolate::InterpolateError;
pub use load::{images_of, load, load_with, project_of, resolve};
pub use ports::PortError;
pub use problem::Problem;
pub use show::Document;
pub use size::SizeError;
pub use user::{UserError, signal};

use crate::cluster::Cluster;

/// The names of compose files, in docker compose's order of preference.
pub const DEFAULT_NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
];

/// Largest compose file read, in bytes. Ten thousand services are about 2 MiB.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// The parameters of a load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The files (`-f`), the later merged over the earlier; `-` is `stdin`. If empty, those of
    /// `COMPOSE_FILE`; else [`find()`] looks in `directory`, and the override beside the found file
    /// is merged as well.
    pub files: Vec<PathBuf>,
    /// The content of standard input, if that is one of the files.
    pub stdin: Option<Arc<[u8]>>,
    /// Environment files (`--env-file`) instead of `.env`, the later over the earlier.
    pub env_files: Vec<PathBuf>,
    /// The project's directory (`--project-directory`), if not that of the first file.
    pub project_directory: Option<PathBuf>,
    /// The base of relative files, and the start of `find`; the process's own directory if empty.
    pub directory: PathBuf,
    /// The project's name (`-p`).
    pub project: Option<String>,
    /// Enabled profiles (`--profile`), besides `COMPOSE_PROFILES`; `*` enables all profiles.
    pub profiles: Vec<String>,
    /// The variables of the process; they win over `.env`.
    pub environment: BTreeMap<String, String>,
    /// Whether keys that are unknown or not honoured are errors.
    pub strict: bool,
}

impl LoadOptions {
    /// Options with the environment of this process. Variables that are not UTF-8 are left out.
    pub fn from_process() -> Self {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self {
            environment: environment.collect(),
            ..Self::default()
        }
    }
}

/// A file that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The cluster.
    pub cluster: Cluster,
    /// The parts of the file without effect.
    pub warnings: Vec<Warning>,
}
