//! Why a broker could not start, or broke.

use std::io;
use std::path::PathBuf;

use imsup_wire::{Endpoint, HostName};

use crate::absent::AbsentError;
use crate::address_block::BlockError;
use crate::in_the_way::InTheWay;
use crate::projects::ProjectsError;
use crate::published::PublishError;
use crate::routes::RouteError;

/// Why a broker could not start, or broke.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum BrokerError {
    /// The project has a broker.
    #[error("project '{project}' is already up{}{}; `imsup ps` shows its hosts, `imsup down` takes it away", by(.pid), of(.directory))]
    AlreadyUp {
        project: String,
        /// The directory of the project's compose file.
        directory: Option<PathBuf>,
        pid: Option<u32>,
    },
    /// The project has a broker, but its files were removed and cannot be made anew.
    #[error(
        "project '{project}' is up already, but its files were removed, and cannot be made anew: its broker is process {pid}, and says why in its log; \
         `imsup down` ends it and its hosts"
    )]
    Lost { project: String, pid: u32 },
    /// A directory cannot be made, or be made private.
    #[error("{what} {path} cannot be used: {source}; set {variable} to a directory of your own")]
    Directory {
        what: &'static str,
        path: PathBuf,
        variable: &'static str,
        source: io::Error,
    },
    /// A file cannot be used.
    #[error("{what} {path} cannot be used: {source}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The socket's path is too long for the kernel.
    #[error("the path of the broker's socket is too long: {0}; set IMSUP_RUNTIME_DIR to a shorter directory")]
    PathTooLong(PathBuf),
    /// The project records cannot be read or written.
    #[error(transparent)]
    Projects(#[from] ProjectsError),
    /// The addresses could not be made the machine's, or given up.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// There are no addresses.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// More ports than descriptors.
    #[error(
        "{ports} ports of {hosts} hosts are to be retained, and {limit} can be with {descriptors} file descriptors: \
         raise the hard limit (`ulimit -Hn`, LimitNOFILE= of a unit), or declare fewer"
    )]
    TooManyPorts {
        ports: usize,
        hosts: usize,
        limit: u64,
        /// RLIMIT_NOFILE.
        descriptors: u64,
    },
    /// A host's port is in use.
    #[error(
        "host '{host}': {endpoint} is {}, or give the host another port or subnet",
        crate::in_the_way::in_use(.by.as_deref())
    )]
    Occupied {
        host: HostName,
        endpoint: Endpoint,
        by: Option<Box<InTheWay>>,
    },
    /// A host's port needs privilege.
    #[error(
        "host '{host}': port {} is below {first} and needs privilege: `sudo setcap cap_net_bind_service=+ep {}` (imsup \
         then binds in the program's place), or `sudo sysctl net.ipv4.ip_unprivileged_port_start={}`",
        endpoint.address.port(), imsup.display(), endpoint.address.port()
    )]
    Privileged {
        host: HostName,
        endpoint: Endpoint,
        /// The first port that needs none.
        first: u16,
        imsup: PathBuf,
    },
    /// A host's port cannot be had for another reason.
    #[error("host '{host}': {endpoint} cannot be retained: {source}")]
    Retain {
        host: HostName,
        endpoint: Endpoint,
        source: io::Error,
    },
    /// A port of the machine cannot be had.
    #[error("host '{host}': {source}")]
    Publish { host: HostName, source: PublishError },
    /// The rest of an earlier broker could not be removed.
    #[error(transparent)]
    Absent(#[from] AbsentError),
    /// The kernel refuses a call that every Linux has.
    #[error("{what} failed: {source}")]
    System { what: &'static str, source: io::Error },
}

fn by(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (broker pid {pid})"))
}

fn of(directory: &Option<PathBuf>) -> String {
    let said = |path: &PathBuf| format!(" with the compose file of {}", path.display());
    directory.as_ref().map_or_else(String::new, said)
}
