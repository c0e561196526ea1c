//! The port that was asked for decides: a caller waits for its own port, whatever other ports the
//! program opens, and learns where the program listens instead.

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::client;
use common::{Event, LIMIT, Project, need, network, wait_until};

/// Opens ports at times after its start, or once a file exists: `5005@0 8080@7 8081@go udp:53@7
/// local:80@0 six:80@0 exit=3@9`; sends `PORT` to each client.
const PROGRAM: &str = r"
import os, socket, sys, threading, time
def serve(server, port):
    while True:
        client = server.accept()[0]
        client.sendall(b'%d\n' % port)
        client.close()
def echo(server, port):
    while True:
        client = server.recvfrom(100)[1]
        server.sendto(b'%d\n' % port, client)
began = time.monotonic()
for what in sys.argv[1:]:
    what, at = what.split('@')
    if at[0].isdigit():
        time.sleep(max(0, began + float(at) - time.monotonic()))
    while not at[0].isdigit() and not os.path.exists(at):
        time.sleep(0.05)
    kind, _, port = what.rpartition(':')
    if what.startswith('exit='):
        os._exit(int(what[5:]))
    port = int(port)
    if kind == 'udp':
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(('', port))
        work = echo
    elif kind == 'six':
        server = socket.create_server(('::1', port), family=socket.AF_INET6)
        work = serve
    else:
        server = socket.create_server(('127.0.0.1' if kind == 'local' else '', port))
        work = serve
    threading.Thread(target=work, args=(server, port)).start()
threading.Event().wait()
";

/// A project with hosts that run [`PROGRAM`]; `@late@` stands for the program.
fn up(label: &str, services: &str) -> Project {
    let project = Project::new(
        label,
        &format!("services:\n{services}").replace("@late@", "python3, -u, \"@dir@/late.py\""),
    );
    std::fs::write(project.path("late.py"), PROGRAM).unwrap();
    project.ok(&["up", "-d"]);
    project
}

/// Connects, and returns the line that the server sends. The program reads no input and closes: a
/// client that sent a line could be reset before it reads the answer.
fn ask_line(address: SocketAddr) -> std::io::Result<String> {
    line_of(client::connect(address)?)
}

fn line_of(stream: TcpStream) -> std::io::Result<String> {
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said)?;
    match said.ends_with('\n') {
        true => Ok(said.trim_end().to_owned()),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Makes the file `go`, for which programs wait that open a port `@go`.
fn go(project: &Project) {
    std::fs::write(project.path("go"), "").unwrap();
}

/// A client outside imsup that has connected and waits for its answer.
fn asking(address: SocketAddr) -> JoinHandle<std::io::Result<String>> {
    // Not in the thread: clients come in the order of the calls, and before the test's next step.
    let connected = client::connect(address);
    thread::spawn(move || line_of(connected?))
}

/// A supervised client that waits until it is served: `sync` by a blocking connect, else by a
/// non-blocking one.
fn supervised(project: &Project, sync: bool, host: &str, port: u16) -> Result<String, String> {
    match sync {
        true => supervised_by(project, "client.connect(there)", host, port),
        false => supervised_by(project, &without_blocking(""), host, port),
    }
}

/// A non-blocking client that opens the port `@go` once it has asked.
fn supervised_before_it_is_open(project: &Project, host: &str, port: u16) -> Result<String, String> {
    supervised_by(project, &without_blocking("open('go', 'w').close(); "), host, port)
}

fn without_blocking(then: &str) -> String {
    format!(
        "client.setblocking(False); client.connect_ex(there); {then}select.select([], [client], []); \
         error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR); \
         exec('if error: raise OSError(error, errno.errorcode[error])'); client.setblocking(True)"
    )
}

fn supervised_by(project: &Project, how: &str, host: &str, port: u16) -> Result<String, String> {
    let program = format!(
        "import errno, select, socket, sys\nthere = ('{host}', {port})\nclient = socket.socket()\n\
         try:\n    {how}\n    print(client.recv(10).decode().strip())\n\
         except OSError as error:\n    print(errno.errorcode[error.errno], file=sys.stderr)\n    sys.exit(1)\n"
    );
    let finished = project.run(&["python3", "-c", &program]);
    match finished.success() {
        true => Ok(finished.stdout.trim().to_owned()),
        false => Err(finished.stderr.trim().to_owned()),
    }
}

fn detail(event: &Event) -> String {
    event.json["detail"].as_str().unwrap_or_default().to_owned()
}

/// The time from the signal to the event.
fn took(event: &Event) -> Duration {
    Duration::from_micros(event.json["duration_us"].as_u64().expect("a duration"))
}

fn shown(project: &Project, host: &str) -> String {
    let json = project.host(host).json;
    json["detail"].as_str().unwrap_or_default().to_owned()
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Longer than a program is quiet that opens no more ports.
const LATE: Duration = Duration::from_secs(7);

#[test]
fn a_connection_waits_for_the_port_that_it_is_for() {
    let project = up(
        "late",
        r#"
  web: { command: [@late@, "5005@0", "8080@7"], expose: ["8080"] }
  both: { command: [@late@, "5005@0", "8080@7"], expose: ["5005", "8080", "9999"] }
  learned: { command: [@late@, "5005@0", "8080@7"] }
"#,
    );
    let clients: Vec<_> = ["web", "both"].map(|host| asking(project.at(host, 8080))).into();
    // A client of another port is served at once, and a later client of the same port waits as
    // well.
    assert_eq!(ask_line(project.at("both", 5005)).unwrap(), "5005");
    project.ok(&["wake", "learned"]);
    for client in clients {
        assert_eq!(client.join().unwrap().unwrap(), "8080");
    }
    for host in ["web", "both"] {
        let ready = project.wait_event(host, "ready", 1);
        assert!(took(&ready) >= LATE, "{host}: {:?}", ready.json);
        assert_eq!(
            project.event_names(host).iter().filter(|name| *name == "boot").count(),
            1
        );
    }
    wait_until("the port to be learned", || {
        project.host("learned").json["ports"].to_string().contains("8080")
    });
    project.ok(&["stop", "learned"]);
    assert_eq!(
        ask_line(project.at("learned", 8080)).unwrap(),
        "8080",
        "as one that is declared"
    );
    assert_eq!(project.host("learned").boots, 2);
}

#[test]
fn a_jvm_with_a_debug_port_is_waited_for() {
    need(&["java", "javac"]);
    let project = Project::new(
        "jvm",
        r#"
services:
  app:
    command: [java, -XX:TieredStopAtLevel=1, "-agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=*:5005", -cp, "@dir@", Late]
    expose: ["8080"]
"#,
    );
    let program = r#"
public class Late {
    public static void main(String[] arguments) throws Exception {
        Thread.sleep(7000);
        try (var server = new java.net.ServerSocket(8080)) {
            while (true) {
                try (var client = server.accept()) {
                    client.getOutputStream().write("8080\n".getBytes());
                }
            }
        }
    }
}
"#;
    std::fs::write(project.path("Late.java"), program).unwrap();
    project.outside("javac", &["Late.java"]);
    project.ok(&["up", "-d"]);
    assert_eq!(ask_line(project.at("app", 8080)).unwrap(), "8080");
    assert!(took(&project.wait_event("app", "ready", 1)) >= LATE);
    assert_eq!(project.host("app").boots, 1);
}

#[test]
fn supervised_callers_wait_for_a_port_that_nobody_declared() {
    let project = up(
        "undeclared",
        r#"
  one: { command: [@late@, "5005@0", "8080@7"] }
  two: { command: [@late@, "5005@0", "8080@7"] }
"#,
    );
    thread::scope(|scope| {
        for (host, sync) in [("one", true), ("two", false)] {
            let project = &project;
            scope.spawn(move || {
                assert_eq!(supervised(project, sync, host, 8080).as_deref(), Ok("8080"), "{host}");
                assert!(took(&project.wait_event(host, "ready", 1)) >= LATE);
                assert_eq!(project.host(host).boots, 1);
            });
        }
    });
}

#[test]
fn datagrams_and_published_ports_wait_for_their_port() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let project = up(
        "others",
        &format!(
            r#"
  time: {{ command: [@late@, "5005@0", "udp:9053@7"], expose: ["9053/udp"] }}
  quiet: {{ command: [@late@, "5005@0", "udp:9053@7"] }}
  web: {{ command: [@late@, "5005@0", "8080@7"], ports: ["127.0.0.1:{free}:8080"] }}
"#
        ),
    );
    let published = asking(SocketAddr::from(([127, 0, 0, 1], free)));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    // Once: a lost datagram is not sent again.
    socket.send_to(b"?", project.at("time", 9053)).unwrap();
    let program = "import socket; client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                   client.sendto(b'?', ('quiet', 9053)); print(client.recvfrom(10)[0].decode().strip())";
    let said = project
        .run(&["python3", "-c", program])
        .expect_success("a supervised datagram");
    assert_eq!(said.trim(), "9053");
    let mut answer = [0; 10];
    let (count, _) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(&answer[..count], b"9053\n");
    assert_eq!(published.join().unwrap().unwrap(), "8080");
    for host in ["time", "quiet", "web"] {
        assert_eq!(project.host(host).boots, 1, "{host}");
        assert!(took(&project.wait_event(host, "ready", 1)) >= LATE, "{host}");
    }
}

#[test]
fn a_start_may_take_longer_than_a_program_that_listens_is_waited_for() {
    let project = up(
        "long",
        r#"
  web: { command: [@late@, "8080@6"], expose: ["8080"], x-imsup: { hold_timeout: 30s } }
  two: { command: [@late@, "8080@6"], x-imsup: { hold_timeout: 30s } }
"#,
    );
    let client = asking(project.at("web", 8080));
    assert_eq!(supervised(&project, true, "two", 8080).as_deref(), Ok("8080"));
    assert_eq!(client.join().unwrap().unwrap(), "8080");
    assert_eq!((project.host("web").boots, project.host("two").boots), (1, 1));
}

#[test]
fn the_next_broker_knows_who_waits() {
    // Between the two brokers another project of this machine could take the addresses.
    if !network::is_own() {
        return;
    }
    let project = up(
        "next",
        r#"
  web: { command: [@late@, "5005@0", "8080@go"], expose: ["8080"] }
  app: { command: [@late@, "5005@0", "8080@go"] }
"#,
    );
    let client = asking(project.at("web", 8080));
    thread::scope(|scope| {
        let caller = scope.spawn(|| supervised(&project, true, "app", 8080));
        for host in ["web", "app"] {
            project.wait_event(host, "unmet", 1);
        }
        project.kill_broker();
        project.ok(&["up", "-d"]);
        go(&project);
        assert_eq!(caller.join().unwrap().as_deref(), Ok("8080"));
    });
    assert_eq!(client.join().unwrap().unwrap(), "8080");
    assert_eq!((project.host("web").boots, project.host("app").boots), (1, 1));
}

#[test]
fn whoever_comes_while_a_program_is_being_ended_boots_the_next() {
    let project = Project::new(
        "ending",
        r#"services: { web: { command: [python3, -u, "@dir@/slow.py"], expose: ["8000", "8001"] } }"#,
    );
    // The first boot opens one port, and takes its time to end; the second opens both.
    let program = r"
import os, signal, socket, threading, time
def end(*_):
    print('ending')
    while not os.path.exists('@dir@/go'):
        time.sleep(0.05)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
ports = [8000] if not os.path.exists('@dir@/booted') else [8000, 8001]
open('@dir@/booted', 'w').close()
def serve(port):
    server = socket.create_server(('', port))
    while True:
        client = server.accept()[0]
        client.sendall(b'%d\n' % port)
        client.close()
for port in ports:
    threading.Thread(target=serve, args=(port,)).start()
while True:
    time.sleep(0.1)
";
    std::fs::write(project.path("slow.py"), project.expand(program)).unwrap();
    project.ok(&["up", "-d"]);
    assert_eq!(ask_line(project.at("web", 8000)).unwrap(), "8000");
    let address = project.at("web", 8001);
    thread::scope(|scope| {
        scope.spawn(|| project.ok(&["stop", "web"]));
        wait_until("its end to begin", || project.ok(&["logs", "web"]).contains("ending"));
        let client = asking(address);
        go(&project);
        assert_eq!(client.join().unwrap().unwrap(), "8001");
    });
    assert_eq!(project.host("web").boots, 2);
}

#[test]
fn each_connection_waits_for_as_long() {
    let project = up(
        "each",
        r#"  web: { command: [@late@, "5005@0", "8080@go"], expose: ["8080"], x-imsup: { hold_timeout: 12s } }"#,
    );
    let address = project.at("web", 8080);
    let early = asking(address);
    // Five seconds after the first listen the missing port is reported: now another client comes.
    project.wait_event("web", "unmet", 1);
    let late = asking(address);
    assert!(is_reset(&early.join().unwrap().unwrap_err()));
    // The other came five seconds after the first, and has as many left.
    go(&project);
    assert_eq!(late.join().unwrap().unwrap(), "8080");
    assert_eq!(project.host("web").boots, 1);
}

#[test]
fn a_target_decides_for_how_long_it_is_waited_for() {
    let project = up(
        "whose",
        r#"
  brief: { command: [@late@, "8080@never"], x-imsup: { hold_timeout: 2s } }
  long: { command: [@late@, "8080@4"], x-imsup: { hold_timeout: 40s } }
  caller: { command: [python3, -c, "import socket; socket.create_connection(('long', 8080)); print('served')"], x-imsup: { hold_timeout: 2s } }
"#,
    );
    assert_eq!(supervised(&project, true, "brief", 8080), Err("ETIMEDOUT".to_owned()));
    project.imsup(&["wake", "caller"]);
    project.wait_event("caller", "exit", 1);
    assert!(project.ok(&["logs", "caller"]).contains("served"));
}

#[test]
fn a_program_that_listens_on_another_port_is_said_to() {
    let project = up(
        "wrong",
        r#"
  web: { command: [python3, -m, http.server, "9000"], expose: ["8000"], x-imsup: { hold_timeout: 25s, idle_after: 1s } }
"#,
    );
    let words = "listens on 9000/tcp, not on 8000/tcp, which the compose file declares";
    let address = project.at("web", 8000);
    let client = asking(address);
    let unmet = project.wait_event("web", "unmet", 1);
    assert_eq!(detail(&unmet), words);
    assert_eq!(unmet.json["port"], 8000);
    assert!(
        unmet.by.as_deref().is_some_and(|by| by.starts_with("127.0.0.1:")),
        "{:?}",
        unmet.json
    );
    // While the client still waits.
    assert!(!client.is_finished());
    let host = project.host("web");
    assert_eq!(
        (host.state.as_str(), host.json["detail"].as_str()),
        ("booting", Some(words))
    );
    assert!(project.ok(&["ps"]).contains(words));
    assert!(project.why("web").to_string().contains(words), "{}", project.why("web"));
    let woken = project.imsup(&["wake", "web"]);
    assert!(woken.success() && woken.stderr.contains(words), "{woken}");
    assert!(project.ok(&["logs", "web"]).contains(words));
    let error = client.join().unwrap().unwrap_err();
    assert!(is_reset(&error), "{error}");
    // The host counts as started now, and the report stays.
    let ready = project.wait_event("web", "ready", 1);
    assert_eq!(detail(&ready), words);
    wait_until("the wrong port to refuse", || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    project.wait_state("web", "suspended");
    assert_eq!(shown(&project, "web"), words);
    assert_eq!(project.host("web").boots, 1);
    project.ok(&["stop", "web"]);
    assert_eq!(
        shown(&project, "web"),
        "was ended by signal 15",
        "of a program that is gone nothing is true any more"
    );
}

#[test]
fn a_program_that_has_closed_its_port_is_said_to_listen_on_none() {
    let project = Project::up(
        "closed",
        r#"services: { web: { command: [python3, -c, "import socket, time; socket.create_server(('', 5005)).close(); time.sleep(1000)"], expose: ["8080"] } }"#,
    );
    let client = asking(project.at("web", 8080));
    assert_eq!(
        detail(&project.wait_event("web", "unmet", 1)),
        "listens on no port of its own choice, not on 8080/tcp, which the compose file declares"
    );
    project.ok(&["stop", "web"]);
    assert!(client.join().unwrap().is_err());
}

#[test]
fn a_server_on_its_own_localhost_is_said_to_be_there() {
    let project = up(
        "inside",
        r#"
  web: { command: [python3, -m, http.server, --bind, 127.0.0.1, "8000"], expose: ["8000"], x-imsup: { hold_timeout: 15s } }
  six: { command: [@late@, "six:8000@0"], expose: ["8000"], x-imsup: { hold_timeout: 15s } }
  other: { command: [@late@, "local:9000@0"], expose: ["8000"], x-imsup: { hold_timeout: 15s } }
  never: { command: [@late@], expose: ["8000"], x-imsup: { hold_timeout: 4s } }
  brief: { command: [@late@, "9000@0", "9001@0"], expose: ["8000", "8001"], x-imsup: { hold_timeout: 5s } }
"#,
    );
    let clients: Vec<_> = ["web", "six", "other", "never", "brief"]
        .map(|host| asking(project.at(host, 8000)))
        .into();
    let second = asking(project.at("brief", 8001));
    for (host, words) in [
        (
            "web",
            "listens on 127.0.0.1:8000 only, inside the host, which others do not reach: bind 0.0.0.0",
        ),
        (
            "six",
            "listens on [::1]:8000 only, inside the host, which others do not reach: bind 0.0.0.0",
        ),
        (
            "other",
            "listens on 127.0.0.1:9000/tcp, not on 8000/tcp, which the compose file declares",
        ),
        (
            "never",
            "listens on no port yet, not on 8000/tcp, which the compose file declares",
        ),
        // The client came before the first listen, so it is reset less than five seconds after the
        // listen, and the report comes then.
        ("brief", "listens on 9000/tcp and 9001/tcp, not on 8000/tcp"),
    ] {
        let said = detail(&project.wait_event(host, "unmet", 1));
        assert!(said.starts_with(words), "{host}: {said}");
        assert!(
            shown(&project, host).starts_with(words),
            "{host}: {}",
            shown(&project, host)
        );
    }
    for client in clients.into_iter().chain([second]) {
        let error = client.join().unwrap().unwrap_err();
        assert!(is_reset(&error), "{error}");
    }
    wait_until("both ports", || {
        shown(&project, "brief").contains("not on 8000/tcp and 8001/tcp, which")
    });
    let woken = project.imsup(&["wake", "web"]);
    assert!(woken.stderr.contains("bind 0.0.0.0"), "{woken}");
}

#[test]
fn what_is_said_of_a_port_ends_when_it_is_opened() {
    let project = up(
        "ends",
        r#"  web: { command: [@late@, "5005@0", "8080@go"], expose: ["8080"] }"#,
    );
    let client = asking(project.at("web", 8080));
    let said = detail(&project.wait_event("web", "unmet", 1));
    assert_eq!(
        said,
        "listens on 5005/tcp, not on 8080/tcp, which the compose file declares"
    );
    go(&project);
    assert_eq!(client.join().unwrap().unwrap(), "8080");
    let ready = project.wait_event("web", "ready", 1);
    assert_eq!(detail(&ready), "");
    assert_eq!(shown(&project, "web"), "");
}

#[test]
fn who_waits_for_a_port_that_never_comes_boots_its_host_once() {
    let project = up(
        "once",
        r#"
  declared: { command: [@late@, "9000@0"], expose: ["8000"], x-imsup: { hold_timeout: 9s, idle_after: 1s, terminate_after: 1s } }
  blocking: { command: [@late@, "9000@0"], x-imsup: { idle_after: 1s, terminate_after: 2s } }
  other: { command: [@late@, "9000@0"], x-imsup: { idle_after: 1s, terminate_after: 2s } }
"#,
    );
    let client = asking(project.at("declared", 8000));
    thread::scope(|scope| {
        for (host, sync) in [("blocking", true), ("other", false)] {
            let project = &project;
            scope.spawn(move || {
                let said = supervised(project, sync, host, 8000).unwrap_err();
                assert!(
                    ["ECONNREFUSED", "ECONNRESET"].contains(&said.as_str()),
                    "{host}: {said}"
                );
            });
        }
    });
    let error = client.join().unwrap().unwrap_err();
    assert!(is_reset(&error), "{error}");
    for host in ["declared", "blocking", "other"] {
        // The program ends, as it would without clients, and no client boots it again.
        project.wait_event(host, "exit", 1);
        project.wait_state(host, "imaginary");
        assert_eq!(project.host(host).boots, 1, "{host}: {:?}", project.event_names(host));
    }
    let of = |kind: &str| {
        project
            .event_names("declared")
            .iter()
            .position(|name| name == kind)
            .unwrap()
    };
    assert!(of("unmet") < of("suspend"), "whoever waits keeps it awake");
}

#[test]
fn a_boot_that_ends_without_the_port_answers_who_waits_for_it() {
    let project = up(
        "ended",
        r#"
  done: { command: [@late@, "9000@0", "exit=0@1"], expose: ["8000", "9000"] }
  nothing: { command: [@late@, "exit=0@0"], expose: ["8000"] }
  crash: { command: [@late@, "9000@0", "exit=3@0.5"], expose: ["8000", "9000"] }
  after: { command: [@late@, "8000@0", "9000@0", "exit=0@7"], expose: ["8000", "8001", "9000"] }
"#,
    );
    let waiting: Vec<_> = ["done", "nothing", "crash"]
        .map(|host| (host, asking(project.at(host, 8000))))
        .into();
    let (served, unserved) = (asking(project.at("after", 8000)), asking(project.at("after", 8001)));
    for (host, client) in waiting {
        let error = client.join().unwrap().unwrap_err();
        assert!(is_reset(&error), "{host}: {error}");
        // A crashing program is tried again, like every failed start, and not for ever.
        let boots = if host == "crash" { 3 } else { 1 };
        assert_eq!(project.host(host).boots, boots, "{host}");
    }
    assert_eq!(served.join().unwrap().unwrap(), "8000");
    let error = unserved.join().unwrap().unwrap_err();
    assert!(is_reset(&error), "{error}");
    project.wait_event("after", "exit", 1);
    assert_eq!(shown(&project, "nothing"), "exited with status 0 before it listened");
    assert_eq!(
        shown(&project, "done"),
        "exited with status 0 before it listened on 8000/tcp"
    );
    assert_eq!(
        shown(&project, "crash"),
        "exited with status 3 before it listened on 8000/tcp"
    );
    // No client waits any more, so no host boots.
    for host in ["done", "nothing", "crash", "after"] {
        let host = project.host(host);
        assert!(
            ["imaginary", "failed"].contains(&host.state.as_str()),
            "{:?}",
            host.json
        );
    }
    assert_eq!(project.host("after").boots, 1);
}

#[test]
fn neither_ready_nor_sleep_waits_for_a_port_that_nobody_asked_for() {
    let project = up(
        "unasked",
        r#"
  web: { command: [@late@, "8000@0"], expose: ["7999", "8000", "8001"], x-imsup: { idle_after: 1s } }
  woken: { command: [@late@, "8000@0"], expose: ["7999", "8000"], x-imsup: { idle_after: 1s } }
  wrong: { command: [@late@, "9000@0"], expose: ["8000"], x-imsup: { idle_after: 1s } }
"#,
    );
    assert_eq!(ask_line(project.at("web", 8000)).unwrap(), "8000");
    project.ok(&["wake", "woken", "wrong"]);
    for host in ["web", "woken", "wrong"] {
        project.wait_event(host, "suspend", 1);
        assert!(!project.event_names(host).contains(&"unmet".to_owned()), "nobody waits");
        assert_eq!(project.host(host).boots, 1);
    }
    assert_eq!(
        (shown(&project, "web"), shown(&project, "woken")),
        (String::new(), String::new())
    );
    wait_until("what is wrong to be said all the same", || {
        shown(&project, "wrong").starts_with("listens on 9000/tcp, not on 8000/tcp")
    });
    // A client comes for a port of a sleeper that may still open it: that is a signal.
    let client = asking(project.at("wrong", 8000));
    project.wait_event("wrong", "wake", 1);
    project.wait_event("wrong", "unmet", 1);
    project.ok(&["stop", "wrong"]);
    let error = client.join().unwrap().unwrap_err();
    assert!(is_reset(&error), "{error}");
    assert_eq!(
        project.host("wrong").state,
        "imaginary",
        "a stopped host is not booted by who waited before"
    );
}

#[test]
fn a_crowd_waits_for_the_port_and_a_wrong_one_is_refused() {
    // Not the port of every other test: a connection of theirs that has just ended (TIME_WAIT) at
    // the same address would keep the broker from listening there for non-blocking clients, which
    // would be pending until the program listens.
    let project = up("crowd", r#"  web: { command: [@late@, "5005@0", "7083@go"] }"#);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..6)
            .map(|number| {
                let project = &project;
                scope.spawn(move || supervised(project, number % 2 == 0, "web", 7083))
            })
            .collect();
        project.wait_event("web", "unmet", 1);
        // The program has been quiet, and a client asks for another port without waiting callers:
        // as natively.
        wait_until("another port to be refused", || {
            supervised(&project, true, "web", 9999) == Err("ECONNREFUSED".to_owned())
        });
        // A new client of the awaited port waits with the others.
        assert_eq!(
            supervised_before_it_is_open(&project, "web", 7083).as_deref(),
            Ok("7083")
        );
        for caller in callers {
            assert_eq!(caller.join().unwrap().as_deref(), Ok("7083"));
        }
    });
    assert_eq!(project.host("web").boots, 1);
    let mut stream = client::connect(project.at("web", 5005)).unwrap();
    stream.write_all(b"?").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    assert_eq!(answer, "5005\n");
}
