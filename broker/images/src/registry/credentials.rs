//! Logins of `docker login`: the file `config.json`, and the programs that it names.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use serde::Deserialize;

use crate::reference::DOCKER_HUB;

/// The name under which Docker keeps the login of Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The file, if there is one.
#[derive(Debug, Default)]
pub struct Credentials {
    path: PathBuf,
    file: File,
    /// The answers of helpers, by registry.
    asked: HashMap<String, Result<Option<Login>, String>>,
}

/// A file that is none.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read: {source}", .path.display())]
pub struct CredentialsError {
    /// Where.
    path: PathBuf,
    /// The reason.
    source: io::Error,
}

/// How a user is known to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    Password {
        user: String,
        password: String,
    },
    /// A token for tokens.
    Token(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// Without the secrets.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry")
    }
}

/// Without the secrets.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

/// The answer of a helper (docker-credential-helpers).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Credentials {
    /// The file `config.json` in `DOCKER_CONFIG` or `~/.docker`. Without one, nobody is logged in.
    ///
    /// # Errors
    /// The file is there, but cannot be read.
    pub fn of_user() -> Result<Self, CredentialsError> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let directory = variable("DOCKER_CONFIG").map(PathBuf::from);
        let directory = directory.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")));
        match directory {
            Some(directory) => Self::read(directory.join("config.json")),
            None => Ok(Self::default()),
        }
    }

    /// A file.
    ///
    /// # Errors
    /// The file is there, but cannot be read.
    pub fn read(path: PathBuf) -> Result<Self, CredentialsError> {
        let file = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(File::default())
            }
            Err(error) => Err(error),
        };
        match file {
            Ok(file) => Ok(Self {
                path,
                file,
                asked: HashMap::new(),
            }),
            Err(source) => Err(CredentialsError { path, source }),
        }
    }

    /// Asks the helper of a registry now, and not when the registry asks for a login. Blocking: a
    /// helper may ask the user, or a service of the desktop.
    pub fn ask_helper(&mut self, registry: &str) {
        if let Some(answer) = self.answer(registry) {
            self.asked.insert(registry.to_owned(), answer);
        }
    }

    /// The login for a registry. Blocking, as [`Credentials::ask_helper`].
    pub(super) fn of(&self, registry: &str) -> Option<Login> {
        let of_helper = self.answer(registry).and_then(|answer| answer.ok().flatten());
        of_helper.or_else(|| self.entry(registry)?.login())
    }

    /// Why a login is not known that should be: for the message of a refusal.
    pub(super) fn trouble(&self, registry: &str) -> Option<String> {
        match self.answer(registry) {
            Some(Err(trouble)) => Some(trouble),
            Some(Ok(Some(_))) => Some("the login that is known was refused".to_owned()),
            _ if self.entry(registry).is_some() => Some(format!("the login in {} was refused", self.path.display())),
            _ => None,
        }
    }

    /// The answer of a registry's helper; `None` if there is no helper.
    fn answer(&self, registry: &str) -> Option<Result<Option<Login>, String>> {
        if let Some(answer) = self.asked.get(registry) {
            return Some(answer.clone());
        }
        let helper = self.helper(registry)?;
        let answer = ask(helper, key(registry));
        Some(answer.map_err(|error| format!("docker-credential-{helper} failed: {error}")))
    }

    fn helper(&self, registry: &str) -> Option<&str> {
        let own = self.file.cred_helpers.iter().find(|(name, _)| is(name, registry));
        let helper = own.map(|(_, helper)| helper).or(self.file.creds_store.as_ref());
        helper
            .map(String::as_str)
            .filter(|helper| !helper.is_empty() && !helper.contains('/'))
    }

    fn entry(&self, registry: &str) -> Option<&Entry> {
        // The exact name before one that only means the same.
        let exact = self.file.auths.get(key(registry));
        let same = || {
            self.file
                .auths
                .iter()
                .find(|(name, _)| is(name, registry))
                .map(|(_, entry)| entry)
        };
        // With a helper, Docker keeps an empty entry beside.
        exact.or_else(same).filter(|entry| entry.login().is_some())
    }
}

fn key(registry: &str) -> &str {
    match registry {
        DOCKER_HUB => HUB_KEY,
        other => other,
    }
}

/// Whether a name of the file, which may be a URL, means a registry.
fn is(name: &str, registry: &str) -> bool {
    let host = name.split_once("://").map_or(name, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    match registry {
        DOCKER_HUB => matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io"),
        registry => host == registry,
    }
}

impl Entry {
    fn login(&self) -> Option<Login> {
        if !self.identitytoken.is_empty() {
            return Some(Login::Token(self.identitytoken.clone()));
        }
        if !self.username.is_empty() {
            return Some(Login::Password {
                user: self.username.clone(),
                password: self.password.clone(),
            });
        }
        let text = self.auth.trim();
        let decoded = BASE64_STANDARD
            .decode(text)
            .or_else(|_| BASE64_STANDARD_NO_PAD.decode(text))
            .ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Login::Password {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

/// Asks a helper; `None` if the helper knows no login.
fn ask(helper: &str, server: &str) -> io::Result<Option<Login>> {
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that reads nothing says by its answer what is wrong.
        let _ = input.write_all(server.as_bytes());
    }
    let ended = child.wait_with_output()?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
        return match said.contains("credentials not found") {
            true => Ok(None),
            false if said.is_empty() => Err(io::Error::other(ended.status.to_string())),
            false => Err(io::Error::other(said)),
        };
    }
    let answer: Answer = serde_json::from_slice(&ended.stdout)?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Login::Token(answer.secret),
        _ => Login::Password {
            user: answer.username,
            password: answer.secret,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(file: &str, registry: &str) -> Option<(String, String)> {
        let credentials = Credentials {
            path: PathBuf::new(),
            file: serde_json::from_str(file).unwrap(),
            asked: HashMap::new(),
        };
        credentials.of(registry).map(|login| match login {
            Login::Password { user, password } => (user, password),
            Login::Token(token) => ("<token>".to_owned(), token),
        })
    }

    #[test]
    fn a_registry_is_found_however_docker_wrote_it() {
        // ann:se:cret
        let file = |name: &str| format!(r#"{{"auths": {{"other": {{}}, "{name}": {{"auth": "YW5uOnNlOmNyZXQ="}}}}}}"#);
        let found = Some(("ann".to_owned(), "se:cret".to_owned()));
        for (name, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("ghcr.io", "ghcr.io"),
            ("https://ghcr.io/v2/", "ghcr.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
        ] {
            assert_eq!(login(&file(name), registry), found, "{name}");
        }
        for (name, registry) in [
            ("ghcr.io", "docker.io"),
            ("ghcr.io.evil", "ghcr.io"),
            ("localhost:5000", "localhost"),
        ] {
            assert_eq!(login(&file(name), registry), None, "{name}");
        }
        assert_eq!(login(r#"{"auths": {"x.y": {"auth": "?"}}}"#, "x.y"), None);
        let token = login(r#"{"auths": {"x.y": {"identitytoken": "t"}}}"#, "x.y");
        assert_eq!(token, Some(("<token>".to_owned(), "t".to_owned())));
    }

    #[test]
    fn a_helper_that_is_missing_is_no_reason_not_to_pull() {
        let file = r#"{"credsStore": "imsup-no-such-helper", "auths": {"x.y": {"auth": "YTpi"}}}"#;
        assert_eq!(login(file, "x.y"), Some(("a".to_owned(), "b".to_owned())));
        assert_eq!(login(file, "docker.io"), None);
        assert_eq!(login(r#"{"credsStore": "../../bin/sh"}"#, "docker.io"), None);
    }
}
