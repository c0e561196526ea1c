//! One service as its hosts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use imsup_wire::HostName;
use imsup_wire::program::{DEFAULT_STOP_GRACE, DEFAULT_STOP_SIGNAL};

use super::check::{Claim, Claims};
use super::command::command;
use super::conflict::{Conflict, MAX_ENVIRONMENT_BYTES, MAX_HOSTS, MAX_PORTS};
use super::container::{self, Container, Unhonoured};
use super::error::{Fault, Notice, WarningKind};
use super::hostnames::{MAX_REPORTED, askable, is_reportable};
use super::ipam::Pinned;
use super::model::Model;
use super::network::{self, Networks};
use super::ports::Mapping;
use super::problem::Problem;
use super::read::{Path, map, number, text};
use super::tree::{Entry, Map, Node};
use super::variables::Environment;
use super::{duration, extra_hosts, health, limits, logging, publish, restart, settings, user};
use crate::cluster::{Condition, HostSpec, ProgramSpec, Publish, Settings};
use crate::subnet::Subnet;

const LONGEST_STOP_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Services whose profiles are off, with those profiles.
pub(super) type Disabled = HashMap<Rc<str>, Vec<String>>;

/// The state shared by all services while hosts are made.
pub(super) struct Builder<'a> {
    /// The base of relative paths.
    pub directory: &'a FilePath,
    /// The names of all services of the file.
    pub services: &'a HashSet<Rc<str>>,
    /// Services whose profiles are off, with those profiles.
    pub disabled: &'a Disabled,
    /// The networks of the file.
    pub networks: Option<&'a Map>,
    /// The settings of the file's `x-imsup`.
    pub defaults: &'a Settings,
    pub claims: Claims,
    /// The networks that services are in.
    pub joined: BTreeSet<String>,
    pub notices: Vec<Notice>,
    pub hosts: Vec<HostSpec>,
    /// The number of declared ports.
    pub ports: usize,
    /// The bytes of the hosts' variables.
    pub environment_bytes: usize,
    /// The range in `hosts` of each service.
    pub made: HashMap<Rc<str>, Range<usize>>,
    /// The file as typed values, if a service has an image.
    pub model: Option<&'a Model>,
    /// The variables of the caller.
    pub variables: &'a Environment<'a>,
    /// The hosts of services with `depends_on`.
    pub dependent: Vec<Dependent>,
}

/// A service that another depends on.
pub(super) struct Dependency {
    pub service: Rc<str>,
    /// What the service has to be before; `None` if it may come at any time.
    pub condition: Option<Condition>,
    pub is_required: bool,
}

/// The hosts of a service with `depends_on`.
pub(super) struct Dependent {
    /// Their range in [`Builder::hosts`].
    pub hosts: Range<usize>,
    /// True with `boot_dependencies`.
    pub boots: bool,
    pub dependencies: Vec<Dependency>,
}

impl Builder<'_> {
    /// Makes the hosts of one service.
    pub fn add(&mut self, name: &Rc<str>, node: &Node) -> Result<(), Fault> {
        let services = Path::Root.key("services");
        let path = services.key(name);
        let dependencies = self.depends_on(node, &path, name)?;
        self.links(node, &path)?;
        let replicas = replicas(node, &path)?;
        let command = command(node, &path)?;
        let networks = network::read(node, &path, self.networks, &mut self.notices)?;
        for name in &networks.joined {
            if !self.joined.contains(*name) {
                self.joined.insert((*name).to_owned());
            }
        }
        let (expose, mappings) = publish::ports(node, &path)?;
        let container = self.container(name, node, &path)?;
        let own = self.claims.names.of_service(name);
        let reported = hostname(node, &path)?;
        let template = HostSpec {
            name: own.clone(),
            hostname: reported.unwrap_or(own.as_str()).to_owned(),
            aliases: self.aliases(node, &path, name, &own, &networks),
            extra_hosts: extra_hosts::read(node, &path)?,
            networks: self.names_of(&networks),
            address: networks.address.map(|address| address.address),
            program: ProgramSpec {
                environment: environment(node).into(),
                working_dir: match node.get("working_dir") {
                    _ if container.is_some() => PathBuf::new(),
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
            container: container.map(Box::new),
            expose,
            published: Vec::new(),
            restart: restart::read(node, &path)?,
            dependencies: Vec::new(),
            prerequisites: Vec::new(),
            health: health::read(node, &path)?,
            labels: labels(node, &path)?,
            imsup: settings::of_service(node.get("x-imsup"), &path.key("x-imsup"), self.defaults)?,
        };
        if let Some(address) = networks.address {
            self.claims.address(Claim {
                address,
                service: name.clone(),
                path: path.key("networks").to_string() + ".ipv4_address",
                host: self.hosts.len(),
            });
        }
        refuse_shared(node, &path, replicas, &networks)?;
        self.check_totals(&template, replicas, node, &path)?;
        let first = self.hosts.len();
        let dependent = Dependent {
            hosts: first..first + replicas as usize,
            boots: template.imsup.boot_dependencies,
            dependencies,
        };
        for (index, mut host) in (0..replicas).zip(std::iter::repeat_n(template, replicas as usize)) {
            host.published = self.publish(&mappings, replicas, name, node, &path)?;
            if replicas > 1 {
                self.make_replica(&mut host, index, reported, node, &path)?;
            }
            self.hosts.push(host);
        }
        self.made.insert(name.clone(), first..self.hosts.len());
        if !dependent.dependencies.is_empty() {
            self.dependent.push(dependent);
        }
        Ok(())
    }

    /// What others call the networks of a service.
    fn names_of(&self, networks: &Networks<'_>) -> Vec<String> {
        let node = |key: &str| Some(&self.networks?.get(key)?.node);
        let names = networks
            .joined
            .iter()
            .map(|key| node(key).and_then(|node| node.get_text("name")).unwrap_or(key));
        names.map(str::to_owned).collect()
    }

    /// The image and the root of a service.
    fn container(&mut self, name: &str, node: &Node, path: &Path<'_>) -> Result<Option<Container>, Fault> {
        let Some(model) = self.model else { return Ok(None) };
        let mut unhonoured = Vec::new();
        let variable = |name: &str| self.variables.get(name).map(str::to_owned);
        let at = |key: &str| node.get(key).unwrap_or(node).at;
        let container = container::of(name, model, &variable, &mut unhonoured).map_err(|refused| {
            let problem = Problem::Container(refused.why);
            Fault::new(at(refused.key), path.key(refused.key), problem)
        });
        let notice = |one: Unhonoured| Notice {
            kind: WarningKind::NotHonoured,
            at: at(one.key),
            path: path.key(one.key).to_string(),
            message: format!("not honoured: {}", one.why),
        };
        self.notices.extend(unhonoured.into_iter().map(notice));
        container
    }

    /// The checks that need all hosts, and what they leave: the subnet, and the hosts.
    pub fn finish(
        mut self,
        subnet: Option<Pinned>,
        notices: &mut Vec<Notice>,
    ) -> Result<(Option<Subnet>, Vec<HostSpec>), Fault> {
        let addresses = self.claims.finish(subnet, self.hosts.len())?;
        for claim in addresses.dropped {
            if let Some(host) = self.hosts.get_mut(claim.host) {
                host.address = None;
            }
            notices.push(Notice {
                kind: WarningKind::NotHonoured,
                at: claim.address.at,
                path: claim.path,
                message: "not honoured: the host has an address that imsup chooses, since its network's subnet \
                          cannot be used"
                    .to_owned(),
            });
        }
        Ok((addresses.subnet, self.hosts))
    }

    fn check_totals(&mut self, template: &HostSpec, replicas: u32, node: &Node, path: &Path<'_>) -> Result<(), Fault> {
        let replicas = replicas as usize;
        if self.hosts.len() + replicas > MAX_HOSTS {
            return Err(Fault::new(node.at, path, Conflict::TooManyHosts));
        }
        self.ports += template.expose.len() * replicas;
        if self.ports > MAX_PORTS {
            return Err(Fault::new(node.at, path, Conflict::TooManyPorts));
        }
        let variables = template.program.environment.iter();
        self.environment_bytes += variables.map(|(name, value)| name.len() + value.len()).sum::<usize>() * replicas;
        if self.environment_bytes > MAX_ENVIRONMENT_BYTES {
            return Err(Fault::new(node.at, path, Conflict::EnvironmentTooLarge));
        }
        Ok(())
    }

    /// Turns a copy of the service into a replica: a name of its own, and the service's name for
    /// all replicas.
    fn make_replica(
        &mut self,
        host: &mut HostSpec,
        index: u32,
        reported: Option<&str>,
        node: &Node,
        path: &Path<'_>,
    ) -> Result<(), Fault> {
        let name = format!("{}-{}", host.name, index + 1);
        let own: HostName = name.parse().map_err(|error: imsup_wire::host::BadHostName| {
            Fault::new(node.at, path, Problem::Name(error.to_string()))
        })?;
        if !self.claims.names.take(&own) {
            return Err(Fault::new(node.at, path, Conflict::Name { name }));
        }
        host.aliases.insert(0, host.name.to_string());
        if reported.is_none() {
            host.hostname = own.to_string();
        }
        host.name = own;
        Ok(())
    }

    /// All names of the service's hosts but their own. Services may share these names, which then
    /// resolve to all of their hosts.
    fn aliases(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        service: &str,
        own: &HostName,
        networks: &Networks<'_>,
    ) -> Vec<String> {
        let mut aliases = Vec::from_iter(askable(service));
        for key in ["hostname", "container_name"] {
            aliases.extend(node.get_text(key).and_then(askable));
        }
        for alias in &networks.aliases {
            match askable(alias.text) {
                Some(name) => aliases.push(name),
                None => self.notices.push(Notice {
                    kind: WarningKind::NotHonoured,
                    at: alias.node.at,
                    path: path.key("networks").to_string() + ".aliases",
                    message: format!("not honoured: resolvers do not ask for '{}'", alias.text),
                }),
            }
        }
        let mut seen = BTreeSet::from([own.to_string()]);
        aliases.retain(|alias| seen.insert(alias.clone()));
        aliases
    }

    /// The published ports of the next host of a service: of a range that leads to one port, the
    /// first that is free.
    fn publish(
        &mut self,
        mappings: &[Mapping],
        replicas: u32,
        service: &Rc<str>,
        node: &Node,
        path: &Path<'_>,
    ) -> Result<Vec<Publish>, Fault> {
        let at = node.get("ports").unwrap_or(node).at;
        let mut published = Vec::with_capacity(mappings.len());
        for mapping in mappings {
            let mut refused = None;
            let choice = publish::choices(mapping).find(|choice| {
                let claimed = self.claims.publish(choice, service);
                claimed.map_err(|conflict| refused = Some(conflict)).is_ok()
            });
            match (choice, refused) {
                (Some(choice), _) => published.push(choice),
                (None, Some(conflict)) if replicas < 2 => {
                    return Err(Fault::new(at, path.key("ports"), conflict));
                }
                (None, _) => {
                    let problem = Problem::Replicas {
                        replicas,
                        what: "port of the machine",
                        fix: publish::ENOUGH,
                    };
                    return Err(Fault::new(at, path.key("ports"), problem));
                }
            }
        }
        Ok(published)
    }
}

/// `hostname`, which the host reports.
fn hostname<'n>(node: &'n Node, path: &Path<'_>) -> Result<Option<&'n str>, Fault> {
    let Some(value) = node.get("hostname") else {
        return Ok(None);
    };
    let path = path.key("hostname");
    let name = text(value, &path)?;
    if name.is_empty() {
        return Ok(None);
    }
    if !is_reportable(name) {
        let problem = Problem::Name(format!(
            "'{name}' cannot be a host's name: use at most {MAX_REPORTED} characters, without spaces"
        ));
        return Err(Fault::new(value.at, path, problem));
    }
    Ok(Some(name))
}

/// The variables of a service; those without a value are not set.
fn environment(node: &Node) -> BTreeMap<String, String> {
    let variables = node.get("environment").and_then(Node::as_map);
    let value = |entry: &Entry| entry.node.as_text().map(str::to_owned);
    let variables = variables.into_iter().flat_map(Map::iter);
    variables
        .filter_map(|(name, entry)| Some((name.to_string(), value(entry)?)))
        .collect()
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
    if let Some(address) = networks.address {
        let problem = shared("address", "take out ipv4_address, or the replicas");
        return Err(Fault::new(address.at, format!("{path}.networks.ipv4_address"), problem));
    }
    Ok(())
}

fn user(node: &Node, path: &Path<'_>) -> Result<Option<String>, Fault> {
    let Some(value) = node.get("user") else { return Ok(None) };
    let path = path.key("user");
    let user = text(value, &path)?;
    // As in docker compose: `${UID}:${GID}`, both unset, leaves the choice to the user who runs it.
    if matches!(user, "" | ":") {
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
    let labels = map(value, &path.key("labels"))?.iter();
    let text = |entry: &Entry| entry.node.as_text().unwrap_or_default().to_owned();
    Ok(labels.map(|(name, entry)| (name.to_string(), text(entry))).collect())
}
