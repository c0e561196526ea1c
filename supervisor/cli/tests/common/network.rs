//! Tests that change a network: each in a namespace of its own, so that the machine's is left
//! alone.
#![allow(dead_code)] // each test binary uses its own part

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const MARK: &str = "IMSUP_TEST_OWN_NETWORK";

/// Runs the calling test once more, in a network namespace with a loopback device only, which is
/// up. True inside, for the test to do its work; false outside, after its success. An ordinary user
/// gets a user namespace as well, as its root.
#[track_caller]
#[must_use]
pub fn is_own() -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .args(["--net", "--", "sh", "-c", r#"ip link set lo up && exec "$@""#, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(MARK, "1")
        .env("PATH", path())
        .status()
        .expect("unshare(1), of the package util-linux: run 'make setup'");
    assert!(
        status.success(),
        "{test} in a network namespace of its own: {status} (127 from sh: ip(8) is missing, run 'make setup'; an \
         ordinary user needs user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)"
    );
    false
}

/// Runs `ip ARGUMENTS`, which must succeed, and returns the output.
#[track_caller]
pub fn ip(arguments: &str) -> String {
    assert!(std::env::var_os(MARK).is_some(), "only in a network of the test's own");
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip(8)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The local routes of a prefix, one a line.
#[track_caller]
pub fn local_routes(prefix: &str) -> Vec<String> {
    let all = ip("route show table local");
    let of_prefix = all.lines().filter(|line| line.starts_with(&format!("local {prefix} ")));
    of_prefix.map(|line| line.trim().to_owned()).collect()
}

/// The directories of administrators' programs, for users too.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// The script of another machine: Python, which runs its input line by line, and reports each
/// finished line.
const DRIVER: &str = "
import os, select, socket, sys
# A question for the address of `web`.
question = bytes.fromhex('123401000001000000000000') + b'\\3web\\0\\0\\1\\0\\1'
print('.', flush=True)
for line in sys.stdin:
    exec(eval(line), globals())
    print('.', flush=True)
";

/// Another machine: a network namespace of its own, with one cable to the test's. The test's end is
/// 192.0.2.1. Ended on drop.
pub struct Neighbour {
    python: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Neighbour {
    /// A neighbour that has a route to `prefix` by way of the test's machine. With `localnet` both
    /// let 127.0.0.0/8 leave the machine (ip-sysctl.rst, route_localnet).
    #[track_caller]
    pub fn with_route_to(prefix: &str, localnet: bool) -> Self {
        let mut python = Command::new("unshare")
            .args(["--net", "--", "python3", "-c", DRIVER])
            .env("PATH", path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1), of the package util-linux: run 'make setup'");
        let mut neighbour = Self {
            input: python.stdin.take().unwrap(),
            output: BufReader::new(python.stdout.take().unwrap()),
            python,
        };
        assert_eq!(neighbour.printed(), "");
        let pid = neighbour.python.id();
        ip(&format!("link add cable type veth peer name cable netns {pid}"));
        ip("address add 192.0.2.1/24 dev cable");
        ip("link set cable up");
        for command in [
            "ip link set lo up",
            "ip address add 192.0.2.2/24 dev cable",
            "ip link set cable up",
        ] {
            neighbour.shell(command);
        }
        if localnet {
            let switch = "/proc/sys/net/ipv4/conf/all/route_localnet";
            std::fs::write(switch, "1").unwrap();
            neighbour.shell(&format!("echo 1 > {switch}"));
            neighbour.shell("ip route delete local 127.0.0.0/8 dev lo table local");
        }
        neighbour.shell(&format!("ip route add {prefix} via 192.0.2.1"));
        neighbour
    }

    /// Runs Python, and returns its output.
    #[track_caller]
    pub fn run(&mut self, code: &str) -> String {
        writeln!(self.input, "{code:?}").unwrap();
        self.printed()
    }

    #[track_caller]
    fn shell(&mut self, command: &str) {
        assert_eq!(self.run(&format!("print(os.system({command:?}))")), "0\n", "{command}");
    }

    #[track_caller]
    fn printed(&mut self) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let count = self.output.read_line(&mut line).unwrap();
            assert!(count > 0, "the neighbour has ended: {all}");
            if line == ".\n" {
                return all;
            }
            all.push_str(&line);
        }
    }

    /// Connects to each of the first, sends a datagram to each of the second, and returns the
    /// number of connections made by the time that everything has arrived: a connection to a
    /// listener open to all comes last on the same cable.
    #[track_caller]
    pub fn try_to_reach(&mut self, streams: &[SocketAddr], datagrams: &[SocketAddr]) -> usize {
        let control = TcpListener::bind("192.0.2.1:0").unwrap();
        let python = |address: &SocketAddr| format!("('{}', {})", address.ip(), address.port());
        let list = |all: &[SocketAddr]| all.iter().map(|address| python(address) + ",").collect::<String>();
        let code = format!(
            "
tried = [socket.socket() for _ in ({})]
for s, to in zip(tried, ({})): s.setblocking(False); s.connect_ex(to)
sent = [socket.socket(type=socket.SOCK_DGRAM) for _ in ({})]
for s, to in zip(sent, ({})): s.sendto(question, to)
last = socket.create_connection({})
print(len(select.select([], tried, [], 0)[1]))
",
            list(streams),
            list(streams),
            list(datagrams),
            list(datagrams),
            python(&control.local_addr().unwrap())
        );
        let made = self.run(&code);
        made.trim().parse().unwrap()
    }

    /// How many of the last datagrams were answered.
    #[track_caller]
    pub fn answered(&mut self) -> usize {
        let control = TcpListener::bind("192.0.2.1:0").unwrap();
        let port = control.local_addr().unwrap().port();
        let code = format!(
            "last = socket.create_connection(('192.0.2.1', {port})); print(len(select.select(sent, [], [], 0)[0]))"
        );
        self.run(&code).trim().parse().unwrap()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}
