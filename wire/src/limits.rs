//! Limits of a host, and their texts for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most that a host's processes may use together (compose `deploy.resources.limits`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A supervisor's part of a host's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The limits of the host.
    pub limits: Limits,
    /// A process of the host, whose cgroups a command of `imsup exec` joins; `None` for the host's
    /// program, whose supervisor makes the cgroups.
    pub beside: Option<u32>,
}

/// A number of bytes in the largest binary unit without a fraction ("64 MB", as compose files have
/// it).
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GB"), (20, "MB"), (10, "kB")];
        let fits = |(shift, _): &(u32, &str)| self.0 >= 1 << shift && self.0.trailing_zeros() >= *shift;
        match units.iter().find(|unit| fits(unit)) {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_as_they_were_written() {
        for (bytes, text) in [
            (64 << 20, "64 MB"),
            (3 << 30, "3 GB"),
            (1536 << 20, "1536 MB"),
            (1000, "1000 bytes"),
            (4096, "4 kB"),
            (0, "0 bytes"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
