//! One service as its hosts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::Path as FilePath;
use std::rc::Rc;
use std::time::Duration;

use imsup_wire::HostName;
use imsup_wire::program::{DEFAULT_STOP_GRACE, DEFAULT_STOP_SIGNAL};

use super::check::Claims;
use super::command::command;
use super::conflict::{Conflict, MAX_ENVIRONMENT_BYTES, MAX_HOSTS, MAX_PORTS};
use super::environment::{EnvFiles, Lookup};
use super::error::{Fault, Warning, WarningKind};
use super::network::{self, Networks};
use super::problem::Problem;
use super::read::{Path, number, pairs, text, wrong_type};
use super::tree::{Map, Node, Value};
use super::{duration, limits, logging, publish, restart, settings, user};
use crate::cluster::{HostSpec, ProgramSpec, Publish, Settings};

const LONGEST_STOP_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Services whose profiles are off, with those profiles.
pub(super) type Disabled = HashMap<Rc<str>, Vec<String>>;

/// The state shared by all services while hosts are made.
pub(super) struct Builder<'a, 'l> {
    /// The base of relative paths.
    pub directory: &'a FilePath,
    /// The variables of this run.
    pub lookup: &'a Lookup<'l>,
    /// The names of all services of the file.
    pub services: &'a HashSet<Rc<str>>,
    /// Services whose profiles are off, with those profiles.
    pub disabled: &'a Disabled,
    /// The networks of the file.
    pub networks: Option<&'a Map>,
    /// The settings of the file's `x-imsup`.
    pub defaults: &'a Settings,
    pub env_files: EnvFiles,
    pub claims: Claims,
    /// The networks that services are in.
    pub joined: BTreeSet<String>,
    pub warnings: Vec<Warning>,
    pub hosts: Vec<HostSpec>,
    /// The number of declared ports.
    pub ports: usize,
    /// The bytes of the hosts' variables.
    pub environment_bytes: usize,
    /// The range in `hosts` of each service.
    pub made: HashMap<Rc<str>, Range<usize>>,
    /// Hosts with `boot_dependencies`, and the services they depend on.
    pub dependent: Vec<(Range<usize>, Vec<String>)>,
}

impl Builder<'_, '_> {
    /// Makes the hosts of one service.
    pub fn add(&mut self, name: &Rc<str>, node: &Node) -> Result<(), Fault> {
        let services = Path::Root.key("services");
        let path = services.key(name);
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            return Err(wrong_type(node, &path, "a mapping (keys with values)"));
        }
        let own = host_name(name, node, path)?;
        let dependencies = self.depends_on(node, &path, name)?;
        self.links(node, &path)?;
        let replicas = replicas(node, &path)?;
        let command = command(node, &path)?;
        self.name_unused_image(node, &path);
        let networks = network::read(node, &path, self.networks)?;
        for name in &networks.joined {
            if !self.joined.contains(*name) {
                self.joined.insert((*name).to_owned());
            }
        }
        let hostname = node
            .get("hostname")
            .map(|value| text(value, &path.key("hostname")))
            .transpose()?;
        let (expose, mappings) = publish::ports(node, &path)?;
        let template = HostSpec {
            name: own.clone(),
            hostname: hostname.unwrap_or(own.as_str()).to_owned(),
            aliases: self.names(node, &path, name, &own, &networks)?,
            address: networks.address.map(|(address, _)| address),
            program: ProgramSpec {
                environment: self
                    .env_files
                    .environment(node, &path, self.directory, self.lookup)?
                    .into(),
                working_dir: match node.get("working_dir") {
                    Some(value) => self.directory.join(text(value, &path.key("working_dir"))?),
                    None => self.directory.to_owned(),
                },
                user: user(node, &path)?,
                limits: limits::read(node, &path)?,
                stop_signal: stop_signal(node, &path)?,
                stop_grace: stop_grace(node, &path)?,
                logging: logging::read(node, &path)?,
                ..ProgramSpec::new(command)
            },
            expose,
            published: Vec::new(),
            restart: restart::read(node, &path)?,
            dependencies: Vec::new(),
            labels: labels(node, &path)?,
            imsup: settings::of_service(node.get("x-imsup"), &path.key("x-imsup"), self.defaults)?,
        };
        if let Some((address, address_node)) = networks.address {
            let path = path.key("networks").to_string() + ".ipv4_address";
            self.claims.address(address, name, address_node.at, path);
        }
        refuse_shared(node, &path, replicas, &networks)?;
        if self.hosts.len() + replicas as usize > MAX_HOSTS {
            return Err(Fault::new(node.at, path, Conflict::TooManyHosts));
        }
        self.ports += template.expose.len() * replicas as usize;
        if self.ports > MAX_PORTS {
            return Err(Fault::new(node.at, path, Conflict::TooManyPorts));
        }
        let variables = template.program.environment.iter();
        self.environment_bytes +=
            variables.map(|(name, value)| name.len() + value.len()).sum::<usize>() * replicas as usize;
        if self.environment_bytes > MAX_ENVIRONMENT_BYTES {
            return Err(Fault::new(node.at, path, Conflict::EnvironmentTooLarge));
        }
        let first = self.hosts.len();
        let boots = template.imsup.boot_dependencies;
        for (index, mut host) in (0..replicas).zip(std::iter::repeat_n(template, replicas as usize)) {
            host.published = publish::of_replica(&mappings, index, replicas, node, &path)?;
            self.claim_ports(&host.published, name, node, &path)?;
            if replicas > 1 {
                self.make_replica(&mut host, index, name, hostname, node, &path)?;
            }
            self.hosts.push(host);
        }
        self.made.insert(name.clone(), first..self.hosts.len());
        if boots && !dependencies.is_empty() {
            self.dependent.push((first..self.hosts.len(), dependencies));
        }
        Ok(())
    }

    /// Turns a copy of the service into a replica: a name of its own, and the service's name for
    /// all replicas.
    fn make_replica(
        &mut self,
        host: &mut HostSpec,
        index: u32,
        service: &Rc<str>,
        hostname: Option<&str>,
        node: &Node,
        path: &Path<'_>,
    ) -> Result<(), Fault> {
        let name = format!("{}-{}", host.name, index + 1);
        let own = host_name(&name, node, path)?;
        let claimed = self.claims.name(own.as_str(), "replica", service);
        claimed.map_err(|conflict| Fault::new(node.at, path, conflict))?;
        host.aliases.insert(0, host.name.to_string());
        if hostname.is_none() {
            host.hostname = own.to_string();
        }
        host.name = own;
        Ok(())
    }

    /// Claims the service's names, and returns all names other than the host's own.
    fn names(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        service: &Rc<str>,
        own: &HostName,
        networks: &Networks<'_>,
    ) -> Result<Vec<String>, Fault> {
        let claimed = self.claims.name(own.as_str(), "name", service);
        claimed.map_err(|conflict| Fault::new(node.at, path, conflict))?;
        let mut aliases = Vec::new();
        for key in ["hostname", "container_name"] {
            let Some(value) = node.get(key) else { continue };
            let path = path.key(key);
            let name = host_name(text(value, &path)?, value, path)?;
            let claimed = self.claims.name(name.as_str(), key, service);
            claimed.map_err(|conflict| Fault::new(value.at, path, conflict))?;
            aliases.push(name.to_string());
        }
        for alias in &networks.aliases {
            let path = path.key("networks").to_string() + ".aliases";
            let name = host_name(alias.text, alias.node, &path)?;
            self.claims.alias(name.as_str(), service, alias.node.at, path);
            aliases.push(name.to_string());
        }
        let mut seen = BTreeSet::from([own.to_string()]);
        aliases.retain(|alias| seen.insert(alias.clone()));
        Ok(aliases)
    }

    fn claim_ports(
        &mut self,
        published: &[Publish],
        name: &Rc<str>,
        node: &Node,
        path: &Path<'_>,
    ) -> Result<(), Fault> {
        for publish in published {
            let claimed = self.claims.publish(publish, name);
            claimed
                .map_err(|conflict| Fault::new(node.get("ports").unwrap_or(node).at, path.key("ports"), conflict))?;
        }
        Ok(())
    }

    fn name_unused_image(&mut self, node: &Node, path: &Path<'_>) {
        if node.get("image").is_some() {
            self.warnings.push(Warning {
                kind: WarningKind::NotUsed,
                path: path.key("image").to_string(),
                message: "not used; the command runs from this machine's own programs".to_owned(),
            });
        }
    }
}

/// A name that a host can have.
pub(super) fn host_name(name: &str, node: &Node, path: impl std::fmt::Display) -> Result<HostName, Fault> {
    if name.eq_ignore_ascii_case("localhost") {
        let problem = Problem::Name("'localhost' is every host itself: choose another name".to_owned());
        return Err(Fault::new(node.at, path, problem));
    }
    name.parse()
        .map_err(|error: imsup_wire::host::BadHostName| Fault::new(node.at, path, Problem::Name(error.to_string())))
}

const REPLICAS: &str = "a whole number from 0 up";

fn replicas(node: &Node, path: &Path<'_>) -> Result<u32, Fault> {
    let deploy = path.key("deploy");
    let scale = node
        .get("scale")
        .map(|value| number(value, &path.key("scale"), REPLICAS))
        .transpose()?;
    let declared = node.get("deploy").and_then(|deploy| deploy.get("replicas"));
    let declared = declared
        .map(|value| number(value, &deploy.key("replicas"), REPLICAS))
        .transpose()?;
    match (scale, declared) {
        (Some(scale), Some(replicas)) if scale != replicas => {
            let at = node.get("scale").unwrap_or(node).at;
            Err(Fault::new(
                at,
                path.key("scale"),
                Problem::ScaleDiffers { scale, replicas },
            ))
        }
        (scale, declared) => Ok(scale.or(declared).unwrap_or(1)),
    }
}

/// Refuses values that only a single host can have if there are replicas.
fn refuse_shared(node: &Node, path: &Path<'_>, replicas: u32, networks: &Networks<'_>) -> Result<(), Fault> {
    if replicas < 2 {
        return Ok(());
    }
    let shared = |what, fix| Problem::Replicas { replicas, what, fix };
    if let Some(value) = node.get("container_name") {
        let problem = shared("name", "take out container_name, or the replicas");
        return Err(Fault::new(value.at, path.key("container_name"), problem));
    }
    if let Some((_, value)) = networks.address {
        let problem = shared("address", "take out ipv4_address, or the replicas");
        return Err(Fault::new(value.at, format!("{path}.networks.ipv4_address"), problem));
    }
    Ok(())
}

fn user(node: &Node, path: &Path<'_>) -> Result<Option<String>, Fault> {
    let Some(value) = node.get("user") else { return Ok(None) };
    let path = path.key("user");
    let user = text(value, &path)?;
    // As in docker compose: `${USER_OF_IT:-}` leaves the choice to the user who runs it.
    if user.is_empty() {
        return Ok(None);
    }
    user::check_user(user).map_err(|error| Fault::new(value.at, path, error))?;
    Ok(Some(user.to_owned()))
}

fn stop_signal(node: &Node, path: &Path<'_>) -> Result<i32, Fault> {
    let Some(value) = node.get("stop_signal") else {
        return Ok(DEFAULT_STOP_SIGNAL);
    };
    let path = path.key("stop_signal");
    let name = text(value, &path)?;
    user::signal(name).ok_or_else(|| Fault::new(value.at, path, Problem::Signal(name.to_owned())))
}

fn stop_grace(node: &Node, path: &Path<'_>) -> Result<Duration, Fault> {
    let Some(value) = node.get("stop_grace_period") else {
        return Ok(DEFAULT_STOP_GRACE);
    };
    let path = path.key("stop_grace_period");
    let grace = duration::parse_within(text(value, &path)?, Duration::ZERO, LONGEST_STOP_GRACE);
    grace.map_err(|error| Fault::new(value.at, path, error))
}

fn labels(node: &Node, path: &Path<'_>) -> Result<BTreeMap<String, String>, Fault> {
    let Some(value) = node.get("labels") else {
        return Ok(BTreeMap::new());
    };
    let labels = pairs(value, &path.key("labels"))?;
    Ok(labels
        .into_iter()
        .map(|(name, value, _)| (name.to_owned(), value.unwrap_or_default().to_owned()))
        .collect())
}
