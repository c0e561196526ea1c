//! Resource limits: a program starts with those of whoever brought its project up.

mod common;

use common::command::run;
use common::{LIMIT, Project, imsup};

/// The broker raises its own limit of descriptors to retain sockets, which programs that use select(2) must not see.
#[test]
fn programs_start_with_the_soft_limit_of_descriptors_that_up_had() {
    let project = Project::new(
        "limits",
        "services: { says: { command: [sh, -c, 'ulimit -S -n; ulimit -H -n; exit 3'] } }",
    );
    let line = r#"ulimit -S -n 300 && ulimit -H -n && exec "$0" up -p "$1" -d"#;
    let imsup = imsup();
    let up = run(
        project.command("sh", &["-c", line, &imsup.to_string_lossy(), &project.name]),
        LIMIT,
    )
    .expect_success("up");
    let hard = up.lines().next().unwrap();
    project.fails(1, &["wake", "says"]);
    let log = project.ok(&["logs", "says"]);
    assert!(log.contains(&format!("300\n{hard}\n")), "{log}");
}
