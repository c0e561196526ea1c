//! One description of a program, from the compose file to execve(2).
//!
//! A [`ProgramSpec`] is what a compose file, or a command line, says of a program. The broker adds
//! what only it knows (the limit of descriptors) and passes the specification to a supervisor. The
//! supervisor makes of it what the kernel is told.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::Limits;
use crate::path;
use crate::root::RootSpec;

/// The version of the encoding of a [`ProgramSpec`]. It changes with every field.
pub const SPEC_VERSION: u16 = 2;

/// The signal that `stop` sends if the compose file names none: SIGTERM.
pub const DEFAULT_STOP_SIGNAL: i32 = 15;

/// How long a program may take to end if the compose file says nothing.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

/// What a program is, and how it runs. Encodings begin with [`SPEC_VERSION`], so that a reader of
/// another version refuses the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSpec {
    /// Always the first field.
    pub version: SpecVersion,
    /// The command and its arguments; never empty. The first word is looked up in PATH.
    #[serde(with = "words")]
    pub command: Vec<OsString>,
    /// Variables that are added to the supervisor's own environment, or to an empty one if there
    /// is a root.
    pub environment: Environment,
    /// Where the program starts, in its root; absolute, or empty for the directory of its
    /// supervisor.
    #[serde(with = "path")]
    pub working_dir: PathBuf,
    /// `USER[:GROUP]`, by name or number; the user of its supervisor if `None`.
    pub user: Option<String>,
    /// The soft limit of descriptors (RLIMIT_NOFILE) that the program starts with; the limit of its
    /// supervisor if `None`.
    pub descriptor_limit: Option<u64>,
    /// What the processes of the host may use together.
    pub limits: Limits,
    /// The signal that `stop` sends first.
    pub stop_signal: i32,
    /// How long the program may take to end after that signal.
    pub stop_grace: Duration,
    /// How much of the program's output is kept.
    pub logging: LogBound,
    /// The root of an image; `None` for a program of the machine.
    pub root: Option<Box<RootSpec>>,
}

impl ProgramSpec {
    /// The directory of the machine in which the supervisor starts.
    pub fn supervisor_dir(&self) -> &Path {
        match self.root {
            Some(_) => Path::new("/"),
            None => &self.working_dir,
        }
    }

    /// A command of which nothing else is said.
    pub fn new(command: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            version: SpecVersion,
            command: command.into_iter().map(Into::into).collect(),
            environment: Environment::default(),
            working_dir: PathBuf::new(),
            user: None,
            descriptor_limit: None,
            limits: Limits::default(),
            stop_signal: DEFAULT_STOP_SIGNAL,
            stop_grace: DEFAULT_STOP_GRACE,
            logging: LogBound::default(),
            root: None,
        }
    }

    /// The command and its arguments as text, for people.
    pub fn command_text(&self) -> Vec<String> {
        let text = |word: &OsString| word.to_string_lossy().into_owned();
        self.command.iter().map(text).collect()
    }
}

/// [`SPEC_VERSION`] as the first field of an encoding. Another version is an error of the decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecVersion;

impl Serialize for SpecVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SPEC_VERSION.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SpecVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u16::deserialize(deserializer)? {
            SPEC_VERSION => Ok(Self),
            other => Err(serde::de::Error::custom(format_args!(
                "the program is described in version {other}, and this imsup reads version {SPEC_VERSION}; \
                 `imsup down` and `imsup up` start the project with one imsup"
            ))),
        }
    }
}

/// Variables of an environment. Their values may be secrets, so [`fmt::Debug`] shows the names
/// only.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environment(BTreeMap<String, String>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.keys().map(|name| (name, format_args!("<redacted>")));
        f.debug_map().entries(names).finish()
    }
}

impl From<BTreeMap<String, String>> for Environment {
    fn from(variables: BTreeMap<String, String>) -> Self {
        Self(variables)
    }
}

impl Deref for Environment {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Environment {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// `logging.options`: how much of a program's output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBound {
    /// `max-size` in bytes, by which the oldest output is dropped at once; `None` for no bound.
    pub max_size: Option<u64>,
    /// `max-file`: how many times that is kept at most; from 1 up.
    pub max_files: u32,
}

impl Default for LogBound {
    fn default() -> Self {
        Self {
            max_size: Some(10 << 20),
            max_files: 2,
        }
    }
}

/// Words of a command line as their bytes: not all are UTF-8.
mod words {
    use super::*;

    pub(super) fn serialize<S: Serializer>(words: &[OsString], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(words.iter().map(|word| word.as_bytes()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OsString>, D::Error> {
        let words: Vec<Vec<u8>> = Vec::deserialize(deserializer)?;
        Ok(words.into_iter().map(OsString::from_vec).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> ProgramSpec {
        let mut spec = ProgramSpec::new(["nginx", "-g"]);
        spec.command.push(OsString::from_vec(b"\xff".to_vec()));
        spec.environment
            .insert("PASSWORD".to_owned(), "correct horse".to_owned());
        spec.working_dir = OsString::from_vec(b"/srv/\xff".to_vec()).into();
        spec.user = Some("www".to_owned());
        spec
    }

    #[test]
    fn a_specification_is_read_back_as_it_was() {
        let text = serde_json::to_vec(&web()).unwrap();
        assert_eq!(serde_json::from_slice::<ProgramSpec>(&text).unwrap(), web());
    }

    #[test]
    fn values_of_the_environment_are_not_shown() {
        let shown = format!("{:?} {:#?}", web(), web());
        assert!(shown.contains("PASSWORD") && shown.contains("nginx"), "{shown}");
        assert!(!shown.contains("horse"), "{shown}");
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let mut value = serde_json::to_value(web()).unwrap();
        value["version"] = (SPEC_VERSION + 1).into();
        let error = serde_json::from_value::<ProgramSpec>(value).unwrap_err().to_string();
        assert!(
            error.contains("version 3") && error.contains("reads version 2"),
            "{error}"
        );
    }
}
