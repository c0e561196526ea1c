//! PostgreSQL: a primary and its streaming replica.

use std::os::unix::fs::{PermissionsExt, chown};

use crate::common::{Event, Project, need, wait_until};
use crate::{first_booted_by, kill_and_let_peers_boot, report_recovery};

/// psql's output. A server that was just booted listens before it answers queries, and says so;
/// natively as here its clients try again.
#[track_caller]
fn psql(project: &Project, host: &str, sql: &str) -> String {
    let mut printed = None;
    wait_until("PostgreSQL to have started up", || {
        let said = project.run(&[
            "psql",
            "-h",
            host,
            "-U",
            "postgres",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ]);
        let starting = ["starting up", "not yet accepting connections", "in recovery mode"];
        if !said.success() && starting.iter().any(|words| said.stderr.contains(words)) {
            return false;
        }
        printed = Some(said.expect_success(sql));
        true
    });
    printed.unwrap().trim().to_owned()
}

/// For root: the user that PostgreSQL runs as, and a directory of that user.
fn example() -> Project {
    if !rustix::process::getuid().is_root() {
        return Project::example("postgres", &[]);
    }
    let project = Project::new("postgres", "services: {}");
    let user = nix::unistd::User::from_name("postgres")
        .unwrap()
        .expect("the package made the user postgres");
    let data = project.path("data");
    std::fs::create_dir(&data).unwrap();
    chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    std::fs::set_permissions(data.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    project.up_example("postgres", &[("RUN_AS", "postgres")]);
    project
}

#[test]
fn a_replica_copies_a_primary_that_did_not_run_and_follows_it() {
    need(&["psql"]);
    let project = example();
    assert_eq!(psql(&project, "replica", "select pg_is_in_recovery()"), "t");
    assert!(first_booted_by(&project, "replica").starts_with("run-"));
    assert_eq!(first_booted_by(&project, "primary"), "replica");
    psql(&project, "primary", "create table greetings (word text)");
    let exists = "select to_regclass('greetings') is not null";
    wait_until("the table to be copied", || psql(&project, "replica", exists) == "t");

    // The primary's stream wakes a sleeping replica.
    let wakes = || {
        let by_primary =
            |event: &&Event| event.cause.as_deref() == Some("data") && event.by.as_deref() == Some("primary");
        let events = project.events();
        let of_replica = events.iter().filter(|event| event.is("replica", "wake"));
        of_replica.filter(by_primary).count()
    };
    let before = wakes();
    psql(&project, "primary", "create table signs (moment timestamptz)");
    wait_until("the replica to be woken by the primary", || {
        // The replica may not become quiet at once, or may be woken by its own timer first.
        project.imsup(&["suspend", "replica"]);
        psql(&project, "primary", "insert into signs values (now())");
        wakes() > before
    });
    psql(&project, "primary", "insert into greetings values ('hello')");
    let read = "select string_agg(word, ' ' order by word) from greetings";
    wait_until("the row to be copied", || psql(&project, "replica", read) == "hello");

    let killed = kill_and_let_peers_boot(&project, "primary", &["replica"]);
    psql(&project, "primary", "insert into greetings values ('world')");
    report_recovery("the primary of PostgreSQL", killed);
    wait_until("the replica to follow again", || {
        psql(&project, "replica", read) == "hello world"
    });
    let address = project.host("replica").address.to_string();
    let said = project.outside("psql", &["-h", &address, "-U", "postgres", "-Atc", read]);
    assert_eq!(said.trim(), "hello world", "an unsupervised client, by address");
}
