//! YAML text as a tree.
//!
//! Aliases are copied in and merge keys (`<<`) applied here, so that no other module needs to know
//! about either.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle};

use super::scalar::{self, Scalar};
use super::tree::{Entry, Location, Map, Node, Tag, Value, measure};

/// Deepest nesting, aliases expanded. Compose files need about ten.
const MAX_DEPTH: usize = 64;

/// Maximum bytes that aliases may add to the text of a file.
const MAX_COPIED_BYTES: usize = 64 << 20;

/// Longest text that is stored only once for all its occurrences in a file.
const MAX_SHARED_BYTES: usize = 32;

/// Why text is not taken as YAML.
#[derive(Debug)]
pub(super) struct YamlError {
    pub at: Location,
    pub message: String,
}

/// The documents of `text`, in their order.
pub(super) fn parse(text: &str, file: u32) -> Result<Vec<Node>, YamlError> {
    let mut builder = Builder {
        stack: Vec::new(),
        anchors: HashMap::new(),
        documents: Vec::new(),
        copied_bytes: 0,
        texts: HashSet::new(),
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| YamlError {
            at: location(file, error.marker()),
            message: with_hint(&error.info()),
        })?;
        builder.take(event, location(file, &span.start))?;
    }
    Ok(builder.documents)
}

/// The parser's message, and the usual remedy.
fn with_hint(message: &str) -> String {
    let hints = [
        ("mapping values are not allowed", "quote a value that has ': ' in it"),
        (
            "did not find expected key",
            "is this line indented like the keys it belongs to?",
        ),
        (
            "unknown anchor",
            "an alias (*name) needs its anchor (&name) above it in the file",
        ),
        ("tabs disallowed", "indent with spaces"),
        ("quoted scalar", "is a quote not closed?"),
    ];
    match hints.iter().find(|(part, _)| message.contains(part)) {
        Some((_, hint)) => format!("{message}: {hint}"),
        None => message.to_owned(),
    }
}

fn location(file: u32, marker: &Marker) -> Location {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Location {
        file,
        line: number(marker.line()),
        column: number(marker.col()).saturating_add(1),
    }
}

struct Builder {
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    documents: Vec<Node>,
    copied_bytes: usize,
    /// Short texts, each kept once: keys and values of ten thousand services are mostly the same.
    texts: HashSet<Rc<str>>,
}

/// A collection whose end has not come.
struct Frame {
    at: Location,
    tag: Tag,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        map: Map,
        key: Option<(Rc<str>, Location, bool)>,
        merge: Option<Node>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Location) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                if self.expects_key() {
                    return self.key(&text, at, plain);
                }
                let (scalar, value) = self.scalar(&text, style, tag.as_deref());
                let tag = merge_tag(tag.as_deref());
                self.finish(Node { at, tag, scalar, value }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => self.push(at, tag.as_deref(), anchor, Content::List(Vec::new())),
            Event::MappingStart(_, anchor, tag) => self.push(
                at,
                tag.as_deref(),
                anchor,
                Content::Map {
                    map: Map::default(),
                    key: None,
                    merge: None,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => self.pop(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn expects_key(&self) -> bool {
        matches!(
            self.stack.last(),
            Some(Frame {
                content: Content::Map { key: None, .. },
                ..
            })
        )
    }

    fn shared(&mut self, text: &str) -> Rc<str> {
        if text.len() > MAX_SHARED_BYTES {
            return Rc::from(text);
        }
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Rc<str> = Rc::from(text);
        self.texts.insert(new.clone());
        new
    }

    /// A scalar with its type: that of its tag, else of its text if it stands without quotes.
    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&granit_parser::Tag>) -> (Scalar, Value) {
        let is_plain = style == ScalarStyle::Plain && !tag.is_some_and(is_string_tag);
        if is_plain && scalar::is_null(text) {
            return (Scalar::Text, Value::Null);
        }
        let is_number = tag.is_some_and(|tag| ["int", "float", "bool"].iter().any(|name| is_core_tag(tag, name)));
        let scalar = match is_plain || is_number {
            true => scalar::resolve(text),
            false => Scalar::Text,
        };
        (scalar, Value::Text(self.shared(text)))
    }

    fn key(&mut self, text: &str, at: Location, plain: bool) -> Result<(), YamlError> {
        if plain && (scalar::is_null(text) || scalar::resolve(text) != Scalar::Text) {
            return Err(YamlError {
                at,
                message: format!("the key '{text}' is no text: put it in quotes"),
            });
        }
        let name = self.shared(text);
        if let Some(Frame {
            content: Content::Map { map, key, merge },
            ..
        }) = self.stack.last_mut()
        {
            let is_merge = plain && text == "<<";
            let first = match map.get(text) {
                Some(entry) => Some(entry.key_at),
                None if is_merge => merge.as_ref().map(|node| node.at),
                None => None,
            };
            if let Some(first) = first {
                return Err(YamlError {
                    at,
                    message: format!(
                        "the key '{text}' stands here twice (first on line {}): keep one of them",
                        first.line
                    ),
                });
            }
            *key = Some((name, at, is_merge));
        }
        Ok(())
    }

    fn push(
        &mut self,
        at: Location,
        tag: Option<&granit_parser::Tag>,
        anchor: usize,
        content: Content,
    ) -> Result<(), YamlError> {
        if self.expects_key() {
            return Err(error(at, "a key must be a word, not a list or a mapping"));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(error(at, "nested too deeply (more than 64 levels)"));
        }
        let tag = merge_tag(tag);
        self.stack.push(Frame {
            at,
            tag,
            anchor,
            content,
        });
        Ok(())
    }

    fn pop(&mut self) -> Result<(), YamlError> {
        let Some(frame) = self.stack.pop() else {
            return Ok(());
        };
        let value = match frame.content {
            Content::List(mut items) => {
                items.shrink_to_fit();
                Value::List(items)
            }
            Content::Map { mut map, merge, .. } => {
                if let Some(merge) = merge {
                    apply_merge(&mut map, merge)?;
                }
                map.shrink();
                Value::Map(Box::new(map))
            }
        };
        let node = Node {
            at: frame.at,
            tag: frame.tag,
            scalar: Scalar::Text,
            value,
        };
        self.finish(node, frame.anchor)
    }

    fn alias(&mut self, anchor: usize, at: Location) -> Result<(), YamlError> {
        if self.expects_key() {
            return Err(error(at, "an alias cannot be a key"));
        }
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(error(at, "this alias stands inside the value it names"));
        };
        let copy = node.clone();
        self.charge(&copy, at)?;
        self.finish(copy, 0)
    }

    /// Counts the bytes copied by an alias or anchor, and refuses unbounded growth.
    fn charge(&mut self, node: &Node, at: Location) -> Result<(), YamlError> {
        let (bytes, depth) = measure(node);
        self.copied_bytes += bytes;
        if self.copied_bytes > MAX_COPIED_BYTES {
            return Err(error(at, "the aliases of this file expand to more than 64 MiB"));
        }
        if self.stack.len() + depth > MAX_DEPTH {
            return Err(error(at, "nested too deeply (more than 64 levels, aliases expanded)"));
        }
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), YamlError> {
        if anchor != 0 {
            self.charge(&node, node.at)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|frame| &mut frame.content) {
            None => self.documents.push(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { map, key, merge }) => match key.take() {
                Some((_, key_at, true)) => *merge = Some(Node { at: key_at, ..node }),
                Some((name, key_at, false)) => {
                    // A mapping begins at its first key, which is a less helpful place than the key
                    // of the mapping.
                    let at = if matches!(node.value, Value::Map(_) | Value::Null) {
                        key_at
                    } else {
                        node.at
                    };
                    let node = Node { at, ..node };
                    map.insert(name, Entry { key_at, node });
                }
                None => {}
            },
        }
        Ok(())
    }
}

/// What a tag says about merging. Other tags say nothing, as for docker compose.
fn merge_tag(tag: Option<&granit_parser::Tag>) -> Tag {
    match tag.map(granit_parser::Tag::to_string).as_deref() {
        Some("!reset") => Tag::Reset,
        Some("!override") => Tag::Override,
        _ => Tag::None,
    }
}

fn is_core_tag(tag: &granit_parser::Tag, known: &str) -> bool {
    let name = tag.to_string();
    name.ends_with(&format!(":{known}")) || name == format!("!!{known}")
}

fn is_string_tag(tag: &granit_parser::Tag) -> bool {
    let name = tag.to_string();
    name == "!" || name.ends_with(":str") || name == "!!str"
}

fn error(at: Location, message: &str) -> YamlError {
    YamlError {
        at,
        message: message.to_owned(),
    }
}

/// Adds the keys of `<<`; keys that are written out win, and of several mappings the first one with
/// a key.
fn apply_merge(map: &mut Map, merge: Node) -> Result<(), YamlError> {
    let at = merge.at;
    let sources = match merge.value {
        Value::Map(source) => vec![source],
        Value::List(items) => items
            .into_iter()
            .map(|item| match item.value {
                Value::Map(source) => Ok(source),
                _ => Err(not_mergeable(at)),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(not_mergeable(at)),
    };
    for source in sources {
        for (key, entry) in source.into_entries() {
            if !map.contains_key(&key) {
                map.insert(key, entry);
            }
        }
    }
    Ok(())
}

fn not_mergeable(at: Location) -> YamlError {
    error(
        at,
        "'<<' takes an alias of a mapping (<<: *defaults), or a list of such aliases",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        let mut documents = parse(text, 0).unwrap();
        assert_eq!(documents.len(), 1);
        documents.remove(0)
    }

    fn message(text: &str) -> (u32, u32, String) {
        let error = parse(text, 0).unwrap_err();
        (error.at.line, error.at.column, error.message)
    }

    #[test]
    fn scalars_stay_as_they_are_written() {
        let node = one("a: 1.10\nb: 0x1f\nc: \"~\"\nd: ~\ne: !!str null\nf:\n");
        let text = |key: &str| match &node.get(key)?.value {
            Value::Text(text) => Some(text.to_string()),
            other => panic!("{other:?}"),
        };
        assert_eq!(text("a").as_deref(), Some("1.10"));
        assert_eq!(text("b").as_deref(), Some("0x1f"));
        assert_eq!(text("c").as_deref(), Some("~"));
        assert_eq!(text("d"), None);
        assert_eq!(text("e").as_deref(), Some("null"));
        assert_eq!(text("f"), None);
        let types = one("a: 1\nb: \"1\"\nc: !!str 1\nd: !!int \"1\"\ne: !foo 1\nf: true\n");
        let scalar = |key: &str| types.get(key).unwrap().scalar;
        let expected = [
            Scalar::Whole,
            Scalar::Text,
            Scalar::Text,
            Scalar::Whole,
            Scalar::Whole,
            Scalar::Boolean,
        ];
        assert_eq!(["a", "b", "c", "d", "e", "f"].map(scalar), expected);
    }

    #[test]
    fn merge_keys_add_what_is_not_written_out() {
        let node = one("x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n  a: 9\n");
        let z = node.get("z").unwrap();
        let shown: Vec<_> = ["a", "b", "c"].map(|key| z.get(key).unwrap().describe()).into();
        assert_eq!(shown, ["the number 9", "the number 2", "the number 4"]);
        assert!(z.get("<<").is_none());
    }

    #[test]
    fn a_quoted_merge_key_is_an_ordinary_key() {
        assert!(one("'<<': 1\n").get("<<").is_some());
    }

    #[test]
    fn places_count_from_one() {
        let node = one("a:\n  bc: d\n");
        let at = node.get("a").unwrap().get("bc").unwrap().at;
        assert_eq!((at.line, at.column), (2, 7));
        assert_eq!(message("a: b\nc:\n  d: 1\n  d: 2\n").0, 4);
        assert_eq!(message("services:\n  web:\n    command: x\n   foo: y\n").0, 4);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        assert!(message("? [a]\n: b\n").2.contains("a key must be a word"));
        assert!(message("a: &a [*a]\n").2.contains("inside the value it names"));
        assert!(message("<<: 3\n").2.contains("'<<' takes an alias"));
        for key in ["1", "true", "~", "1.5"] {
            assert!(message(&format!("{key}: a\n")).2.contains("put it in quotes"), "{key}");
        }
        assert!(message("a: &x b\n*x : c\n").2.contains("cannot be a key"));
    }

    #[test]
    fn alias_bombs_and_deep_nesting_end_at_once() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..30 {
            let below = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![below; 9].join(", "));
        }
        assert!(message(&bomb).2.contains("64 MiB"), "{:?}", message(&bomb));

        let mut ladder = String::from("a0: &a0 [[[[[[[[x]]]]]]]]\n");
        for level in 1..1000 {
            ladder += &format!("a{level}: &a{level} [[[[[[[[*a{}]]]]]]]]\n", level - 1);
        }
        assert!(message(&ladder).2.contains("too deeply"));

        for depth in [65, 100_000] {
            let nested = "[".repeat(depth) + &"]".repeat(depth);
            assert!(!message(&nested).2.is_empty());
            let block = "- ".repeat(depth);
            assert!(!message(&block).2.is_empty());
        }
    }
}
