//! In a container with Docker's default seccomp profile and no added capability, as the image's
//! root and as its ordinary user: run by `make test` for root, never by a plain `cargo test`.

mod common;

use common::docker::{Container, Docker, USER};
use common::wait_until;
use serde_json::Value;

const ROOT: &str = "0:0";

const SHOP: &str = r#"
name: shop
services:
  web: { command: [guest, --tcp, "8080", --upstream, "db:7000"], expose: ["8080"], ports: ["8000:8080"] }
  db: { command: [guest, --bind, any6, --tcp, "7000"] }
  cache: { command: [redis-server, --port, "6379", --save, ""], expose: ["6379"] }
  go: { command: [guest-go, -listen, ":8080", -upstream, "http://web:8080/"], expose: ["8080"] }
"#;

/// The output of `imsup VERB --format json`, line by line.
fn json(container: &Container<'_>, command: &[&str]) -> Vec<Value> {
    let mut words = vec!["imsup"];
    words.extend(command);
    words.extend(["--format", "json"]);
    let text = container.ok(&words);
    text.lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

fn host(container: &Container<'_>, name: &str) -> Value {
    let hosts = json(container, &["ps"]);
    let found = hosts.iter().find(|host| host["name"] == name);
    found.unwrap_or_else(|| panic!("no host {name} in {hosts:?}")).clone()
}

fn address(container: &Container<'_>, name: &str) -> String {
    host(container, name)["address"].as_str().unwrap().to_owned()
}

/// One word of the guest's answer: `key=value`.
fn value<'a>(answer: &'a str, key: &str) -> &'a str {
    let mut words = answer.split(|c: char| c.is_whitespace() || "<>".contains(c));
    let found = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in {answer}"))
}

/// An unsupervised client.
fn call(container: &Container<'_>, target: &str) -> String {
    container.ok(&["guest", "--call", target])
}

#[test]
fn two_machines_in_a_container_boot_and_talk_as_root() {
    let docker = Docker::start(&[("compose.yaml", SHOP)]);
    shop(&docker.run(ROOT, &["imsup", "up"]));
}

#[test]
fn two_machines_in_a_container_boot_and_talk_as_an_ordinary_user() {
    let docker = Docker::start(&[("compose.yaml", SHOP)]);
    shop(&docker.run(USER, &["imsup", "up"]));
}

fn shop(container: &Container<'_>) {
    container.wait_for("none runs");
    says_which_ways_are_used(container);
    for name in ["web", "db", "cache"] {
        assert_eq!(host(container, name)["boots"], 0, "{name}");
    }

    // The client's connect boots web, and web's own connect boots db, by its name.
    let (web, db) = (address(container, "web"), address(container, "db"));
    let answer = call(container, &format!("{web}:8080"));
    assert_eq!(value(&answer, "host"), "web");
    assert!(value(&answer, "own").ends_with(&format!("{web}:8080")), "{answer}");
    let upstream = answer.split_once("upstream=").expect("it asked").1;
    assert_eq!(value(upstream, "host"), "db", "{answer}");
    assert!(value(upstream, "peer").contains(&web), "db saw who called: {answer}");
    assert!(value(upstream, "own").contains(&db), "{answer}");
    assert_eq!(host(container, "db")["boots"], 1);
    assert!(
        call(container, "127.0.0.1:8000").contains("host=web"),
        "the published port"
    );

    let cache = address(container, "cache");
    assert_eq!(container.ok(&["redis-cli", "-h", &cache, "ping"]).trim(), "PONG");
    assert_eq!(
        container.ok(&["imsup", "exec", "cache", "redis-cli", "ping"]).trim(),
        "PONG",
        "on its own localhost"
    );
    let go = address(container, "go");
    let page = container.ok(&["curl", "-sS", &format!("http://{go}:8080/")]);
    assert!(page.contains("go") && page.contains("host=web"), "{page}");

    for name in ["web", "go"] {
        container.ok(&["imsup", "suspend", name]);
        assert_eq!(host(container, name)["state"], "suspended", "{name}");
    }
    let page = container.ok(&["curl", "-sS", &format!("http://{go}:8080/")]);
    assert!(page.contains("go") && page.contains("host=web"), "both wake: {page}");
}

/// Without a capability: the kernel duplicates no descriptor, so the stopped threads hand theirs
/// over.
#[test]
fn hosts_sleep_in_the_default_profile_as_root() {
    let docker = Docker::start(&[("compose.yaml", SLEEPERS)]);
    sleep(&docker.run(ROOT, &["imsup", "up"]));
}

#[test]
fn hosts_sleep_in_the_default_profile_as_an_ordinary_user() {
    let docker = Docker::start(&[("compose.yaml", SLEEPERS)]);
    sleep(&docker.run(USER, &["imsup", "up"]));
}

/// Calls of all kinds are waited in: accept, poll, select and epoll_wait, by one process, several
/// and threads; redis has a limit of 100 ms, and a Go program waits for futexes as well.
const SLEEPERS: &str = r#"
name: sleepers
x-imsup: { idle_after: 200ms }
services:
  accept: { command: [servers, accept, "8080"], expose: ["8080"] }
  poll: { command: [servers, poll, "8080"], expose: ["8080"] }
  select: { command: [servers, select, "8080"], expose: ["8080"] }
  edge: { command: [servers, edge, "8080"], expose: ["8080"] }
  prefork: { command: [servers, prefork, "8080"], expose: ["8080"] }
  pool: { command: [servers, pool, "8080"], expose: ["8080"] }
  go: { command: [guest-go, -listen, ":8080"], expose: ["8080"] }
  cache: { command: [redis-server, --port, "6379", --save, ""], expose: ["6379"] }
"#;

fn sleep(container: &Container<'_>) {
    container.wait_for("none runs");
    let hosts = json(container, &["ps"]);
    let address = |name: &str| {
        let found = hosts.iter().find(|host| host["name"] == name).unwrap();
        found["address"].as_str().unwrap().to_owned()
    };
    let asks: Vec<(&str, String)> = ["accept", "poll", "select", "edge", "prefork", "pool"]
        .map(|name| {
            let address = address(name);
            (
                name,
                format!("exec 3<>/dev/tcp/{address}/8080; echo hello >&3; head -1 <&3"),
            )
        })
        .into_iter()
        .chain([
            ("go", format!("curl -sS http://{}:8080/", address("go"))),
            ("cache", format!("redis-cli -h {} incr asked", address("cache"))),
        ])
        .collect();
    for (name, ask) in &asks {
        let said = container.ok(&["bash", "-c", ask]);
        assert!(!said.is_empty(), "{name}");
    }
    for round in 1..=2 {
        for (name, ask) in &asks {
            wait_until(&format!("{name} to sleep"), || {
                host(container, name)["state"] == "suspended"
            });
            let why = json(container, &["why", name]);
            // A host that ticks at that moment is not held.
            if let Some(method) = why[0]["why"]["method"].as_str() {
                assert!(method.starts_with("stopped threads, since a frozen thread"), "{why:?}");
            }
            let wakes = host(container, name)["wakes"].as_u64().unwrap();
            let said = container.ok(&["bash", "-c", ask]);
            assert!(!said.is_empty(), "{name}, round {round}");
            if *name != "cache" {
                wait_until(&format!("{name} to wake"), || {
                    host(container, name)["wakes"].as_u64() > Some(wakes)
                });
            }
            assert_eq!(host(container, name)["boots"], 1, "{name}");
        }
    }
    let asked = container.ok(&["redis-cli", "-h", &address("cache"), "get", "asked"]);
    assert_eq!(asked.trim(), "3", "it has lost nothing");
    // A connection that is kept through a sleep; and sleepers use no processor.
    let kept = format!(
        "exec 3<>/dev/tcp/{}/8080; echo one >&3; read -r said <&3; imsup suspend edge; state=$(cat /proc/$1/stat); echo two >&3; read -r said <&3; \
         echo \"$state\"; echo \"said $said\"",
        address("edge")
    );
    let pid = host(container, "edge")["pid"].to_string();
    let said = container.ok(&["bash", "-c", &kept, "bash", &pid]);
    assert!(
        said.contains(") t ") && said.contains("said "),
        "stopped by its tracer: {said}"
    );
    container.exec(&["imsup", "down"]);
    assert_eq!(container.wait(), 0, "{}", container.logs());
}

/// A profile that refuses ptrace(2) as well: imsup says why no host sleeps, and what helps.
#[test]
fn where_neither_can_be_done_no_host_sleeps_and_it_is_said_why() {
    const PROFILE: &str = r#"{ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["ptrace", "pidfd_getfd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }] }"#;
    let directory = tempfile::tempdir().unwrap();
    let profile = directory.path().join("profile.json");
    std::fs::write(&profile, PROFILE).unwrap();
    let compose = "name: awake\nservices:\n  web: { command: [guest, --tcp, \"8080\"], expose: [\"8080\"] }\n";
    let docker = Docker::start(&[("compose.yaml", compose)]);
    let profile = format!("seccomp={}", profile.display());
    let container = docker.run_with(&["--security-opt", &profile], USER, &["imsup", "up"]);
    container.wait_for("none runs");
    call(&container, &format!("{}:8080", address(&container, "web")));
    let why = json(&container, &["why", "web"]);
    let reason = &why[0]["why"]["reasons"][0];
    assert_eq!(reason["kind"], "incapable", "{why:?}");
    let suspend = container.exec(&["imsup", "suspend", "web"]);
    assert!(!suspend.success(), "{suspend}");
    for said in [reason["detail"].as_str().unwrap(), &suspend.stderr] {
        for word in ["pidfd_getfd(2)", "ptrace(2)", "--cap-add SYS_PTRACE"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

fn says_which_ways_are_used(container: &Container<'_>) {
    let features = json(container, &["doctor"]);
    let feature = |name: &str| {
        let found = features.iter().find(|feature| feature["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {features:?}"))
    };
    let sockets = feature("pidfd_getfd(2)");
    assert_eq!(sockets["present"], false, "this profile refuses it");
    assert!(sockets["detail"].as_str().unwrap().contains("copies kept"), "{sockets}");
    assert!(
        sockets["lost_without"].as_str().unwrap().contains("one ADDFD"),
        "{sockets}"
    );
    assert_eq!(feature("ptrace(2)")["present"], true, "hosts sleep by it");
    let memory = feature("process_vm_readv(2)");
    let way = if memory["present"] == true {
        "in one call"
    } else {
        "/proc/PID/mem"
    };
    assert!(memory["detail"].as_str().unwrap().contains(way), "{memory}");
    assert_eq!(feature("/proc/PID/mem")["present"], true);
}

/// Official images' entrypoints do that, with gosu or setpriv. Root has no CAP_SYS_PTRACE here.
#[test]
fn programs_that_become_another_user_are_served() {
    let docker = Docker::start(&[("compose.yaml", USERS)]);
    become_another_user(&docker.run(ROOT, &["imsup", "up"]));
    // Kubernetes' default: calls are not refused, but root may still not look at other users'
    // processes.
    become_another_user(&docker.run_with(&["--security-opt", "seccomp=unconfined"], ROOT, &["imsup", "up"]));
}

const USERS: &str = r#"
name: users
services:
  web:
    command: [setpriv, --reuid, "1000", --regid, "1000", --clear-groups, guest, --who, --tcp, "8080", --upstream, "db:7000"]
    expose: ["8080"]
  db: { command: [guest, --tcp, "7000"], user: "1000:1000" }
  cache: { command: [setpriv, --reuid, "1000", --regid, "1000", --clear-groups, redis-server, --port, "6379", --save, ""], expose: ["6379"] }
"#;

fn become_another_user(container: &Container<'_>) {
    container.wait_for("none runs");
    let web = address(container, "web");
    let answer = call(container, &format!("{web}:8080"));
    let upstream = answer.split_once("upstream=").expect("it asked").1;
    assert_eq!(value(upstream, "host"), "db", "{answer}");
    assert!(value(upstream, "peer").contains(&web), "db saw who called: {answer}");
    let pid = value(upstream, "pid");
    let status = container.ok(&["cat", &format!("/proc/{pid}/status")]);
    assert!(status.contains("Uid:\t1000\t1000\t1000"), "{status}");
    let said = container.ok(&["imsup", "logs", "web"]);
    assert!(said.contains("nodename=web"), "memory is written as well: {said}");
    let cache = address(container, "cache");
    assert_eq!(container.ok(&["redis-cli", "-h", &cache, "ping"]).trim(), "PONG");
    let suspend = container.exec(&["imsup", "suspend", "cache"]);
    assert!(
        !suspend.success()
            && suspend.stderr.contains("another user")
            && suspend.stderr.contains("--cap-add SYS_PTRACE"),
        "{suspend}"
    );
}

/// A program that becomes another user without an execve is not dumpable (PR_SET_DUMPABLE(2const)):
/// only CAP_SYS_PTRACE could inspect it.
#[test]
fn a_program_that_only_changes_its_user_is_the_kernels() {
    let compose = "name: user\nservices:\n  cache: { command: [memcached, -p, \"11211\"], user: \"1000:1000\", expose: [\"11211\"] }\n";
    let docker = Docker::start(&[("compose.yaml", compose)]);
    let memcached = ["memcached", "-u", "app", "-p", "11212"];
    let container = docker.run(ROOT, &[&["imsup", "run", "--"], &memcached[..]].concat());
    container.wait_for("cannot be inspected");
    // The remedy: the user is changed before the program is executed.
    let container = docker.run(ROOT, &["imsup", "up"]);
    container.wait_for("none runs");
    let cache = address(&container, "cache");
    let ask = format!("exec 3<>/dev/tcp/{cache}/11211; printf 'version\\r\\n' >&3; head -1 <&3");
    let said = container.ok(&["bash", "-c", &ask]);
    assert!(said.starts_with("VERSION"), "{said}");
}

/// What `doctor` and `why` advise. The cgroups of the machine are mounted, so there is a freezer,
/// too; clone3(2) is refused all the same.
#[test]
fn hosts_sleep_where_the_capability_is_added() {
    let compose = "name: asleep\nx-imsup: { idle_after: 200ms }\nservices:\n  web: { command: [guest, --tcp, \"8080\"], expose: [\"8080\"] }\n";
    let docker = Docker::start(&[("compose.yaml", compose)]);
    let freezer = [
        "--cap-add",
        "SYS_PTRACE",
        "--volume",
        "/sys/fs/cgroup:/sys/fs/cgroup:rw",
    ];
    for (options, method) in [(&freezer[..2], "stopped threads"), (&freezer, "cgroup freezer")] {
        let container = docker.run_with(options, ROOT, &["imsup", "up"]);
        container.wait_for("none runs");
        let web = address(&container, "web");
        call(&container, &format!("{web}:8080"));
        container.wait_for(" suspend ");
        // The host may have slept before the question, and be awake again.
        let mut why = Vec::new();
        wait_until("web to sleep", || {
            why = json(&container, &["why", "web"]);
            why[0]["why"]["method"].is_string()
        });
        assert!(why[0]["why"]["method"].as_str().unwrap().starts_with(method), "{why:?}");
        assert!(
            call(&container, &format!("{web}:8080")).contains("host=web"),
            "it wakes"
        );
        // The container ends with its first process, which may be before this process.
        container.exec(&["imsup", "down"]);
        assert_eq!(container.wait(), 0, "{}", container.logs());
    }
}

#[test]
fn run_is_a_containers_entrypoint() {
    let docker = Docker::start(&[]);
    let redis = ["redis-server", "--port", "6379", "--save", ""];
    for (user, options) in [
        (ROOT, &[][..]),
        (USER, &[]),
        // A user unknown to the image, without a home.
        ("1234:1234", &[]),
        (ROOT, &["--user", "1000:1000"]),
    ] {
        let mut words = vec!["imsup", "run"];
        words.extend(options);
        words.push("--");
        words.extend(redis);
        let container = docker.run(user, &words);
        container.wait_for("Ready to accept connections");
        let hosts = json(&container, &["ps"]);
        let address = hosts[0]["address"].as_str().unwrap();
        assert_eq!(
            container.ok(&["redis-cli", "-h", address, "ping"]).trim(),
            "PONG",
            "{user} {options:?}"
        );
        container.exec(&["redis-cli", "-h", address, "shutdown", "nosave"]);
        assert_eq!(container.wait(), 0, "{user} {options:?}: {}", container.logs());
    }
}
