//! `extends`: a service over another, of the same file or of another.

use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;

use super::super::error::Fault;
use super::super::keys::{FILE, SERVICE, Shape, nearest};
use super::super::merge::{drop_resets, merge};
use super::super::problem::Problem;
use super::super::read::{Path, map, strict_text};
use super::super::source::clean;
use super::super::tree::{Map, Node, Value};
use super::{Document, Layers, Refusal, Scope, interpolate, services_mut};

impl Layers<'_> {
    /// Resolves `extends` of all services of a file.
    pub(super) fn extend_all(&mut self, file: &mut Node, name: &FilePath, scope: &Scope<'_>) -> Result<(), Refusal> {
        let Some(services) = services_mut(file) else {
            return Ok(());
        };
        let extending: Vec<Rc<str>> = services
            .iter()
            .filter(|(_, entry)| entry.node.get("extends").is_some())
            .map(|(service, _)| service.clone())
            .collect();
        for service in extending {
            self.extend(services, &service, name, scope, &mut Vec::new())?;
        }
        Ok(())
    }

    /// Merges a service over the service that it extends, which is resolved first.
    fn extend(
        &mut self,
        services: &mut Map,
        service: &str,
        file: &FilePath,
        scope: &Scope<'_>,
        chain: &mut Vec<(PathBuf, String)>,
    ) -> Result<(), Refusal> {
        let Some(entry) = services.get_mut(service) else {
            return Ok(());
        };
        let Some(extends) = entry.node.as_map_mut().and_then(|map| map.remove("extends")) else {
            return Ok(());
        };
        let all = Path::Root.key("services");
        let path = all.key(service);
        let path = path.key("extends");
        let extends = extends.node;
        if extends.is_null() {
            return Ok(());
        }
        let (base, other) = parse_extends(&extends, &path)?;
        let other = other.map(|other| clean(&scope.directory.join(other)));
        chain.push((file.to_owned(), service.to_owned()));
        let next = (other.clone().unwrap_or_else(|| file.to_owned()), base.to_owned());
        if chain.contains(&next) {
            let names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).chain([base]).collect();
            return Err(Fault::new(extends.at, path, Problem::ExtendsItself(names.join(" -> "))).into());
        }
        let mut extended = match other {
            None => {
                self.extend(services, base, file, scope, chain)?;
                extended_of(services, base, &extends, &path)?
            }
            Some(other) => {
                let mut node = Rc::unwrap_or_clone(self.extended_file(&other, scope, &extends, &path)?);
                let mut none = Map::default();
                let services = services_mut(&mut node).unwrap_or(&mut none);
                self.extend(services, base, &other, scope, chain)?;
                extended_of(services, base, &extends, &path)?
            }
        };
        chain.pop();
        drop_resets(&mut extended);
        if let Some(entry) = services.get_mut(service) {
            let own = std::mem::replace(&mut entry.node, Node::null(extends.at));
            merge(&mut extended, own, Shape::Keys(SERVICE), &all.key(service))?;
            entry.node = extended;
        }
        Ok(())
    }

    /// A file of `extends`, canonical; its paths are relative to itself.
    fn extended_file(
        &mut self,
        file: &FilePath,
        scope: &Scope<'_>,
        extends: &Node,
        path: &Path<'_>,
    ) -> Result<Rc<Node>, Refusal> {
        let key = (file.to_owned(), scope.directory.clone());
        if let Some(known) = self.extended.get(&key) {
            return Ok(known.clone());
        }
        let directory = file.parent().unwrap_or(file).to_owned();
        let mut merged = Node::null(extends.at);
        for Document { mut node, .. } in self.documents(file, extends.at, path)? {
            if node.is_null() {
                continue;
            }
            map(&node, &Path::Root)?;
            interpolate(&mut node, &scope.environment, self.notices)?;
            self.canonical(&mut node, scope, &directory)?;
            // Paths of `extends` are resolved here, since the file's directory is known only here.
            absolute_extends(&mut node, &directory);
            merge(&mut merged, node, Shape::Keys(FILE), &Path::Root)?;
        }
        let merged = Rc::new(merged);
        self.extended.insert(key, merged.clone());
        Ok(merged)
    }
}

/// `extends`: the service, and its file if that is another.
fn parse_extends<'n>(node: &'n Node, path: &Path<'_>) -> Result<(&'n str, Option<&'n str>), Fault> {
    if let Value::Text(_) = node.value {
        return Ok((strict_text(node, path)?, None));
    }
    map(node, path)?;
    let service = node
        .get("service")
        .ok_or_else(|| Fault::new(node.at, path, Problem::Missing("service")))?;
    let file = node
        .get("file")
        .map(|file| strict_text(file, &path.key("file")))
        .transpose()?;
    Ok((strict_text(service, &path.key("service"))?, file))
}

/// A copy of the service that another extends.
fn extended_of(services: &Map, name: &str, extends: &Node, path: &Path<'_>) -> Result<Node, Fault> {
    services.get(name).map(|entry| entry.node.clone()).ok_or_else(|| {
        let problem = Problem::Undefined {
            what: "service",
            name: name.to_owned(),
            suggestion: nearest(name, services.keys().map(|known| &**known)).map(str::to_owned),
        };
        Fault::new(extends.at, path, problem)
    })
}

/// Makes the files of `extends` absolute.
fn absolute_extends(file: &mut Node, directory: &FilePath) {
    let Some(services) = services_mut(file) else { return };
    for (_, entry) in services.iter_mut() {
        let extends = entry.node.as_map_mut().and_then(|map| map.get_mut("extends"));
        let other = extends.and_then(|extends| extends.node.as_map_mut()?.get_mut("file"));
        if let Some(other) = other
            && let Some(name) = other.node.as_text()
        {
            let absolute = clean(&directory.join(name));
            other.node.value = Value::Text(absolute.to_string_lossy().into());
        }
    }
}
