//! `command` and `entrypoint`.

use super::error::Fault;
use super::keys::{SERVICE, nearest};
use super::problem::Problem;
use super::read::{Path, texts};
use super::tree::{Node, Value};

const KEYS: [&str; 2] = ["entrypoint", "command"];

/// The words of a canonical command.
fn words(node: &Node, path: &Path<'_>) -> Result<Vec<String>, Fault> {
    let words: Vec<String> = texts(node, path)?.into_iter().map(str::to_owned).collect();
    if words.iter().any(|word| word.contains('\0')) {
        return Err(Fault::new(
            node.at,
            path,
            Problem::BadCommand("a word has a NUL character, which no argument can have"),
        ));
    }
    Ok(words)
}

/// `entrypoint` and `command` of a service, joined; empty for a service with an image, which has
/// words of its own.
pub(super) fn command(service: &Node, path: &Path<'_>) -> Result<Vec<String>, Fault> {
    let mut joined = Vec::new();
    for key in KEYS {
        if let Some(node) = service.get(key) {
            joined.extend(words(node, &path.key(key))?);
        }
    }
    if has_image(service) {
        return Ok(Vec::new());
    }
    if joined.first().is_some_and(String::is_empty) {
        let node = KEYS.iter().find_map(|key| service.get(key)).unwrap_or(service);
        return Err(Fault::new(
            node.at,
            path,
            Problem::BadCommand("the command's first word, its program, is empty"),
        ));
    }
    if !joined.is_empty() {
        return Ok(joined);
    }
    let problem = match misspelt(service) {
        Some((found, meant)) => Problem::MisspeltCommand { found, meant },
        None => Problem::NoCommand,
    };
    Err(Fault::new(service.at, path, problem))
}

/// True if the service's program is an image's.
pub(super) fn has_image(service: &Node) -> bool {
    let is_there = |key: &str| service.get(key).is_some_and(|node| !node.is_null());
    service.get_text("image").is_some_and(|name| !name.is_empty()) || is_there("build")
}

/// An unknown key, and the similar key among the two.
fn misspelt(service: &Node) -> Option<(String, &'static str)> {
    let Value::Map(map) = &service.value else { return None };
    map.keys().find_map(|name| {
        let meant = nearest(name, KEYS.into_iter()).filter(|_| !SERVICE.iter().any(|key| *key.name == **name))?;
        Some((name.to_string(), meant))
    })
}
