//! Tokens of a registry's authorization service (distribution, "Token Authentication").

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use ureq::Agent;
use ureq::http::{StatusCode, Uri};

use super::RegistryError;
use super::challenge::Challenge;
use super::client::{is_loopback, message};
use super::credentials::Login;

/// The longest answer with a token.
const MOST_ANSWER_BYTES: u64 = 1 << 20;
/// Who asks, for the service's own records.
const CLIENT: &str = "imsup";

/// The header of a name and a password.
pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Asks the service that a challenge names for a token to pull from a repository. `None` if the
/// service refuses.
pub(super) fn ask(
    agent: &Agent,
    challenge: &Challenge,
    repository: &str,
    login: Option<&Login>,
) -> Result<Option<String>, RegistryError> {
    let realm = challenge.parameter("realm").unwrap_or_default().to_owned();
    let unusable = |problem: String| RegistryError::Answer {
        url: realm.clone(),
        problem,
    };
    // The service gets the password.
    if !is_safe(&realm) {
        return Err(unusable("a registry's tokens come by https only".to_owned()));
    }
    let scope = format!("repository:{repository}:pull");
    let scope = challenge.parameter("scope").unwrap_or(&scope).to_owned();
    let service = challenge.parameter("service").unwrap_or_default();
    let sent = match login {
        Some(Login::Token(token)) => agent.post(&realm).send_form([
            ("grant_type", "refresh_token"),
            ("service", service),
            ("client_id", CLIENT),
            ("scope", scope.as_str()),
            ("refresh_token", token.as_str()),
        ]),
        other => {
            let mut request = agent.get(&realm).query("service", service).query("scope", &scope);
            if let Some(Login::Password { user, password }) = other {
                request = request
                    .query("account", user)
                    .header("Authorization", basic(user, password));
            }
            request.call()
        }
    };
    let mut response = sent.map_err(|error| RegistryError::Unreachable {
        registry: realm.clone(),
        error: Box::new(error),
    })?;
    match response.status() {
        status if status.is_success() => (),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(None),
        status => {
            return Err(RegistryError::Status {
                url: realm.clone(),
                status: status.as_u16(),
                message: message(&mut response),
            });
        }
    }
    let body = response.body_mut().with_config().limit(MOST_ANSWER_BYTES).read_to_vec();
    let body = body.map_err(|error| unusable(error.to_string()))?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| unusable(error.to_string()))?;
    match answer.token.or(answer.access_token).filter(|token| !token.is_empty()) {
        Some(token) => Ok(Some(token)),
        None => Err(unusable("it has no token".to_owned())),
    }
}

fn is_safe(realm: &str) -> bool {
    let Ok(uri) = realm.parse::<Uri>() else {
        return false;
    };
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => uri.authority().is_some_and(|authority| is_loopback(authority.as_str())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_by_https_or_stay_on_the_machine() {
        for realm in [
            "https://auth.docker.io/token",
            "http://127.0.0.1:5001/token",
            "http://localhost/t",
        ] {
            assert!(is_safe(realm), "{realm}");
        }
        for realm in [
            "",
            "http://auth.example.org/token",
            "ftp://x",
            "/token",
            "http://u@127.0.0.1@example.org/",
        ] {
            assert!(!is_safe(realm), "{realm}");
        }
    }

    #[test]
    fn a_password_is_sent_as_rfc_7617_says() {
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
