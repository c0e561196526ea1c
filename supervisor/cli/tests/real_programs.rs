//! Programs as people have them, unmodified and with their ordinary configuration.

mod common;

use common::client::{self, Answer, ask, get};
use common::{Project, guest, need};

const REDIS: &str = r#"
services:
  cache:
    command: [redis-server, --save, "", --appendonly, "no"]
    expose: ["6379"]
"#;

#[test]
fn redis_server_answers_redis_cli_inside_and_outside() {
    need(&["redis-server", "redis-cli"]);
    let project = Project::up("redis", REDIS);
    let address = project.host("cache").address.to_string();
    // Protected mode answers only localhost peers, which an unsupervised client on 127.0.0.1 is.
    let said = project.outside("redis-cli", &["-h", &address, "set", "key", "value"]);
    assert_eq!(said.trim(), "OK");
    let inside = project.ok(&["exec", "cache", "--", "redis-cli", "get", "key"]);
    assert_eq!(inside.trim(), "value", "over the host's own 127.0.0.1:6379");
    assert_eq!(project.host("cache").boots, 1);
}

#[test]
fn redis_without_protection_serves_other_hosts_by_name() {
    need(&["redis-server", "redis-cli"]);
    let compose = REDIS.replace("\"no\"]", "\"no\", --protected-mode, \"no\"]");
    let project = Project::up("redis-name", &compose);
    let said = project.ok(&["run", "--", "redis-cli", "-h", "cache", "incr", "counter"]);
    assert_eq!(said.trim(), "1");
    let info = project.ok(&["run", "--", "redis-cli", "-h", "cache", "client", "list"]);
    assert!(info.contains("addr=127.77."), "the caller's own address: {info}");
}

#[test]
fn two_redis_servers_share_a_machine_with_their_default_configuration() {
    need(&["redis-server", "redis-cli"]);
    let project = Project::up(
        "redises",
        r#"
services:
  one: { command: [redis-server, --save, "", --bind, 127.0.0.1, "-::1"], expose: ["6379"] }
  two: { command: [redis-server, --save, "", --bind, 127.0.0.1, "-::1"], expose: ["6379"] }
"#,
    );
    for host in ["one", "two"] {
        let said = project.ok(&["exec", host, "--", "redis-cli", "set", "who", host]);
        assert_eq!(said.trim(), "OK");
    }
    for host in ["one", "two"] {
        let said = project.ok(&["exec", host, "--", "redis-cli", "get", "who"]);
        assert_eq!(said.trim(), host);
    }
}

const NGINX: &str = r"
worker_processes 3;
daemon off;
pid @dir@/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path @dir@/body;
    proxy_temp_path @dir@/proxy;
    fastcgi_temp_path @dir@/fastcgi;
    uwsgi_temp_path @dir@/uwsgi;
    scgi_temp_path @dir@/scgi;
    server {
        listen 8080;
        listen [::]:8080;
        location / { proxy_pass http://app:8000; }
        location /own { return 200 'nginx on $hostname for $remote_addr'; }
    }
}
";

#[test]
fn nginx_with_several_workers_proxies_to_a_host_that_did_not_run() {
    need(&["nginx", "python3", "curl"]);
    let project = Project::new(
        "nginx",
        r#"
services:
  web: { command: [/usr/sbin/nginx, -e, stderr, -c, "@dir@/nginx.conf"], expose: ["8080"] }
  app: { command: [python3, "@source@/asyncio_server.py", "8000"] }
"#,
    );
    std::fs::write(project.path("nginx.conf"), project.expand(NGINX)).unwrap();
    project.ok(&["up", "-d"]);
    let url = format!("http://{}/", project.at("web", 8080));
    let said = project.outside("curl", &["-sS", "--fail", "--max-time", "60", &url]);
    let answer = Answer(said.trim().to_owned());
    assert_eq!(answer.value("host"), "app");
    assert_eq!(answer.peer(), project.host("web").address.to_string());
    let own = project.outside("curl", &["-sS", "--fail", &format!("{url}own")]);
    assert_eq!(own, "nginx on web for 127.0.0.1");
    let by = project.wait_event("app", "allocate", 1).by;
    assert_eq!(by.as_deref(), Some("web"));
    let said = project
        .run(&["curl", "-sS", "--fail", "http://web:8080/own"])
        .expect_success("curl inside");
    assert!(said.starts_with("nginx on web for 127.77."), "{said}");
    project.ok(&["stop", "web"]);
    let said = project.outside("curl", &["-sS", "--fail", "--max-time", "60", &url]);
    assert!(
        said.contains("host=app "),
        "after a stop the next request boots all workers again: {said}"
    );
}

#[test]
fn pythons_http_server_serves_a_directory() {
    need(&["python3", "curl"]);
    let project = Project::up(
        "python",
        r#"
services:
  files: { command: [python3, -m, http.server, "8000"], expose: ["8000"] }
"#,
    );
    std::fs::write(project.path("file.txt"), "served\n").unwrap();
    let url = format!("http://{}/file.txt", project.at("files", 8000));
    assert_eq!(
        project.outside("curl", &["-sS", "--fail", "--max-time", "60", &url]),
        "served\n"
    );
    let said = project
        .run(&["curl", "-sS", "--fail", "http://files:8000/file.txt"])
        .expect_success("curl");
    assert_eq!(said, "served\n");
}

/// Each of these is asked from outside, asks the next by name, and sees the caller's address.
#[test]
fn asyncio_node_go_and_the_jvm_call_each_other() {
    need(&["python3", "node", "go", "java"]);
    let project = Project::up(
        "runtimes",
        r#"
services:
  python: { command: [python3, "@source@/asyncio_server.py", "8000", node, "8000"], expose: ["8000"] }
  node: { command: [node, "@source@/http_server.js", "8000", "http://jvm:8000/"] }
  jvm: { command: [java, -XX:TieredStopAtLevel=1, -cp, "@guests@/java", Server, "8000", "http://golang:8000/"] }
  golang: { command: ["@guests@/guest-go", -listen, ":8000"] }
"#,
    );
    let line = get(project.at("python", 8000));
    let answers: Vec<Answer> = line.split(" upstream=<").map(|part| Answer(part.to_owned())).collect();
    let hosts = project.ps();
    let expected = ["python", "node", "jvm", "golang"];
    assert_eq!(
        answers.iter().map(|answer| answer.value("host")).collect::<Vec<_>>(),
        expected,
        "{line}"
    );
    for (caller, answer) in expected.iter().zip(&answers[1..]) {
        assert_eq!(answer.peer(), hosts[*caller].address.to_string(), "{line}");
    }
    for host in expected {
        assert_eq!(hosts[host].boots, 1, "{host}");
    }
}

#[test]
fn each_runtime_boots_from_an_outside_connection() {
    need(&["python3", "node", "go", "java"]);
    let project = Project::up(
        "alone",
        r#"
services:
  node: { command: [node, "@source@/http_server.js", "8000"], expose: ["8000"] }
  jvm: { command: [java, -XX:TieredStopAtLevel=1, -cp, "@guests@/java", Server, "8000"], expose: ["8000"] }
  golang: { command: ["@guests@/guest-go", -listen, ":8000"], expose: ["8000"] }
  python: { command: [python3, "@source@/asyncio_server.py", "8000"], expose: ["8000"] }
"#,
    );
    for host in ["node", "jvm", "golang", "python"] {
        let answer = Answer(get(project.at(host, 8000)));
        assert_eq!(answer.value("host"), host);
        // A second boot meets the program's own retained sockets instead of declared ones.
        project.ok(&["stop", host]);
        let again = Answer(get(project.at(host, 8000)));
        assert_ne!(again.pid(), answer.pid(), "{host}");
    }
}

#[test]
fn memcached_serves_over_tcp_and_udp() {
    need(&["memcached"]);
    let project = Project::up(
        "memcached",
        r#"
services:
  cache: { command: [memcached, -u, nobody, -l, 0.0.0.0, -U, "11211"], expose: ["11211", "11211/udp"] }
"#,
    );
    let address = project.at("cache", 11211);
    let mut stream = client::connect(address).unwrap();
    let said = client::talk(&mut stream, "set key 0 0 5\r\nvalue\r").unwrap();
    assert_eq!(said, "STORED");
    let said = client::ask_line(address, "get key\r").unwrap();
    assert_eq!(said, "VALUE key 0 5");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(common::LIMIT)).unwrap();
    socket.send_to(b"\0\x01\0\0\0\x01\0\0get key\r\n", address).unwrap();
    let mut buffer = [0; 1500];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, address);
    assert!(
        buffer[8..count].starts_with(b"VALUE key 0 5"),
        "{:?}",
        String::from_utf8_lossy(&buffer[..count])
    );
}

#[test]
fn bash_connects_by_name_through_dev_tcp() {
    need(&["bash"]);
    let project = Project::up(
        "bash",
        r#"
services:
  db: { command: ["@guest@", --tcp, "9000"] }
"#,
    );
    let script = "exec 3<>/dev/tcp/db/9000; echo hello >&3; read -r line <&3; echo \"$line\"";
    let said = project.run(&["bash", "-c", script]).expect_success("bash");
    assert!(said.contains("host=db "), "{said}");
}

#[test]
fn clients_of_every_kind_reach_a_host_that_did_not_run() {
    need(&["curl", "python3", "node"]);
    let project = Project::up(
        "clients",
        r#"
services:
  web: { command: ["@guest@", --bind, any6, --tcp, "8000"] }
"#,
    );
    let python = "import urllib.request; print(urllib.request.urlopen('http://web:8000/').read().decode())";
    let node = "fetch('http://web:8000/').then(r => r.text()).then(console.log)";
    let go = guest("guest-go");
    let musl = guest("guest-musl");
    for command in [
        &["curl", "-sS", "--fail", "http://web:8000/"][..],
        &["python3", "-c", python],
        &["node", "-e", node],
        &[go.to_str().unwrap(), "-get", "http://web:8000/"],
        &[musl.to_str().unwrap(), "--call", "web:8000"],
    ] {
        let said = project.run(command).expect_success(command[0]);
        assert!(
            said.contains("host=web ") && said.contains("127.77."),
            "{command:?}: {said}"
        );
        project.ok(&["stop", "web"]);
    }
    assert_eq!(project.host("web").boots, 5);
}

#[test]
fn a_program_with_forked_workers_answers_from_each() {
    let project = Project::up(
        "workers",
        r#"
services:
  web: { command: ["@guest@", --workers, "4", --threads, "2", --tcp, "8000"], expose: ["8000"] }
"#,
    );
    let address = project.at("web", 8000);
    let pids: std::collections::BTreeSet<u32> = (0..200).map(|_| ask(address).pid()).collect();
    assert!(
        !pids.contains(&project.host("web").pid.unwrap()),
        "the workers answer, not their parent"
    );
    assert_eq!(project.host("web").boots, 1);
}
