//! `depends_on` and `links`: the named services must exist. There is an order only where a condition
//! asks for it, since connecting boots the needed hosts; `boot_dependencies` makes a host's boot also
//! boot the host's dependencies.

use std::collections::BTreeSet;

use imsup_wire::HostName;

use super::error::{Fault, Notice, WarningKind};
use super::keys::nearest;
use super::problem::Problem;
use super::read::{Path, map, text, texts};
use super::service::{Builder, Dependency};
use super::tree::Node;
use crate::cluster::{Condition, Prerequisite};

impl Builder<'_> {
    /// `depends_on`: the named services.
    pub fn depends_on(&mut self, node: &Node, path: &Path<'_>, service: &str) -> Result<Vec<Dependency>, Fault> {
        let Some(value) = node.get("depends_on") else {
            return Ok(Vec::new());
        };
        let mut named = Vec::new();
        let path = path.key("depends_on");
        for (name, entry) in map(value, &path)?.iter() {
            let (path, dependency) = (path.key(name), &entry.node);
            map(dependency, &path)?;
            self.dependency(name, dependency, &path, service)?;
            named.push(Dependency {
                service: name.clone(),
                condition: condition(dependency, &path)?,
                is_required: dependency.get_text("required") != Some("false"),
            });
        }
        Ok(named)
    }

    /// Gives hosts what they depend on, now that all hosts are known.
    pub fn resolve_dependencies(&mut self) {
        for dependent in std::mem::take(&mut self.dependent) {
            let of = |dependency: &Dependency| self.made.get(&dependency.service).cloned().into_iter().flatten();
            let name = |host: usize| self.hosts[host].name.clone();
            let names = dependent.dependencies.iter().filter(|_| dependent.boots).flat_map(of);
            let names: Vec<HostName> = names.map(name).collect();
            let prerequisites = dependent.dependencies.iter().flat_map(|dependency| {
                let all = dependency.condition.map(|condition| {
                    of(dependency).map(move |host| Prerequisite {
                        host: name(host),
                        condition,
                        is_required: dependency.is_required,
                    })
                });
                all.into_iter().flatten()
            });
            let prerequisites: Vec<Prerequisite> = prerequisites.collect();
            for host in dependent.hosts {
                self.hosts[host].dependencies.clone_from(&names);
                self.hosts[host].prerequisites.clone_from(&prerequisites);
            }
        }
    }

    fn dependency(&self, name: &str, node: &Node, path: &Path<'_>, of: &str) -> Result<(), Fault> {
        if let Some(profiles) = self.disabled.get(name) {
            let problem = Problem::Disabled {
                name: name.to_owned(),
                profiles: profiles.join(", "),
                first: profiles.first().cloned().unwrap_or_default(),
            };
            return Err(Fault::new(node.at, path, problem));
        }
        if self.services.contains(name) {
            return Ok(());
        }
        let others: BTreeSet<&str> = self
            .services
            .iter()
            .map(|key| &**key)
            .filter(|key| *key != of)
            .collect();
        let problem = Problem::Undefined {
            what: "service",
            name: name.to_owned(),
            suggestion: nearest(name, others.into_iter()).map(str::to_owned),
        };
        Err(Fault::new(node.at, path, problem))
    }

    /// `links`: every host reaches every other by name; only a name of the link's own cannot be
    /// had.
    pub fn links(&mut self, node: &Node, path: &Path<'_>) -> Result<(), Fault> {
        let Some(value) = node.get("links") else { return Ok(()) };
        let path = path.key("links");
        for link in texts(value, &path)? {
            let (service, alias) = link.split_once(':').unwrap_or((link, link));
            if alias != service {
                self.notices.push(Notice {
                    kind: WarningKind::NotHonoured,
                    at: value.at,
                    path: path.to_string(),
                    message: format!(
                        "not honoured: '{service}' is not called '{alias}'; \
                         give it that name in services.{service}.networks.default.aliases"
                    ),
                });
            }
        }
        Ok(())
    }
}

fn condition(dependency: &Node, path: &Path<'_>) -> Result<Option<Condition>, Fault> {
    let Some(value) = dependency.get("condition") else {
        return Err(Fault::new(dependency.at, path, Problem::Missing("condition")));
    };
    let path = path.key("condition");
    match text(value, &path)? {
        "service_started" => Ok(None),
        "service_healthy" => Ok(Some(Condition::Healthy)),
        "service_completed_successfully" => Ok(Some(Condition::Completed)),
        other => {
            let problem = Problem::Word {
                expected: "service_started, service_healthy or service_completed_successfully",
                found: other.to_owned(),
            };
            Err(Fault::new(value.at, path, problem))
        }
    }
}
