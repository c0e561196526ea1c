//! `user` and `stop_signal`.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// The first real-time signal for programs, and the last, as numbered by glibc and musl.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// Why text is not taken as a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no user: write USER or USER:GROUP, each by name or number, for example \"nobody\" or \"1000:1000\"")]
pub struct UserError(String);

/// Checks `USER[:GROUP]`.
pub(super) fn check_user(text: &str) -> Result<(), UserError> {
    let mut parts = text.split(':');
    let fits = parts.next().is_some_and(is_account) && parts.next().is_none_or(is_account) && parts.next().is_none();
    if fits { Ok(()) } else { Err(UserError(text.to_owned())) }
}

fn is_account(name: &str) -> bool {
    if name.bytes().all(|b| b.is_ascii_digit()) {
        // u32::MAX is "no change" to setuid(2).
        return name.parse::<u32>().is_ok_and(|id| id != u32::MAX);
    }
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name
            .strip_suffix('$')
            .unwrap_or(name)
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// The number of a signal given by name (`SIGTERM`, `term`, `SIGRTMIN+3`) or number.
pub fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| {
        if rest.is_empty() {
            Some(0)
        } else {
            rest[1..].parse::<i32>().ok()
        }
    };
    if let Some(rest) = name
        .strip_prefix("RTMIN")
        .filter(|rest| rest.is_empty() || rest.starts_with('+'))
    {
        return Some(SIGRTMIN + offset(rest)?).filter(|n| (SIGRTMIN..=SIGRTMAX).contains(n));
    }
    if let Some(rest) = name
        .strip_prefix("RTMAX")
        .filter(|rest| rest.is_empty() || rest.starts_with('-'))
    {
        return Some(SIGRTMAX - offset(rest)?).filter(|n| (SIGRTMIN..=SIGRTMAX).contains(n));
    }
    Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers() {
        for good in ["root", "1000", "1000:1000", "www-data:adm", "_apt", "host$", "0:0"] {
            assert_eq!(check_user(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ":",
            "a:",
            ":a",
            "a:b:c",
            "a b",
            "-1",
            "4294967295",
            "99999999999",
            "a/b",
        ] {
            assert!(check_user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("sigint", 2),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(signal(text), Some(expected), "{text}");
        }
        for bad in ["", "0", "65", "-9", "SIGNOPE", "RTMIN+31", "RTMIN-1", "RTMAX-99", "SIG"] {
            assert_eq!(signal(bad), None, "{bad}");
        }
    }
}
