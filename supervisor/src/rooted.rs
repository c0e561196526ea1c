//! A program in the root of an image: its user and variables, as the image's own files say.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use imsup_linux::root::accounts::Accounts;
use imsup_linux::spawn::Credentials;
use imsup_protocol::message::Role;
use imsup_protocol::zygote::BOOT_VARIABLE;
use imsup_wire::{Ids, ProgramSpec, RootSpec};
use nix::unistd::{Gid, Uid};

use crate::user::UserError;

/// PATH of a container whose image sets none (Docker).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The user of a program in a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootUser {
    /// What the program becomes; `None` if its root has this user only.
    pub credentials: Option<Credentials>,
    /// The home directory; the root directory if the user has no entry.
    home: String,
}

/// The user that `USER[:GROUP]` names in a root. If `None`: the only user of the root, else user 0.
///
/// # Errors
/// Any [`UserError`].
pub fn user(root: &RootSpec, text: Option<&str>) -> Result<RootUser, UserError> {
    let accounts = Accounts::of(&layers(root));
    let default = match root.ids {
        Ids::One { uid, .. } => uid,
        Ids::Identity | Ids::Ranges { .. } => 0,
    };
    let default = default.to_string();
    let text = text.filter(|text| !text.is_empty()).unwrap_or(&default);
    let found = accounts.find(text)?;
    let credentials = match root.ids {
        Ids::One { uid, .. } if found.uid != uid => {
            return Err(UserError::NotMapped {
                text: text.to_owned(),
                uid,
            });
        }
        // One user cannot set groups (user_namespaces(7)), and needs not.
        Ids::One { .. } => None,
        Ids::Identity | Ids::Ranges { .. } => Some(Credentials {
            uid: Uid::from_raw(found.uid),
            gid: Gid::from_raw(found.gid),
            groups: found.groups.into_iter().map(Gid::from_raw).collect(),
        }),
    };
    Ok(RootUser {
        credentials,
        home: found.home,
    })
}

/// The environment of a program in a root, as `NAME=VALUE`: nothing of ours, as under docker.
pub fn environment(spec: &ProgramSpec, root: &RootSpec, role: &Role, user: &RootUser) -> Vec<CString> {
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
    variables.insert("PATH".into(), DEFAULT_PATH.into());
    variables.insert("HOSTNAME".into(), root.hostname.clone().into());
    variables.insert("HOME".into(), user.home.clone().into());
    let given = spec.environment.iter().filter(|(name, _)| !name.is_empty());
    variables.extend(given.map(|(name, value)| (name.into(), value.into())));
    if let Role::Launched { boot } = role {
        variables.insert(BOOT_VARIABLE.into(), boot.to_string().into());
    }
    let line = |(name, value): (OsString, OsString)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
    // The compose file is checked for NUL.
    variables.into_iter().flat_map(line).collect()
}

/// The layers of a root, the highest first: what was changed is above all.
fn layers(root: &RootSpec) -> Vec<PathBuf> {
    let changes = root.changes.as_ref().join("upper");
    let layers = root.layers.iter().rev().map(|layer| layer.as_ref().to_owned());
    std::iter::once(changes).chain(layers).collect()
}

/// Makes the directories that a root is mounted with, which a cleaner may have removed.
///
/// # Errors
/// Errors of mkdir(2).
pub fn make_directories(root: &RootSpec) -> io::Result<()> {
    let changes = root.changes.as_ref();
    for directory in [&changes.join("upper"), &changes.join("work"), root.mount_point.as_ref()] {
        fs::create_dir_all(directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn root(directory: &Path, ids: Ids) -> RootSpec {
        RootSpec {
            layers: ["low", "high"].map(|name| directory.join(name).into()).into(),
            changes: directory.into(),
            mount_point: directory.into(),
            read_only: false,
            ids,
            hostname: "web".to_owned(),
            mounts: Vec::new(),
            shm_bytes: 0,
            capabilities: 0,
            sysctls: Vec::new(),
            no_new_privs: false,
        }
    }

    #[test]
    fn a_root_with_one_user_runs_that_user_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path(), Ids::One { uid: 999, gid: 999 });
        for text in [Some("999"), Some(""), None] {
            assert_eq!(user(&root, text).unwrap().credentials, None);
        }
        let error = user(&root, Some("0")).unwrap_err().to_string();
        assert!(error.contains("999") && error.contains("x-imsup.uid"), "{error}");
    }

    #[test]
    fn a_program_of_an_image_sees_no_variable_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path(), Ids::Identity);
        let mut spec = ProgramSpec::new(["true"]);
        spec.environment.insert("A".to_owned(), "1".to_owned());
        let user = user(&root, None).unwrap();
        let lines = environment(&spec, &root, &Role::Exec, &user);
        let expected = ["A=1", "HOME=/", "HOSTNAME=web", &format!("PATH={DEFAULT_PATH}")];
        assert_eq!(lines, expected.map(|line| CString::new(line).unwrap()));
    }
}
