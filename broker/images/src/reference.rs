//! References: the names of images, as Docker's reference grammar has them.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry that Docker asks if a name has none.
pub const DOCKER_HUB: &str = "docker.io";
/// The tag of a name without a tag and without a digest.
const LATEST: &str = "latest";
/// The longest name: registry and repository (`RepositoryNameTotalLengthMax` of distribution).
const MOST_NAME_BYTES: usize = 255;
const MOST_TAG_BYTES: usize = 128;

/// The whole name of an image: `nginx` is `docker.io/library/nginx:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is no reference, with the reason.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// No text at all.
    #[error("the name of an image is empty")]
    Empty,
    /// Upper-case letters, which only a registry's name may have.
    #[error("'{0}' is no name of an image: a repository's name is in lower case")]
    UpperCase(String),
    /// The repository is not made of words that Docker's grammar allows.
    #[error(
        "'{0}' is no name of an image: the repository '{1}' has a character or an order of them that is not allowed"
    )]
    Repository(String, String),
    /// The registry is neither a host name nor an address.
    #[error("'{0}' is no name of an image: '{1}' is no registry's host name")]
    Registry(String, String),
    /// The tag has a character that is not allowed, or is too long.
    #[error("'{0}' is no name of an image: '{1}' is no tag (up to 128 of letters, digits, '_', '.' and '-')")]
    Tag(String, String),
    /// The digest is none.
    #[error("'{0}' is no name of an image: {1}")]
    Digest(String, DigestError),
    /// The name alone is too long.
    #[error("'{0}' is no name of an image: it has more than {MOST_NAME_BYTES} characters")]
    TooLong(String),
    /// 64 hexadecimal digits, which would be taken for an image's id.
    #[error("'{0}' is no name of an image: it looks like an image's id; write NAME@sha256:{0}")]
    LooksLikeAnId(String),
}

impl Reference {
    /// The host name of the registry, and its port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only beside a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins the image's content.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same image, pinned to this content.
    pub fn pinned(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The name as people write it, without what is the same for all images of Docker Hub:
    /// `nginx:latest`.
    pub fn familiar(&self) -> String {
        let (registry, repository) = match (self.registry.as_str(), self.repository.strip_prefix("library/")) {
            (DOCKER_HUB, Some(short)) if !short.contains('/') => ("", short),
            (DOCKER_HUB, _) => ("", self.repository.as_str()),
            (registry, _) => (registry, self.repository.as_str()),
        };
        let slash = if registry.is_empty() { "" } else { "/" };
        format!("{registry}{slash}{repository}{}", self.suffix())
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}"));
        let digest = self.digest.map(|digest| format!("@{digest}"));
        [tag, digest].into_iter().flatten().collect()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let whole = || text.to_owned();
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|error| ReferenceError::Digest(whole(), error))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon before a slash is a port's.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if name.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(whole(), tag.to_owned()));
        }
        let (registry, repository) = split_registry(name);
        if !is_registry(&registry) {
            return Err(ReferenceError::Registry(whole(), registry));
        }
        if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::UpperCase(whole()));
        }
        if !repository.split('/').all(is_word) {
            return Err(ReferenceError::Repository(whole(), repository));
        }
        if registry.len() + 1 + repository.len() > MOST_NAME_BYTES {
            return Err(ReferenceError::TooLong(whole()));
        }
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ReferenceError::LooksLikeAnId(whole()));
        }
        let tag = tag.or(digest.is_none().then_some(LATEST));
        Ok(Self {
            registry,
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

/// The registry and the repository of a name. The first word is a registry only if it could not be
/// one of a repository of Docker Hub (`splitDockerDomain` of distribution).
fn split_registry(name: &str) -> (String, String) {
    let hub = |repository: &str| {
        let library = if repository.contains('/') { "" } else { "library/" };
        (DOCKER_HUB.to_owned(), format!("{library}{repository}"))
    };
    match name.split_once('/') {
        Some((DOCKER_HUB | "index.docker.io", repository)) => hub(repository),
        Some((first, repository))
            if first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first =>
        {
            (first.to_owned(), repository.to_owned())
        }
        _ => hub(name),
    }
}

/// A host name or an address in brackets, and possibly a port.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() || !(rest.is_empty() || rest.starts_with(':')) {
                return false;
            }
            ("", rest.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(fits)
    };
    let is_host = text.starts_with('[') || host.split('.').all(is_label);
    is_host && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// Runs of lower-case letters and digits, with one of `.`, `_`, `__` or any number of `-` between.
fn is_word(word: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = word.split(is_alphanumeric).filter(|separator| !separator.is_empty());
    let is_separator = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    word.starts_with(is_alphanumeric) && word.ends_with(is_alphanumeric) && separators.into_iter().all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MOST_TAG_BYTES
        && tag.bytes().next().is_some_and(is_letter)
        && tag.bytes().all(|byte| is_letter(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIN: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn reference(text: &str) -> Reference {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn names_are_completed_as_docker_completes_them() {
        for (text, whole, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
            (
                "bitnami/redis",
                "docker.io/bitnami/redis:latest",
                "bitnami/redis:latest",
            ),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            (
                "docker.io/library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            (
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
                "localhost:5000/app:v1",
            ),
            (
                "127.0.0.1:5000/a/b/c",
                "127.0.0.1:5000/a/b/c:latest",
                "127.0.0.1:5000/a/b/c:latest",
            ),
            (
                "ghcr.io/Owner/x".to_lowercase().as_str(),
                "ghcr.io/owner/x:latest",
                "ghcr.io/owner/x:latest",
            ),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("Registry/app", "Registry/app:latest", "Registry/app:latest"),
            (
                "a__b/c-d--e/f.g:T-1.0_x",
                "docker.io/a__b/c-d--e/f.g:T-1.0_x",
                "a__b/c-d--e/f.g:T-1.0_x",
            ),
        ] {
            assert_eq!(reference(text).to_string(), whole, "{text}");
            assert_eq!(reference(text).familiar(), familiar, "{text}");
        }
    }

    #[test]
    fn a_digest_needs_no_tag_and_may_have_one() {
        let bare = reference(&format!("nginx@{PIN}"));
        assert_eq!((bare.tag(), bare.digest()), (None, Some(Digest::of(b"abc"))));
        assert_eq!(bare.to_string(), format!("docker.io/library/nginx@{PIN}"));
        let both = reference(&format!("localhost:5000/nginx:1@{PIN}"));
        assert_eq!((both.tag(), both.digest()), (Some("1"), Some(Digest::of(b"abc"))));
        assert_eq!(
            reference("nginx:1").pinned(Digest::of(b"abc")).familiar(),
            format!("nginx:1@{PIN}")
        );
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let long = format!("a/{}", "b".repeat(256));
        for (text, reason) in [
            ("", "empty"),
            (":x", "empty"),
            ("Nginx", "lower case"),
            ("a/B", "lower case"),
            ("a//b", "not allowed"),
            ("/a", "not allowed"),
            ("a/", "not allowed"),
            ("../a", "registry"),
            ("a/../b", "not allowed"),
            ("a___b", "not allowed"),
            ("a_-b", "not allowed"),
            ("-a", "not allowed"),
            ("a b", "not allowed"),
            ("nginx:", "no tag"),
            ("nginx:-x", "no tag"),
            ("nginx@sha256:00", "64 digits"),
            ("nginx@md5:00", "no other algorithm"),
            ("host:port/a", "registry"),
            ("host:99999/a", "registry"),
            ("ho..st/a", "registry"),
            ("[::x]/a", "registry"),
            ("[::1]x/a", "registry"),
            (hex, "id"),
            (&long, "more than 255"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn both_spellings_mean_the_same(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
            if let Ok(known) = text.parse::<Reference>() {
                prop_assert_eq!(reference(&known.to_string()), known.clone());
                prop_assert_eq!(reference(&known.familiar()), known);
            }
        }
    }
}
