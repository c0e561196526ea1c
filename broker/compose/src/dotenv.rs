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

/// Reads an environment file: `NAME=VALUE` or `NAME: VALUE` lines, `#` comments, `export`, single
/// quotes (verbatim), double quotes (escapes and variables), both over several lines. Variables are
/// looked up with `lookup`, then among the earlier variables.
pub(super) fn parse(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Variables, DotenvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut variables = Variables::new();
    let mut reader = Reader { rest: &text, line: 1 };
    while let Some((name, has_value)) = reader.name()? {
        if !has_value {
            variables.insert(name, None);
            continue;
        }
        let line = reader.line;
        let value = match reader.value()? {
            Template::Verbatim(text) => text,
            Template::Variables(text) => {
                let lookup = |name: &str| -> Option<Cow<'_, str>> {
                    lookup(name)
                        .or_else(|| variables.get(name).cloned().flatten())
                        .map(Cow::Owned)
                };
                let substituted = Interpolator::new(&lookup).substitute(&text).map(Cow::into_owned);
                substituted.map_err(|error| DotenvError {
                    line,
                    message: format!("{name}: {error}; or put the value in single quotes"),
                })?
            }
        };
        variables.insert(name, Some(value));
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

/// The part of a file that is not read yet.
struct Reader<'t> {
    rest: &'t str,
    /// The line at which it begins, from 1.
    line: usize,
}

impl Reader<'_> {
    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }

    fn skip_while(&mut self, is_skipped: impl Fn(char) -> bool) {
        let end = self.rest.find(|c| !is_skipped(c)).unwrap_or(self.rest.len());
        self.skip(end);
    }

    fn fail(&self, message: impl Into<String>) -> DotenvError {
        DotenvError {
            line: self.line,
            message: message.into(),
        }
    }

    /// The next name, and whether a value follows.
    fn name(&mut self) -> Result<Option<(String, bool)>, DotenvError> {
        self.skip_while(char::is_whitespace);
        while self.rest.starts_with('#') {
            self.skip_while(|c| c != '\n');
            self.skip_while(char::is_whitespace);
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let exported = self
            .rest
            .strip_prefix("export")
            .filter(|rest| rest.starts_with(is_space));
        if exported.is_some() {
            self.skip("export".len());
            self.skip_while(is_space);
        }
        let end = self.rest.find(['=', ':', '\n']).unwrap_or(self.rest.len());
        let name = name_of(self.rest[..end].trim_end()).map_err(|message| self.fail(message))?;
        let has_value = self.rest[end..].starts_with(['=', ':']);
        self.skip((end + 1).min(self.rest.len()));
        Ok(Some((name, has_value)))
    }

    fn value(&mut self) -> Result<Template, DotenvError> {
        self.skip_while(is_space);
        match self.rest.chars().next() {
            Some('\'') => Ok(Template::Verbatim(self.quoted('\'')?.replace("\\'", "'"))),
            Some('"') => Ok(Template::Variables(unescape(&self.quoted('"')?))),
            _ => {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                let line = &self.rest[..end];
                let text = line.find(" #").map_or(line, |comment| &line[..comment]);
                let template = Template::Variables(text.trim_end().to_owned());
                self.skip(end);
                Ok(template)
            }
        }
    }

    /// The text up to the closing quote, with its escapes. What follows on the line is read like a
    /// line of its own, as by docker compose.
    fn quoted(&mut self, quote: char) -> Result<String, DotenvError> {
        let mut is_escaped = false;
        for (index, c) in self.rest.char_indices().skip(1) {
            if c == quote && !is_escaped {
                let text = self.rest[1..index].to_owned();
                self.skip(index + 1);
                return Ok(text);
            }
            is_escaped = c == '\\' && !is_escaped;
        }
        let kind = if quote == '"' { "double" } else { "single" };
        Err(self.fail(format!("a {kind} quote is not closed")))
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

/// The text of double quotes, with `\$` as a dollar sign that begins no variable.
fn unescape(text: &str) -> String {
    let mut template = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            template.push(c);
            continue;
        }
        match characters.next() {
            Some('n') => template.push('\n'),
            Some('r') => template.push('\r'),
            Some('t') => template.push('\t'),
            Some('$') => template.push_str("$$"),
            Some(c @ ('"' | '\\')) => template.push(c),
            Some(c) => template.extend(['\\', c]),
            None => template.push('\\'),
        }
    }
    template
}

/// A name: letters, digits and `_.-[]`.
fn name_of(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_alphanumeric() || "_.-[]".contains(c);
    if !name.is_empty() && name.chars().all(fits) {
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
    fn odd_lines_are_read_as_by_docker_compose() {
        for (text, expected) in [
            ("A=p$1", "p$1"),
            ("A=$2y$10$abc", "$2y$10"),
            ("A=$(date)", "$(date)"),
            ("A=abc$", "abc$"),
            ("A=\\$X", "\\"),
            ("A: b", "b"),
            ("A= # c", "# c"),
            ("A=#c", "#c"),
            ("A=b#c # d", "b#c"),
            ("A='a\\'b'", "a'b"),
            ("A=it's", "it's"),
            ("A=a\\", "a\\"),
            ("a.b-c=d", "d"),
            ("\tA = b\r\n", "b"),
        ] {
            assert_eq!(values(text), [expected], "{text}");
        }
        let rest = parsed("A=\"x\"y\n[z]\n");
        let names: Vec<_> = rest
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        assert_eq!(names, [("A", Some("x")), ("y", None), ("[z]", None)]);
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
        assert!(message("A=${Q:?no}").contains("single quotes"));
        for name in ["=1", "// a", "; a", "\"A\"=b", "A B=1"] {
            assert!(message(name).contains("cannot be a variable's name"), "{name}");
        }
    }

    #[test]
    fn raw_files_are_verbatim() {
        let variables = parse_raw("A='$x' # y\n#c\nB=\n").unwrap();
        assert_eq!(variables["A"].as_deref(), Some("'$x' # y"));
        assert_eq!(variables["B"].as_deref(), Some(""));
    }
}
