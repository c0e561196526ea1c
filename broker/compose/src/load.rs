//! The way from files to a cluster.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;

use super::check::Claims;
use super::command::has_image;
use super::error::{ComposeError, Fault, Notice, Warning};
use super::files::{Files, files};
use super::finish::finish;
use super::layers::{Document as Layer, Layers, Refusal, Scope};
use super::model::Model;
use super::problem::Problem;
use super::read::{Path, map, text_or_texts};
use super::references::{self, Names};
use super::service::{Builder, Disabled};
use super::show::Document;
use super::source::Sources;
use super::tree::{Map, Node, Value};
use super::variables::Environment;
use super::{LoadOptions, Loaded, ServiceImage, images, ipam, project, schema, settings};
use crate::cluster::Cluster;

/// Loads compose files.
///
/// # Errors
/// [`ComposeError`] for files that cannot be read, understood or run; if `strict`, also for keys
/// without effect.
pub fn load(options: &LoadOptions) -> Result<Loaded, ComposeError> {
    load_with(options, &mut Vec::new())
}

/// As [`load`], and adds to `warnings` what was noticed before an error.
///
/// # Errors
/// As [`load`].
pub fn load_with(options: &LoadOptions, warnings: &mut Vec<Warning>) -> Result<Loaded, ComposeError> {
    load_wanted(options, warnings, false).map(|(loaded, _)| loaded)
}

/// As [`load_with`], with the files as one document.
///
/// # Errors
/// As [`load`].
pub fn resolve(options: &LoadOptions, warnings: &mut Vec<Warning>) -> Result<(Loaded, Document), ComposeError> {
    load_wanted(options, warnings, true).map(|(loaded, document)| (loaded, document.unwrap_or_default()))
}

/// The project's name and directory as [`load`] would return, even if the services could not be
/// run.
///
/// # Errors
/// [`ComposeError`] for files that cannot be read or aren't YAML, and names that cannot be a
/// project's.
pub fn project_of(options: &LoadOptions) -> Result<(String, PathBuf), ComposeError> {
    let Reading { project, found, .. } = Reading::new(options)?;
    Ok((project, found.directory))
}

/// The images of the services whose profiles are on, even if the services could not be run.
///
/// # Errors
/// [`ComposeError`] for files that cannot be read or understood.
pub fn images_of(options: &LoadOptions) -> Result<Vec<ServiceImage>, ComposeError> {
    let mut reading = Reading::new(options)?;
    let mut file = reading.merged()?;
    let mut images = || {
        let context = reading.context(options, false);
        let disabled = context.check_services(&file)?;
        finish(&mut file, context.project, context.environment, &disabled)?;
        images::of_file(&file, |name| disabled.contains_key(name))
    };
    images().map_err(|fault| reading.sources.explain(fault))
}

fn load_wanted(
    options: &LoadOptions,
    warnings: &mut Vec<Warning>,
    wants_document: bool,
) -> Result<(Loaded, Option<Document>), ComposeError> {
    let mut reading = Reading::new(options)?;
    let loaded = reading.merged().and_then(|file| {
        let mut notices = std::mem::take(&mut reading.notices);
        let loaded = reading.context(options, wants_document).cluster(file, &mut notices);
        reading.notices = notices;
        loaded.map_err(|faults| reading.sources.explain_all(faults))
    });
    let noticed = reading.sources.warnings(reading.notices);
    let (cluster, document) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            warnings.extend(noticed);
            return Err(error);
        }
    };
    if options.strict {
        let without_effect: Vec<Warning> = noticed.iter().filter(|w| w.kind.is_strict()).cloned().collect();
        if !without_effect.is_empty() {
            return Err(ComposeError::Strict(without_effect));
        }
    }
    warnings.extend(noticed.iter().cloned());
    let loaded = Loaded {
        cluster,
        warnings: noticed,
    };
    Ok((loaded, document))
}

/// The files of a load, before and while they are merged.
struct Reading<'a> {
    found: Files<'a>,
    sources: Sources,
    documents: Vec<Layer>,
    project: String,
    notices: Vec<Notice>,
}

impl<'a> Reading<'a> {
    fn new(options: &'a LoadOptions) -> Result<Self, ComposeError> {
        let mut found = files(options)?;
        let mut sources = Sources::new(options.stdin.clone());
        let documents = read(&mut sources, &found)?;
        let project = project_name(options, &found, &documents, &sources)?;
        found.environment.set_project(&project);
        Ok(Self {
            found,
            sources,
            documents,
            project,
            notices: Vec::new(),
        })
    }

    /// The files as one.
    fn merged(&mut self) -> Result<Node, ComposeError> {
        let scope = Scope {
            directory: self.found.directory.clone(),
            environment: self.found.environment.clone(),
            included_by: Vec::new(),
        };
        let documents = std::mem::take(&mut self.documents);
        let merged = Layers::new(&mut self.sources, &mut self.notices).merged(documents, &scope);
        merged.map_err(|refusal| match refusal {
            Refusal::At(fault) => self.sources.explain(fault),
            Refusal::File(error) => error,
        })
    }

    fn context<'s>(&'s self, options: &'s LoadOptions, wants_document: bool) -> Context<'s> {
        Context {
            options,
            directory: &self.found.directory,
            project: &self.project,
            environment: &self.found.environment,
            wants_document,
        }
    }
}

/// The documents of the named files.
fn read(sources: &mut Sources, found: &Files<'_>) -> Result<Vec<Layer>, ComposeError> {
    let mut documents = Vec::new();
    for (file, shown) in &found.files {
        let layer = |node| Layer {
            file: file.clone(),
            node,
        };
        documents.extend(sources.read(file, shown)?.into_iter().map(layer));
    }
    Ok(documents)
}

fn project_name(
    options: &LoadOptions,
    found: &Files<'_>,
    documents: &[Layer],
    sources: &Sources,
) -> Result<String, ComposeError> {
    let declared = project::declared(documents.iter().map(|layer| &layer.node), &found.environment);
    project::name(&project::Candidates {
        option: options.project.as_deref(),
        environment: found.environment.get("COMPOSE_PROJECT_NAME"),
        file: declared.map_err(|fault| sources.explain(fault))?.as_deref(),
        directory: &found.directory,
    })
}

/// The shared state of reading the merged file.
struct Context<'a> {
    options: &'a LoadOptions,
    directory: &'a FilePath,
    project: &'a str,
    environment: &'a Environment<'a>,
    wants_document: bool,
}

impl Context<'_> {
    fn cluster(&self, mut file: Node, notices: &mut Vec<Notice>) -> Result<(Cluster, Option<Document>), Vec<Fault>> {
        let one = |fault| vec![fault];
        let disabled = self.check_services(&file).map_err(one)?;
        notices.extend(schema::warnings(&file, &|name| disabled.contains_key(name)));
        let settings = settings::of_file(file.get("x-imsup")).map_err(one)?;
        let names: HashSet<Rc<str>> = file
            .get("services")
            .and_then(Node::as_map)
            .into_iter()
            .flat_map(Map::keys)
            .cloned()
            .collect();
        let declared = Names::of(&file);
        finish(&mut file, self.project, self.environment, &disabled).map_err(one)?;
        let mut faults = references::faults(&file, &declared);
        let model = self.model(&file, &disabled).map_err(one)?;
        let document = self.wants_document.then(|| Document::new(file.clone()));
        let services = take_services(&mut file);
        let networks = file.get("networks").and_then(Node::as_map);
        let mut builder = Builder {
            directory: self.directory,
            services: &names,
            disabled: &disabled,
            networks,
            defaults: &settings.defaults,
            claims: Claims::default(),
            joined: BTreeSet::new(),
            notices: Vec::new(),
            hosts: Vec::new(),
            ports: 0,
            environment_bytes: 0,
            made: HashMap::new(),
            model: model.as_ref(),
            variables: self.environment,
            dependent: Vec::new(),
        };
        builder.claims.names.reserve(names.iter().map(|name| &**name));
        // Each service's tree is dropped before the next hosts are made, which take the same
        // memory.
        for (name, entry) in services.into_entries() {
            if let Err(fault) = builder.add(&name, &entry.node) {
                faults.push(fault);
            }
        }
        builder.resolve_dependencies();
        notices.append(&mut builder.notices);
        if !faults.is_empty() {
            return Err(faults);
        }
        let subnet = ipam::choose(settings.subnet, networks, &builder.joined, notices).map_err(one)?;
        let (subnet, mut hosts) = builder.finish(subnet, notices).map_err(one)?;
        hosts.shrink_to_fit();
        let cluster = Cluster {
            project: self.project.to_owned(),
            directory: self.directory.to_owned(),
            subnet,
            hosts,
        };
        Ok((cluster, document))
    }

    /// The file as typed values, if a service has an image.
    fn model(&self, file: &Node, disabled: &Disabled) -> Result<Option<Model>, Fault> {
        let services = file
            .get("services")
            .and_then(Node::as_map)
            .into_iter()
            .flat_map(Map::iter);
        let mut enabled = services.filter(|(name, _)| !disabled.contains_key(*name));
        if !enabled.any(|(_, entry)| has_image(&entry.node)) {
            return Ok(None);
        }
        let model = Document::new(file.clone()).model();
        let refused = |error: serde_json::Error| Problem::Container(error.to_string());
        model
            .map(Some)
            .map_err(|error| Fault::new(file.at, Path::Root.key("services"), refused(error)))
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
        let from_environment = self.environment.get("COMPOSE_PROFILES").unwrap_or_default();
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
    let services = file.as_map_mut().and_then(|keys| keys.remove("services"));
    match services.map(|entry| entry.node.value) {
        Some(Value::Map(services)) => *services,
        _ => Map::default(),
    }
}
