//! The user that a program runs as: compose `user`.
//!
//! Blocking: before the loop.

use std::ffi::{CString, OsString};

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist, getuid};

use imsup_linux::root::accounts::NotInRoot;
use imsup_linux::spawn::Credentials;

/// Why a user cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No user has that name.
    #[error("there is no user '{0}' on this machine; name one of /etc/passwd, or a number")]
    NoUser(String),
    /// No group has that name.
    #[error("there is no group '{0}' on this machine; name one of /etc/group, or a number")]
    NoGroup(String),
    /// Only root may change users.
    #[error("only root can run a program as user '{0}'; start imsup as root, or leave `user` out")]
    NotRoot(String),
    /// An image has no such entry.
    #[error(transparent)]
    NotInRoot(#[from] NotInRoot),
    /// A root with one user has another one.
    #[error(
        "it cannot run as user '{text}': without subordinate ids (subuid(5)) its root has user {uid} only; x-imsup.uid names another"
    )]
    NotMapped {
        /// The user.
        text: String,
        /// The root's user.
        uid: u32,
    },
    /// The data base could not be read.
    #[error("the user data base cannot be read: {0}")]
    Database(#[from] Errno),
}

/// Another user, and that user's variables in a program's environment.
#[derive(Clone, Debug)]
pub struct Other {
    /// The credentials for the kernel.
    pub credentials: Credentials,
    /// The user's home directory; the root directory if the user has no entry, as in docker.
    home: OsString,
    /// The user's name, if the user has an entry.
    name: Option<String>,
}

impl Other {
    /// The variables that are his: HOME, USER and LOGNAME. `None` for those that he has not.
    pub fn variables(&self) -> [(&'static str, Option<OsString>); 3] {
        let name = self.name.clone().map(OsString::from);
        [
            ("HOME", Some(self.home.clone())),
            ("USER", name.clone()),
            ("LOGNAME", name),
        ]
    }
}

/// The user that `USER[:GROUP]` names; `None` for the caller itself, if the caller may not change
/// users.
///
/// # Errors
/// Any [`UserError`].
pub fn resolve(text: &str) -> Result<Option<Other>, UserError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let entry = match user.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number))?,
        Err(_) => User::from_name(user)?,
    };
    let uid = match (&entry, user.parse()) {
        (Some(entry), _) => entry.uid,
        (None, Ok(number)) => Uid::from_raw(number),
        (None, Err(_)) => return Err(UserError::NoUser(user.to_owned())),
    };
    if !getuid().is_root() {
        return if uid == getuid() {
            Ok(None)
        } else {
            Err(UserError::NotRoot(text.to_owned()))
        };
    }
    let gid = match group {
        Some(group) => named_group(group)?,
        // A number without an entry has root's group under Docker as well.
        None => entry.as_ref().map_or(Gid::from_raw(0), |entry| entry.gid),
    };
    let groups = match &entry {
        Some(entry) => {
            let name = CString::new(entry.name.as_str()).map_err(|_| UserError::NoUser(user.to_owned()))?;
            getgrouplist(&name, gid)?
        }
        None => vec![gid],
    };
    Ok(Some(Other {
        credentials: Credentials { uid, gid, groups },
        home: entry
            .as_ref()
            .map_or("/".into(), |entry| entry.dir.clone().into_os_string()),
        name: entry.map(|entry| entry.name),
    }))
}

fn named_group(group: &str) -> Result<Gid, UserError> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    let entry = Group::from_name(group)?.ok_or_else(|| UserError::NoGroup(group.to_owned()))?;
    Ok(entry.gid)
}
