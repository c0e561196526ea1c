//! Environment files: `.env` beside the compose file, and `env_file`.

use std::borrow::Cow;

use indexmap::IndexMap;

use super::interpolate::Interpolator;

/// A line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct DotenvError {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// The variables of an environment file; `None` for a name without a value, which is taken from the
/// environment.
pub(super) type Variables = IndexMap<String, Option<String>>;

/// Reads an environment file: `NAME=VALUE` lines, `#` comments, `export`, single quotes (verbatim),
/// double quotes (escapes and variables), both over several lines. Variables are looked up with
/// `lookup`, then among the earlier variables.
pub(super) fn parse(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Variables, DotenvError> {
    let mut variables = Variables::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let (entry, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = entry.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            rest = after;
            line += 1;
            continue;
        }
        let fail = |message: String| DotenvError { line, message };
        let declared = trimmed.strip_prefix("export ").unwrap_or(trimmed).trim_start();
        let Some((name, _)) = declared.split_once('=') else {
            variables.insert(name_of(declared).map_err(fail)?, None);
            rest = after;
            line += 1;
            continue;
        };
        let name = name_of(name.trim_end()).map_err(fail)?;
        let equals = rest.find('=').unwrap_or(0);
        let raw = rest[equals + 1..].trim_start_matches([' ', '\t']);
        let (template, after) = value(raw).map_err(fail)?;
        let consumed = &rest[..rest.len() - after.len()];
        let resolved = match template {
            Template::Verbatim(text) => text,
            Template::Variables(text) => {
                let lookup = |name: &str| -> Option<Cow<'_, str>> {
                    lookup(name)
                        .or_else(|| variables.get(name).cloned().flatten())
                        .map(Cow::Owned)
                };
                let substituted = Interpolator::new(&lookup).substitute(&text).map(Cow::into_owned);
                substituted.map_err(|error| fail(format!("{name}: {error}; or put the value in single quotes")))?
            }
        };
        variables.insert(name, Some(resolved));
        line += consumed.matches('\n').count();
        rest = after;
    }
    Ok(variables)
}

/// Reads an environment file of `format: raw`: the value is the complete text after the first `=`.
pub(super) fn parse_raw(text: &str) -> Result<Variables, DotenvError> {
    let mut variables = Variables::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line, None),
        };
        let name = name_of(name.trim()).map_err(|message| DotenvError {
            line: index + 1,
            message,
        })?;
        variables.insert(name, value);
    }
    Ok(variables)
}

enum Template {
    Verbatim(String),
    Variables(String),
}

/// The value at the beginning of `raw`, and the text after its line.
fn value(raw: &str) -> Result<(Template, &str), String> {
    match raw.chars().next() {
        Some('\'') => {
            let end = raw[1..].find('\'').ok_or("a single quote is not closed")?;
            let text = raw[1..=end].to_owned();
            Ok((Template::Verbatim(text), end_of_line(&raw[end + 2..])?))
        }
        Some('"') => {
            let mut template = String::new();
            let mut characters = raw[1..].char_indices();
            while let Some((index, c)) = characters.next() {
                match c {
                    '"' => return Ok((Template::Variables(template), end_of_line(&raw[index + 2..])?)),
                    '\\' => match characters.next() {
                        Some((_, 'n')) => template.push('\n'),
                        Some((_, 'r')) => template.push('\r'),
                        Some((_, 't')) => template.push('\t'),
                        Some((_, '$')) => template.push_str("$$"),
                        Some((_, c @ ('"' | '\\'))) => template.push(c),
                        Some((_, c)) => template.extend(['\\', c]),
                        None => {}
                    },
                    c => template.push(c),
                }
            }
            Err("a double quote is not closed".to_owned())
        }
        _ => {
            let (line, after) = raw.split_once('\n').unwrap_or((raw, ""));
            let text = match line.find(" #").or_else(|| line.find("\t#")) {
                Some(comment) => &line[..comment],
                None if line.starts_with('#') => "",
                None => line,
            };
            Ok((Template::Variables(text.trim().to_owned()), after))
        }
    }
}

/// The text after the line; the rest of the line may only be space or a comment.
fn end_of_line(rest: &str) -> Result<&str, String> {
    let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        Ok(after)
    } else {
        Err(format!("'{line}' follows the closing quote"))
    }
}

fn name_of(name: &str) -> Result<String, String> {
    let fits =
        !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\'' || c == '"');
    if fits {
        Ok(name.to_owned())
    } else {
        Err(format!("'{name}' cannot be a variable's name: write NAME=VALUE"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, Option<String>)> {
        let lookup = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        parse(text, &lookup).unwrap().into_iter().collect()
    }

    fn values(text: &str) -> Vec<String> {
        parsed(text).into_iter().map(|(_, value)| value.unwrap()).collect()
    }

    #[test]
    fn the_forms_of_a_value() {
        let text = "# comment\n\nA=1\nexport B = two words # comment\nC='$A #'\nD=\"$A\\t\\$A\\n\" # c\nE=${A}$HOME\nF=\nG=a#b\r\n";
        assert_eq!(values(text), ["1", "two words", "$A #", "1\t$A\n", "1/root", "", "a#b"]);
    }

    #[test]
    fn quotes_span_lines_and_lines_are_counted() {
        assert_eq!(values("A='x\ny'\nB=\"p\nq\"\nC=1"), ["x\ny", "p\nq", "1"]);
        let error = parse("A='x\ny'\nB C=1", &|_| None).unwrap_err();
        assert_eq!(error.line, 3);
        assert!(error.message.contains("'B C' cannot be"));
    }

    #[test]
    fn a_name_alone_is_taken_from_the_environment() {
        assert_eq!(parsed("A"), [("A".to_owned(), None)]);
    }

    #[test]
    fn what_is_malformed_is_named() {
        let message = |text: &str| parse(text, &|_| None).unwrap_err().message;
        assert!(message("A='x").contains("single quote"));
        assert!(message("A=\"x").contains("double quote"));
        assert!(message("A='x' y").contains("follows the closing quote"));
        assert!(message("A=pa$1").contains("single quotes"));
        assert!(message("=1").contains("cannot be a variable's name"));
    }

    #[test]
    fn raw_files_are_verbatim() {
        let variables = parse_raw("A='$x' # y\n#c\nB=\n").unwrap();
        assert_eq!(variables["A"].as_deref(), Some("'$x' # y"));
        assert_eq!(variables["B"].as_deref(), Some(""));
    }
}
