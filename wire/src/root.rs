//! The root file system of a program, and its namespaces.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::path;

/// A root made of layers. A program without one runs on the machine's own files.
///
/// The program has its own user (unless `ids` is the identity), mount, pid, uts and ipc namespaces;
/// the network is the machine's (namespaces(7)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSpec {
    /// Directories that are seen through each other (overlayfs), the lowest first; never empty.
    pub layers: Vec<HostPath>,
    /// The directory in which changes are kept: `upper` and `work` are made in it.
    pub changes: HostPath,
    /// An empty directory, over which the root is mounted in the program's own mount namespace.
    pub mount_point: HostPath,
    /// Whether the program may not change the root. Mounts in it have flags of their own.
    pub read_only: bool,
    /// Whose files are whose.
    pub ids: Ids,
    /// The name in the uts namespace.
    pub hostname: String,
    /// Mounts over the root, in this order.
    pub mounts: Vec<Mount>,
    /// The size of /dev/shm in bytes.
    pub shm_bytes: u64,
    /// The capabilities that remain, as a mask (capabilities(7)).
    pub capabilities: u64,
    /// Files of /proc/sys, of the namespaces that the program has, and their values.
    pub sysctls: Vec<(String, String)>,
    /// Whether set-user-ID bits and file capabilities have no effect (PR_SET_NO_NEW_PRIVS(2const)).
    pub no_new_privs: bool,
}

/// The capabilities of a root unless the compose file adds or drops some (capabilities(7)): Docker's
/// without MKNOD, as no device can be opened but those that are mounted, and without NET_RAW, since
/// the network is the machine's.
pub const DEFAULT_CAPABILITIES: u64 = {
    const CHOWN: u64 = 1;
    const DAC_OVERRIDE: u64 = 1 << 1;
    const FOWNER: u64 = 1 << 3;
    const FSETID: u64 = 1 << 4;
    const KILL: u64 = 1 << 5;
    const SETGID: u64 = 1 << 6;
    const SETUID: u64 = 1 << 7;
    const SETPCAP: u64 = 1 << 8;
    const NET_BIND_SERVICE: u64 = 1 << 10;
    const SYS_CHROOT: u64 = 1 << 18;
    const AUDIT_WRITE: u64 = 1 << 29;
    const SETFCAP: u64 = 1 << 31;
    CHOWN
        | DAC_OVERRIDE
        | FOWNER
        | FSETID
        | KILL
        | SETGID
        | SETUID
        | SETPCAP
        | NET_BIND_SERVICE
        | SYS_CHROOT
        | AUDIT_WRITE
        | SETFCAP
};

/// The extended attribute of a directory of an unpacked image whose owner could not be set by an
/// ordinary user: `UID:GID`, as the image says.
pub const OWNER_MARK: &str = "user.imsup.owner";

/// The names of the capabilities by number (include/uapi/linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The number of a capability with or without `CAP_`, in any case.
pub fn capability(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let number = CAPABILITIES.iter().position(|known| *known == short)?;
    u32::try_from(number).ok()
}

/// A path of the machine, as its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostPath(#[serde(with = "path")] PathBuf);

impl<P: Into<PathBuf>> From<P> for HostPath {
    fn from(path: P) -> Self {
        Self(path.into())
    }
}

impl AsRef<Path> for HostPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

/// The user and group ids of a root (user_namespaces(7)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// The machine's own; root only.
    Identity,
    /// One user and one group, which are the caller's on the machine.
    One {
        /// The user in the root.
        uid: u32,
        /// The group in the root.
        gid: u32,
    },
    /// Subordinate ids (subuid(5)).
    Ranges {
        /// The users.
        users: Vec<IdRange>,
        /// The groups.
        groups: Vec<IdRange>,
    },
}

/// A range of ids, as a line of /proc/PID/uid_map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id in the root.
    pub inside: u32,
    /// The first id on the machine.
    pub outside: u32,
    /// The number of ids.
    pub count: u32,
}

/// Something mounted over the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The absolute path in the root. It is made if it does not exist.
    pub target: HostPath,
    /// What is mounted.
    pub source: MountSource,
    /// Whether the program may not write there.
    pub read_only: bool,
}

/// The source of a [`Mount`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A directory or a file of the machine, with all that is mounted below it.
    Bind(HostPath),
    /// A device of the machine. Other mounts let no device be opened.
    Device(HostPath),
    /// Memory.
    Tmpfs {
        /// The size in bytes; half of the machine's memory if `None`.
        bytes: Option<u64>,
        /// The mode of its directory.
        mode: u32,
    },
}
