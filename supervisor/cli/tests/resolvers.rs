//! Resolvers that compare the sender of an answer with the server that they asked (musl, c-ares,
//! and most libraries in Python, Java, Rust and Ruby): names of hosts and of the outside are
//! resolved as natively.
//!
//! Each test runs in a network and mount namespace of its own, whose /etc/resolv.conf names a name
//! server of the test's.

mod common;

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use common::command::run;
use common::{Background, Finished, LIMIT, Project, guest, need, source, wait_until};

const COMPOSE: &str = r#"
services:
  web:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
  db:
    command: ["@guest@", --tcp, "8080"]
    expose: ["8080"]
    x-imsup: { prefetch: dns }
"#;

const MARK: &str = "IMSUP_TEST_OWN_NAMES";

/// The test's name server: as resolv.conf has it, and at further addresses.
const SERVER: &str = "127.0.0.53";

/// Sets the namespaces up, runs the test in there without any privilege that the caller does not
/// have outside, and ends the name server.
const SET_UP: &str = r#"
set -e
resolv_conf=$1 name_server=$2 limits=$3 drop=$4
shift 4
ip link set lo up
mount --bind "$resolv_conf" /etc/resolv.conf
ip address add fe80::53/64 dev lo nodad
coproc python3 "$name_server" 127.0.0.53 127.0.0.54 ::1 fe80::53%lo
server=$COPROC_PID
read -r ready <&"${COPROC[0]}"
[ "$ready" = ready ]
# So that an ordinary user's program can be a name server.
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
if [ "$limits" = none ]; then
    echo 0 >/proc/sys/user/max_net_namespaces
    echo 0 >/proc/sys/user/max_user_namespaces
fi
status=0
if [ "$drop" = drop ]; then set -- setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all "$@"; fi
"$@" || status=$?
kill "$server"
exit "$status"
"#;

/// True if network namespaces may be made by the test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespaces {
    Allowed,
    None,
}

/// Runs the calling test once more, in the namespaces. True inside, for the test to do its work;
/// false outside, after its success.
#[track_caller]
#[must_use]
fn is_inside(resolv_conf: &str, namespaces: Namespaces) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    need(&["unshare", "ip", "setpriv", "python3", "bash"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    std::fs::write(&file, resolv_conf).unwrap();
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let is_root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    // Only in a user namespace of one's own can the others be forbidden.
    if !is_root || namespaces == Namespaces::None {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        command.args([
            "--user",
            "--keep-caps",
            &format!("--map-user={uid}"),
            &format!("--map-group={gid}"),
        ]);
    }
    let status = command
        .args(["--net", "--mount", "--", "bash", "-c", SET_UP, "bash"])
        .args([file, source("name_server.py")])
        .arg(if namespaces == Namespaces::None { "none" } else { "some" })
        .arg(if is_root { "keep" } else { "drop" })
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(MARK, "1")
        .env(
            "PATH",
            format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()),
        )
        .status()
        .expect("unshare(1)");
    assert!(status.success(), "{test} in namespaces of its own: {status}");
    false
}

fn resolv_conf() -> String {
    format!("nameserver {SERVER}\n")
}

/// True for `imsup run`, false for a native run.
#[derive(Clone, Copy)]
enum Side {
    Native,
    Supervised,
}

#[track_caller]
fn on(project: &Project, side: Side, command: &[&str]) -> Finished {
    match side {
        Side::Native => run(project.command(command[0], &command[1..]), LIMIT),
        Side::Supervised => project.run(command),
    }
}

/// A command must print the same natively and supervised, and succeed; returns the output.
#[track_caller]
fn same(project: &Project, command: &[&str]) -> String {
    let native = on(project, Side::Native, command);
    let supervised = on(project, Side::Supervised, command);
    let what = command.join(" ");
    assert_eq!(supervised.stdout, native.stdout, "{what}: {supervised}");
    assert_eq!(supervised.code(), native.code(), "{what}: {supervised}");
    supervised.stdout
}

#[test]
fn libcs_resolve_all_names_as_natively() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    need(&["musl-gcc"]);
    let project = Project::up("libcs", COMPOSE);
    let address = project.host("web").address.to_string();
    for program in ["guest-musl", "guest"] {
        let program = guest(program);
        let program = program.to_str().unwrap();
        let lookups = |names: &[&str]| {
            let dials = names.iter().flat_map(|name| ["--lookup", name]);
            std::iter::once(program)
                .chain(dials)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let outside = [
            "example.test",
            "example.test.",
            "EXAMPLE.test",
            "v4.test",
            "nosuch.test",
            "nosuch",
            "alias.test",
            "192.0.2.7",
            "192.0.2.8",
        ];
        let words = lookups(&outside);
        let said = same(&project, &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(
            said.contains("lookup example.test: 192.0.2.7\n") && said.contains("lookup example.test: 2001:db8::7\n")
        );
        assert!(said.contains("lookup 192.0.2.7: example.test\n"), "{said}");
        assert!(said.contains("lookup nosuch: Name"), "not known: {said}");

        let hosts = ["web", "web.", "WEB", "Web.", &format!("web.{}", project.name)];
        let words = lookups(&hosts);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let expected: String = hosts.iter().map(|name| format!("lookup {name}: {address}\n")).collect();
        assert_eq!(project.run(&words).expect_success(program), expected);
        let words = lookups(&[&address]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(
            project.run(&words).expect_success(program),
            format!("lookup {address}: {address}\nlookup {address}: web\n")
        );
    }
}

#[test]
fn names_are_searched_for_in_the_domains_of_resolv_conf() {
    let conf =
        "nameserver 127.0.0.54\nnameserver 127.0.0.53\nnameserver ::1\nsearch test example.com\noptions ndots:1\n";
    if !is_inside(conf, Namespaces::Allowed) {
        return;
    }
    let project = Project::up("search", COMPOSE);
    let address = project.host("web").address;
    for program in ["guest-musl", "guest"] {
        let program = guest(program);
        let program = program.to_str().unwrap();
        let said = same(
            &project,
            &[program, "--lookup", "example", "--lookup", "v4", "--lookup", "none"],
        );
        assert!(said.contains("lookup example: 192.0.2.7\n"), "{said}");
        let said = project.run(&[program, "--lookup", "WEB", "--lookup", "web.example.com"]);
        assert_eq!(
            said.expect_success(program),
            format!("lookup WEB: {address}\nlookup web.example.com: {address}\n")
        );
    }
}

/// As routers give them, and NetworkManager writes them.
#[test]
fn a_link_local_server_is_asked() {
    if !is_inside("nameserver fe80::53%lo\n", Namespaces::Allowed) {
        return;
    }
    need(&["node", "musl-gcc", "dig"]);
    let project = Project::up("link", COMPOSE);
    let address = project.host("web").address.to_string();
    let script = source("resolve.js");
    let script = script.to_str().unwrap();
    let (musl, glibc) = (guest("guest-musl"), guest("guest"));
    for (command, expected) in [
        (&["node", script, "v4.test"][..], "192.0.2.4"),
        (&[musl.to_str().unwrap(), "--lookup", "v4.test"], "192.0.2.4"),
        (&[glibc.to_str().unwrap(), "--lookup", "v4.test"], "192.0.2.4"),
        (&["dig", "+short", "v4.test"], "192.0.2.4"),
        (&["dig", "+short", "+tcp", "v4.test"], "192.0.2.4"),
    ] {
        let said = same(&project, command);
        assert!(said.contains(expected), "{command:?}: {said}");
    }
    for command in [
        &["node", script, "web"][..],
        &[musl.to_str().unwrap(), "--lookup", "web"],
        &[glibc.to_str().unwrap(), "--lookup", "web"],
    ] {
        let said = project.run(command);
        assert!(said.success() && said.stdout.contains(&address), "{command:?}: {said}");
    }
}

#[test]
fn c_ares_resolves_all_names_as_natively() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    need(&["node"]);
    let project = Project::up("c-ares", COMPOSE);
    let script = source("resolve.js");
    let script = script.to_str().unwrap();
    let outside = [
        "example.test",
        "v4.test",
        "big.test",
        "nosuch.test",
        "nosuch",
        "192.0.2.7",
        "192.0.2.8",
    ];
    let said = same(&project, &[&["node", script][..], &outside].concat());
    assert!(said.contains("resolve4 example.test: [\"192.0.2.7\"]\n"), "{said}");
    assert!(said.contains("at once: 192.0.2.7"), "{said}");
    let address = project.host("web").address;
    // Servers that are nowhere, too: the project's answers for each.
    for servers in [
        &[][..],
        &["--servers", "127.0.0.54"],
        &["--servers", "192.0.2.53,[2001:db8::53]"],
        &["--servers", "[2001:db8::53]"],
    ] {
        let said = project.run(
            &[
                &["node", script][..],
                servers,
                &["web", "WEB", "web.", &address.to_string()],
            ]
            .concat(),
        );
        let said = said.expect_success("node");
        let of = |name| {
            format!("resolve4 {name}: [\"{address}\"]\nresolve6 {name}: ENODATA\nresolveAny {name}: [\"{address}\"]\n")
        };
        let expected = ["web", "WEB", "web."].map(of).concat();
        assert_eq!(
            said,
            format!("{expected}reverse {address}: [\"web\"]\nat once: {address}\n"),
            "{servers:?}"
        );
    }
}

#[test]
fn programs_that_ask_name_servers_are_answered_as_natively() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    need(&["dig", "host", "nslookup", "perl"]);
    let project = Project::up("tools", COMPOSE);
    let address = project.host("web").address.to_string();
    for outside in [
        &["dig", "+short", "example.test"][..],
        &["dig", "+short", "eXaMple.test", "AAAA", "@127.0.0.54"],
        &["dig", "+short", "example.test", "@::1"],
        &["dig", "+short", "+noedns", "big.test"],
        &["dig", "+short", "-x", "192.0.2.7"],
        &["host", "example.test"],
        &["host", "nosuch.test"],
        &["nslookup", "example.test"],
        &[
            "perl",
            "-MSocket",
            "-e",
            "print inet_ntoa(scalar gethostbyname('v4.test'))",
        ],
        &[
            "python3",
            "-c",
            "import socket; print(socket.getaddrinfo('v4.test', 80))",
        ],
    ] {
        assert_ne!(same(&project, outside), "", "{outside:?}");
    }
    for host in [
        &["dig", "+short", "web"][..],
        &["dig", "+short", "+tcp", "WEB"],
        &["dig", "+short", "web", "@192.0.2.1"],
        &["dig", "+short", "web", "@2001:db8::1"],
        &["host", "web"],
        &["nslookup", "web."],
        &["perl", "-MSocket", "-e", "print inet_ntoa(scalar gethostbyname('WEB'))"],
    ] {
        let said = project.run(host);
        assert!(said.success() && said.stdout.contains(&address), "{host:?}: {said}");
    }
    let program = guest("guest-go");
    for name in ["web", "WEB."] {
        let said = project.run(&[program.to_str().unwrap(), "-lookup", name]);
        assert_eq!(said.expect_success("guest-go"), format!("{address}\n"));
    }
}

/// How sockets are used by resolvers: which are made anew for each question is not the only way.
const WAYS: &[&str] = &[
    "plain",
    "connect",
    "bind",
    "bind+connect",
    "bind+name",
    "port",
    "port+connect",
    "localhost",
    "sendmsg",
    "blocking",
    "epoll",
    "edge",
    "epoll+connect",
    "edge+bind",
    "edge+port",
    "epoll+port+connect",
    "dup",
    "dup+epoll",
    "fork",
    "twice",
    "epoll+twice",
    "connect+twice",
    "v6",
    "v6+connect",
    "v6+bind+epoll",
    "v6+port",
    "tcp",
];

/// Asks in each of these ways, and returns each output. Natively each answer comes from the server
/// that was asked.
#[track_caller]
fn ask(project: &Project, ways: &[&str], server: &str, rest: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let program = source("resolver.py");
    let ways = ways.join(",");
    let command = ["run", "--", "python3", program.to_str().unwrap(), &ways, server];
    let mut command = project.imsup_command(&[&command[..], rest].concat());
    command.envs(variables.iter().copied());
    let said = run(command, LIMIT).expect_success(&format!("{ways} {server} {rest:?}"));
    said.lines().map(str::to_owned).collect()
}

#[track_caller]
fn expect_all(said: &[String], ways: &[&str], expected: &str) {
    assert_eq!(said.len(), ways.len(), "{said:#?}");
    for (way, said) in ways.iter().zip(said) {
        assert_eq!(said, expected, "{way}");
    }
}

#[test]
fn answers_come_from_the_server_that_was_asked_however_it_is_asked() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    let project = Project::up("ways", COMPOSE);
    let address = project.host("web").address;
    let of_web = format!("NOERROR {address} from the server asked");
    expect_all(&ask(&project, WAYS, "127.0.0.54", &["wEb"], &[]), WAYS, &of_web);
    expect_all(&ask(&project, WAYS, "192.0.2.53", &["web"], &[]), WAYS, &of_web);
    let of_example = "NOERROR 2001:db8::7 from the server asked";
    expect_all(
        &ask(&project, WAYS, SERVER, &["eXample.test", "AAAA"], &[]),
        WAYS,
        of_example,
    );
    let v6: Vec<&str> = WAYS.iter().copied().filter(|way| way.starts_with("v6")).collect();
    expect_all(&ask(&project, &v6, "2001:db8::53", &["web"], &[]), &v6, &of_web);
    expect_all(
        &ask(&project, &["plain"], SERVER, &["web", "AAAA"], &[]),
        &["plain"],
        "NOERROR  from the server asked",
    );
    expect_all(
        &ask(&project, &["plain"], SERVER, &["nosuch"], &[]),
        &["plain"],
        "NXDOMAIN  from the server asked",
    );
    expect_all(
        &ask(&project, &["plain"], SERVER, &["big.test"], &[]),
        &["plain"],
        "NOERROR truncated  from the server asked",
    );
    // A socket on which another thread waits already cannot be replaced: its question is answered
    // all the same.
    let said = ask(&project, &["thread", "thread+blocking"], SERVER, &["v4.test"], &[]);
    expect_all(&said, &["", ""], "NOERROR 192.0.2.4 from the server asked");
    let said = ask(&project, &["thread", "thread+blocking"], SERVER, &["web"], &[]);
    assert!(
        said.iter().all(|said| said.starts_with(&format!("NOERROR {address} "))),
        "{said:?}"
    );
}

/// The socket is of another namespace meanwhile.
#[test]
fn a_socket_that_has_asked_a_name_server_reaches_hosts_and_the_outside() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    let echo = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"@\", 9000)); print(\"ready\", flush=True)\nwhile True: s.sendto(*s.recvfrom(99))";
    let service = format!(
        "{}\n  echo:\n    command: [python3, -c, {}]\n    expose: [\"9000/udp\"]\n",
        COMPOSE.trim_end(),
        serde_json::to_string(&echo.replace('@', "")).unwrap()
    );
    let project = Project::up("then", &service);
    let mut outside = Background::spawn(
        project.command("python3", &["-c", &echo.replace('@', "127.0.0.9")]),
        Stdio::piped(),
    );
    let mut ready = [0; 5];
    outside.child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let of_web = format!("NOERROR {} from the server asked", project.host("web").address);
    let host = format!("then={}", project.host("echo").address);
    for then in [host.as_str(), "then=127.0.0.9"] {
        let ways = [
            "plain",
            "bind",
            "connect",
            "bind+connect",
            "epoll",
            "edge+bind",
            "epoll+connect",
            "dup",
        ];
        let ways = ways.map(|way| format!("{way}+{then}"));
        let ways: Vec<&str> = ways.iter().map(String::as_str).collect();
        expect_all(&ask(&project, &ways, SERVER, &["web"], &[]), &ways, &of_web);
    }
}

/// As in Docker's default profile ([`imsup_supervisor::mirror`]); epoll
/// instances cannot be duplicated there.
#[test]
fn without_duplicates_of_descriptors_they_do_too() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    let without = [("IMSUP_WITHOUT", "pidfd_getfd,process_vm_readv")];
    let project = Project::up("copied", COMPOSE);
    let of_web = format!("NOERROR {} from the server asked", project.host("web").address);
    let ways: Vec<&str> = WAYS
        .iter()
        .copied()
        .filter(|way| !way.contains("ep") && !way.contains("edge"))
        .collect();
    expect_all(&ask(&project, &ways, SERVER, &["web"], &without), &ways, &of_web);
    expect_all(
        &ask(&project, &ways, SERVER, &["v4.test"], &without),
        &ways,
        "NOERROR 192.0.2.4 from the server asked",
    );
    let ways = ["epoll", "edge+bind"];
    expect_all(
        &ask(&project, &ways, SERVER, &["v4.test"], &without),
        &ways,
        "NOERROR 192.0.2.4 from the server asked",
    );
}

#[test]
fn without_namespaces_the_outside_is_resolved_by_the_servers_that_are_asked() {
    if !is_inside(&resolv_conf(), Namespaces::None) {
        return;
    }
    let project = Project::up("no-namespaces", COMPOSE);
    let address = project.host("web").address;
    let ways = [
        "plain",
        "bind",
        "bind+name",
        "sendmsg",
        "blocking",
        "epoll",
        "dup",
        "twice",
        "v6",
        "v6+bind+epoll",
        "tcp",
    ];
    expect_all(
        &ask(&project, &ways, SERVER, &["v4.test"], &[]),
        &ways,
        "NOERROR 192.0.2.4 from the server asked",
    );
    let said = ask(&project, &ways, SERVER, &["web"], &[]);
    assert!(
        said.iter().all(|said| said.starts_with(&format!("NOERROR {address} "))),
        "{said:?}"
    );
    let musl = guest("guest-musl");
    let musl = musl.to_str().unwrap();
    same(
        &project,
        &[
            musl,
            "--lookup",
            "example.test",
            "--lookup",
            "nosuch",
            "--lookup",
            "192.0.2.7",
        ],
    );
    for program in [musl, guest("guest").to_str().unwrap()] {
        let said = project.run(&[program, "--lookup", "web"]);
        assert_eq!(said.expect_success(program), format!("lookup web: {address}\n"));
    }
}

#[test]
fn whoever_asks_is_named_when_a_look_up_boots_a_host() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    let musl = guest("guest-musl");
    for (label, command) in [
        ("musl", vec![musl.to_str().unwrap(), "--lookup", "DB"]),
        ("c-ares", vec!["node", "-e", "require('dns').resolve4('db', () => {})"]),
    ] {
        let project = Project::up(label, COMPOSE);
        let command = [&["run", "--host", "web", "--"][..], &command].concat();
        project.ok(&command);
        let boot = project.wait_event("db", "boot", 1);
        assert_eq!(boot.by.as_deref(), Some("web"), "{label}: {}", boot.json);
    }
}

#[test]
fn each_server_is_asked_itself() {
    // No server answers at the first address; the program asks others, too.
    let conf = "nameserver 127.0.0.54\nnameserver 127.0.0.53\n";
    if !is_inside(conf, Namespaces::Allowed) {
        return;
    }
    let project = Project::up("itself", COMPOSE);
    for (server, way) in [
        ("127.0.0.53", "plain"),
        ("127.0.0.53", "connect"),
        ("127.0.0.54", "plain"),
        ("127.0.0.54", "epoll"),
    ] {
        let said = ask(&project, &[way], server, &["who.test"], &[]);
        expect_all(&said, &[way], &format!("NOERROR {server} from the server asked"));
    }
    same(&project, &["dig", "+short", "who.test", "@127.0.0.53"]);
    for server in ["127.0.0.53", "127.0.0.54"] {
        let said = same(&project, &["dig", "+tcp", "+short", "who.test", &format!("@{server}")]);
        assert_eq!(said, format!("{server}\n"));
        for variables in [&[][..], &[("IMSUP_WITHOUT", "pidfd_getfd,process_vm_readv")]] {
            let said = ask(&project, &["tcp"], server, &["who.test"], variables);
            expect_all(&said, &["tcp"], &format!("NOERROR {server} from the server asked"));
        }
    }
    // A server without a route, which natively would not answer: those of resolv.conf do.
    let said = ask(&project, &["plain"], "127.0.0.99", &["who.test"], &[]);
    expect_all(&said, &["plain"], "NOERROR 127.0.0.54 from the server asked");
}

#[test]
fn a_host_reaches_a_name_server_of_its_own_at_its_localhost() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    let project = Project::up("own", COMPOSE);
    let program = source("own_name_server.py");
    let program = program.to_str().unwrap();
    let expected = ["sendto", "connect", "tcp"]
        .map(|way| format!("{way} b'\\x00\\x07own'\n"))
        .concat();
    assert_eq!(same(&project, &["python3", program, "127.0.0.1"]), expected);
    // At the others is the test's own server natively.
    for address in ["0.0.0.0", "::1", "::"] {
        for variables in [&[][..], &[("IMSUP_WITHOUT", "pidfd_getfd,process_vm_readv")]] {
            let mut command = project.imsup_command(&["run", "--", "python3", program, address]);
            command.envs(variables.iter().copied());
            assert_eq!(run(command, LIMIT).expect_success(address), expected, "{address}");
        }
    }
}

/// The answer itself wakes the host.
#[test]
fn a_host_that_waits_for_an_answer_sleeps_and_is_woken_by_it() {
    // A waiting program gives up, or asks again, long after the host has fallen asleep and was
    // woken.
    if !is_inside(&format!("{}options timeout:30\n", resolv_conf()), Namespaces::Allowed) {
        return;
    }
    need(&["socat"]);
    for program in ["guest-musl", "guest"] {
        let compose = format!(
            "services:\n  asker:\n    command: [socat, 'TCP-LISTEN:7000,fork,reuseaddr', 'EXEC:@guests@/{program} --lookup late.test']\n    \
             expose: ['7000']\n    x-imsup: {{ idle_after: 200ms, timer_slack: 10s }}\n"
        );
        let project = Project::up("late", &compose);
        let mut client = TcpStream::connect(project.at("asker", 7000)).unwrap();
        project.wait_event("asker", "suspend", 1);
        let asks = run(
            project.command(
                "python3",
                &[source("resolver.py").to_str().unwrap(), "plain", SERVER, "go.test"],
            ),
            LIMIT,
        );
        assert!(asks.stdout.starts_with("NXDOMAIN"), "{asks}");
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "lookup late.test: 192.0.2.9\n", "{program}");
    }
}

/// A host that lives on, whose program asks again for each connection.
const ASKER: &str = r#"
  asker:
    command: [socat, "TCP-LISTEN:7000,fork,reuseaddr", "EXEC:python3 @source@/resolver.py connect 127.0.0.53 web"]
    expose: ["7000"]
"#;

#[test]
fn names_are_resolved_after_the_death_of_who_makes_the_sockets_and_of_the_broker() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    need(&["socat"]);
    let project = Project::up("deaths", &format!("{}{ASKER}", COMPOSE.trim_end()));
    let of_web = format!("NOERROR {} from the server asked\n", project.host("web").address);
    let asker = project.at("asker", 7000);
    let ask = || {
        let mut answer = String::new();
        TcpStream::connect(asker).unwrap().read_to_string(&mut answer).unwrap();
        answer
    };
    let maker = || {
        let processes = project.processes();
        let found = processes
            .iter()
            .find(|process| process.command.contains("imsup resolvers "));
        found.map(|process| process.pid)
    };
    assert!(maker().is_none(), "nobody has asked yet");
    assert_eq!(ask(), of_web);
    let first = maker().expect("a process that makes sockets");
    // More than its stock.
    for _ in 0..12 {
        assert_eq!(ask(), of_web);
    }
    project.kill(first);
    for _ in 0..12 {
        assert_eq!(ask(), of_web);
    }
    assert!(maker().is_some_and(|second| second != first));

    project.kill_broker();
    project.ok(&["up", "-d"]);
    // Until its supervisor has found the next broker, questions are redirected to the name server's
    // own address.
    wait_until("the host's supervisor", || project.host("asker").pid.is_some());
    for _ in 0..12 {
        assert_eq!(ask(), of_web);
    }
    assert_eq!(project.host("asker").boots, 1);
    project.down();
    assert!(maker().is_none());
}

#[test]
fn a_question_does_not_wait_for_sockets_that_do_not_come() {
    if !is_inside(&resolv_conf(), Namespaces::Allowed) {
        return;
    }
    let project = Project::up("stuck", COMPOSE);
    let answer = format!("NOERROR {} ", project.host("web").address);
    let ways = ["plain", "sendmsg"];
    let of_web = format!("{answer}from the server asked");
    expect_all(&ask(&project, &ways, "127.0.0.53", &["web"], &[]), &ways, &of_web);
    let processes = project.processes();
    let maker = processes
        .iter()
        .find(|process| process.command.contains("imsup resolvers "));
    let maker = rustix::process::Pid::from_raw(maker.unwrap().pid.cast_signed()).unwrap();
    rustix::process::kill_process(maker, rustix::process::Signal::STOP).unwrap();
    // From another address: no program waited until the broker gave the process up and started
    // another.
    let said = ask(&project, &ways, "127.0.0.53", &["web"], &[]);
    let is_led = |said: &String| said.starts_with(&answer) && *said != of_web;
    assert!(said.len() == ways.len() && said.iter().all(is_led), "{said:?}");
    // The broker gives up after 10 s, which may be over.
    let _ = rustix::process::kill_process(maker, rustix::process::Signal::CONT);
}
