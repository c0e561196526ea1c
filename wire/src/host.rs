//! Names of hosts, and how hosts are shown.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::address::Endpoint;
use crate::limits::Bytes;

/// The name of a host: 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`, beginning with a letter or digit,
/// in lower case; no number.
///
/// Underscores and dots are allowed because names of compose services have them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(Box<str>);

/// A name that no host can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' cannot be a host's name: use 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit, \
     and not a number, which resolvers take for an address"
)]
pub struct BadHostName(String);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = BadHostName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let lower = name.to_ascii_lowercase();
        let fits = (1..=63).contains(&lower.len())
            && lower.starts_with(|c: char| c.is_ascii_alphanumeric())
            && lower
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if fits && !is_number(&lower) {
            Ok(Self(lower.into_boxed_str()))
        } else {
            Err(BadHostName(name.to_owned()))
        }
    }
}

/// True if resolvers take a name for an IPv4 address and never ask for it: `1`, `10.1`, `0x7f`,
/// `127.0.0.1` (inet_aton(3)).
fn is_number(lower: &str) -> bool {
    let is_part = |part: &str| match part.strip_prefix("0x") {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        None => !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit()),
    };
    lower.split('.').count() <= 4 && lower.split('.').all(is_part)
}

impl TryFrom<String> for HostName {
    type Error = BadHostName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0.into_string()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The state of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// The host exists, and no process runs.
    Imaginary,
    /// The program has been started and does not listen yet.
    Booting,
    /// The program runs, and listens or has settled without.
    Running,
    /// The host's processes are idle and held; the next signal releases them.
    Suspended,
    /// Its program could not be started, and will be tried again on the next signal after a delay.
    Failed,
    /// No process runs: the program has done its work, for which other hosts wait.
    Completed,
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Imaginary => "imaginary",
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
            Self::Completed => "completed",
        })
    }
}

/// What checks of a running host's health say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No check has succeeded yet.
    Starting,
    /// A check has succeeded since the boot.
    Healthy,
    /// Checks have failed too long.
    Unhealthy,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// Exited with this status.
    Code(i32),
    /// Ended by this signal.
    Signal(i32),
    /// Could not be executed; the number is the errno of execve(2).
    NotExecuted(i32),
    /// The supervisor disappeared, so the end was not seen.
    Lost,
    /// Killed by the kernel, since the host's processes used more than this many bytes of memory.
    OutOfMemory(u64),
}

impl ExitStatus {
    /// The status a shell would give: the code, 128 plus the signal, 127 for a missing program, 126
    /// for a program that cannot be executed.
    pub fn shell_code(self) -> i32 {
        const ENOENT: i32 = 2;
        const SIGKILL: i32 = 9;
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::NotExecuted(ENOENT) => 127,
            Self::NotExecuted(_) => 126,
            Self::Lost => 255,
            Self::OutOfMemory(_) => 128 + SIGKILL,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::NotExecuted(errno) => {
                write!(
                    f,
                    "could not be executed: {}",
                    std::io::Error::from_raw_os_error(*errno)
                )
            }
            Self::Lost => f.write_str("disappeared together with its supervisor"),
            Self::OutOfMemory(limit) => write!(f, "was killed, out of memory: its limit is {}", Bytes(*limit)),
        }
    }
}

/// A port of the machine that leads to a port of a host (compose `ports:`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The address on the machine, for example `0.0.0.0:8080`.
    pub machine: std::net::SocketAddr,
    /// The host's own port.
    pub endpoint: Endpoint,
}

/// One host as `imsup ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The host's name.
    pub name: HostName,
    /// Its VIP.
    pub address: Ipv4Addr,
    /// Where it is in its life.
    pub state: HostState,
    /// The program's first process, shown to people only; `None` while no process runs.
    pub pid: Option<u32>,
    /// Endpoints that the host listens on, or that are retained.
    pub ports: Vec<Endpoint>,
    /// The machine's ports that lead to the host.
    pub published: Vec<PublishedPort>,
    /// Boots since `up`.
    pub boots: u64,
    /// Wakes since `up`.
    pub wakes: u64,
    /// The next deadline of a sleeper: microseconds since the Unix epoch.
    pub next_deadline_us: Option<u64>,
    /// The beginning of the state: microseconds since the Unix epoch.
    pub since_us: u64,
    /// The reason for the state, if worth telling ("exited with status 3 before it listened").
    pub detail: Option<String>,
    /// The command; empty for a transient host whose command the broker does not know.
    pub command: Vec<String>,
    /// True for a host of the cluster file, false for a host that `imsup run` made for the time of
    /// a command.
    pub declared: bool,
    /// What the checks of its health say; `None` if it does not run, or has none.
    pub health: Option<Health>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_checked_and_lowered() {
        assert_eq!("Web_1".parse::<HostName>().unwrap().as_str(), "web_1");
        for bad in ["", "-a", "a b", &"x".repeat(64), "é"] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?} must be refused");
        }
        for number in ["1", "10.1", "0x7f", "0X7F.1", "127.0.0.1"] {
            assert!(number.parse::<HostName>().is_err(), "{number:?} is an address");
        }
        for name in ["1a", "0x", "0xg", "web.1", "1.2.3.4.5", "7-1"] {
            assert!(name.parse::<HostName>().is_ok(), "{name:?} is a name");
        }
    }

    #[test]
    fn shell_codes_follow_posix() {
        assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
        assert_eq!(ExitStatus::NotExecuted(2).shell_code(), 127);
        assert_eq!(ExitStatus::NotExecuted(13).shell_code(), 126);
        assert_eq!(ExitStatus::OutOfMemory(1).shell_code(), 137);
    }
}
