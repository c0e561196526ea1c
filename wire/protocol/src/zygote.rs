//! What the broker asks the zygote for: a supervisor that is forked, not executed.

use serde::{Deserialize, Serialize};

use imsup_wire::host::HostName;

/// The descriptors that come with a [`SpawnRequest`], in their order: the log, and the working directory.
pub const FDS: usize = 2;

/// Make the supervisor of this boot. Comes with [`FDS`] descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnRequest {
    /// The host.
    pub host: HostName,
    /// The boot's token, by which it introduces itself.
    pub boot: u64,
    /// The soft limit of descriptors that its program starts with, where not our own.
    pub descriptor_limit: Option<u64>,
    /// Whom its program runs as, `USER[:GROUP]`; as we do where `None`.
    pub user: Option<String>,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Variables added to the zygote's own environment.
    pub environment: Vec<(String, String)>,
    /// Variables that are removed from it first.
    pub removed: Vec<String>,
}

/// The answer: its process, a child of whoever asked, or the errno for which there is none.
pub type SpawnReply = Result<u32, i32>;
