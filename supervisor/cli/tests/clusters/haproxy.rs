//! HAProxy before replicas of a service.

use std::collections::BTreeSet;

use crate::common::{Project, need};

const REPLICAS: [&str; 5] = ["app-1", "app-2", "app-3", "app-4", "app-5"];

/// Not from the kernel's own range (ip_local_port_range): others make connections until the port is
/// published.
fn free_port() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 997).unwrap() * 10;
    let is_free = |port: &u16| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok();
    (first..32_000).find(is_free).expect("a free port")
}

/// The replica that answers a request.
#[track_caller]
fn ask(project: &Project, url: &str) -> String {
    let said = project.outside("curl", &["-sS", "--fail", "--max-time", "60", url]);
    let by = project.host("proxy").address.to_string();
    let (replica, rest) = said.trim().split_once(' ').expect("an answer");
    assert_eq!(rest, format!("answers {by}"));
    replica.to_owned()
}

#[test]
fn replicas_boot_as_the_proxy_chooses_them() {
    need(&["haproxy", "python3", "curl"]);
    let port = free_port();
    let project = Project::example("haproxy", &[("PORT", &port.to_string())]);
    let url = format!("http://{}/", project.at("proxy", 8080));
    let mut answered = BTreeSet::new();
    for count in 1..=REPLICAS.len() {
        answered.insert(ask(&project, &url));
        assert_eq!(answered.len(), count, "each request goes to the next: {answered:?}");
        let hosts = project.ps();
        let booted: BTreeSet<&str> = REPLICAS
            .into_iter()
            .filter(|replica| hosts[*replica].boots > 0)
            .collect();
        assert!(answered.iter().map(String::as_str).eq(booted), "{hosts:?}");
    }
    project.wait_event("proxy", "ready", 1);
    let inside = project
        .run(&["curl", "-sS", "--fail", "http://proxy:8080/"])
        .expect_success("curl");
    assert!(inside.starts_with("app-"), "{inside}");
    ask(&project, &format!("http://127.0.0.1:{port}/"));
    // The next requests boot the missing replicas.
    project.ok(&["stop", "app"]);
    let again: BTreeSet<String> = REPLICAS.iter().map(|_| ask(&project, &url)).collect();
    assert_eq!(again, answered);
    assert!(REPLICAS.iter().all(|replica| project.host(replica).boots == 2));
}
