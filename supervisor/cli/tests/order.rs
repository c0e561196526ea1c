//! The order of boots (`depends_on` with a condition), health checks, and `up --wait`.

mod common;

use common::client::ask;
use common::{LIMIT, Project, command, wait_until};

/// A shop whose web host needs a healthy database and a finished migration. The database is healthy
/// once the file `healthy` is there; the migration leaves the file `migrated`.
const SHOP: &str = r#"
services:
  web:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
    depends_on:
      db: { condition: service_healthy }
      migrate: { condition: service_completed_successfully }
  db:
    command: ["@guest@", --tcp, "5432"]
    expose: ["5432"]
    healthcheck: { test: "test -e @dir@/healthy", interval: 1s }
    x-imsup: { idle_after: 200ms }
  migrate:
    command: [sh, -c, "echo ran >> @dir@/migrated; test ! -e @dir@/broken"]
    depends_on: { db: { condition: service_healthy } }
"#;

fn runs_of_migration(project: &Project) -> usize {
    std::fs::read_to_string(project.path("migrated")).map_or(0, |text| text.lines().count())
}

#[test]
fn a_boot_waits_until_what_it_needs_is_healthy_or_has_completed() {
    let project = Project::up("order", SHOP);
    let web = project.at("web", 8080);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| ask(web));
        project.wait_event("db", "boot", 1);
        wait_until("the check to fail once", || {
            project.host("db").json["health"] == "starting"
        });
        let waiting = project.host("web");
        assert_eq!((waiting.state.as_str(), waiting.pid), ("booting", None));
        let detail = waiting.json["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains("'db' to be healthy") && detail.contains("'migrate' to complete"),
            "{detail}"
        );
        assert_eq!(
            runs_of_migration(&project),
            0,
            "the migration needs the database as well"
        );
        std::fs::write(project.path("healthy"), "").unwrap();
        assert_eq!(answer.join().unwrap().value("host"), "web");
    });
    let [db, migrate] = ["db", "migrate"].map(|name| project.host(name));
    assert_eq!(db.json["health"], "healthy");
    assert_eq!((migrate.state.as_str(), runs_of_migration(&project)), ("completed", 1));
    let cause = project.wait_event("db", "allocate", 1);
    assert_eq!(cause.json["cause"], "dependency", "{:?}", cause.json);
    // What is done is done, for the next boot and for the next broker.
    project.ok(&["stop", "web"]);
    assert_eq!(ask(web).value("host"), "web");
    project.wait_event("db", "suspend", 1);
    project.kill(project.broker());
    project.ok(&["stop", "web"]);
    assert_eq!(ask(web).value("host"), "web");
    assert_eq!(runs_of_migration(&project), 1);
    assert_eq!(project.host("migrate").state, "completed");
    project.down();
}

#[test]
fn a_boot_fails_if_what_it_needs_fails() {
    let project = Project::new("order-fails", SHOP);
    for file in ["healthy", "broken"] {
        std::fs::write(project.path(file), "").unwrap();
    }
    project.ok(&["up", "-d"]);
    let error = project.fails(1, &["wake", "web"]);
    assert!(
        error.contains("it needs 'migrate', which exited with status 1") && error.contains("imsup logs migrate"),
        "{error}"
    );
    let refused = common::client::ask_line(project.at("web", 8080), "?");
    assert!(refused.is_err(), "{refused:?}");
    // Mended, it boots.
    std::fs::remove_file(project.path("broken")).unwrap();
    project.ok(&["wake", "web"]);
    assert_eq!(project.host("migrate").state, "completed");
    // A boot that waits can be stopped.
    project.ok(&["stop"]);
    std::fs::remove_file(project.path("healthy")).unwrap();
    let wake = command::Background::collecting(project.imsup_command(&["wake", "web"]));
    wait_until("the boot to wait", || project.host("web").state == "booting");
    let why = project.ok(&["why", "web"]);
    assert!(why.contains("waits for 'db' to be healthy"), "{why}");
    project.ok(&["stop", "web"]);
    assert!(!wake.finish(LIMIT).success());
    assert_eq!(project.host("web").state, "imaginary");
    project.down();
}

#[test]
fn an_unhealthy_host_is_said_and_fails_who_needs_it() {
    let project = Project::up(
        "unhealthy",
        r#"
services:
  web:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
    depends_on: { db: { condition: service_healthy } }
  db:
    command: ["@guest@", --tcp, "5432"]
    expose: ["5432"]
    healthcheck: { test: [CMD, sh, -c, "echo no table; exit 3"], interval: 200ms, retries: 2 }
  slow:
    command: ["@guest@", --tcp, "5432"]
    expose: ["5432"]
    healthcheck: { test: "sleep 1000; true", interval: 100ms, timeout: 200ms, retries: 1 }
"#,
    );
    let error = project.fails(1, &["wake", "web"]);
    assert!(
        error.contains("it needs 'db', which is unhealthy (the check exited with status 3: no table)"),
        "{error}"
    );
    assert_eq!(project.host("db").json["health"], "unhealthy");
    assert!(project.ok(&["ps"]).contains("running (unhealthy)"));
    // A check that hangs is ended, with what it has started.
    project.ok(&["wake", "slow"]);
    let event = project.wait_event("slow", "unhealthy", 1);
    assert!(
        event.json["detail"].as_str().unwrap().contains("took too long"),
        "{:?}",
        event.json
    );
    project.ok(&["stop", "slow"]);
    wait_until("the checks to be gone", || {
        !project
            .processes()
            .iter()
            .any(|process| process.command.contains("sleep 1000"))
    });
    project.down();
}

#[test]
fn up_waits_for_what_it_starts() {
    let project = Project::new(
        "wait",
        r#"
services:
  worker:
    command: ["@guest@", --tcp, "8080"]
    healthcheck: { test: "test -e @dir@/started", interval: 1s }
    x-imsup: { start: up }
    depends_on: { job: { condition: service_completed_successfully } }
  job: { command: [sh, -c, "touch @dir@/started; exit @status@"] }
  idle: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let compose = std::fs::read_to_string(project.path("compose.yaml")).unwrap();
    project.write_compose(&compose.replace("@status@", "0"));
    project.ok(&["up", "--wait", "--wait-timeout", "60"]);
    assert_eq!(project.host("worker").json["health"], "healthy");
    assert_eq!(project.host("job").state, "completed");
    assert_eq!(project.host("idle").state, "imaginary");
    project.ok(&["down"]);
    std::fs::remove_file(project.path("started")).unwrap();
    project.write_compose(&compose.replace("@status@", "4"));
    let error = project.fails(1, &["up", "--wait"]);
    assert!(
        error.contains("'job'") && error.contains("exited with status 4"),
        "{error}"
    );
    project.down();
}
