//! imsup's goals, compared with what people use today.

use serde::Serialize;

/// One goal; several lines may bear on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// Established connections cost nothing.
    Path,
    /// And are faster than between containers.
    PathBesideDocker,
    /// The cost of a new connection.
    Connecting,
    /// The first reply of a sleeper.
    Wake,
    /// Against unpausing a container.
    WakeBesideDocker,
    /// The first reply of a host that does not run.
    Boot,
    /// Against `docker run`.
    BootBesideDocker,
    /// Many that wake at the same moment.
    Crowd,
    /// The cost of an imaginary host.
    Memory,
}

impl Goal {
    /// All goals, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Path,
        Self::PathBesideDocker,
        Self::Connecting,
        Self::Wake,
        Self::WakeBesideDocker,
        Self::Boot,
        Self::BootBesideDocker,
        Self::Crowd,
        Self::Memory,
    ];

    /// The goal in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Path => "data path: as native (1.00x)",
            Self::PathBesideDocker => "data path: at least 1.15 times better than docker's bridge",
            Self::Connecting => "connect and close: at most 1.2x native",
            Self::Wake => "suspended: the first reply's p50 at most 100 µs above running",
            Self::WakeBesideDocker => "suspended: at least 100 times faster than docker unpause",
            Self::Boot => "not running: the first reply at most 1 ms above the program's own start",
            Self::BootBesideDocker => "not running: at least 15 times faster than docker run, on redis",
            Self::Crowd => "100 hosts woken at the same moment: p95 below 50 ms",
            Self::Memory => "10,000 imaginary hosts: at most 8 KiB each",
        }
    }
}
