//! A command written as one text, split into words.
//!
//! As docker compose: quotes and backslashes as in a shell, except that a backslash inside double
//! quotes always takes the next character. There is no shell: `|`, `;`, `&`, `<` and `>` end the
//! command, which is never what is meant, so callers say so.

/// The words of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub words: Vec<String>,
    /// The character of a shell that ended the command.
    pub cut_at: Option<char>,
}

/// Splits a command; fails with the reason.
pub(super) fn split(text: &str) -> Result<Words, &'static str> {
    let mut words = Vec::new();
    // The word so far, if there is one: a word may be empty.
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some('\''), c) if c != '\'' => word.get_or_insert_default().push(c),
            (_, '\\') => match characters.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("it ends with a backslash"),
            },
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"' | '`') => {
                quote = Some(c);
                let word = word.get_or_insert_default();
                if c == '`' {
                    word.push(c);
                }
            }
            (None, ' ' | '\t' | '\r' | '\n') => words.extend(word.take()),
            (None, ';' | '&' | '|' | '<' | '>') => {
                // The number of a descriptor belongs to the redirection.
                let is_descriptor = |word: &String| c == '>' && word.starts_with(|c: char| c.is_ascii_digit());
                words.extend(word.take().filter(|word| !is_descriptor(word)));
                return Ok(Words { words, cut_at: Some(c) });
            }
            (None, '(' | ')') => return Err("a parenthesis stands outside quotes"),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(Words { words, cut_at: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_those_of_docker_compose() {
        for (text, expected) in [
            ("", &[][..]),
            ("a b", &["a", "b"]),
            (" a\t b\n", &["a", "b"]),
            ("sh -c \"a\\nb\"", &["sh", "-c", "anb"]),
            ("sh -c 'a\\nb \"c\"'", &["sh", "-c", "a\\nb \"c\""]),
            ("a\\ b c", &["a b", "c"]),
            ("a '#b' c # d", &["a", "#b", "c", "#", "d"]),
            ("a '' \"\" b", &["a", "", "", "b"]),
            ("--x=\"a b\"c", &["--x=a bc"]),
        ] {
            assert_eq!(split(text).unwrap().words, expected, "{text}");
        }
    }

    #[test]
    fn what_needs_a_shell_ends_the_command() {
        let cut = split("a 'x|y' | b > c").unwrap();
        assert_eq!(
            (cut.words, cut.cut_at),
            (vec!["a".to_owned(), "x|y".to_owned()], Some('|'))
        );
        assert_eq!(split("a 2>b").unwrap().words, ["a"]);
        for bad in ["'a", "\"a", "a\\", "$(a)", "(a)"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn quoted_words_are_read_back(words in prop::collection::vec("[^'\0]{0,12}", 0..6)) {
            let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(split(&quoted.join(" ")).unwrap().words, words);
        }
    }
}
