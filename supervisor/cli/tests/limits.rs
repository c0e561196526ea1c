//! Resource limits: a program starts with the limits of the user's shell that brought its project
//! up.

mod common;

use common::client::ask;
use common::command::run;
use common::{LIMIT, Project, imsup};

/// The broker raises its own limit of descriptors to retain sockets; programs that use select(2)
/// must not see that.
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

/// A project whose hosts could not all live is refused, instead of resetting the clients of its
/// last hosts.
#[test]
fn so_few_descriptors_that_not_all_hosts_could_live_are_an_error() {
    let compose = |hosts: usize| -> String {
        let hosts = 0..hosts;
        let services = hosts.map(|number| {
            format!("  web{number}: {{ command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] }}\n")
        });
        format!("services:\n{}", services.collect::<String>())
    };
    let project = Project::new("few", &compose(18));
    let up = |limit: u32| {
        let up = format!(
            "ulimit -n {limit}; exec {} up -d -p {}",
            imsup().display(),
            project.name
        );
        run(project.command("sh", &["-c", &up]), LIMIT)
    };
    let refused = up(40);
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(
        refused.stderr.contains("40 file descriptors") && refused.stderr.contains("ulimit"),
        "{refused}"
    );
    project.write_compose(&compose(18).replace("expose: [\"8080\"]", "expose: []"));
    assert_eq!(up(40).code(), Some(1), "though no port is retained");
    project.expect_nothing_left();
    project.write_compose(&compose(4));
    up(64).expect_success("imsup up");
    for host in project.ps().into_values() {
        ask((host.address, 8080).into());
    }
    assert!(project.ps().values().all(|host| host.boots == 1));
}
