//! The header `WWW-Authenticate` (RFC 9110, section 11.6.1).

use std::collections::HashMap;

/// What a registry asks for: a scheme and its parameters.
#[derive(Debug)]
pub(super) struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

impl Challenge {
    /// Reads a challenge; registries send one a header. `None` for anything else.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        let mut parameters = HashMap::new();
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            let Some((name, after)) = rest.split_once('=') else {
                break;
            };
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted_string(quoted)?,
                None => {
                    let end = after.find(',').unwrap_or(after.len());
                    (after[..end].trim().to_owned(), &after[end..])
                }
            };
            parameters.insert(name.trim().to_lowercase(), value);
            rest = after;
        }
        (!scheme.is_empty()).then(|| Self {
            scheme: scheme.to_lowercase(),
            parameters,
        })
    }

    /// Whether it is of this scheme, given in lower case.
    pub(super) fn is(&self, scheme: &str) -> bool {
        self.scheme == scheme
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }
}

/// The content of a quoted string, and what follows the closing quote.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_may_be_quoted() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io", scope="repository:library/x:pull,push",error=x"#;
        let challenge = Challenge::parse(header).unwrap();
        assert!(challenge.is("bearer") && !challenge.is("basic"));
        for (name, value) in [
            ("realm", "https://auth.docker.io/token"),
            ("service", "registry.docker.io"),
            ("scope", "repository:library/x:pull,push"),
            ("error", "x"),
        ] {
            assert_eq!(challenge.parameter(name), Some(value), "{name}");
        }
        assert_eq!(
            Challenge::parse(r#"Basic realm="a \"b\"""#).unwrap().parameter("realm"),
            Some("a \"b\"")
        );
        assert!(Challenge::parse("Negotiate").unwrap().is("negotiate"));
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        assert!(Challenge::parse("").is_none());
        assert!(Challenge::parse(r#"Bearer realm="open"#).is_none());
        assert!(Challenge::parse(r#"Bearer realm="open\"#).is_none());
    }
}
