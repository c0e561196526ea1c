//! Hosts with images that no connection would ever boot: workers, which start with `up`. Pure.

use imsup_compose::cluster::{Cluster, ContainerSource, HostSpec, Start};
use imsup_wire::Transport;

/// Has the workers of a cluster start with `up`, unless the file says when they start.
///
/// A worker has no port, and no other host's variables, command or config mentions one of its names:
/// nobody could know where to connect to. A dependency alone (`depends_on`) does not mention it. The
/// ports of an image count if its own command runs: an application's image is often that of its workers
/// and migrations as well, with another command.
pub fn mark(cluster: &mut Cluster) {
    let workers: Vec<usize> = (0..cluster.hosts.len())
        .filter(|index| is_worker(&cluster.hosts, *index))
        .collect();
    for index in workers {
        let host = &mut cluster.hosts[index];
        host.imsup.start = Some(Start::Up);
        // Its command is not the one that listens there: nobody waits for that.
        let exposed = host.container.iter().flat_map(|container| container.exposed.clone());
        let exposed: Vec<(Transport, u16)> = exposed.collect();
        host.expose.retain(|port| !exposed.contains(port));
    }
}

fn is_worker(hosts: &[HostSpec], index: usize) -> bool {
    let host = &hosts[index];
    let may_be = host.container.is_some() && host.imsup.start.is_none();
    let has_port = !host.published.is_empty() || host.expose.iter().any(|port| counts(host, *port));
    let names: Vec<&str> = std::iter::once(host.name.as_str())
        .chain(host.aliases.iter().map(String::as_str))
        .collect();
    let is_own = |other: &HostSpec| std::ptr::eq(other, host);
    may_be
        && !has_port
        && !hosts
            .iter()
            .filter(|other| !is_own(other))
            .any(|other| mentions(other, &names))
}

/// Whether a port tells that the program listens.
fn counts(host: &HostSpec, port: (Transport, u16)) -> bool {
    host.container.as_ref().is_none_or(|container| {
        let is_images = container.exposed.contains(&port);
        !is_images || container.command.is_none() && container.entrypoint.is_none()
    })
}

fn mentions(host: &HostSpec, names: &[&str]) -> bool {
    let mut texts: Vec<String> = host.program.command_text();
    texts.extend(host.program.environment.values().cloned());
    let mounts = host.container.iter().flat_map(|container| &container.mounts);
    texts.extend(mounts.filter_map(|mount| match &mount.source {
        ContainerSource::Content { text, .. } => Some(text.clone()),
        _ => None,
    }));
    texts.iter().any(|text| names.iter().any(|name| has_word(text, name)))
}

/// True if a name stands in a text, and is no part of a longer name.
fn has_word(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    let mut found = text.match_indices(name);
    found.any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, container, host};

    fn in_image(name: &str) -> HostSpec {
        HostSpec {
            container: Some(Box::new(container("app"))),
            ..host(name)
        }
    }

    fn started(hosts: Vec<HostSpec>) -> Vec<String> {
        let mut cluster = cluster("shop", hosts);
        mark(&mut cluster);
        let started = cluster.hosts.iter().filter(|host| host.imsup.start == Some(Start::Up));
        started.map(|host| host.name.to_string()).collect()
    }

    #[test]
    fn who_cannot_be_connected_to_starts_with_up() {
        let mut web = in_image("web");
        web.expose.push((Transport::Tcp, 80));
        let mut asked = in_image("asked");
        asked.aliases.push("cache".to_owned());
        web.program
            .environment
            .insert("URL".to_owned(), "redis://cache:6379/0".to_owned());
        let mut by_connection = in_image("by-connection");
        by_connection.imsup.start = Some(Start::Connection);
        let worker = in_image("worker");
        web.dependencies.push(worker.name.clone());
        assert_eq!(
            started(vec![web, asked, by_connection, worker, host("bare")]),
            ["worker"]
        );
    }

    #[test]
    fn an_images_ports_are_those_of_its_own_command() {
        let with = |name: &str, command: Option<&str>, declared: bool| {
            let mut host = in_image(name);
            host.expose.push((Transport::Tcp, 8000));
            if let Some(container) = &mut host.container {
                container.command = command.map(|word| vec![word.to_owned()]);
                container.exposed = if declared { Vec::new() } else { host.expose.clone() };
            }
            host
        };
        let hosts = vec![
            with("app", None, false),
            with("queue", Some("celery"), false),
            with("api", Some("uvicorn"), true),
        ];
        let mut cluster = cluster("shop", hosts);
        mark(&mut cluster);
        let ports: Vec<usize> = cluster.hosts.iter().map(|host| host.expose.len()).collect();
        assert_eq!(ports, [1, 0, 1]);
        let started = cluster.hosts.iter().filter(|host| host.imsup.start == Some(Start::Up));
        assert_eq!(started.map(|host| host.name.as_str()).collect::<Vec<_>>(), ["queue"]);
    }

    #[test]
    fn a_name_is_a_word_of_its_own() {
        for text in ["db", "tcp://db:5432", "--host=db", "user@db/x", "db.shop"] {
            assert!(has_word(text, "db"), "{text}");
        }
        for text in ["dbx", "my-db", "db_name", "adb", ""] {
            assert!(!has_word(text, "db"), "{text}");
        }
    }
}
