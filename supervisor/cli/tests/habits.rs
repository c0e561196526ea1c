//! What docker compose's users type: options before the verb, and the verbs that are the same.

mod common;

use common::client::ask;
use common::{Finished, LIMIT, Project, command, imsup};

const COMPOSE: &str = r#"
services:
  web:
    command: ["@guest@", --tcp, "8080"]
    ports: ["127.0.0.1:0:8080"]
  dev: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], profiles: [dev] }
"#;

#[test]
fn options_come_before_the_verb_and_verbs_are_found() {
    let project = Project::new("habits", COMPOSE);
    std::fs::rename(project.path("compose.yaml"), project.path("other.yaml")).unwrap();
    let imsup = |line: &str| -> Finished {
        let line = line.replace("PROJECT", &project.name);
        let words: Vec<&str> = line.split(' ').collect();
        command::run(project.command(imsup(), &words), LIMIT)
    };
    let ok = |line: &str| imsup(line).expect_success(line);
    ok("-f other.yaml -p PROJECT --profile dev --ansi never up -d");
    assert_eq!(ok("-f other.yaml -p PROJECT ps -q -a"), "web\ndev\n");
    let published = ok("-p PROJECT port web 8080");
    let web = ask(published.trim().parse().unwrap());
    assert_eq!(web.value("host"), "web");
    assert!(imsup("-p PROJECT port web 81").stderr.contains("not published"));
    assert!(ok("-p PROJECT logs web").contains("listening"));
    let listed = ok("ls --format json");
    let row: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!(
        (row["name"].as_str(), row["hosts"].as_u64()),
        (Some(&*project.name), Some(2))
    );
    assert_eq!(ok("ls -q").trim(), project.name);
    assert!(ok("-p PROJECT logs --tail all web").contains("listening"));
    assert_eq!(ok("-p PROJECT logs -n 0 web"), "");
    assert!(imsup("-p PROJECT logs --since 1h").stderr.contains("imsup events"));
    assert_eq!(ok("-p PROJECT port --index 1 web 8080"), published);
    assert!(
        imsup("-p PROJECT port --index 2 web 8080")
            .stderr
            .contains("there are 1")
    );
    assert_eq!(ok("-p PROJECT ps -q --status running"), "web\n");
    assert_eq!(ok("-p PROJECT ps -q --filter status=created"), "dev\n");
    assert_eq!(ok("-p PROJECT ps -q --status exited"), "");
    assert_eq!(ok("-p PROJECT ps -q --status exited --status created"), "dev\n");
    assert_eq!(imsup("-p PROJECT ps --status nosuch").code(), Some(2));
    ok("-p PROJECT start dev");
    assert_eq!(project.host("dev").state, "running");
    // A signal wakes a sleeper, and acts; to look at it does not.
    project.ok(&["suspend", "web"]);
    let pid = project.host("web").pid.unwrap().to_string();
    let shown = ok("-p PROJECT top web");
    let processes: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(
        processes.len() == 2 && processes[1][0] == "web" && processes[1][2] == pid,
        "{shown}"
    );
    assert!(shown.contains("--tcp 8080"), "{shown}");
    assert_eq!(project.host("web").state, "suspended");
    ok("-p PROJECT kill -s SIGTERM web");
    project.wait_event("web", "exit", 1);
    ok("-p PROJECT kill");
    project.wait_event("dev", "exit", 1);
    assert!(ok("help ps").contains("List the hosts"));
    let unknown = imsup("stats");
    assert!(
        unknown.code() == Some(2) && unknown.stderr.contains("`imsup usage`"),
        "{unknown}"
    );
    let unknown = imsup("up --exit-code-from web");
    assert!(
        unknown.code() == Some(2) && unknown.stderr.contains("`imsup exec HOST"),
        "{unknown}"
    );
    let misspelt = imsup("up --detatch");
    assert!(
        misspelt.code() == Some(2) && misspelt.stderr.contains("'--detach'"),
        "{misspelt}"
    );
    let misspelt = imsup("pss");
    assert!(
        misspelt.code() == Some(2) && misspelt.stderr.contains("'ps'"),
        "{misspelt}"
    );
    ok("-p PROJECT down --remove-orphans");
    assert_eq!(ok("ls -q"), "");
}
