//! Another user of the machine listens at a host's address. As root, who can be both: run by `make
//! test` for root.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use common::client::ask;
use common::{Project, wait_until};

const STRANGER: u32 = 4711;
/// The user of a program of the project that changed its user by itself.
const DROPPED: u32 = 4712;

/// Accepts and reads all it can until its standard input ends, and then prints the bytes.
const LISTEN: &str = "
import select, socket, sys
address = (sys.argv[1], int(sys.argv[2]))
s = socket.create_server(address); u = socket.socket(type=socket.SOCK_DGRAM); u.bind(address)
print('ready', flush=True)
got = []; open_ = [s, u, sys.stdin]; over = False
while True:
    ready = select.select(open_, [], [], 0 if over else None)[0]
    if not [r for r in ready if r is not sys.stdin] and over: break
    for r in ready:
        if r is s: open_.append(s.accept()[0])
        elif r is sys.stdin: over = True
        elif r is u: got.append(u.recv(99))
        else:
            try: data = r.recv(99)
            except OSError: data = b''
            if data: got.append(data)
            else: open_.remove(r)
print(got, flush=True)
";

struct Stranger(Child);

impl Stranger {
    fn listens(at: SocketAddr) -> Self {
        let uid = STRANGER.to_string();
        let mut child = Command::new("setpriv")
            .args([
                "--reuid",
                &uid,
                "--regid",
                &uid,
                "--clear-groups",
                "python3",
                "-c",
                LISTEN,
            ])
            // Not one of root's own.
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .args([at.ip().to_string(), at.port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.as_mut().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The bytes received so far.
    fn got(mut self) -> String {
        drop(self.0.stdin.take());
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        line
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn these_tests_are_run_by_root() {
    assert!(rustix::process::geteuid().is_root(), "run them with: sudo make test");
}

const COMPOSE: &str = "services:\n  web: { command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] }\n";

#[test]
fn what_is_sent_to_a_port_that_a_stranger_took_is_refused() {
    let project = Project::up("stranger", COMPOSE);
    let at = project.at("web", 9999);
    let stranger = Stranger::listens(at);
    let who = format!(
        "user {STRANGER}, process {} (python3) has a socket at {at}",
        stranger.pid()
    );
    let script = format!(
        "
import socket, threading
to = ('{}', {})
def tried(act):
    try: return act()
    except OSError as error: return error.errno
s = socket.socket(); print(tried(lambda: s.connect(to)), tried(lambda: s.send(b'password')))
s = socket.socket(); s.setblocking(False); print(s.connect_ex(to), tried(lambda: s.send(b'password')))
s = socket.socket(socket.AF_INET6); print(s.connect_ex(('::ffff:' + to[0], to[1])), tried(lambda: s.send(b'password')))
u = socket.socket(type=socket.SOCK_DGRAM); print(tried(lambda: u.sendto(b'password', to)), tried(lambda: u.sendmsg([b'password'], [], 0, to)))
u = socket.socket(type=socket.SOCK_DGRAM); print(tried(lambda: u.connect(to)), tried(lambda: u.send(b'password')))
s = socket.create_connection(('{}', 8080)); print('web', s.send(b'x'))
",
        at.ip(),
        at.port(),
        at.ip()
    );
    let finished = project.run(&["python3", "-c", &script]);
    let said = finished.stderr.clone();
    let printed = finished.expect_success("the program");
    let log = project.state().join("broker.log");
    wait_until("the broker's word", || {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains(&who))
    });
    assert_eq!(stranger.got(), "[]\n", "{printed}");
    // ECONNREFUSED, and then EPIPE or ENOTCONN for streams, EDESTADDRREQ for datagrams.
    for (line, expected) in printed
        .lines()
        .zip(["111 32", "111 32", "111 32", "111 111", "111 89", "web 1"])
    {
        assert_eq!(line, expected, "{printed}");
    }
    assert_eq!(printed.lines().count(), 6, "{printed}");
    assert!(
        said.contains(&format!("user {STRANGER}")) && said.contains(&at.to_string()),
        "{said}"
    );
}

/// A service that starts as root and becomes another user, as the images of databases do; the user
/// is in no file.
#[test]
fn what_a_program_listens_on_as_another_user_is_the_projects() {
    let project = Project::up(
        "dropped",
        &format!(
            "
services:
  db: {{ command: [setpriv, --reuid={DROPPED}, --regid={DROPPED}, --clear-groups, \"@guest@\", --tcp, \"9090\"] }}
"
        ),
    );
    project.ok(&["wake", "db"]);
    let at = project.at("db", 9090);
    wait_until("the port", || std::net::TcpStream::connect(at).is_ok());
    let said = project.run_guest(&["--call", &at.to_string()]);
    assert!(said.contains("host=db "), "{said}");
    // The next broker knows the user before the program has said so again.
    project.kill_broker();
    project.ok(&["up", "-d"]);
    let said = project.run_guest(&["--call", &at.to_string()]);
    assert!(said.contains("host=db "), "{said}");
}

/// As nginx does: the listener is root's, and what is accepted is the worker's.
#[test]
fn what_a_worker_accepts_as_another_user_is_the_projects() {
    let project = Project::new(
        "workers",
        r#"
services:
  web: { command: [python3, -u, "@dir@/server.py"], ports: ["127.0.0.1:0:8080"] }
  client: { command: ["@guest@", --tcp, "1"], expose: ["1"] }
"#,
    );
    let server = format!(
        "import os, socket\n\
         listener = socket.create_server(('0.0.0.0', 8080))\n\
         os.setgroups([]); os.setgid({DROPPED}); os.setuid({DROPPED})\n\
         while True:\n    client, _ = listener.accept()\n    client.recv(99)\n    client.sendall(b'served\\n')\n    client.close()\n"
    );
    std::fs::write(project.path("server.py"), server).unwrap();
    project.ok(&["up", "-d"]);
    let published = project.ok(&["port", "web", "8080"]).trim().parse().unwrap();
    for _ in 0..50 {
        let served = common::client::ask_line(published, "?");
        assert_eq!(served.unwrap(), "served");
    }
    for _ in 0..5 {
        let said = project.ok(&[
            "exec",
            "client",
            "--",
            "python3",
            "-c",
            "import socket; s = socket.create_connection(('web', 8080)); s.sendall(b'?'); print(s.recv(99))",
        ]);
        assert!(said.contains("served"), "{said}");
    }
    project.down();
}

#[test]
fn who_took_a_declared_port_after_the_brokers_death_is_named() {
    let project = Project::up("after", COMPOSE);
    let at = project.at("web", 8080);
    project.kill_broker();
    let stranger = Stranger::listens(at);
    let said = project.fails(1, &["up", "-d"]);
    let who = format!("in use by user {STRANGER}, process {} (python3)", stranger.pid());
    assert!(said.contains(&who), "{said}");
    drop(stranger);
    project.ok(&["up", "-d"]);
    assert_eq!(ask(at).value("host"), "web");
}

/// There is no broker to ask about the stranger, and none comes.
#[test]
fn what_a_stranger_took_after_the_brokers_death_is_refused_at_once() {
    let project = Project::up(
        "nobody",
        "services:\n  web: { command: [\"@guest@\", --tcp, \"8080\", --udp, \"8080\"], expose: [\"8080\", \"8080/udp\"] }\n",
    );
    let at = project.at("web", 8080);
    let script = format!(
        "
import socket, sys
to = ('{}', {})
def tried(act):
    try: return act()
    except OSError as error: return error.errno
print('ready', flush=True); sys.stdin.readline()
u = socket.socket(type=socket.SOCK_DGRAM); print(tried(lambda: u.connect(to)), tried(lambda: u.send(b'password')))
u = socket.socket(type=socket.SOCK_DGRAM); print(tried(lambda: u.sendto(b'password', to)))
s = socket.socket(); print(tried(lambda: s.connect(to)), tried(lambda: s.send(b'password')))
s = socket.socket(); s.setblocking(False); print(s.connect_ex(to))
",
        at.ip(),
        at.port()
    );
    let mut program = project
        .imsup_command(&["run", "--", "python3", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(program.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    project.kill_broker();
    let stranger = Stranger::listens(at);
    drop(program.stdin.take());
    let mut printed = String::new();
    output.read_to_string(&mut printed).unwrap();
    program.wait().unwrap();
    assert_eq!(stranger.got(), "[]\n", "{printed}");
    assert_eq!(printed, "111 89\n111\n111 32\n111\n");
    project.ok(&["up", "-d"]);
}

/// Tries to bind these ports in every possible way, and prints its successes.
const BIND: &str = "
import socket, sys
got = set()
for kind, host, port in zip(*[iter(sys.argv[1:])] * 3):
    for address in [host, '0.0.0.0', '::']:
        for options in [[], [socket.SO_REUSEADDR], [socket.SO_REUSEPORT], [socket.SO_REUSEADDR, socket.SO_REUSEPORT]]:
            family = socket.AF_INET6 if ':' in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM) as s:
                for option in options: s.setsockopt(socket.SOL_SOCKET, option, 1)
                try: s.bind((address, int(port)))
                except OSError: continue
                if kind == 'tcp':
                    try: s.listen()
                    except OSError: continue
                if address == host: got.add(port)
                else: got.add(address + ' ' + port)
print(*sorted(got))
";

/// The keeper is stopped, so that the time without a broker does not end: it only holds the
/// project's sockets.
#[test]
fn another_user_binds_nothing_of_the_projects_while_there_is_no_broker() {
    let hosts = r#"
services:
  web: { command: ["@guest@", --tcp, "18080"], expose: ["18080"] }
  db: { command: ["@guest@", --tcp, "19000"], expose: ["19000"] }
  log: { command: ["@guest@", --udp, "15140"], expose: ["15140/udp"] }
"#;
    let project = Project::up("ownerless", hosts);
    let (web, db, log) = (
        project.at("web", 18080),
        project.at("db", 19000),
        project.at("log", 15140),
    );
    let SocketAddr::V4(v4) = web else { panic!("{web}") };
    let claim = SocketAddr::from(([127, 78, v4.ip().octets()[2], 0], 1053));
    let ports = [("tcp", web), ("tcp", db), ("udp", log), ("udp", claim)];
    let binds = || {
        let uid = STRANGER.to_string();
        let mut words: Vec<String> = [
            "--reuid",
            &uid,
            "--regid",
            &uid,
            "--clear-groups",
            "python3",
            "-c",
            BIND,
        ]
        .map(str::to_owned)
        .to_vec();
        for (kind, at) in ports {
            words.extend([kind.to_owned(), at.ip().to_string(), at.port().to_string()]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = project.command("setpriv", &words);
        // Not one of root's own.
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir("/");
        common::command::run(command, common::LIMIT).expect_success("the other user")
    };
    ask(db);
    let (broker, keeper) = (project.broker(), project.keeper());
    common::stop(&project, keeper);
    project.kill(broker);
    assert_eq!(binds(), "\n");
    let mut held = common::client::PersistentConnection::connect(web);
    held.say("waits").unwrap();
    project.signal(keeper, rustix::process::Signal::CONT);
    assert!(held.hear().unwrap().contains("host=web "));
    assert_eq!(binds(), "\n");
    assert_eq!(project.host("db").boots, 1);
    project.down();
    let free = binds();
    for (_, at) in ports {
        let port = at.port().to_string();
        assert!(
            free.split_whitespace().any(|word| word == port),
            "{port} is not free: {free}"
        );
    }
}
