//! `include`: the services and resources of other projects' files.

use std::path::{Path as FilePath, PathBuf};

use super::super::environment::read_dotenv;
use super::super::error::Fault;
use super::super::keys::{INCLUDE, find, nearest};
use super::super::problem::{Problem, did_you_mean};
use super::super::read::{Path, strict_text, text_or_texts, wrong_type};
use super::super::source::clean;
use super::super::tree::{Location, Map, Node, Value};
use super::{Layers, Refusal, Scope};

/// Deepest chain of included files.
const MAX_INCLUDED: usize = 32;

impl Layers<'_> {
    /// Adds what the files of `include` have.
    pub(super) fn include(
        &mut self,
        include: &Node,
        into: &mut Node,
        file: &FilePath,
        scope: &Scope<'_>,
    ) -> Result<(), Refusal> {
        let root = Path::Root.key("include");
        let Value::List(items) = &include.value else {
            if include.is_null() {
                return Ok(());
            }
            return Err(wrong_type(include, &root, "a list of files").into());
        };
        for (index, item) in items.iter().enumerate() {
            let path = root.item(index);
            let item = Include::parse(item, &path, scope)?;
            let mut included_by = scope.included_by.clone();
            included_by.push(file.to_owned());
            if included_by.contains(&item.files[0]) || included_by.len() > MAX_INCLUDED {
                let files = included_by.iter().chain([&item.files[0]]);
                let files: Vec<String> = files.map(|file| file.display().to_string()).collect();
                return Err(Fault::new(item.at, path, Problem::IncludesItself(files.join(" -> "))).into());
            }
            let mut environment = scope.environment.clone();
            for file in &item.env_files {
                let known = environment.clone();
                environment.add(read_dotenv(file, &|name| known.get(name).map(str::to_owned))?);
            }
            let inner = Scope {
                directory: item.directory,
                environment,
                included_by,
            };
            let mut documents = Vec::new();
            for file in &item.files {
                documents.extend(self.documents(file, item.at, &path)?);
            }
            let imported = self.merged(documents, &inner)?;
            import(imported, into, &item.files[0])?;
        }
        Ok(())
    }
}

/// An item of `include`.
struct Include {
    at: Location,
    files: Vec<PathBuf>,
    env_files: Vec<PathBuf>,
    directory: PathBuf,
}

impl Include {
    fn parse(item: &Node, path: &Path<'_>, scope: &Scope<'_>) -> Result<Self, Fault> {
        let absolute = |name: &str| clean(&scope.directory.join(name));
        let all = |node: Option<&Node>, path: &Path<'_>| -> Result<Vec<PathBuf>, Fault> {
            let names = node.map(|node| text_or_texts(node, path)).transpose()?;
            Ok(names.unwrap_or_default().into_iter().map(absolute).collect())
        };
        if let Some(map) = item.as_map() {
            let unknown = map.iter().find(|(key, _)| find(INCLUDE, key).is_none());
            if let Some((key, entry)) = unknown {
                let suggestion = nearest(key, INCLUDE.iter().map(|known| known.name));
                let problem = Problem::Name(format!("unknown key{}", did_you_mean(suggestion)));
                return Err(Fault::new(entry.key_at, path.key(key), problem));
            }
        }
        let files = match &item.value {
            Value::Text(_) => all(Some(item), path)?,
            Value::Map(_) => all(item.get("path"), &path.key("path"))?,
            _ => return Err(wrong_type(item, path, "a file, or a mapping with 'path'")),
        };
        let Some(first) = files.first() else {
            return Err(Fault::new(item.at, path, Problem::Missing("path")));
        };
        let directory = match item.get("project_directory") {
            Some(node) => absolute(strict_text(node, &path.key("project_directory"))?),
            None => first.parent().unwrap_or(first).to_owned(),
        };
        let env_files = match item.get("env_file") {
            Some(node) => all(Some(node), &path.key("env_file"))?,
            None => Some(directory.join(".env"))
                .filter(|file| file.is_file())
                .into_iter()
                .collect(),
        };
        Ok(Self {
            at: item.at,
            files,
            env_files,
            directory,
        })
    }
}

/// The keys of a file that `include` brings.
const IMPORTED: [&str; 6] = ["services", "networks", "volumes", "secrets", "configs", "models"];

fn import(mut imported: Node, into: &mut Node, file: &FilePath) -> Result<(), Fault> {
    let (Some(from), Some(into)) = (imported.as_map_mut(), into.as_map_mut()) else {
        return Ok(());
    };
    for kind in IMPORTED {
        let Some(Value::Map(new)) = from.remove(kind).map(|entry| entry.node.value) else {
            continue;
        };
        match into.get_mut(kind).and_then(|entry| entry.node.as_map_mut()) {
            Some(known) => import_kind(kind, *new, known, file)?,
            None => {
                let at = new.iter().next().map(|(_, entry)| entry.key_at).unwrap_or_default();
                into.put(kind, Node::new(at, Value::Map(new)));
            }
        }
    }
    Ok(())
}

fn import_kind(kind: &str, new: Map, known: &mut Map, file: &FilePath) -> Result<(), Fault> {
    for (name, entry) in new.into_entries() {
        match known.get(&name) {
            None => {
                known.insert(name, entry);
            }
            Some(own) if own.node.is_same(&entry.node) => {}
            Some(own) => {
                let path = Path::Root.key(kind);
                let name_of_file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let problem = Problem::Included { file: name_of_file };
                return Err(Fault::new(own.key_at, path.key(&name), problem));
            }
        }
    }
    Ok(())
}
