//! Problems of a value.

use super::conflict::Conflict;
use super::duration::DurationError;
use super::interpolate::InterpolateError;
use super::ports::PortError;
use super::size::SizeError;
use super::user::UserError;
use crate::subnet::SubnetError;

/// A problem of a value.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum Problem {
    /// The value has the wrong type.
    #[error("expected {expected}, found {found}")]
    Type { expected: &'static str, found: String },
    /// A number, a boolean or a date stands for a text.
    #[error("expected text, found {found}: put it in quotes (\"{text}\")")]
    Quote { found: String, text: String },
    /// The value is none of a few words.
    #[error("expected {expected}, found '{found}'")]
    Word { expected: &'static str, found: String },
    /// The value is a number outside its range.
    #[error("must be {range}, found '{found}'")]
    Range { range: &'static str, found: String },
    /// A file and an overriding file disagree about the value's type.
    #[error("cannot merge {over} over {base} of the file before")]
    Merge { base: &'static str, over: &'static str },
    /// A key that has to be there isn't.
    #[error("has no '{0}'")]
    Missing(&'static str),
    /// The files have no services.
    #[error("there are no services: a compose file needs 'services:' with at least one name below it")]
    NoServices,
    /// All services are in profiles that are off.
    #[error("all services are in profiles ({0}), and none of them is enabled: add '--profile NAME'")]
    AllDisabled(String),
    /// An unknown key inside `x-imsup`.
    #[error(
        "unknown setting{}",
        suggestion.map_or_else(|| format!("; x-imsup here takes {known}"), |name| did_you_mean(Some(name)))
    )]
    UnknownSetting {
        suggestion: Option<&'static str>,
        known: String,
    },
    /// `subnet` in a service's `x-imsup`.
    #[error("a subnet is the whole project's: put it into x-imsup at the top of the file, beside 'services'")]
    SubnetInService,
    /// A variable could not be put in.
    #[error(transparent)]
    Variable(#[from] InterpolateError),
    /// A port is malformed.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A duration is malformed or absurd.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// An amount is malformed.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// `user` is malformed.
    #[error(transparent)]
    User(#[from] UserError),
    /// A name cannot be a host's.
    #[error("{0}")]
    Name(String),
    /// `stop_signal` is no signal.
    #[error("'{0}' is no signal: give a name such as SIGTERM or SIGRTMIN+3, or a number from 1 to 64")]
    Signal(String),
    /// The short form of a volume is malformed.
    #[error("'{0}' is no volume: write TARGET, SOURCE:TARGET or SOURCE:TARGET:OPTIONS, such as \"./data:/data:ro\"")]
    Volume(String),
    /// Services that wait for each other.
    #[error("the services depend on each other: {0}; take one of these out")]
    Cycle(String),
    /// A service of the file is also one of an included file.
    #[error(
        "is also in the included {file}; write what differs into a file of its own, and name both:  \
         include: [{{path: [{file}, ours.yaml]}}]"
    )]
    Included { file: String },
    /// `extends` leads back to where it began.
    #[error("extends itself: {0}")]
    ExtendsItself(String),
    /// Files that include each other.
    #[error("includes itself: {0}")]
    IncludesItself(String),
    /// Two keys that contradict each other.
    #[error("cannot stand beside '{0}': keep one of them")]
    Beside(&'static str),
    /// A service has no command.
    #[error("has no command: add what it runs, for example  command: [\"redis-server\", \"--port\", \"6379\"]")]
    NoCommand,
    /// A service has no command, but a key that looks like the key of a command.
    #[error("has no command: '{found}' is no key of a service; did you mean '{meant}'?")]
    MisspeltCommand { found: String, meant: &'static str },
    /// A command's first word is empty, or a word has a NUL.
    #[error("{0}")]
    BadCommand(&'static str),
    /// An environment variable's name is unusable.
    #[error("'{0}' cannot be an environment variable: write NAME=VALUE or NAME, without spaces before the '='")]
    BadVariable(String),
    /// A value names a missing object.
    #[error("there is no {what} '{name}'{}", did_you_mean(.suggestion.as_deref()))]
    Undefined {
        /// A service, a network.
        what: &'static str,
        name: String,
        /// The most similar name that exists.
        suggestion: Option<String>,
    },
    /// The service depends on a service whose profile is off.
    #[error("'{name}' is only in profile {profiles}, which is not enabled: add '--profile {first}'")]
    Disabled {
        name: String,
        profiles: String,
        first: String,
    },
    /// A value that only a single host can have, and there are replicas.
    #[error("there are {replicas} replicas, and only one host can have this {what}: {fix}")]
    Replicas {
        replicas: u32,
        what: &'static str,
        fix: &'static str,
    },
    /// `scale` and `deploy.replicas` disagree.
    #[error("is {scale}, but deploy.replicas is {replicas}: keep one of them")]
    ScaleDiffers {
        /// `scale`.
        scale: u32,
        /// `deploy.replicas`.
        replicas: u32,
    },
    /// `x-imsup.subnet` cannot have VIPs.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// Two hosts want the same value, or a host wants a value that none can have.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A value of a service with an image.
    #[error("{0}")]
    Container(String),
    /// An `env_file` could not be used.
    #[error("{0}")]
    EnvFile(String),
}

/// `; did you mean 'x'?`, or the empty string.
pub(super) fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion
        .map(|name| format!("; did you mean '{name}'?"))
        .unwrap_or_default()
}
