//! The way from files to a cluster.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;

use super::check::Claims;
use super::dotenv::{self, Variables};
use super::environment::{EnvFiles, Lookup, read_text};
use super::error::{ComposeError, Fault, Warning, WarningKind};
use super::interpolate::Interpolator;
use super::merge::{drop_resets, merge};
use super::problem::Problem;
use super::read::{Path, map, text, text_or_texts};
use super::service::{Builder, Disabled};
use super::source::{Sources, clean};
use super::tree::{Location, Map, Node, Value};
use super::trust::Trusted;
use super::{LoadOptions, Loaded, ServiceImage, images, ipam, project, schema, settings};
use crate::cluster::Cluster;

/// Loads compose files.
///
/// # Errors
/// [`ComposeError`] for files that cannot be read, understood or run; if `strict`, also for keys
/// without effect.
pub fn load(options: &LoadOptions) -> Result<Loaded, ComposeError> {
    let (read, documents) = Files::read(options)?;
    let outer = |name: &str| read.variable(options, name);
    let project = read.project(options, &documents, &outer)?;
    let lookup = |name: &str| match name {
        "COMPOSE_PROJECT_NAME" => Some(Cow::Borrowed(project.as_str())),
        _ => outer(name),
    };
    let context = Context {
        options,
        directory: &read.directory,
        project: &project,
        lookup: &lookup,
    };
    let loaded = context.cluster(documents);
    let loaded = loaded.map_err(|fault| read.sources.explain(fault))?;
    if options.strict {
        let without_effect: Vec<Warning> = loaded.warnings.iter().filter(|w| w.kind.is_strict()).cloned().collect();
        if !without_effect.is_empty() {
            return Err(ComposeError::Strict(without_effect));
        }
    }
    Ok(loaded)
}

/// The project's name and directory as [`load`] would return, even if the services could not be
/// run.
///
/// # Errors
/// [`ComposeError`] for files that cannot be read or aren't YAML, and names that cannot be a
/// project's.
pub fn project_of(options: &LoadOptions) -> Result<(String, PathBuf), ComposeError> {
    let (read, documents) = Files::read(options)?;
    let name = read.project(options, &documents, &|name| read.variable(options, name))?;
    Ok((name, read.directory))
}

/// The images of the services whose profiles are on, even if the services could not be run.
///
/// # Errors
/// [`ComposeError`] for files that cannot be read or understood.
pub fn images_of(options: &LoadOptions) -> Result<Vec<ServiceImage>, ComposeError> {
    let (read, documents) = Files::read(options)?;
    let outer = |name: &str| read.variable(options, name);
    let project = read.project(options, &documents, &outer)?;
    let lookup = |name: &str| match name {
        "COMPOSE_PROJECT_NAME" => Some(Cow::Borrowed(project.as_str())),
        _ => outer(name),
    };
    let context = Context {
        options,
        directory: &read.directory,
        project: &project,
        lookup: &lookup,
    };
    let images = || {
        let file = context.merged(documents, &mut Vec::new())?;
        let disabled = context.check_services(&file)?;
        images::of_file(&file, |name| disabled.contains_key(name))
    };
    images().map_err(|fault| read.sources.explain(fault))
}

/// The shared state of reading the files of a load; the documents are returned separately.
struct Files {
    directory: PathBuf,
    dotenv: Variables,
    sources: Sources,
}

impl Files {
    fn read(options: &LoadOptions) -> Result<(Self, Vec<Node>), ComposeError> {
        let (files, directory) = files(options)?;
        let dotenv = read_dotenv(&directory, options)?;
        let mut sources = Sources::default();
        let mut documents = Vec::new();
        for (file, shown) in &files {
            documents.extend(sources.read(file, shown)?);
        }
        let read = Self {
            directory,
            dotenv,
            sources,
        };
        Ok((read, documents))
    }

    /// A variable of the process, or else of `.env`.
    fn variable<'a>(&'a self, options: &'a LoadOptions, name: &str) -> Option<Cow<'a, str>> {
        let of_process = options.environment.get(name).map(String::as_str);
        of_process
            .or_else(|| self.dotenv.get(name)?.as_deref())
            .map(Cow::Borrowed)
    }

    fn project(&self, options: &LoadOptions, documents: &[Node], lookup: &Lookup<'_>) -> Result<String, ComposeError> {
        let declared = declared_name(documents, lookup);
        project::name(&project::Candidates {
            option: options.project.as_deref(),
            environment: lookup("COMPOSE_PROJECT_NAME").as_deref(),
            file: declared.map_err(|fault| self.sources.explain(fault))?.as_deref(),
            directory: &self.directory,
        })
    }
}

/// The files to read, each with the name that messages use, and the project's directory.
fn files(options: &LoadOptions) -> Result<(Vec<(PathBuf, PathBuf)>, PathBuf), ComposeError> {
    let failed = |file: &FilePath| {
        let file = file.to_owned();
        move |source: io::Error| ComposeError::Read { file, source }
    };
    let start = if options.directory.as_os_str().is_empty() {
        FilePath::new(".")
    } else {
        &options.directory
    };
    let start = clean(&std::path::absolute(start).map_err(failed(start))?);
    let shown = match &*options.files {
        [] => {
            let found = super::find(&start)?;
            let over = super::find_override(&found);
            let beside = found.with_file_name(DOTENV);
            let found: Vec<PathBuf> = std::iter::once(found).chain(over).collect();
            let trusted = Trusted::by(options.environment.get("SUDO_UID").map(String::as_str));
            for file in found.iter().chain([&beside]) {
                if let Some(why) = trusted.check(file).map_err(failed(file))? {
                    let (file, named) = (file.clone(), found[0].clone());
                    return Err(ComposeError::Untrusted { file, why, named });
                }
            }
            found
        }
        files => files.to_vec(),
    };
    let files: Vec<_> = shown
        .into_iter()
        .map(|file| (clean(&start.join(&file)), file))
        .collect();
    let directory = files[0].0.parent().unwrap_or(&start).to_owned();
    Ok((files, directory))
}

/// The environment file beside a compose file.
const DOTENV: &str = ".env";

fn read_dotenv(directory: &FilePath, options: &LoadOptions) -> Result<Variables, ComposeError> {
    let file = directory.join(DOTENV);
    let content = match read_text(&file) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Variables::new()),
        Err(source) => return Err(ComposeError::Read { file, source }),
    };
    dotenv::parse(&content, &|name| options.environment.get(name).cloned()).map_err(|error| ComposeError::EnvFile {
        file,
        line: error.line,
        message: error.message,
    })
}

/// `name:` of the last document with this key.
fn declared_name(documents: &[Node], lookup: &Lookup<'_>) -> Result<Option<String>, Fault> {
    let path = Path::Root.key("name");
    let Some(node) = documents.iter().rev().find_map(|document| document.get("name")) else {
        return Ok(None);
    };
    let name = Interpolator::new(&|name| lookup(name))
        .substitute(text(node, &path)?)
        .map(Cow::into_owned);
    name.map(Some).map_err(|error| Fault::new(node.at, path, error))
}

/// The shared state of reading the tree.
struct Context<'a, 'l> {
    options: &'a LoadOptions,
    directory: &'a FilePath,
    project: &'a str,
    lookup: &'a Lookup<'l>,
}

impl Context<'_, '_> {
    fn cluster(&self, documents: Vec<Node>) -> Result<Loaded, Fault> {
        let mut unset = Vec::new();
        let mut file = self.merged(documents, &mut unset)?;
        let disabled = self.check_services(&file)?;
        let mut warnings = schema::warnings(&file, &|name| disabled.contains_key(name));
        let settings = settings::of_file(file.get("x-imsup"))?;
        let services = take_services(&mut file);
        let names: HashSet<Rc<str>> = services.keys().cloned().collect();
        let networks = Path::Root.key("networks");
        let networks = file.get("networks").map(|node| map(node, &networks)).transpose()?;
        let mut builder = Builder {
            directory: self.directory,
            lookup: self.lookup,
            services: &names,
            disabled: &disabled,
            networks,
            defaults: &settings.defaults,
            env_files: EnvFiles::default(),
            claims: Claims::default(),
            joined: BTreeSet::new(),
            warnings: Vec::new(),
            hosts: Vec::new(),
            ports: 0,
            environment_bytes: 0,
            made: HashMap::new(),
            dependent: Vec::new(),
        };
        // Each service's tree is dropped before the next hosts are made, which take the same
        // memory.
        for (name, entry) in services.into_entries() {
            if !disabled.contains_key(&name) {
                builder.add(&name, &entry.node)?;
            }
        }
        builder.resolve_dependencies();
        warnings.append(&mut builder.warnings);
        warnings.append(&mut unset);
        let subnet = ipam::choose(settings.subnet, networks, &builder.joined, &mut warnings)?;
        let subnet = builder.claims.finish(subnet, builder.hosts.len())?;
        Ok(Loaded {
            cluster: Cluster {
                project: self.project.to_owned(),
                directory: self.directory.to_owned(),
                subnet,
                hosts: builder.hosts,
            },
            warnings,
        })
    }

    /// All documents merged, with variables interpolated.
    fn merged(&self, documents: Vec<Node>, unset: &mut Vec<Warning>) -> Result<Node, Fault> {
        let lookup = |name: &str| (self.lookup)(name);
        let mut interpolator = Interpolator::new(&lookup);
        let mut merged: Option<Node> = None;
        for mut document in documents {
            if matches!(document.value, Value::Null) {
                continue;
            }
            map(&document, &Path::Root)?;
            interpolate(&mut document, &Path::Root, &mut interpolator, unset)?;
            match &mut merged {
                None => merged = Some(document),
                Some(base) => merge(base, document, &Path::Root)?,
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

    /// Refuses a file without a service to run; returns the services whose profiles are off.
    fn check_services(&self, file: &Node) -> Result<Disabled, Fault> {
        let path = Path::Root.key("services");
        let services = match file.get("services") {
            Some(node) => map(node, &path)?,
            None => return Err(Fault::new(file.at, path, Problem::NoServices)),
        };
        if services.is_empty() {
            return Err(Fault::new(file.at, path, Problem::NoServices));
        }
        let disabled = self.disabled(services)?;
        if services.keys().all(|name| disabled.contains_key(name)) {
            let profiles: BTreeSet<&str> = disabled.values().flatten().map(String::as_str).collect();
            let profiles = profiles.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Fault::new(file.at, path, Problem::AllDisabled(profiles)));
        }
        Ok(disabled)
    }

    /// The services whose profiles are all off, with those profiles.
    fn disabled(&self, services: &Map) -> Result<Disabled, Fault> {
        let from_environment = (self.lookup)("COMPOSE_PROFILES").unwrap_or_default();
        let on: BTreeSet<&str> = from_environment
            .split(',')
            .map(str::trim)
            .chain(self.options.profiles.iter().map(String::as_str))
            .collect();
        let mut disabled = Disabled::new();
        let path = Path::Root.key("services");
        for (name, entry) in services.iter() {
            let Some(node) = entry.node.get("profiles") else {
                continue;
            };
            let profiles = text_or_texts(node, &path.key(name).key("profiles"))?;
            if !profiles.is_empty() && !on.contains("*") && !profiles.iter().any(|profile| on.contains(profile)) {
                disabled.insert(name.clone(), profiles.into_iter().map(str::to_owned).collect());
            }
        }
        Ok(disabled)
    }
}

/// Takes the services out of the file.
fn take_services(file: &mut Node) -> Map {
    let Value::Map(keys) = &mut file.value else {
        return Map::default();
    };
    match keys.remove("services").map(|entry| entry.node.value) {
        Some(Value::Map(services)) => *services,
        _ => Map::default(),
    }
}

/// Interpolates variables in every value of the tree; keys stay unchanged.
fn interpolate(
    node: &mut Node,
    path: &Path<'_>,
    interpolator: &mut Interpolator<'_>,
    unset: &mut Vec<Warning>,
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
            unset.extend(interpolator.unset[known..].iter().map(|name| Warning {
                kind: WarningKind::UnsetVariable,
                path: path.to_string(),
                message: format!("the variable {name} is not set, and was taken as empty"),
            }));
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                interpolate(item, &path.item(index), interpolator, unset)?;
            }
        }
        Value::Map(map) => {
            for (key, entry) in map.iter_mut() {
                interpolate(&mut entry.node, &path.key(key), interpolator, unset)?;
            }
        }
    }
    Ok(())
}
