//! Compose files as a [`Cluster`].
//!
//! [`find()`] the file, [`load()`] it, and show it again with [`render()`]. Loading goes one way:
//! text → tree with places (`yaml`, `tree`, `map`) → variables interpolated (`interpolate`) → files
//! merged (`merge`) → keys checked against the table (`schema`, `keys`) → hosts (`service` and the
//! modules for keys) → values for a single host only (`check`). No YAML is left in the result.
#![forbid(unsafe_code)]

mod check;
pub mod cluster;
mod command;
mod conflict;
mod dependencies;
mod dotenv;
mod duration;
mod environment;
mod error;
mod find;
mod images;
mod interpolate;
mod ipam;
mod keys;
mod limits;
mod load;
mod logging;
mod merge;
mod network;
mod ports;
mod problem;
mod project;
mod publish;
mod read;
mod render;
mod restart;
mod schema;
mod service;
mod settings;
mod size;
mod source;
pub mod subnet;
mod tree;
mod trust;
mod user;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use conflict::Conflict;
pub use duration::{DurationError, parse_within as parse_duration};
pub use error::{ComposeError, Site, Warning, WarningKind};
pub use find::{find, find_override};
pub use images::ServiceImage;
pub use interpolate::InterpolateError;
pub use load::{images_of, load, project_of};
pub use ports::PortError;
pub use problem::Problem;
pub use render::{render, render_json};
pub use size::SizeError;
pub use user::UserError;

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
    /// The files (`-f`), the later merged over the earlier. If empty, [`find()`] looks in
    /// `directory`, and the override beside the found file is merged as well.
    pub files: Vec<PathBuf>,
    /// The base of relative files, and the start of `find`; the process's own directory if empty.
    pub directory: PathBuf,
    /// The project's name (`-p`).
    pub project: Option<String>,
    /// Enabled profiles (`--profile`), besides `COMPOSE_PROFILES`; `*` enables all profiles.
    pub profiles: Vec<String>,
    /// The variables of the process; they win over `.env` beside the first file.
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
