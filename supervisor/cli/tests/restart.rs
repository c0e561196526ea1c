//! `restart`, and the warnings of `up` about limits that do not hold.

mod common;

use common::Project;
use common::client::ask;
use rustix::process::Signal;

#[test]
fn a_program_that_ends_comes_back_as_the_file_says() {
    let project = Project::up(
        "restart",
        r#"
services:
  always: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], restart: always }
  never: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  fails: { command: [sh, -c, "exit 3"], restart: "on-failure:2" }
"#,
    );
    for host in ["always", "never"] {
        assert_eq!(ask(project.at(host, 8080)).value("host"), host);
        project.kill(project.host(host).pid.unwrap());
    }
    project.wait_event("always", "ready", 2);
    project.fails(1, &["wake", "fails"]);
    // After the second restart the host gives up, as its last event says.
    project.wait_event("fails", "fail", 3);
    let fails = project.host("fails");
    assert_eq!((fails.state.as_str(), fails.boots), ("failed", 3));
    assert_eq!(fails.json["detail"], "exited with status 3 before it listened");
    assert_eq!(project.host("never").boots, 1, "it waits for its next connection");

    let pid = project.host("always").pid.unwrap();
    project.signal(pid, Signal::TERM);
    project.wait_event("always", "ready", 3);
    project.ok(&["stop"]);
    let stopped = project.host("always");
    assert_eq!(stopped.state, "imaginary");
    assert_eq!(
        stopped.json["detail"], "was ended by signal 15",
        "and nothing of a restart"
    );
}

/// For any user, on any machine: limits hold, or `up` names the limits that do not, their hosts,
/// and the remedy.
#[test]
fn a_limit_holds_or_up_says_why_it_does_not() {
    let compose = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], mem_limit: 64m }
"#;
    let project = Project::new("said", compose);
    let up = project.imsup(&["up", "-d"]);
    assert!(up.success(), "{up}");
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    let pid = project.host("web").pid.unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let name = format!("imsup.{}.web", project.name);
    let limited = groups
        .lines()
        .any(|line| line.contains(&name) && (line.contains(":memory") || line.ends_with("/program")));
    project.down();
    let strict = project.imsup(&["up", "-d", "--strict"]);
    if limited {
        assert!(up.stderr.is_empty(), "{up}");
        assert!(strict.success(), "{strict}");
        return;
    }
    for said in [&up, &strict] {
        for word in ["'mem_limit'", "of web does not hold", "Delegate=yes"] {
            assert!(said.stderr.contains(word), "{word}: {said}");
        }
    }
    assert_eq!(up.stderr.matches("does not hold").count(), 1, "once: {up}");
    assert!(!strict.success(), "{strict}");
}
