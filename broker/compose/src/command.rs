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

/// `entrypoint` and `command` of a service, joined.
pub(super) fn command(service: &Node, path: &Path<'_>) -> Result<Vec<String>, Fault> {
    let mut joined = Vec::new();
    for key in KEYS {
        if let Some(node) = service.get(key) {
            joined.extend(words(node, &path.key(key))?);
        }
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
    let problem = match service.get("image").map(|node| &node.value) {
        _ if let Some((found, meant)) = misspelt(service) => Problem::MisspeltCommand { found, meant },
        Some(Value::Text(image)) => Problem::ImageOnly {
            what: "an image",
            example: format!("command: {}", example(image)),
        },
        _ if service.get("build").is_some() => Problem::ImageOnly {
            what: "a build",
            example: format!("command: {}", example("")),
        },
        _ => Problem::NoCommand,
    };
    Err(Fault::new(service.at, path, problem))
}

/// An unknown key, and the similar key among the two.
fn misspelt(service: &Node) -> Option<(String, &'static str)> {
    let Value::Map(map) = &service.value else { return None };
    map.keys().find_map(|name| {
        let meant = nearest(name, KEYS.into_iter()).filter(|_| !SERVICE.iter().any(|key| *key.name == **name))?;
        Some((name.to_string(), meant))
    })
}

/// Suggested commands of well-known images.
fn example(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split([':', '@']).next().unwrap_or(name);
    match name {
        "nginx" => "[\"nginx\", \"-g\", \"daemon off;\"]",
        "memcached" => "[\"memcached\", \"-l\", \"0.0.0.0\"]",
        "postgres" => "[\"postgres\", \"-D\", \"./data\"]",
        "python" => "[\"python3\", \"app.py\"]",
        "node" => "[\"node\", \"server.js\"]",
        "mysql" | "mariadb" => "[\"mysqld\"]",
        "mongo" => "[\"mongod\", \"--bind_ip_all\"]",
        _ => "[\"redis-server\", \"--port\", \"6379\"]",
    }
}
