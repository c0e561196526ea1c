//! `${VARIABLE}` in values, interpolated as by docker compose.
//!
//! `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?message}`,
//! `${NAME?message}`, `${NAME:+other}`, `${NAME+other}`, `$$` for a dollar sign. Defaults, messages
//! and others may contain variables themselves, which are only evaluated on use.

use std::borrow::Cow;

use indexmap::IndexSet;

/// Longest value that interpolation makes, in bytes; variables made of variables could double
/// without end.
pub(super) const MAX_VALUE_BYTES: usize = 1 << 20;

/// Deepest nesting of defaults in defaults.
const MAX_NESTING: usize = 32;

/// Why a value's variables could not be put in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum InterpolateError {
    /// A `${` without a variable.
    #[error("'${{' begins a variable, and {found} cannot follow it: write '$${{' for the text itself")]
    Dollar {
        /// The text after the `${`, in words.
        found: String,
    },
    /// `${` without its `}`.
    #[error("'${{{0}' is not closed with '}}'")]
    Unclosed(String),
    /// `${NAME` goes on with an unknown operator.
    #[error("'${{{name}' goes on with '{found}': use ':-', '-', ':?', '?', ':+', '+' or '}}'")]
    Operator { name: String, found: char },
    /// `${NAME:?message}` and the variable is not set.
    #[error("the variable {name} is required{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Required {
        name: String,
        /// The message in the file.
        message: String,
    },
    /// The result is longer than 1 MiB.
    #[error("with its variables put in, this is longer than 1 MiB")]
    TooLong,
    /// Defaults nested deeper than 32 levels.
    #[error("defaults are nested too deeply")]
    TooDeep,
}

/// Interpolates variables in values, and remembers the missing variables.
pub(super) struct Interpolator<'a> {
    lookup: &'a dyn Fn(&str) -> Option<Cow<'a, str>>,
    /// Variables that were used, had no default, and are not set.
    pub unset: IndexSet<String>,
}

impl<'a> Interpolator<'a> {
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<Cow<'a, str>>) -> Self {
        Self {
            lookup,
            unset: IndexSet::new(),
        }
    }

    /// `template` with its variables interpolated.
    pub fn substitute<'t>(&mut self, template: &'t str) -> Result<Cow<'t, str>, InterpolateError> {
        if !template.contains('$') {
            return Ok(Cow::Borrowed(template));
        }
        let mut out = String::with_capacity(template.len());
        self.run(template, 0, false, Some(&mut out), 0)?;
        Ok(Cow::Owned(out))
    }

    /// Evaluates from `start` to the end, or inside braces (`in_braces`) to the closing `}`;
    /// returns the position behind. Without `out`, only looks for that end.
    fn run(
        &mut self,
        text: &str,
        start: usize,
        in_braces: bool,
        mut out: Option<&mut String>,
        depth: usize,
    ) -> Result<usize, InterpolateError> {
        if depth > MAX_NESTING {
            return Err(InterpolateError::TooDeep);
        }
        let mut position = start;
        loop {
            let rest = &text[position..];
            let stop = rest.find(|c| c == '$' || (in_braces && c == '}')).unwrap_or(rest.len());
            append(out.as_deref_mut(), &rest[..stop])?;
            position += stop;
            let mut following = text[position..].chars();
            match following.next() {
                None if in_braces => return Err(InterpolateError::Unclosed(shorten(&text[start..]))),
                None => return Ok(position),
                Some('}') => return Ok(position + 1),
                Some(_) => {}
            }
            position += 1;
            match following.next() {
                Some('$') => {
                    append(out.as_deref_mut(), "$")?;
                    position += 1;
                }
                Some('{') => {
                    let end = self.braced(text, position + 1, out.as_deref_mut(), depth);
                    position = end.map_err(|error| match error {
                        // The outermost expression is shown, since it includes all others.
                        InterpolateError::Unclosed(_) => InterpolateError::Unclosed(shorten(&text[position + 1..])),
                        other => other,
                    })?;
                }
                Some(c) if begins_name(c) => {
                    let end = name_end(text, position);
                    if out.is_some() {
                        let value = self.value_or_empty(&text[position..end]);
                        append(out.as_deref_mut(), &value)?;
                    }
                    position = end;
                }
                // A dollar sign before no name is itself: `p$1`, `$(command)`.
                _ => append(out.as_deref_mut(), "$")?,
            }
        }
    }

    /// Evaluates the text after `${`; returns the position after the `}`.
    fn braced(
        &mut self,
        text: &str,
        start: usize,
        out: Option<&mut String>,
        depth: usize,
    ) -> Result<usize, InterpolateError> {
        let end = name_end(text, start);
        let name = &text[start..end];
        let rest = &text[end..];
        if name.is_empty() || !name.starts_with(begins_name) {
            return Err(match text[start..].chars().next() {
                None => InterpolateError::Unclosed(String::new()),
                Some(c) => InterpolateError::Dollar {
                    found: format!("'{c}'"),
                },
            });
        }
        let (colon, operator, word) = match rest.strip_prefix(':') {
            Some(after) => (true, after.chars().next(), end + 2),
            None => (false, rest.chars().next(), end + 1),
        };
        match operator {
            Some('}') if !colon => {
                if out.is_some() {
                    let value = self.value_or_empty(name);
                    append(out, &value)?;
                }
                return Ok(word);
            }
            Some('-' | '?' | '+') => {}
            None => return Err(InterpolateError::Unclosed(name.to_owned())),
            Some(_) => {
                return Err(InterpolateError::Operator {
                    name: name.to_owned(),
                    found: rest.chars().next().unwrap_or(' '),
                });
            }
        }
        let Some(out) = out else {
            return self.run(text, word, true, None, depth + 1);
        };
        let value = (self.lookup)(name).filter(|value| !(colon && value.is_empty()));
        match (operator, value) {
            (Some('+'), Some(_)) | (Some('-'), None) => self.run(text, word, true, Some(out), depth + 1),
            (Some('?'), None) => {
                let mut message = String::new();
                self.run(text, word, true, Some(&mut message), depth + 1)?;
                Err(InterpolateError::Required {
                    name: name.to_owned(),
                    message,
                })
            }
            (Some('+'), None) => self.run(text, word, true, None, depth + 1),
            (_, value) => {
                append(Some(out), &value.unwrap_or_default())?;
                self.run(text, word, true, None, depth + 1)
            }
        }
    }

    fn value_or_empty(&mut self, name: &str) -> Cow<'a, str> {
        (self.lookup)(name).unwrap_or_else(|| {
            self.unset.insert(name.to_owned());
            Cow::Borrowed("")
        })
    }
}

fn append(out: Option<&mut String>, piece: &str) -> Result<(), InterpolateError> {
    if let Some(out) = out {
        if out.len() + piece.len() > MAX_VALUE_BYTES {
            return Err(InterpolateError::TooLong);
        }
        out.push_str(piece);
    }
    Ok(())
}

fn begins_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn name_end(text: &str, start: usize) -> usize {
    text[start..]
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .map_or(text.len(), |length| start + length)
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn substitute(template: &str) -> Result<String, InterpolateError> {
        let lookup = |name: &str| match name {
            "SET" => Some(Cow::Borrowed("value")),
            "EMPTY" => Some(Cow::Borrowed("")),
            "DOLLAR" => Some(Cow::Borrowed("$SET")),
            "BIG" => Some(Cow::Owned("x".repeat(MAX_VALUE_BYTES / 2))),
            _ => None,
        };
        Interpolator::new(&lookup).substitute(template).map(Cow::into_owned)
    }

    #[test]
    fn every_form_follows_compose() {
        for (template, expected) in [
            ("$SET-${SET}", "value-value"),
            ("$SETX", ""),
            ("${NO:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${NO-d}", "d"),
            ("${SET:?oh}", "value"),
            ("${EMPTY?oh}", ""),
            ("${SET:+x}", "x"),
            ("${EMPTY:+x}", ""),
            ("${EMPTY+x}", "x"),
            ("${NO+x}", ""),
            ("${NO:-${NO2:-${SET}}}", "value"),
            ("${NO:-a$SET}b", "avalueb"),
            ("${NO:-http://a:80/?q=1}", "http://a:80/?q=1"),
            ("$$SET $${SET}", "$SET ${SET}"),
            ("${NO:-$$}", "$"),
            ("$DOLLAR", "$SET"),
            ("${SET:-${NO:?not evaluated}}", "value"),
            ("é${SET}é", "évalueé"),
            ("{\"a\": 1}", "{\"a\": 1}"),
            ("100$", "100$"),
            ("$2a$14$abc", "$2a$14"),
            ("$(cmd) $ b", "$(cmd) $ b"),
            ("$$$SET", "$value"),
            ("${NO:-{}}", "{}"),
            ("${NO:-$1}", "$1"),
        ] {
            assert_eq!(substitute(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_malformed_is_named() {
        use InterpolateError::*;
        assert!(matches!(substitute("${1}"), Err(Dollar { .. })));
        assert!(matches!(substitute("${}"), Err(Dollar { .. })));
        assert!(matches!(substitute("${SET"), Err(Unclosed(_))));
        assert!(matches!(substitute("${"), Err(Unclosed(_))));
        assert!(matches!(substitute("${NO:-${SET}"), Err(Unclosed(_))));
        assert!(matches!(substitute("${SET%x}"), Err(Operator { found: '%', .. })));
        assert!(matches!(substitute("${SET:}"), Err(Operator { found: ':', .. })));
        assert!(matches!(substitute("$BIG$BIG$BIG"), Err(TooLong)));
        assert!(matches!(substitute(&"${A:-".repeat(100_000)), Err(TooDeep)));
        assert_eq!(
            substitute("${NO:?set it to $SET}").unwrap_err().to_string(),
            "the variable NO is required: set it to value"
        );
        assert_eq!(
            substitute("${ X }").unwrap_err().to_string(),
            "'${' begins a variable, and ' ' cannot follow it: write '$${' for the text itself"
        );
    }

    #[test]
    fn variables_that_are_not_set_are_remembered() {
        let lookup = |_: &str| None;
        let mut interpolator = Interpolator::new(&lookup);
        interpolator.substitute("$A ${B} ${C:-x} ${D:+$E}").unwrap();
        assert_eq!(interpolator.unset.into_iter().collect::<Vec<_>>(), ["A", "B"]);
    }

    proptest! {
        #[test]
        fn any_text_survives_when_its_dollars_are_doubled(text in ".*") {
            prop_assert_eq!(substitute(&text.replace('$', "$$")), Ok(text));
        }

        #[test]
        fn any_template_ends_with_a_value_or_an_error(template in "[$${}:?+a-zA-Z_ é-]*") {
            let _ = substitute(&template);
        }

        #[test]
        fn a_default_stands_in_for_what_is_not_set(name in "N[A-Z0-9_]{0,8}", default in "[^$}]*") {
            prop_assert_eq!(substitute(&format!("<${{{name}:-{default}}}>")), Ok(format!("<{default}>")));
            prop_assert_eq!(substitute(&format!("<${{SET:-{default}}}>")), Ok("<value>".to_owned()));
        }
    }
}
