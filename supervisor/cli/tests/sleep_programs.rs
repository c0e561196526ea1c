//! Real programs sleep, and the clients do not notice.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use common::client::{self, Answer, PersistentConnection};
use common::command::run;
use common::{Event, LIMIT, Project, need, wait_until};

/// A kept-alive HTTP/1.1 connection, as in a pool.
struct Pooled {
    held: PersistentConnection,
}

impl Pooled {
    fn connect(project: &Project, host: &str, port: u16) -> Self {
        Self {
            held: PersistentConnection::connect(project.at(host, port)),
        }
    }

    /// The body of the answer to a GET.
    #[track_caller]
    fn get(&mut self, path: &str) -> String {
        let mut ask = || -> std::io::Result<String> {
            self.held.say(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r"))?;
            let status = self.held.hear()?;
            assert!(status.contains(" 200"), "{status}");
            let mut length = 0;
            loop {
                let header = self.held.hear()?.trim().to_ascii_lowercase();
                if header.is_empty() {
                    break;
                }
                if let Some(value) = header.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                assert!(
                    !header.starts_with("transfer-encoding"),
                    "the answer is short: {header}"
                );
            }
            self.held.exactly(length)
        };
        ask().unwrap_or_else(|error| panic!("GET {path} over a kept connection: {error}"))
    }
}

const RUNTIMES: &str = r#"
x-imsup: { idle_after: 200ms, timer_slack: 500ms }
services:
  node: { command: [node, "@source@/http_server.js", "8000"], expose: ["8000"] }
  jvm: { command: [java, -XX:TieredStopAtLevel=1, -cp, "@guests@/java", Server, "8000"], expose: ["8000"] }
  golang: { command: ["@guests@/guest-go", -listen, ":8000"], expose: ["8000"] }
"#;

#[test]
fn node_go_and_the_jvm_sleep_under_pooled_connections() {
    need(&["node", "go", "java"]);
    let project = Project::up("runtimes", RUNTIMES);
    let watch = project.watch();
    let mut pools: Vec<(&str, Vec<Pooled>)> = ["node", "jvm", "golang"]
        .into_iter()
        .map(|host| (host, (0..3).map(|_| Pooled::connect(&project, host, 8000)).collect()))
        .collect();
    let mut pids = Vec::new();
    for (host, pool) in &mut pools {
        for one in pool.iter_mut() {
            pids.push((*host, Answer(one.get("/")).pid()));
        }
        watch.wait(host, "suspend", 1);
    }
    for round in 1..=5 {
        for (host, pool) in &mut pools {
            watch.wait(host, "suspend", round);
            let answer = Answer(pool[round % 3].get("/"));
            assert_eq!(answer.value("host"), *host);
            assert!(pids.contains(&(*host, answer.pid())));
        }
        for (host, _) in &pools {
            watch.wait(host, "wake", round);
        }
    }
    for (host, _) in &pools {
        watch.wait(host, "suspend", 6);
        assert!(
            client::get(project.at(host, 8000)).contains(&format!("host={host}")),
            "a new connection"
        );
        let host = project.host(host);
        assert_eq!(host.boots, 1, "{host:?}");
    }
}

#[test]
fn redis_sleeps_over_its_ten_hertz_cron() {
    need(&["redis-server", "redis-cli"]);
    let project = Project::up(
        "redis",
        r#"
x-imsup: { idle_after: 200ms, timer_slack: 300ms }
services:
  cache: { command: [redis-server, --save, "", --appendonly, "no"], expose: ["6379"] }
"#,
    );
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("cache", 6379));
    let mut ask = |command: &str| {
        held.say(&format!("{command}\r")).unwrap();
        held.hear().unwrap().trim_end().to_owned()
    };
    assert_eq!(ask("SET key value"), "+OK");
    let wakes = watch.asleep(&project, "cache");
    // The cron of redis ticks, and does not wake the host.
    watch.wait("cache", "tick", watch.count("cache", "tick") + 5);
    assert_eq!(watch.causes_after("cache", wakes), [""; 0]);
    project.wait_state("cache", "suspended");
    let (mut asked, mut by_data) = (0, 0);
    while by_data < 10 {
        let wakes = watch.asleep(&project, "cache");
        asked += 1;
        assert_eq!(ask("INCR counter"), format!(":{asked}"));
        let cause = watch.wait("cache", "wake", wakes + 1).cause;
        // On a busy machine a tick may take so long that it counts as a wake, in which the question
        // came.
        by_data += usize::from(cause.as_deref() == Some("data"));
        assert!(asked <= 2 * by_data + 2, "{by_data} of {asked} woke it: {cause:?}");
    }
    // A blocked client's time-out is kept during the sleep.
    watch.asleep(&project, "cache");
    assert_eq!(ask("BLPOP nothing 1"), "*-1");
    // And so is an expiry. A bit later, since redis counts whole milliseconds.
    const SOON: Duration = Duration::from_millis(700);
    assert_eq!(ask("SET soon gone PX 600"), "+OK");
    let promised = Instant::now();
    watch.asleep(&project, "cache");
    std::thread::sleep(SOON.saturating_sub(promised.elapsed()));
    assert_eq!(ask("GET soon"), "$-1");
    let address = project.host("cache").address.to_string();
    let said = project.outside("redis-cli", &["-h", &address, "get", "counter"]);
    assert_eq!(said.trim(), asked.to_string());
    assert_eq!(project.host("cache").boots, 1);
}

const NGINX: &str = r"
worker_processes 2;
@daemon@
pid @dir@/@name@.pid;
error_log stderr;
events { worker_connections 64; }
http {
    access_log off;
    keepalive_timeout 600;
    client_body_temp_path @dir@/body; proxy_temp_path @dir@/proxy; fastcgi_temp_path @dir@/fastcgi;
    uwsgi_temp_path @dir@/uwsgi; scgi_temp_path @dir@/scgi;
    upstream app { server app:8000; keepalive 4; }
    server {
        listen 8080;
        location /own { return 200 'nginx on $hostname pid $pid'; }
        location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ''; }
    }
}
";

#[test]
fn nginx_and_its_workers_sleep_in_the_foreground_and_as_a_daemon() {
    need(&["nginx", "node", "curl"]);
    let project = Project::new(
        "nginx",
        r#"
x-imsup: { idle_after: 200ms, timer_slack: 500ms }
services:
  front: { command: [/usr/sbin/nginx, -e, stderr, -c, "@dir@/front.conf"], expose: ["8080"] }
  daemon: { command: [/usr/sbin/nginx, -e, stderr, -c, "@dir@/daemon.conf"], expose: ["8080"] }
  app: { command: [node, "@source@/http_server.js", "8000"], expose: ["8000"] }
"#,
    );
    for (name, daemon) in [("front", "daemon off;"), ("daemon", "")] {
        let text = NGINX.replace("@daemon@", daemon).replace("@name@", name);
        std::fs::write(project.path(&format!("{name}.conf")), project.expand(&text)).unwrap();
    }
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    for host in ["front", "daemon"] {
        let mut pool: Vec<Pooled> = (0..4).map(|_| Pooled::connect(&project, host, 8080)).collect();
        let before: Vec<String> = pool.iter_mut().map(|one| one.get("/own")).collect();
        for round in 1..=4 {
            watch.wait(host, "suspend", round);
            assert_eq!(
                pool[round - 1].get("/own"),
                before[round - 1],
                "the same worker, the same connection"
            );
            watch.wait(host, "wake", round);
        }
        watch.wait(host, "suspend", 5);
        let url = format!("http://{}/own", project.at(host, 8080));
        let said = project.outside("curl", &["-sS", "--fail", "--max-time", "60", &url]);
        assert!(said.starts_with(&format!("nginx on {host}")), "{said}");
        // A cascade over nginx's kept-alive connection to the upstream.
        for round in 1..=3 {
            let suspends = watch.count("app", "suspend");
            let answer = Answer(pool[0].get("/").trim().to_owned());
            assert_eq!(answer.value("host"), "app");
            assert_eq!(answer.peer(), project.host(host).address.to_string(), "round {round}");
            watch.wait("app", "suspend", suspends + 1);
        }
        assert_eq!(project.host(host).boots, 1);
    }
    let some_wake = |what: &str, is_it: fn(&Event) -> bool| {
        watch.wait_for(what, |events| {
            let mut wakes = events.iter().filter(|event| event.is("app", "wake"));
            wakes.any(is_it).then_some(())
        });
    };
    some_wake("a wake of app by front", |wake| wake.by.as_deref() == Some("front"));
    some_wake("a wake of app by daemon", |wake| wake.by.as_deref() == Some("daemon"));
    some_wake("a wake of app by data", |wake| wake.cause.as_deref() == Some("data"));
}

/// An interactive psql.
struct Psql {
    child: Child,
    input: ChildStdin,
    output: std::io::Lines<BufReader<ChildStdout>>,
}

impl Psql {
    fn start(mut command: std::process::Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output }
    }

    #[track_caller]
    fn ask(&mut self, statement: &str) -> String {
        writeln!(self.input, "{statement}").unwrap();
        self.output.next().expect("psql goes on").unwrap()
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().unwrap().success());
    }
}

/// The newest version's server programs.
fn postgres_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let versions = versions.unwrap_or_else(|error| panic!("postgresql is not installed ({error}): run 'make setup'"));
    let mut found: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    found.retain(|directory| directory.join("postgres").exists());
    found.sort();
    found.pop().expect("postgresql is not installed: run 'make setup'")
}

/// Debian's postgres with all its processes. It does not run as root: there it is uid 65534, as the
/// tests' other half is altogether.
#[test]
fn postgres_sleeps_with_all_its_processes_under_a_psql_session() {
    need(&["psql", "setpriv"]);
    let programs = postgres_programs();
    let user = if rustix::process::geteuid().is_root() {
        "user: \"65534:65534\", "
    } else {
        ""
    };
    let project = Project::new(
        "postgres",
        &format!(
            r#"
x-imsup: {{ idle_after: 300ms, timer_slack: 1s }}
services:
  db: {{ {user}command: ["{}/postgres", -D, "@dir@/data", -k, "@dir@", -c, "listen_addresses=*", -c, "fsync=off"], expose: ["5432"] }}
"#,
            programs.display()
        ),
    );
    let initdb = programs.join("initdb");
    let data = project.path("data");
    let arguments = ["-D", data.to_str().unwrap(), "-A", "trust", "-U", "postgres", "-N"];
    if user.is_empty() {
        project.outside(initdb.to_str().unwrap(), &arguments);
    } else {
        std::fs::set_permissions(project.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(&data).unwrap();
        chown(&data, Some(65534), Some(65534)).unwrap();
        chown(project.path(""), Some(65534), Some(65534)).unwrap();
        let mut all = vec![
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            initdb.to_str().unwrap(),
        ];
        all.extend(arguments);
        project.outside("setpriv", &all);
    }
    let mut rules = std::fs::OpenOptions::new()
        .append(true)
        .open(data.join("pg_hba.conf"))
        .unwrap();
    rules.write_all(b"host all all 127.77.0.0/16 trust\n").unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();

    let address = project.host("db").address.to_string();
    let options = ["-h", &address, "-U", "postgres", "-Atq", "-d", "postgres"];
    let mut outside = vec!["-c", "select 'outside'"];
    outside.extend(options);
    // PostgreSQL listens before it serves, and tells clients so ("the database system is starting
    // up").
    wait_until("postgres to serve", || {
        run(project.command("psql", &outside), LIMIT).success()
    });
    let mut session = Psql::start(project.command("psql", &options));
    assert_eq!(session.ask("create temp table t (n int); select 'made';"), "made");
    let backend = session.ask("select pg_backend_pid();");
    let mut wakes = watch.slept_again("db", 0);
    for round in 1..=5 {
        let said = session.ask(&format!("insert into t values ({round}); select count(*) from t;"));
        assert_eq!(said, round.to_string());
        assert_eq!(session.ask("select pg_backend_pid();"), backend);
        wakes = watch.slept_again("db", wakes + 1);
    }
    // The background workers tick, and so does a session that sleeps.
    assert_eq!(session.ask("select pg_sleep(3), 'slept';"), "|slept");
    // A new session, from outside, from another host, from the host's localhost.
    watch.slept_again("db", wakes + 1);
    assert_eq!(project.outside("psql", &outside).trim(), "outside");
    let said = project.run(&[
        "psql",
        "-h",
        "db",
        "-U",
        "postgres",
        "-Atq",
        "-c",
        "select inet_client_addr() << '127.77.0.0/16'",
    ]);
    assert_eq!(said.expect_success("psql in a host").trim(), "t");
    let said = project.ok(&[
        "exec",
        "db",
        "--",
        "psql",
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "-Atq",
        "-c",
        "select 'own localhost'",
    ]);
    assert_eq!(said.trim(), "own localhost");
    session.end();
    let host = project.host("db");
    assert_eq!(host.boots, 1);
    let stopped = project.imsup(&["stop", "db"]);
    assert!(stopped.success(), "a smart shutdown of a sleeper: {stopped}");
}

/// `reclaim`, or the reason why the machine does not permit it.
#[test]
fn memory_that_is_paged_out_comes_back_as_it_was() {
    const FILE_BYTES: u64 = 64 << 20;
    let project = Project::new(
        "reclaim",
        r#"
x-imsup: { idle_after: 100ms, reclaim: true }
services:
  web: { command: ["@guests@/oddities", "8080"], expose: ["8080"] }
"#,
    );
    std::fs::write(project.path("file"), vec![7; FILE_BYTES as usize]).unwrap();
    // Dirty pages are not paged out before they are written.
    std::fs::File::open(project.path("file")).unwrap().sync_all().unwrap();
    project.ok(&["up", "-d"]);
    let watch = project.watch();
    let mut held = PersistentConnection::connect(project.at("web", 8080));
    let file = project.path("file");
    held.ask("fill 32");
    held.ask(&format!("map {}", file.display()));
    for round in 1..=3 {
        let suspends = watch.count("web", "suspend");
        held.ask(&format!("map {}", file.display()));
        let suspend = watch.wait("web", "suspend", suspends + 1);
        let reclaim = watch.wait_for("a reclaim after the suspend", |events| {
            let after = events
                .iter()
                .skip_while(|event| event.json["time"] != suspend.json["time"]);
            after.into_iter().find(|event| event.is("web", "reclaim")).cloned()
        });
        let detail = reclaim.json["detail"].as_str().unwrap_or_default().to_owned();
        assert!(!detail.is_empty(), "round {round}: {:?}", reclaim.json);
        held.ask("check");
    }
    assert_eq!(project.host("web").boots, 1, "nothing it knew was lost");
}
