//! Programs that log over UDP by sendmsg(2) with an address and MSG_NOSIGNAL, as haproxy does.

mod common;

use common::{Project, need, wait_until};

const COMPOSE: &str = r#"
services:
  proxy:
    command: [sh, -c, "python3 @source@/addresses.py receive 1514 & exec haproxy -db -f @dir@/haproxy.cfg"]
    environment: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" }
    expose: ["8080"]
  collector:
    command: [python3, "@source@/addresses.py", receive, "1514"]
    expose: ["1514/udp"]
"#;

const CONFIGURATION: &str = "
global
    log 127.0.0.1:1514 local0
    log collector:1514 local1
defaults
    log global
    mode http
    option httplog
    timeout connect 60s
    timeout client 60s
    timeout server 60s
frontend web
    bind :8080
    http-request return status 200 content-type text/plain string answered
";

#[test]
fn haproxy_logs_to_its_own_localhost_and_to_another_host() {
    need(&["haproxy", "python3"]);
    let project = Project::new("haproxy", COMPOSE);
    std::fs::write(project.path("haproxy.cfg"), CONFIGURATION).unwrap();
    project.ok(&["up", "-d"]);
    let address = project.host("proxy").address;
    let logged = |host: &str| -> Vec<String> {
        let lines = project.ok(&["logs", host]);
        let requests = lines.lines().filter(|line| line.contains("GET /page"));
        requests.map(str::to_owned).collect()
    };
    // The receiver beside haproxy may bind after the first request was logged.
    let url = format!("http://{address}:8080/page");
    wait_until("a request in the log of the same host", || {
        assert_eq!(project.outside("curl", &["-s", &url]), "answered");
        !logged("proxy").is_empty()
    });
    wait_until("a request in the log of another host", || {
        !logged("collector").is_empty()
    });
    assert!(logged("proxy").iter().all(|line| line.contains("from 127.0.0.1: ")));
    let from = format!("from {address}: ");
    assert!(logged("collector").iter().all(|line| line.contains(&from)));
    assert_eq!(project.host("collector").boots, 1, "a datagram boots it");
}
