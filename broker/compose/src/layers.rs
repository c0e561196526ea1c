//! The files of a project as one: each interpolated and made canonical, with `extends` and
//! `include` resolved, then merged.

mod extends;
mod include;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;

use super::canonical::Canonical;
use super::error::{ComposeError, Fault, Notice, WarningKind};
use super::interpolate::Interpolator;
use super::keys::{FILE, Shape};
use super::merge::{drop_resets, merge};
use super::problem::Problem;
use super::read::{Path, map};
use super::source::Sources;
use super::tree::{Location, Map, Node, Value};
use super::variables::Environment;

/// Why files are not taken: a fault at a place, or a fault of a whole file.
pub(super) enum Refusal {
    At(Fault),
    File(ComposeError),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::At(fault)
    }
}

impl From<ComposeError> for Refusal {
    fn from(error: ComposeError) -> Self {
        Self::File(error)
    }
}

/// A document, and the file that it is from.
pub(super) struct Document {
    pub file: PathBuf,
    pub node: Node,
}

/// What the files of one project, or of one item of `include`, have in common.
pub(super) struct Scope<'a> {
    /// The base of relative paths.
    pub directory: PathBuf,
    pub environment: Environment<'a>,
    /// The files that include these, outermost first.
    pub included_by: Vec<PathBuf>,
}

/// The state of reading all files of a load.
pub(super) struct Layers<'s> {
    pub sources: &'s mut Sources,
    pub notices: &'s mut Vec<Notice>,
    /// Files of `extends`, by name and by the directory of what they are relative to.
    extended: HashMap<(PathBuf, PathBuf), Rc<Node>>,
}

impl<'s> Layers<'s> {
    pub fn new(sources: &'s mut Sources, notices: &'s mut Vec<Notice>) -> Self {
        Self {
            sources,
            notices,
            extended: HashMap::new(),
        }
    }

    /// All documents as one, canonical.
    pub fn merged(&mut self, documents: Vec<Document>, scope: &Scope<'_>) -> Result<Node, Refusal> {
        let mut merged: Option<Node> = None;
        for Document { file, node } in documents {
            if node.is_null() {
                continue;
            }
            map(&node, &Path::Root)?;
            let layer = self.layer(node, &file, scope)?;
            match &mut merged {
                None => merged = Some(layer),
                Some(base) => merge(base, layer, Shape::Keys(FILE), &Path::Root)?,
            }
        }
        let start = Location {
            file: 0,
            line: 1,
            column: 1,
        };
        let mut merged = merged.unwrap_or(Node::null(start));
        drop_resets(&mut merged);
        Ok(merged)
    }

    fn layer(&mut self, mut node: Node, file: &FilePath, scope: &Scope<'_>) -> Result<Node, Refusal> {
        interpolate(&mut node, &scope.environment, self.notices)?;
        let include = node.as_map_mut().and_then(|map| map.remove("include"));
        self.canonical(&mut node, scope, &scope.directory)?;
        self.extend_all(&mut node, file, scope)?;
        if let Some(include) = include {
            self.include(&include.node, &mut node, file, scope)?;
        }
        Ok(node)
    }

    fn canonical(&mut self, node: &mut Node, scope: &Scope<'_>, directory: &FilePath) -> Result<(), Fault> {
        let mut canonical = Canonical {
            directory,
            home: scope.environment.get("HOME"),
            warnings: self.notices,
        };
        canonical.file(node)
    }

    /// The documents of a file that another names.
    fn documents(&mut self, file: &FilePath, at: Location, path: &Path<'_>) -> Result<Vec<Document>, Refusal> {
        let read = self.sources.read(file, file);
        let documents = read.map_err(|error| match error {
            ComposeError::Read { file, source } => {
                let message = format!("'{}' cannot be read: {source}", file.display());
                Refusal::At(Fault::new(at, path, Problem::Name(message)))
            }
            other => Refusal::File(other),
        })?;
        let document = |node| Document {
            file: file.to_owned(),
            node,
        };
        Ok(documents.into_iter().map(document).collect())
    }
}

fn services_mut(file: &mut Node) -> Option<&mut Map> {
    file.as_map_mut()?.get_mut("services")?.node.as_map_mut()
}

/// Interpolates variables in every value of a file; keys stay unchanged.
fn interpolate(file: &mut Node, environment: &Environment<'_>, notices: &mut Vec<Notice>) -> Result<(), Fault> {
    let lookup = |name: &str| environment.get(name).map(Cow::Borrowed);
    interpolate_node(file, &Path::Root, &mut Interpolator::new(&lookup), notices)
}

fn interpolate_node(
    node: &mut Node,
    path: &Path<'_>,
    interpolator: &mut Interpolator<'_>,
    notices: &mut Vec<Notice>,
) -> Result<(), Fault> {
    match &mut node.value {
        Value::Null => {}
        Value::Text(text) => {
            let known = interpolator.unset.len();
            let replaced = match interpolator.substitute(text) {
                Ok(Cow::Borrowed(_)) => None,
                Ok(Cow::Owned(replaced)) => Some(replaced),
                Err(error) => return Err(Fault::new(node.at, path, error)),
            };
            if let Some(replaced) = replaced {
                *text = replaced.into();
            }
            notices.extend(interpolator.unset[known..].iter().map(|name| Notice {
                kind: WarningKind::UnsetVariable,
                at: node.at,
                path: path.to_string(),
                message: format!("the variable {name} is not set, and was taken as empty"),
            }));
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                interpolate_node(item, &path.item(index), interpolator, notices)?;
            }
        }
        Value::Map(map) => {
            for (key, entry) in map.iter_mut() {
                interpolate_node(&mut entry.node, &path.key(key), interpolator, notices)?;
            }
        }
    }
    Ok(())
}
