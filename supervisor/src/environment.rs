//! The environment that a program starts with.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use imsup_protocol::message::Role;
use imsup_protocol::zygote::BOOT_VARIABLE;
use imsup_wire::ProgramSpec;

use crate::user::Other;

/// The environment of a program, as `NAME=VALUE`; `None` for exactly our own.
///
/// A launched program of another user gets of our own variables only those in [`is_everybodys`]:
/// our variables may hold secrets of root. HOME, USER and LOGNAME of that user are overridden by
/// the specification. For `imsup run --user` they override what the caller has.
pub fn of_program(spec: &ProgramSpec, role: &Role, other: Option<&Other>) -> Option<Vec<CString>> {
    let boot = match role {
        Role::Launched { boot } => Some(*boot),
        _ => None,
    };
    if boot.is_none() && other.is_none() && spec.environment.is_empty() {
        return None;
    }
    let own = std::env::vars_os();
    let variables = merge(own.collect(), spec, boot, other);
    let lines = variables.into_iter().map(|(name, value)| {
        let line = [name.as_bytes(), b"=", value.as_bytes()].concat();
        CString::new(line)
    });
    // The compose file is checked for NUL; no environment, and no line of /etc/passwd, has one.
    Some(lines.flatten().collect())
}

fn merge(
    own: BTreeMap<OsString, OsString>,
    spec: &ProgramSpec,
    boot: Option<u64>,
    other: Option<&Other>,
) -> BTreeMap<OsString, OsString> {
    let mut variables = own;
    if boot.is_some() && other.is_some() {
        variables.retain(|name, _| is_everybodys(name));
    }
    let given = spec.environment.iter().filter(|(name, _)| !name.is_empty());
    variables.extend(given.map(|(name, value)| (name.into(), value.into())));
    if let Some(boot) = boot {
        variables.insert(BOOT_VARIABLE.into(), boot.to_string().into());
    }
    for (name, value) in other.into_iter().flat_map(Other::variables) {
        match value {
            _ if boot.is_some() && variables.contains_key(OsStr::new(name)) => {}
            Some(value) => drop(variables.insert(name.into(), value)),
            None => drop(variables.remove(OsStr::new(name))),
        }
    }
    variables
}

/// Variables of ours that programs of other users get, too: PATH, the locale, the terminal, and
/// what imsup itself is told.
fn is_everybodys(name: &OsStr) -> bool {
    let name = name.as_bytes();
    ["PATH", "LANG", "LANGUAGE", "TZ", "TERM"]
        .map(str::as_bytes)
        .contains(&name)
        || name.starts_with(b"LC_")
        || name.starts_with(b"IMSUP_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user;

    fn own() -> BTreeMap<OsString, OsString> {
        [("HOME", "/root"), ("LC_ALL", "C"), ("SECRET", "x"), ("PATH", "/bin")]
            .map(|(name, value)| (name.into(), value.into()))
            .into()
    }

    fn named(variables: &BTreeMap<OsString, OsString>) -> Vec<(&str, &str)> {
        let text = |text| OsStr::to_str(text).unwrap();
        variables
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect()
    }

    #[test]
    fn what_the_file_says_goes_before_our_own() {
        let mut spec = ProgramSpec::new(["true"]);
        spec.environment.insert("PATH".to_owned(), "/opt".to_owned());
        let variables = merge(own(), &spec, Some(7), None);
        let expected = [
            ("HOME", "/root"),
            ("IMSUP_BOOT", "7"),
            ("LC_ALL", "C"),
            ("PATH", "/opt"),
            ("SECRET", "x"),
        ];
        assert_eq!(named(&variables), expected);
    }

    #[test]
    fn another_user_does_not_see_our_variables() {
        if !nix::unistd::getuid().is_root() {
            // Only root has programs of other users.
            assert!(user::resolve("root").is_err());
            return;
        }
        let other = user::resolve("4242").unwrap().unwrap();
        let spec = ProgramSpec::new(["true"]);
        let variables = merge(own(), &spec, Some(7), Some(&other));
        let launched = [("HOME", "/"), ("IMSUP_BOOT", "7"), ("LC_ALL", "C"), ("PATH", "/bin")];
        assert_eq!(named(&variables), launched);
        let typed = merge(own(), &spec, None, Some(&other));
        let expected = [("HOME", "/"), ("LC_ALL", "C"), ("PATH", "/bin"), ("SECRET", "x")];
        assert_eq!(named(&typed), expected);
    }
}
