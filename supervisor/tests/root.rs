//! What root can do besides: run by `make test` where it is run by root, never by a plain `cargo test`.

mod common;

use common::Project;
use common::client::ask;
use common::command::run;

#[test]
fn these_tests_are_run_by_root() {
    assert!(rustix::process::geteuid().is_root(), "run them with: sudo make test");
}

#[test]
fn ports_below_1024_are_bound() {
    let project = Project::up(
        "privileged",
        r#"
services:
  web: { command: ["@guest@", --tcp, "80"], expose: ["80"] }
  other: { command: ["@guest@", --bind, any6, --tcp, "80"], expose: ["80"] }
"#,
    );
    for host in ["web", "other"] {
        assert_eq!(ask(project.at(host, 80)).value("host"), host);
    }
}

#[test]
fn a_host_may_run_as_another_user() {
    let project = Project::up(
        "user",
        r#"
services:
  web: { command: [sh, -c, "id -u; exec @guest@ --tcp 8080"], user: "65534:65534", expose: ["8080"] }
"#,
    );
    // The other user must be able to enter the project's directory.
    std::os::unix::fs::chown(project.path(""), Some(65534), Some(65534)).unwrap();
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    let said = project.ok(&["logs", "web"]);
    assert!(said.contains("65534"), "{said}");
}

#[test]
fn run_is_a_pid_namespaces_first_process() {
    let project = Project::up(
        "entrypoint",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let imsup = common::imsup();
    let script = "setsid sleep 1000 & sleep 0.1; exit 6";
    let inside = [
        "--pid",
        "--fork",
        "--mount-proc",
        imsup.to_str().unwrap(),
        "run",
        "-p",
        &project.name,
        "--",
        "sh",
        "-c",
        script,
    ];
    let finished = run(project.command("unshare", &inside), common::LIMIT);
    assert_eq!(finished.code(), Some(6), "{finished}");
}
