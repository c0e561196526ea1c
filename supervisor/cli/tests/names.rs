//! Host names resolve inside, through every resolver there is; other names as before.

mod common;

use common::command::run;
use common::{LIMIT, Project, guest, need};

const COMPOSE: &str = r#"
services:
  db:
    command: ["@guest@", --tcp, "9000"]
    hostname: database
    networks: { default: { aliases: [sql, Store.Example] } }
  web:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
    deploy: { replicas: 2 }
"#;

const NAMES: [&str; 4] = ["db", "database", "sql", "store.example"];

#[test]
fn glibc_resolves_names_and_aliases() {
    let project = Project::up("glibc", COMPOSE);
    let address = project.host("db").address;
    for name in NAMES {
        assert_eq!(
            project.run_guest(&["--lookup", name]),
            format!("lookup {name}: {address}\n")
        );
    }
    assert_eq!(
        project.run_guest(&["--lookup", "DB"]),
        format!("lookup DB: {address}\n"),
        "names have no case"
    );
}

#[test]
fn static_musl_resolves_names_and_aliases() {
    need(&["musl-gcc"]);
    let project = Project::up("musl", COMPOSE);
    let address = project.host("db").address;
    let program = guest("guest-musl");
    for name in NAMES {
        let said = project
            .run(&[program.to_str().unwrap(), "--lookup", name])
            .expect_success(name);
        assert_eq!(said, format!("lookup {name}: {address}\n"));
    }
}

#[test]
fn gos_own_resolver_resolves_names_and_aliases() {
    need(&["go"]);
    let project = Project::up("go", COMPOSE);
    let address = project.host("db").address;
    let program = guest("guest-go");
    for name in NAMES {
        let said = project
            .run(&[program.to_str().unwrap(), "-lookup", name])
            .expect_success(name);
        assert_eq!(said, format!("{address}\n"));
    }
}

#[test]
fn python_and_node_resolve_names() {
    need(&["python3", "node"]);
    let project = Project::up("runtimes", COMPOSE);
    let address = project.host("db").address.to_string();
    let python = "import socket; print(socket.gethostbyname('sql'))";
    assert_eq!(
        project.run(&["python3", "-c", python]).expect_success("python3").trim(),
        address
    );
    let lookup = "require('dns').lookup('sql', (e, a) => console.log(a))";
    assert_eq!(
        project.run(&["node", "-e", lookup]).expect_success("node").trim(),
        address
    );
}

#[test]
fn a_replicated_service_is_found_by_its_name_and_each_replica_by_its_own() {
    let project = Project::up("replicas", COMPOSE);
    let hosts = project.ps();
    let expected: Vec<String> = ["web-1", "web-2"].map(|name| hosts[name].address.to_string()).to_vec();
    for (name, address) in ["web-1", "web-2"].iter().zip(&expected) {
        assert_eq!(
            project.run_guest(&["--lookup", name]),
            format!("lookup {name}: {address}\n")
        );
    }
    let said = project.run_guest(&["--lookup", "web"]);
    let mut found: Vec<String> = said
        .lines()
        .map(|line| line.trim_start_matches("lookup web: ").to_owned())
        .collect();
    found.sort();
    assert_eq!(found, expected);
}

/// Two services with the same `hostname`, and the same alias of a network.
const SHARED: &str = r#"
services:
  one: &node
    command: ["@guest@", --tcp, "8080"]
    hostname: node
    expose: ["8080"]
    networks: { default: { aliases: [pool] } }
  two: *node
"#;

const SHARED_NAMES: [&str; 2] = ["node", "pool"];

/// The addresses that the guest (or another build of it) printed.
fn looked_up(said: &str, name: &str) -> Vec<String> {
    let address = |line: &str| line.strip_prefix(&format!("lookup {name}: ")).map(str::to_owned);
    let mut found: Vec<String> = said.lines().map(|line| address(line).expect(said)).collect();
    found.sort();
    found
}

#[test]
fn a_name_that_services_share_is_of_the_hosts_of_all() {
    need(&["musl-gcc", "getent"]);
    let project = Project::up("shared", SHARED);
    let hosts = project.ps();
    let expected: Vec<String> = ["one", "two"].map(|name| hosts[name].address.to_string()).to_vec();
    for name in SHARED_NAMES {
        let mut resolved: Vec<String> = project.ok(&["resolve", name]).lines().map(str::to_owned).collect();
        resolved.sort();
        assert_eq!(resolved, expected, "{name}");
        let said = project.run(&["getent", "ahosts", name]).expect_success(name);
        let mut found: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, expected, "{name}");
        let program = guest("guest-musl");
        let said = project.run(&[program.to_str().unwrap(), "--lookup", name]);
        assert_eq!(looked_up(&said.expect_success(name), name), expected);
    }
    for name in ["one", "two"] {
        assert_eq!(project.host(name).boots, 0, "a look-up boots nothing");
    }
}

#[test]
fn a_connect_to_a_shared_name_boots_one_of_the_hosts() {
    let project = Project::up("shared-boot", SHARED);
    let said = project.run_guest(&["--call", "pool:8080"]);
    let hosts = project.ps();
    let booted: Vec<&String> = hosts
        .iter()
        .filter(|(_, host)| host.boots > 0)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(booted.len(), 1, "{said}{hosts:?}");
    // A verb for a shared name is for the hosts of all services.
    project.ok(&["wake", "pool"]);
    for name in ["one", "two"] {
        assert_eq!(project.host(name).boots, 1, "{name}");
    }
}

/// As in a container, where the own `/etc/hosts` comes first: programs bind to their own name.
#[test]
fn a_host_finds_only_itself_by_the_hostname_that_it_shares() {
    need(&["musl-gcc", "python3"]);
    let project = Project::up("shared-own", SHARED);
    let hosts = project.ps();
    let bind = "import socket; s = socket.socket(); s.bind((socket.gethostname(), 0)); print(s.getsockname()[0])";
    let all: Vec<String> = ["one", "two"].map(|name| hosts[name].address.to_string()).to_vec();
    for host in ["one", "two"] {
        let own = [hosts[host].address.to_string()];
        for program in ["guest", "guest-musl"] {
            let program = guest(program);
            let look_up = |name: &str| {
                let arguments = ["exec", host, "--", program.to_str().unwrap(), "--lookup", name];
                looked_up(&project.ok(&arguments), name)
            };
            assert_eq!(look_up("node"), own, "{}", program.display());
            assert_eq!(look_up(&format!("node.{}", project.name)), own);
            assert_eq!(look_up("pool"), all, "{}", program.display());
        }
        let said = project.ok(&["exec", host, "--", "python3", "-c", bind]);
        assert_eq!([said.trim()], own);
    }
}

/// Names from /etc/hosts and unknown ones without a dot; no question to a server of the network.
/// getaddrinfo(3) connects a UDP socket to every address of a name with several addresses, to sort
/// them, without sending.
#[test]
fn looking_up_a_replicated_service_boots_nothing() {
    let project = Project::up(
        "lookups",
        "services: { app: { command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"], deploy: { replicas: 2 } } }",
    );
    let said = project.run(&["python3", "-c", "import socket; print(socket.getaddrinfo('app', 8080))"]);
    assert!(said.success() && said.stdout.contains("8080"), "{said}");
    for name in ["app-1", "app-2"] {
        let host = project.host(name);
        assert_eq!((host.state.as_str(), host.boots), ("imaginary", 0), "{}", host.json);
        assert_eq!(host.json["ports"], serde_json::json!(["8080/tcp"]));
    }
}

#[test]
fn other_names_resolve_as_before() {
    let project = Project::up("others", COMPOSE);
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap()
        .trim()
        .to_owned();
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if hosts.split_whitespace().any(|word| word == machine) {
        names.push(machine);
    }
    for program in ["guest", "guest-musl"] {
        let program = guest(program);
        for name in &names {
            let dials = ["--lookup", name.as_str()];
            let native = run(project.command(&program, &dials), LIMIT);
            let mut command = vec![program.to_str().unwrap()];
            command.extend(dials);
            let supervised = project.run(&command);
            assert_eq!(supervised.stdout, native.stdout, "{name} by {}", program.display());
        }
    }
}

#[test]
fn the_node_name_is_the_hosts() {
    let project = Project::up("uname", COMPOSE);
    let program = guest("guest");
    let program = program.to_str().unwrap();
    let said = project.ok(&["exec", "db", "--", program, "--who"]);
    assert!(
        said.starts_with("who hostname=database nodename=database sysname=Linux "),
        "{said}"
    );
    let said = project.ok(&["run", "--host", "web-1", "--", program, "--who"]);
    assert!(said.starts_with("who hostname=web-1 nodename=web-1 "), "{said}");
    assert_eq!(project.ok(&["exec", "db", "--", "uname", "-n"]), "database\n");
    assert_eq!(project.ok(&["exec", "db", "--", "hostname"]), "database\n");
}

#[test]
fn hosts_and_resolve_tell_names_to_those_outside() {
    let project = Project::up("outside", COMPOSE);
    let hosts = project.ps();
    let lines = project.ok(&["hosts"]);
    for (name, host) in &hosts {
        let line = lines
            .lines()
            .find(|line| line.split_whitespace().any(|word| word == name))
            .unwrap_or_else(|| panic!("{name} in {lines}"));
        assert!(line.starts_with(&host.address.to_string()), "{line}");
    }
    for name in NAMES {
        assert_eq!(project.ok(&["resolve", name]).trim(), hosts["db"].address.to_string());
    }
    let said = project.fails(1, &["resolve", "dbb"]);
    assert!(said.contains("dbb") && said.contains("did you mean 'db'"), "{said}");
}
