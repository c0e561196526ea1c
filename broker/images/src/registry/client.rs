//! Requests to one registry.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::challenge::Challenge;
use super::credentials::{Credentials, Login};
use super::{RegistryError, token};
use crate::manifest::MOST_DOCUMENT_BYTES;
use crate::reference::{DOCKER_HUB, Reference};

/// The host of Docker Hub's registry, which is not its name.
const HUB_HOST: &str = "registry-1.docker.io";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a registry may be silent: some assemble an answer from elsewhere.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// The most of an answer that says what is wrong.
const MOST_MESSAGE_BYTES: u64 = 64 << 10;

/// A registry as one repository's reader.
pub(super) struct Client<'a> {
    agent: Agent,
    /// `https://HOST/v2/`.
    base: String,
    registry: String,
    repository: String,
    credentials: &'a Credentials,
    /// The value of the header `Authorization`, once the registry has asked for one.
    authorization: Mutex<Option<String>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(name: &Reference, credentials: &'a Credentials) -> Result<Self, RegistryError> {
        let registry = name.registry().to_owned();
        let is_local = is_loopback(&registry);
        let (agent, authorities) = agent(is_local);
        if authorities == 0 && !is_local {
            return Err(RegistryError::NoAuthorities(registry));
        }
        let host = if registry == DOCKER_HUB { HUB_HOST } else { &registry };
        let secure = format!("https://{host}/v2/");
        let base = match is_local {
            true => plain_or_secure(&agent, &registry, secure)?,
            false => secure,
        };
        Ok(Self {
            agent,
            base,
            registry,
            repository: name.repository().to_owned(),
            credentials,
            authorization: Mutex::new(None),
        })
    }

    /// A document of at most [`MOST_DOCUMENT_BYTES`].
    pub(super) fn document(&self, path: &str, accepted: &[&str]) -> Result<Vec<u8>, RegistryError> {
        let mut response = self.get(path, &accepted.join(", "), None)?;
        let body = response
            .body_mut()
            .with_config()
            .limit(MOST_DOCUMENT_BYTES)
            .read_to_vec();
        body.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(limit) => RegistryError::Answer {
                url: format!("{}{path}", self.base),
                problem: format!("it is longer than {limit} bytes"),
            },
            error => self.unreachable(error),
        })
    }

    /// The answer to a question below `/v2/`; with `from`, only the content from this byte on, if
    /// the registry can.
    pub(super) fn get(&self, path: &str, accepted: &str, from: Option<u64>) -> Result<Response<Body>, RegistryError> {
        let url = format!("{}{path}", self.base);
        let authorization = self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let response = self.send(&url, accepted, from, authorization.as_deref())?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.checked(response, url);
        }
        // A token is valid for minutes, and a layer may take longer.
        let Some(fresh) = self.authorize(&response)? else {
            return Err(self.unauthorized());
        };
        let response = self.send(&url, accepted, from, Some(&fresh))?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        self.checked(response, url)
    }

    fn send(
        &self,
        url: &str,
        accepted: &str,
        from: Option<u64>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut request = self.agent.get(url).header("Accept", accepted);
        if let Some(from) = from {
            request = request.header("Range", format!("bytes={from}-"));
        }
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        request.call().map_err(|error| self.unreachable(error))
    }

    /// What the registry wants to see after a refusal; `None` if nothing is known that it would
    /// take.
    fn authorize(&self, refusal: &Response<Body>) -> Result<Option<String>, RegistryError> {
        let headers = refusal.headers().get_all("WWW-Authenticate").iter();
        let challenges: Vec<Challenge> = headers
            .filter_map(|header| Challenge::parse(header.to_str().ok()?))
            .collect();
        let login = self.credentials.of(&self.registry);
        let bearer = challenges.iter().find(|challenge| challenge.is("bearer"));
        if let Some(challenge) = bearer {
            let token = token::ask(&self.agent, challenge, &self.repository, login.as_ref())?;
            return Ok(token.map(|token| format!("Bearer {token}")));
        }
        let wants_basic = challenges.iter().any(|challenge| challenge.is("basic"));
        Ok(match login {
            Some(Login::Password { user, password }) if wants_basic => Some(token::basic(&user, &password)),
            _ => None,
        })
    }

    fn checked(&self, mut response: Response<Body>, url: String) -> Result<Response<Body>, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let message = message(&mut response);
        let (registry, repository) = (self.registry.clone(), self.repository.clone());
        Err(match status {
            StatusCode::NOT_FOUND => RegistryError::NoImage(self.image(&url)),
            StatusCode::UNAUTHORIZED => self.unauthorized(),
            StatusCode::FORBIDDEN => RegistryError::Forbidden {
                registry,
                repository,
                message,
            },
            StatusCode::TOO_MANY_REQUESTS => RegistryError::TooMany(registry),
            status => RegistryError::Status {
                url,
                status: status.as_u16(),
                message,
            },
        })
    }

    /// `REGISTRY/REPOSITORY:TAG` of a manifest's URL, or the name with a blob's digest.
    fn image(&self, url: &str) -> String {
        let wanted = url.rsplit('/').next().unwrap_or_default();
        let separator = if wanted.contains(':') { '@' } else { ':' };
        format!("{}/{}{separator}{wanted}", self.registry, self.repository)
    }

    fn unauthorized(&self) -> RegistryError {
        RegistryError::Unauthorized {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            note: match self.credentials.trouble(&self.registry) {
                Some(trouble) => format!("; {trouble}"),
                None => String::new(),
            },
        }
    }

    pub(super) fn unreachable(&self, error: ureq::Error) -> RegistryError {
        RegistryError::Unreachable {
            registry: self.registry.clone(),
            error: Box::new(error),
        }
    }
}

/// A registry of this machine mostly speaks plain HTTP. Nothing is said to it before it is known.
fn plain_or_secure(agent: &Agent, registry: &str, secure: String) -> Result<String, RegistryError> {
    let plain = format!("http://{registry}/v2/");
    let unreachable = |error| RegistryError::Unreachable {
        registry: registry.to_owned(),
        error: Box::new(error),
    };
    match agent.get(&plain).call() {
        // A server of TLS answers a question in the clear with this, or not at all.
        Ok(response) if response.status() == StatusCode::BAD_REQUEST => Ok(secure),
        Ok(_) => Ok(plain),
        Err(ureq::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(unreachable(ureq::Error::Io(error)))
        }
        Err(_) => match agent.get(&secure).call() {
            Ok(_) => Ok(secure),
            Err(error) => Err(unreachable(error)),
        },
    }
}

/// Whether a registry is on this machine: its traffic passes no network.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => return address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The agent, and the number of authorities whose certificates it believes.
fn agent(is_local: bool) -> (Agent, usize) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let found = rustls_native_certs::load_native_certs();
    let certificates: Vec<Certificate<'static>> = found
        .certs
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    let authorities = certificates.len();
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::Specific(Arc::new(certificates)))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        // No redirection leads from a registry with a certificate to one without.
        .https_only(!is_local)
        .user_agent(concat!("imsup/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(SILENCE_TIMEOUT))
        .timeout_per_read(Some(SILENCE_TIMEOUT))
        .timeout_per_write(Some(SILENCE_TIMEOUT));
    let agent = match is_local {
        true => config.proxy(None).build().new_agent(),
        false => config.build().new_agent(),
    };
    (agent, authorities)
}

/// The reason that a registry gives (distribution-spec, "Error Codes"), or the beginning of the
/// answer.
pub(super) fn message(response: &mut Response<Body>) -> String {
    #[derive(Deserialize)]
    struct Answer {
        errors: Vec<Problem>,
    }
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let body = response
        .body_mut()
        .with_config()
        .limit(MOST_MESSAGE_BYTES)
        .read_to_vec();
    let body = body.unwrap_or_default();
    let said = match serde_json::from_slice::<Answer>(&body) {
        Ok(answer) => {
            let problems = answer.errors.iter();
            let said: Vec<String> = problems
                .map(|problem| format!("{}: {}", problem.code, problem.message))
                .collect();
            said.join("; ")
        }
        Err(_) => String::from_utf8_lossy(&body).into_owned(),
    };
    let printable = said.chars().filter(|c| !c.is_control()).take(200);
    let said: String = printable.collect();
    match said.trim() {
        "" => "no reason was given".to_owned(),
        said => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:80", "127.1.2.3", "[::1]:5000"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in [
            "docker.io",
            "localhost.example.org",
            "10.0.0.1:5000",
            "[::2]",
            "0.0.0.0",
            "127.0.0.1.example",
        ] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }
}
