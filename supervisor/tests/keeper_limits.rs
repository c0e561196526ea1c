//! Brokers that die, of projects that have more descriptors than programs may have open.

mod common;

use common::command::run;
use common::{LIMIT, Project, client, imsup};

/// Declared ports: more than the soft limit of descriptors.
const PORTS: std::ops::Range<u16> = 8000..8100;
/// Those that the program listens on, which has that limit.
const LISTENS: std::ops::Range<u16> = 8000..8040;

#[test]
fn more_sockets_than_the_soft_limit_of_descriptors_outlive_the_broker() {
    let ports: Vec<String> = PORTS.map(|port| format!("\"{port}\"")).collect();
    let ports = ports.join(", ");
    let project = Project::new(
        "many",
        &format!(
            r#"
services:
  web: {{ command: ["@guest@", --tcp, "8000-8039"], expose: [{ports}] }}
  says: {{ command: [sh, -c, 'ulimit -S -n; ulimit -H -n; exit 3'] }}
"#
        ),
    );
    let line = r#"ulimit -S -n 64 && ulimit -H -n 4096 && exec "$0" up -p "$1" -d"#;
    let imsup = imsup();
    let up = project.command("sh", &["-c", line, &imsup.to_string_lossy(), &project.name]);
    run(up, LIMIT).expect_success("up");
    let mut broker = project.broker();
    let web = project.host("web").address;
    for _ in 0..2 {
        project.kill(broker);
        // The first ones come while there is no broker. All have the boot that comes of it, and the limit goes from one broker to the next.
        let answers = LISTENS.map(|port| client::ask_line((web, port).into(), "hello"));
        for (port, answer) in LISTENS.zip(answers) {
            let answer = answer.unwrap_or_else(|error| panic!("port {port}: {error}"));
            assert!(answer.contains("host=web "), "{answer}");
        }
        let next = project.broker();
        assert_ne!(next, broker);
        broker = next;
        project.ok(&["stop", "web"]);
    }
    project.fails(1, &["wake", "says"]);
    let log = project.ok(&["logs", "says"]);
    assert!(log.contains("64\n4096\n"), "{log}");
    project.down();
}
