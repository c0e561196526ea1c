//! A finished file as `docker compose config` shows it, as YAML or JSON.

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};

use super::keys::{self, FILE, Key, Shape};
use super::scalar::{self, Scalar};
use super::tree::{Location, Map, Node, Value};

/// A project's files as one, with everything resolved: what `imsup config` prints.
#[derive(Clone, Debug)]
pub struct Document {
    file: Node,
}

impl Default for Document {
    fn default() -> Self {
        Self::new(Node::null(Location::default()))
    }
}

impl Document {
    pub(super) fn new(file: Node) -> Self {
        Self { file }
    }

    /// The document as YAML, which can be loaded again.
    pub fn yaml(&self) -> String {
        serde_saphyr::to_string(&self.shown(true)).unwrap_or_else(unreachable_failure)
    }

    /// The document as one JSON object, with the same keys.
    pub fn json(&self) -> String {
        let json = serde_json::to_string_pretty(&self.shown(true)).unwrap_or_else(unreachable_failure);
        if !json.contains(is_foreign_to_yaml) {
            return json;
        }
        let escaped = |c: char| match is_foreign_to_yaml(c) {
            true => format!("\\u{:04x}", c as u32),
            false => c.to_string(),
        };
        json.chars().map(escaped).collect()
    }

    /// The document as a value: text is as programs get it, with single dollar signs.
    pub fn value(&self) -> serde_json::Value {
        serde_json::to_value(self.shown(false)).unwrap_or_default()
    }

    fn shown(&self, escape: bool) -> Shown<'_> {
        Shown {
            node: &self.file,
            shape: Shape::Keys(FILE),
            escape,
        }
    }
}

/// Characters that JSON has in strings, and that YAML has only escaped or takes for the end of a line.
fn is_foreign_to_yaml(c: char) -> bool {
    matches!(
        c,
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
    )
}

/// The document is made of text and numbers, which both formats can always write.
fn unreachable_failure(error: impl std::fmt::Display) -> String {
    format!("# the file could not be written: {error}\n")
}

/// A value with its shape.
struct Shown<'a> {
    node: &'a Node,
    shape: Shape,
    /// Whether dollar signs are doubled, so that they stay themselves when variables are put in.
    escape: bool,
}

impl<'a> Shown<'a> {
    fn inner(&self, node: &'a Node, shape: Shape) -> Self {
        Self { node, shape, ..*self }
    }

    fn text(&self, text: &str) -> String {
        if self.escape {
            text.replace('$', "$$")
        } else {
            text.to_owned()
        }
    }

    fn scalar<S: Serializer>(&self, text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        match self.node.scalar {
            Scalar::Boolean => serializer.serialize_bool(scalar::boolean(text).unwrap_or_default()),
            Scalar::Whole => match scalar::whole(text).map(i64::try_from) {
                Some(Ok(number)) => serializer.serialize_i64(number),
                _ => serializer.serialize_str(text),
            },
            Scalar::Fraction => match text.parse::<f64>().ok().or_else(|| scalar::fraction(text)) {
                Some(number) if number.fract() == 0.0 && number.abs() < 1e15 => serializer.serialize_i64(number as i64),
                Some(number) if number.is_finite() => serializer.serialize_f64(number),
                _ => serializer.serialize_str(text),
            },
            Scalar::Text | Scalar::Time => serializer.serialize_str(&self.text(text)),
        }
    }

    fn keys<S: Serializer>(&self, map: &'a Map, known: &'static [Key], serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = serializer.serialize_map(None)?;
        let is_service = keys::find(known, "entrypoint").is_some();
        let is_file = keys::find(known, "services").is_some();
        if let Some(name) = map.get("name").filter(|_| is_file) {
            shown.serialize_entry("name", &self.inner(&name.node, Shape::Text))?;
        }
        if is_service {
            for key in ["command", "entrypoint"].iter().filter(|key| !map.contains_key(key)) {
                shown.serialize_entry(key, &())?;
            }
        }
        for (name, entry) in map.iter() {
            let Some(key) = keys::find(known, name) else {
                shown.serialize_entry(&**name, &self.inner(&entry.node, Shape::Any))?;
                continue;
            };
            // The name stands first. A document that is loaded again has its services in any case.
            if is_service && key.name == "profiles" || is_file && key.name == "name" {
                continue;
            }
            let is_empty = is_nothing(&entry.node, key) && !matches!(key.shape, Shape::Command);
            if !is_empty {
                shown.serialize_entry(&**name, &self.inner(&entry.node, key.shape))?;
            }
        }
        for (name, empty) in implied(known).iter().filter(|(name, _)| !map.contains_key(name)) {
            match empty {
                Empty::Map => shown.serialize_entry(name, &serde_json::Map::new())?,
                Empty::Command => shown.serialize_entry(name, &serde_json::json!({"command": null}))?,
            }
        }
        shown.end()
    }
}

/// A value that docker compose shows although nobody wrote it.
enum Empty {
    Map,
    Command,
}

fn implied(known: &'static [Key]) -> &'static [(&'static str, Empty)] {
    let has = |name| keys::find(known, name).is_some();
    if has("endpoint_mode") {
        &[("placement", Empty::Map), ("resources", Empty::Map)]
    } else if has("initial_sync") {
        &[("exec", Empty::Command)]
    } else {
        &[]
    }
}

/// True for values that are the same as no value.
fn is_nothing(node: &Node, key: &Key) -> bool {
    let is_kept = matches!(key.shape.long(), Shape::Keys(_) | Shape::Command);
    match &node.value {
        Value::Null => true,
        Value::Text(text) if key.keeps_zero => text.is_empty() && node.scalar == Scalar::Text,
        Value::Text(text) => match node.scalar {
            Scalar::Text => text.is_empty() || (matches!(key.shape, Shape::Bytes) && **text == *"0"),
            Scalar::Boolean => **text == *"false",
            Scalar::Whole | Scalar::Fraction => text.parse() == Ok(0.0),
            Scalar::Time => false,
        },
        Value::List(items) => items.is_empty() && !is_kept,
        Value::Map(map) => map.is_empty() && !is_kept,
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (&self.node.value, self.shape.long()) {
            (Value::Null, Shape::Pairs | Shape::Contexts) => serializer.serialize_str(""),
            (Value::Null, _) => serializer.serialize_unit(),
            (Value::Text(text), _) => self.scalar(text, serializer),
            (Value::List(items), shape) => {
                let inner = match shape {
                    Shape::Items(inner) => *inner,
                    _ => Shape::Any,
                };
                let mut shown = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    shown.serialize_element(&self.inner(item, inner))?;
                }
                shown.end()
            }
            (Value::Map(map), Shape::Keys(known)) => self.keys(map, known, serializer),
            (Value::Map(map), Shape::ExtraHosts) => {
                let mut shown = serializer.serialize_seq(None)?;
                for (name, entry) in map.iter() {
                    for address in entry.node.items().iter().filter_map(Node::as_text) {
                        shown.serialize_element(&self.text(&format!("{name}={address}")))?;
                    }
                }
                shown.end()
            }
            (Value::Map(map), shape) => {
                let mut shown = serializer.serialize_map(Some(map.len()))?;
                for (name, entry) in map.iter() {
                    match (shape, &entry.node.value) {
                        (Shape::Pairs | Shape::Contexts, Value::Null) => shown.serialize_entry(&**name, "")?,
                        (Shape::Named(inner), _) => shown.serialize_entry(&**name, &self.inner(&entry.node, *inner))?,
                        _ => shown.serialize_entry(&**name, &self.inner(&entry.node, Shape::Any))?,
                    }
                }
                shown.end()
            }
        }
    }
}
