//! Scalars with the types of their keys, and lists and mappings of them.

use std::path::{Path as FilePath, PathBuf};

use super::super::error::{Fault, Notice, WarningKind};
use super::super::keys::Shape;
use super::super::problem::Problem;
use super::super::read::{Path, boolean, strict_text, wrong_type};
use super::super::scalar::{self, Scalar};
use super::super::source::clean;
use super::super::tree::{Node, Value};
use super::super::{duration, size, words};
use super::Canonical;

impl Canonical<'_> {
    /// Gives a scalar, or a list or mapping of scalars, the type of its key.
    pub(super) fn scalar(&mut self, node: &mut Node, shape: Shape, path: &Path<'_>) -> Result<(), Fault> {
        match shape {
            Shape::Text => strict_text(node, path).map(|_| ()),
            Shape::Path => {
                let absolute = self.absolute(strict_text(node, path)?);
                set(node, Scalar::Text, absolute)
            }
            Shape::Bool | Shape::External => {
                let value = boolean(node, path)?;
                set(node, Scalar::Boolean, value.to_string())
            }
            Shape::Whole => whole(node, path),
            Shape::Count => match node.as_text() {
                Some("all") => set(node, Scalar::Whole, "-1".to_owned()),
                _ => whole(node, path),
            },
            Shape::Mode => mode(node, path),
            Shape::Number => number(node, path),
            Shape::Bytes => bytes(node, path),
            Shape::Duration => {
                // A number has no unit, which is told as that.
                let text = any_scalar(node, path)?;
                let duration = duration::parse(&text).map_err(|error| Fault::new(node.at, path, error))?;
                set(node, Scalar::Text, duration::shortest(duration))
            }
            Shape::Scalar => {
                let text = any_scalar(node, path)?;
                set(node, Scalar::Text, text)
            }
            Shape::Command => self.command(node, path),
            _ => Ok(()),
        }
    }

    /// A file, relative to the file's own directory or to the caller's home.
    pub(super) fn absolute(&self, file: &str) -> String {
        let path = match (file.strip_prefix('~'), self.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                PathBuf::from(home).join(rest.trim_start_matches('/'))
            }
            _ => self.directory.join(FilePath::new(file)),
        };
        clean(&path).to_string_lossy().into_owned()
    }

    fn command(&mut self, node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
        let Value::Text(text) = &node.value else { return Ok(()) };
        let bad = |why| Fault::new(node.at, path, Problem::BadCommand(why));
        let split = words::split(text).map_err(bad)?;
        if let Some(cut) = split.cut_at {
            self.warnings.push(Notice {
                kind: WarningKind::NotHonoured,
                at: node.at,
                path: path.to_string(),
                message: format!(
                    "ends at '{cut}', as under docker compose: no shell reads it; write  sh -c '...'  for one"
                ),
            });
        }
        let at = node.at;
        let items = split.words.into_iter().map(|word| Node::text(at, word));
        node.value = Value::List(items.collect());
        Ok(())
    }
}

fn set(node: &mut Node, scalar: Scalar, text: String) -> Result<(), Fault> {
    node.scalar = scalar;
    if node.as_text() != Some(&text) {
        node.value = Value::Text(text.into());
    }
    Ok(())
}

/// The text of any scalar but a date, as a program gets it.
pub(super) fn any_scalar(node: &Node, path: &Path<'_>) -> Result<String, Fault> {
    match &node.value {
        Value::Text(text) if node.scalar != Scalar::Time => {
            Ok(scalar::as_text(text, node.scalar).unwrap_or_else(|| text.to_string()))
        }
        _ => Err(wrong_type(node, path, "text, a number, true or false")),
    }
}

fn whole(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let number = match (&node.value, node.scalar) {
        (Value::Text(text), Scalar::Text) => text.parse().ok().map(|number: i64| number.to_string()),
        (Value::Text(text), Scalar::Whole) => scalar::whole(text).map(|number| number.to_string()),
        _ => None,
    };
    match number {
        Some(number) => set(node, Scalar::Whole, number),
        None => Err(wrong_type(node, path, "a whole number")),
    }
}

fn number(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let number = match (&node.value, node.scalar) {
        (Value::Text(text), Scalar::Text) => text.parse::<f64>().ok().filter(|number| number.is_finite()),
        (Value::Text(text), Scalar::Whole) => scalar::whole(text).map(|number| number as f64),
        (Value::Text(text), Scalar::Fraction) => scalar::fraction(text).filter(|number| number.is_finite()),
        _ => None,
    };
    match number {
        Some(number) => set(node, Scalar::Fraction, number.to_string()),
        None => Err(wrong_type(node, path, "a number")),
    }
}

fn bytes(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let text = any_scalar(node, path)?;
    // -1 is no limit.
    let bytes = match &*text {
        "-1" => text,
        _ => size::bytes(&text)
            .map_err(|error| Fault::new(node.at, path, Problem::Size(error)))?
            .to_string(),
    };
    set(node, Scalar::Text, bytes)
}

fn mode(node: &mut Node, path: &Path<'_>) -> Result<(), Fault> {
    let mode = match (&node.value, node.scalar) {
        (Value::Text(text), Scalar::Text) => i128::from_str_radix(text, 8).ok(),
        (Value::Text(text), Scalar::Whole) => scalar::whole(text),
        _ => None,
    };
    match mode {
        Some(mode @ 0..=0o7777) => set(node, Scalar::Text, format!("0{mode:o}")),
        _ => Err(wrong_type(node, path, "permissions in octal, such as 0440")),
    }
}
