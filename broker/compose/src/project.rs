//! The project's name.

use std::borrow::Cow;
use std::path::Path;

use super::error::{ComposeError, Fault};
use super::interpolate::Interpolator;
use super::read::{Path as KeyPath, text};
use super::tree::Node;
use super::variables::Environment;

/// Longest name of a project: it is part of paths of Unix sockets, which end at 107 bytes.
const MAX_CHARS: usize = 63;

/// The sources of a project's name, in the order of preference.
pub(super) struct Candidates<'a> {
    /// `-p`.
    pub option: Option<&'a str>,
    /// `COMPOSE_PROJECT_NAME`.
    pub environment: Option<&'a str>,
    /// `name:` in the file.
    pub file: Option<&'a str>,
    /// The directory of the first file.
    pub directory: &'a Path,
}

/// The project's name. A name chosen by the user for this run must be valid; names of the file and
/// the directory are made to fit.
pub(super) fn name(candidates: &Candidates<'_>) -> Result<String, ComposeError> {
    let chosen = [
        (candidates.option, "-p"),
        (
            candidates.environment.filter(|name| !name.is_empty()),
            "COMPOSE_PROJECT_NAME",
        ),
    ];
    for (name, origin) in chosen {
        if let Some(name) = name {
            let fitting = normalize(name);
            return if fitting == name {
                checked(&fitting, name, origin)
            } else {
                refuse(name, origin, Some(fitting))
            };
        }
    }
    if let Some(name) = candidates.file.filter(|name| !name.is_empty()) {
        return checked(&normalize(name), name, "'name' in the file");
    }
    let directory = candidates.directory.file_name().unwrap_or_default().to_string_lossy();
    checked(
        &normalize(&directory),
        &directory,
        "the directory; choose another name with -p",
    )
}

/// `name:` of the last document with this key.
pub(super) fn declared<'n>(
    documents: impl DoubleEndedIterator<Item = &'n Node>,
    environment: &Environment<'_>,
) -> Result<Option<String>, Fault> {
    let path = KeyPath::Root.key("name");
    let Some(node) = documents.rev().find_map(|document| document.get("name")) else {
        return Ok(None);
    };
    let lookup = |name: &str| environment.get(name).map(Cow::Borrowed);
    let name = Interpolator::new(&lookup)
        .substitute(text(node, &path)?)
        .map(Cow::into_owned);
    name.map(Some).map_err(|error| Fault::new(node.at, path, error))
}

/// As docker compose: lower case, without characters other than `a-z0-9_-`, beginning with a letter
/// or digit.
pub(super) fn normalize(name: &str) -> String {
    let kept: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}

fn checked(fitting: &str, name: &str, origin: &'static str) -> Result<String, ComposeError> {
    if (1..=MAX_CHARS).contains(&fitting.len()) {
        Ok(fitting.to_owned())
    } else {
        refuse(name, origin, None)
    }
}

fn refuse(name: &str, origin: &'static str, suggestion: Option<String>) -> Result<String, ComposeError> {
    Err(ComposeError::Project {
        name: name.to_owned(),
        origin,
        suggestion: suggestion.filter(|name| (1..=MAX_CHARS).contains(&name.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(
        option: Option<&str>,
        environment: Option<&str>,
        file: Option<&str>,
        directory: &str,
    ) -> Result<String, String> {
        name(&Candidates {
            option,
            environment,
            file,
            directory: Path::new(directory),
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn the_nearest_choice_wins() {
        assert_eq!(from(Some("a"), Some("b"), Some("c"), "/d").as_deref(), Ok("a"));
        assert_eq!(from(None, Some("b"), Some("c"), "/d").as_deref(), Ok("b"));
        assert_eq!(from(None, Some(""), Some("My Shop"), "/d").as_deref(), Ok("myshop"));
        assert_eq!(from(None, None, None, "/home/_My.Dir-1").as_deref(), Ok("mydir-1"));
    }

    #[test]
    fn what_was_chosen_must_fit() {
        let message = from(Some("My Shop"), None, None, "/d").unwrap_err();
        assert!(
            message.contains("'My Shop' (-p)") && message.contains("for example 'myshop'"),
            "{message}"
        );
        assert!(from(None, None, None, "/").unwrap_err().contains("-p"));
        assert!(from(None, None, None, "/日本").unwrap_err().contains("-p"));
        assert!(from(Some(&"x".repeat(64)), None, None, "/d").is_err());
    }
}
