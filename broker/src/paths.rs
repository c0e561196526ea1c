//! Where a project's files are. See "Files" in ARCHITECTURE.md.

use std::path::{Path, PathBuf};

/// The directories of one project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    runtime: PathBuf,
    state: PathBuf,
}

impl Paths {
    /// The directories of `project` for the user `uid`, by the environment that `variable` looks up.
    pub fn new(project: &str, uid: u32, variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let root = uid == 0;
        let runtime_base = variable("IMSUP_RUNTIME_DIR").unwrap_or_else(|| {
            if root {
                return PathBuf::from("/run/imsup");
            }
            match variable("XDG_RUNTIME_DIR") {
                Some(directory) => directory.join("imsup"),
                None => PathBuf::from(format!("/tmp/imsup-{uid}")),
            }
        });
        let state_base = variable("IMSUP_STATE_DIR").unwrap_or_else(|| {
            if root {
                return PathBuf::from("/var/lib/imsup");
            }
            if let Some(directory) = variable("XDG_STATE_HOME") {
                return directory.join("imsup");
            }
            match variable("HOME") {
                Some(home) => home.join(".local/state/imsup"),
                None => PathBuf::from(format!("/tmp/imsup-{uid}-state")),
            }
        });
        Self {
            runtime: runtime_base.join(project),
            state: state_base.join(project),
        }
    }

    /// The directories of `project` for this process.
    pub fn of(project: &str) -> Self {
        Self::new(project, rustix::process::getuid().as_raw(), |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        })
    }

    /// The runtime directory: sockets and locks, gone after `down`.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// The project's state directory: events and logs, gone after `down`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The broker's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("broker.sock")
    }

    /// What the broker holds with flock.
    pub fn lock(&self) -> PathBuf {
        self.runtime.join("broker.lock")
    }

    /// Lines for /etc/hosts.
    pub fn hosts(&self) -> PathBuf {
        self.runtime.join("hosts")
    }

    /// Directories in which supervisors of the project make cgroups, one a line: where to look for what is left of them.
    pub fn cgroups(&self) -> PathBuf {
        self.runtime.join("cgroups")
    }

    /// Where the hosts' addresses lie, and which routes that took.
    pub fn subnet(&self) -> PathBuf {
        self.runtime.join("subnet")
    }

    /// What a host's supervisor holds with flock.
    pub fn running(&self, host: &str) -> PathBuf {
        self.runtime.join("running").join(host)
    }

    /// What a host's program prints.
    pub fn log(&self, host: &str) -> PathBuf {
        self.state.join("logs").join(format!("{host}.log"))
    }

    /// The history of events since `up`.
    pub fn events(&self) -> PathBuf {
        self.state.join("events.jsonl")
    }

    /// When the project was brought up: microseconds since the Unix epoch.
    pub fn up(&self) -> PathBuf {
        self.state.join("up")
    }

    /// Leases of `imsup keep-awake`: until when each host has one, in microseconds since the Unix epoch.
    pub fn leases(&self) -> PathBuf {
        self.state.join("leases.json")
    }

    /// All projects' blocks and learned ports; kept across `down`.
    pub fn projects(&self) -> PathBuf {
        match self.state.parent() {
            Some(base) => base.join("projects.json"),
            None => self.state.join("projects.json"),
        }
    }
}
