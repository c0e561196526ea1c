//! `up` on a project that is up: what has changed begins anew, and nothing else is touched.

mod common;

use common::client::{PersistentConnection, ask};
use common::{Project, command, wait_until};

const FIRST: &str = r#"
services:
  web:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
  db:
    command: ["@guest@", --tcp, "5432"]
    expose: ["5432"]
    environment: { A: one }
  old:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
"#;

/// `db` has another environment, `api` and `worker` are new, `old` is not there any more.
const SECOND: &str = r#"
services:
  api:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
  web:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
    depends_on: [db]
  db:
    command: ["@guest@", --tcp, "5432"]
    expose: ["5432"]
    environment: { A: two }
  worker:
    command: [sh, -c, "echo started $$0; exec sleep 1000", "@mark@"]
    x-imsup: { start: up }
"#;

#[test]
fn up_again_ends_what_has_changed_and_nothing_else() {
    let project = Project::up("again", FIRST);
    for (host, port) in [("web", 8080), ("db", 5432), ("old", 8080)] {
        ask(project.at(host, port));
    }
    let before = project.ps();
    let mut kept = PersistentConnection::connect(project.at("web", 8080));
    kept.ask("host=web");
    assert!(project.ok(&["up", "-d"]).contains("nothing has changed"));

    let second = SECOND.replace("@mark@", "1");
    project.write_compose(&second);
    let up = project.imsup(&["up", "-d"]);
    let told = up.stdout.clone();
    for line in ["api: new", "worker: new", "db: changed (environment), begins anew"] {
        assert!(told.contains(line), "{line}: {up}");
    }
    assert!(!told.contains("web"), "{up}");
    assert!(
        up.stderr.contains("'old'") && up.stderr.contains("--remove-orphans"),
        "{up}"
    );
    let after = project.ps();
    for host in ["web", "db", "old"] {
        assert_eq!(after[host].address, before[host].address, "{host} keeps its address");
    }
    for host in ["web", "old"] {
        assert_eq!(
            (after[host].pid, after[host].boots),
            (before[host].pid, 1),
            "{host} goes on"
        );
    }
    kept.ask("host=web");
    assert_eq!(after["db"].state, "imaginary");
    assert_eq!(ask(project.at("api", 8080)).value("host"), "api");
    assert!(
        project.run_guest(&["--call", "api:8080"]).contains("host=api"),
        "by its name"
    );
    ask(project.at("db", 5432));
    let db = project.host("db").pid.unwrap();
    let environment = std::fs::read_to_string(format!("/proc/{db}/environ")).unwrap();
    assert!(environment.contains("A=two"), "{environment}");
    project.wait_event("worker", "boot", 1);

    // A changed worker comes back by itself, a removed host ends.
    project.write_compose(&SECOND.replace("@mark@", "2"));
    let told = project.ok(&["up", "-d", "--remove-orphans"]);
    assert!(
        told.contains("worker: changed (command), begins anew") && told.contains("old: removed"),
        "{told}"
    );
    project.wait_event("worker", "boot", 2);
    assert!(!project.ps().contains_key("old"));
    kept.ask("host=web");

    // The next broker has the new hosts, too.
    project.kill(project.broker());
    assert_eq!(ask(project.at("api", 8080)).value("host"), "api");
    kept.ask("host=web");
    assert_eq!(project.host("web").pid, before["web"].pid);

    // All or none.
    project.write_compose(&SECOND.replace("@mark@", "3"));
    assert!(
        project
            .ok(&["up", "-d", "--no-recreate"])
            .contains("nothing has changed")
    );
    let told = project.ok(&["up", "-d", "--force-recreate"]);
    assert!(told.contains("web: begins anew"), "{told}");
    project.wait_event("worker", "boot", 3);
    // Also without any change of the file.
    ask(project.at("web", 8080));
    let told = project.ok(&["up", "-d", "--force-recreate"]);
    assert!(told.contains("web: begins anew"), "{told}");
    assert_eq!(project.host("web").state, "imaginary");
    project.down();
}

#[test]
fn a_file_that_cannot_be_applied_changes_nothing() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().port();
    let project = Project::up("again-not", FIRST);
    ask(project.at("web", 8080));
    let (before, broker) = (project.host("web").pid, project.broker());
    let published =
        format!("{FIRST}  front: {{ command: [\"@guest@\", --tcp, \"80\"], ports: [\"127.0.0.1:{taken}:80\"] }}\n");
    let changed = FIRST.replace("services:", "services:\n  new: { command: [sleep, \"1\"] }");
    for (file, words) in [
        ("services: { web: { command: [\"@guest@\" }", "compose.yaml"),
        (&published, "'front'"),
        (
            &changed.replace(
                "expose: [\"5432\"]",
                "networks: { default: { ipv4_address: 127.1.1.1 } }",
            ),
            "db",
        ),
    ] {
        project.write_compose(file);
        let error = project.fails(1, &["up", "-d"]);
        assert!(error.contains(words), "{words}: {error}");
        assert_eq!((project.host("web").pid, project.broker()), (before, broker), "{error}");
    }
    assert!(!project.runtime().join("next.json").exists());
    project.down();
}

#[test]
fn a_published_port_follows_the_file_and_many_changes_are_no_deaths() {
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    // The second host ends late: meanwhile clients of the first come.
    let compose = |port: u16, mark: usize| {
        format!(
            "services:
  web:
    command: [\"@guest@\", --tcp, \"8080\"]
    environment: {{ MARK: m{mark} }}
    ports: [\"127.0.0.1:{port}:8080\"]
  slow:
    command: [sh, -c, \"trap 'sleep 0.3; exit' TERM; while :; do sleep 0.1; done\"]
    environment: {{ MARK: m{mark} }}
    x-imsup: {{ start: up }}
"
        )
    };
    let (one, two) = (free(), free());
    let project = Project::up("again-ports", &compose(one.port(), 0));
    assert_eq!(ask(one).value("host"), "web");
    project.write_compose(&compose(two.port(), 0));
    project.ok(&["up", "-d"]);
    assert_eq!(ask(two).value("host"), "web");
    wait_until("the old port to be closed", || {
        std::net::TcpStream::connect(one).is_err()
    });
    // A keeper starts brokers that die five times a minute.
    // Clients that come all the time get what the file says now, once `up` has returned.
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = common::client::ask_line(two, "?");
            }
        });
        for mark in 1..9 {
            project.write_compose(&compose(two.port(), mark));
            let up = project.imsup(&["up", "-d"]);
            let pid = up.success().then(|| ask(two).pid());
            let environment = pid.map(|pid| std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap());
            let is_new = environment
                .as_ref()
                .is_some_and(|all| all.contains(&format!("MARK=m{mark}")));
            if !is_new {
                is_over.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("{mark}: {up}: {environment:?}");
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // The broker of a terminal gives way as well.
    project.ok(&["down"]);
    let up = command::Background::collecting(project.imsup_command(&["up"]));
    wait_until("the project to be up", || project.imsup(&["ps"]).success());
    project.write_compose(&compose(one.port(), 9));
    project.ok(&["up", "-d"]);
    assert_eq!(ask(one).value("host"), "web");
    let up = up.finish(common::LIMIT);
    assert!(up.success() && up.stderr.contains("goes on in the background"), "{up}");
    project.down();
}
