//! A program closes retained sockets and runs on: it gets no more events of them, clients are
//! refused, the next bind of the port starts with an empty queue, and the cost does not grow with
//! the number of open sockets. Natively and supervised.

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use common::{Project, client, guest, need, wait_until};

/// The way a closer runs, and its channel for commands.
struct Closer {
    address: IpAddr,
    control: SocketAddr,
    /// A free port.
    port: u16,
    native: Option<Child>,
    project: Option<Project>,
}

impl Closer {
    fn native() -> Self {
        // Not from the kernel's own range (ip_local_port_range), in which others make connections
        // meanwhile.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let first = 10_000 + u16::try_from(std::process::id() % 997).unwrap() * 20;
        let next = || first + NEXT.fetch_add(1, Ordering::Relaxed);
        let mut free = std::iter::repeat_with(next).filter(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok());
        let (control, port) = (free.next().unwrap(), free.next().unwrap());
        let mut child = Command::new(guest("closer"))
            .arg(control.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let said = child.stdout.as_mut().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            control: (Ipv4Addr::LOCALHOST, control).into(),
            port,
            native: Some(child),
            project: None,
        }
    }

    fn supervised(label: &str) -> Self {
        Self::of(label, &["30417"], &[], &[])
    }

    /// A closer that does `commands` at its start, and whose host has these ports besides its
    /// control port.
    fn of(label: &str, expose: &[&str], commands: &[&str], variables: &[(&str, &str)]) -> Self {
        let compose = r#"
services:
  shop: { command: ["@guests@/closer", "7000", @commands@], expose: ["7000", @expose@], x-imsup: { idle_after: 1h } }
"#;
        let list = |items: &[&str]| items.iter().map(|item| format!("{item:?}, ")).collect::<String>();
        let compose = compose
            .replace("@expose@", &list(expose))
            .replace("@commands@", &list(commands));
        let project = Project::new(label, &compose);
        let mut up = project.imsup_command(&["up", "-d"]);
        up.envs(variables.iter().copied());
        common::command::run(up, common::LIMIT).expect_success("up");
        let address = project.host("shop").address.into();
        Self {
            address,
            control: (address, 7000).into(),
            port: 30_417,
            native: None,
            project: Some(project),
        }
    }

    #[track_caller]
    fn ask(&self, command: &str) -> String {
        client::ask_line(self.control, command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// The same, with `@` for the port.
    #[track_caller]
    fn tell(&self, command: &str) -> String {
        self.ask(&command.replace('@', &self.port.to_string()))
    }

    #[track_caller]
    fn ok(&self, command: &str) {
        assert_eq!(self.tell(command), "ok", "{command}");
    }

    #[track_caller]
    fn number(&self, command: &str) -> u32 {
        let said = self.tell(command);
        said.parse().unwrap_or_else(|_| panic!("{command}: {said}"))
    }

    fn at(&self) -> SocketAddr {
        (self.address, self.port).into()
    }

    fn stale(&self) -> u64 {
        self.ask("events").parse().unwrap()
    }

    /// True if the kernel still has a connection at the port: its last packets may wait for a busy
    /// processor, and until then the port cannot be bound again (proc(5), /proc/net/tcp).
    fn has_connections(&self) -> bool {
        const LISTENS: &str = "0A";
        let SocketAddr::V4(at) = self.at() else {
            unreachable!("an IPv4 address")
        };
        let plain = format!("{:08X}:{:04X}", u32::from(*at.ip()).to_be(), at.port());
        let mapped = format!("0000000000000000FFFF0000{plain}");
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap());
        tables.iter().flat_map(|table| table.lines()).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next();
            (local == Some(plain.as_str()) || local == Some(mapped.as_str())) && fields.nth(1) != Some(LISTENS)
        })
    }

    /// True if any datagram socket is bound to the port.
    fn is_bound(&self) -> bool {
        UdpSocket::bind(self.at()).is_err()
    }

    fn send(&self) {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            .unwrap()
            .send_to(b"x", self.at())
            .unwrap();
    }

    /// The host's supervisor.
    fn supervisor(&self) -> u32 {
        let project = self.project.as_ref().unwrap();
        common::parent(project.host("shop").pid.unwrap()).unwrap()
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.native {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// The closer natively, supervised, and without duplicates of descriptors.
fn everywhere(label: &str) -> [(&'static str, Closer); 3] {
    let without = [("IMSUP_WITHOUT", "pidfd_getfd,process_vm_readv")];
    [
        ("native", Closer::native()),
        ("supervised", Closer::supervised(label)),
        ("by copies", Closer::of(label, &["30417"], &[], &without)),
    ]
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// True if a socket listens at this address, observed without a connection (proc_net_tcp(5)).
fn is_listened_on(address: SocketAddr) -> bool {
    let IpAddr::V4(ip) = address.ip() else { return false };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let mapped = format!("0000000000000000FFFF0000{local}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap());
    tables.iter().flat_map(|table| table.lines()).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[1] == local || fields[1] == mapped) && fields[3] == "0A"
    })
}

/// The most events of a closed socket, if an arrival came before the close was noticed, or waited
/// in the socket: a close(2) is not visible. Natively none. Once they went on for seconds, or for
/// ever: a million a second.
const FEW: u64 = 1_000_000;

#[test]
fn a_program_is_told_nothing_of_a_listener_that_it_has_closed() {
    for (place, closer) in everywhere("listener") {
        let number = closer.number("listen tcp @");
        closer.ok(&format!("close {number}"));
        wait_until("the listener's end", || !is_listened_on(closer.at()));
        for _ in 0..100 {
            assert!(is_refused(closer.at()), "{place}");
        }
        assert_eq!(closer.stale(), 0, "{place}");
    }
}

#[test]
fn a_listener_is_closed_when_somebody_comes() {
    for (place, closer) in everywhere("comes") {
        let number = closer.number("listen tcp @");
        closer.ok(&format!("close {number}"));
        wait_until("the port to refuse", || is_refused(closer.at()));
        let stale = closer.stale();
        assert!(stale < if place == "native" { 1 } else { FEW }, "{place}: {stale}");
        assert!(is_refused(closer.at()) && closer.stale() == stale, "{place}");
    }
}

/// The program is told of a connection, and closes the listener instead of accepting: the client is
/// reset.
#[test]
fn a_client_that_waits_in_a_closed_listener_is_reset() {
    for (place, closer) in everywhere("waiting") {
        let number = closer.number("listen tcp @");
        let mut waiting = [(); 3].map(|()| client::connect(closer.at()).unwrap());
        closer.ok(&format!("close {number}"));
        for client in &mut waiting {
            let error = client.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{place}");
        }
        let stale = closer.stale();
        assert!(stale < if place == "native" { 1 } else { FEW }, "{place}: {stale}");
        assert!(is_refused(closer.at()) && closer.stale() == stale, "{place}");
    }
}

#[test]
fn a_program_is_told_nothing_of_a_datagram_socket_that_it_has_closed() {
    for (place, closer) in everywhere("datagrams") {
        for comes in [false, true] {
            let number = closer.number("listen udp @");
            if comes {
                closer.send();
            }
            closer.ok(&format!("close {number}"));
            wait_until("the socket's end", || !closer.is_bound());
            let stale = closer.stale();
            for _ in 0..100 {
                closer.send();
            }
            assert_eq!(closer.stale(), stale, "{place}");
            let few = if comes && place != "native" { FEW } else { 1 };
            assert!(stale < few, "{place}: {stale}");
        }
    }
}

/// A connect of the host's own is refused even if the listener was closed just now.
#[test]
fn a_connect_of_the_program_itself_is_refused_at_once() {
    for (place, closer) in everywhere("own") {
        for _ in 0..10 {
            let number = closer.number("listen tcp @");
            assert_eq!(closer.tell("connect @"), "ok", "{place}");
            assert_eq!(closer.tell(&format!("take {number}")), "taken", "{place}");
            closer.ok(&format!("close {number}"));
            assert_eq!(closer.tell("connect @"), "ECONNREFUSED", "{place}");
            assert_eq!(closer.tell("child connect @"), "ECONNREFUSED", "{place}");
        }
        assert_eq!(closer.stale(), 0, "{place}");
    }
}

/// Two sockets may be meant by 127.0.0.1, at the wildcard and at localhost: both are closed, and
/// neither answers.
#[test]
fn a_connect_of_the_program_itself_is_refused_whichever_socket_it_had_there() {
    for (place, closer) in everywhere("both") {
        for (first, second) in [(" localhost", ""), ("", " localhost")] {
            for _ in 0..5 {
                for options in [first, second] {
                    let number = closer.number(&format!("listen tcp @{options}"));
                    closer.ok(&format!("close {number}"));
                }
                assert_eq!(closer.tell("connect @"), "ECONNREFUSED", "{place}: {first:?}");
            }
        }
    }
}

/// So is a datagram.
#[test]
fn a_datagram_of_the_program_itself_is_refused_at_once() {
    for (place, closer) in everywhere("knock") {
        for options in ["", " localhost"] {
            for _ in 0..5 {
                let number = closer.number(&format!("listen udp @{options}"));
                closer.ok(&format!("close {number}"));
                assert_eq!(closer.tell("knock @"), "ECONNREFUSED", "{place}: {options:?}");
            }
        }
        assert_eq!(closer.stale(), 0, "{place}");
    }
}

/// The queue of a closed socket is gone with it: for the same process, and for another one.
#[test]
fn a_rebind_starts_empty() {
    for (place, closer) in everywhere("rebind") {
        for binder in ["", "stay "] {
            for kind in ["tcp", "udp"] {
                let first = closer.number(&format!("listen {kind} @ reuseaddr"));
                let waiting = (kind == "tcp").then(|| client::connect(closer.at()).unwrap());
                if kind == "udp" {
                    closer.send();
                }
                closer.ok(&format!("close {first}"));
                if binder.is_empty() {
                    let second = closer.number(&format!("listen {kind} @ reuseaddr"));
                    assert_eq!(closer.tell(&format!("take {second}")), "EAGAIN", "{place} {kind}");
                    closer.ok(&format!("close {second}"));
                } else {
                    closer.number(&format!("child listen {kind} @ reuseaddr"));
                }
                if let Some(mut client) = waiting {
                    let error = client.read(&mut [0; 1]).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{place} {binder:?}");
                }
            }
        }
    }
}

/// A socket that lives on has an owner: another process, another number, or a message in flight.
/// Its port is in use.
#[test]
fn a_port_is_in_use_as_long_as_anybody_has_its_socket() {
    for (place, closer) in everywhere("moved") {
        for kind in ["tcp", "udp"] {
            let listen = format!("listen {kind} @");
            let number = closer.number(&listen);
            assert_eq!(closer.tell(&listen), "EADDRINUSE", "{place} {kind}");
            let number = closer.number(&format!("move {number}"));
            assert_eq!(closer.tell(&listen), "EADDRINUSE", "{place} {kind}: moved");
            closer.ok(&format!("underway {number}"));
            assert_eq!(closer.tell(&listen), "EADDRINUSE", "{place} {kind}: under way");
            if kind == "tcp" {
                let client = client::connect(closer.at()).expect("it listens");
                // A reset: no TIME_WAIT remains, whichever side closes first.
                rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
            }
            let number = closer.number("arrived");
            assert_eq!(closer.tell(&listen), "EADDRINUSE", "{place} {kind}: arrived");
            if kind == "tcp" {
                assert_eq!(closer.tell(&format!("take {number}")), "taken", "{place}");
            }
            closer.ok(&format!("close {number}"));
            wait_until("the end of the connection", || !closer.has_connections());
            let number = closer.number(&listen);
            closer.ok(&format!("close {number}"));
        }
        // A child alone has it.
        let number = closer.number("listen tcp @");
        closer.ok("crowd 1 0");
        closer.ok(&format!("close {number}"));
        assert_eq!(closer.tell("listen tcp @"), "EADDRINUSE", "{place}: a child's");
        client::connect(closer.at()).expect("it listens");
        assert_eq!(closer.tell("listen tcp @"), "EADDRINUSE", "{place}: a child's");
    }
}

/// Of sockets that share a port (SO_REUSEPORT) closed ones take no connections, and open ones take
/// all.
#[test]
fn workers_that_share_a_port_lose_nothing_to_those_that_closed_it() {
    for (place, closer) in everywhere("shared") {
        let mut open: Vec<u32> = (0..3).map(|_| closer.number("listen tcp @ reuseport")).collect();
        for _ in 0..5 {
            closer.ok(&format!("close {}", open.remove(0)));
            open.push(closer.number("listen tcp @ reuseport"));
            let clients = [(); 20].map(|()| client::connect(closer.at()).unwrap());
            let mut taken = 0;
            for number in &open {
                while closer.tell(&format!("take {number}")) == "taken" {
                    taken += 1;
                }
            }
            assert_eq!(taken, clients.len(), "{place}");
        }
    }
}

/// The first bind of a boot gets the earlier queue, even a bind that only tries whether it can
/// bind.
#[test]
fn the_first_bind_of_a_boot_gets_what_waited() {
    for commands in [&["listen tcp 30417"][..], &["probe 30417", "listen tcp 30417"]] {
        let closer = Closer::of("first", &["30417"], commands, &[]);
        let mut waiting = client::connect(closer.at()).unwrap();
        let number = closer.number("last");
        assert_eq!(closer.tell(&format!("take {number}")), "taken");
        assert_eq!(waiting.read(&mut [0; 1]).unwrap(), 0, "it was accepted, and closed");
        assert_eq!(closer.project.as_ref().unwrap().host("shop").boots, 1);
    }
    let closer = Closer::of("first", &["30417/udp"], &["listen udp 30417"], &[]);
    closer.send();
    let number = closer.number("last");
    assert_eq!(closer.tell(&format!("take {number}")), "taken");
    assert_eq!(closer.tell(&format!("take {number}")), "EAGAIN");
}

/// Once the program has ended its ports are taken again, closed ones included, and a connection
/// boots it.
#[test]
fn a_closed_port_boots_its_host_after_the_end() {
    for (kind, port) in [("tcp", "30417"), ("udp", "30417/udp")] {
        let closer = Closer::of("boots", &[port], &[&format!("listen {kind} 30417")], &[]);
        let project = closer.project.as_ref().unwrap();
        let number = closer.number("last");
        closer.ok(&format!("close {number}"));
        match kind {
            "tcp" => wait_until("the listener's end", || !is_listened_on(closer.at())),
            _ => wait_until("the socket's end", || !closer.is_bound()),
        }
        assert!(client::ask_line(closer.control, "end").is_err());
        project.wait_event("shop", "exit", 1);
        let waiting = (kind == "tcp").then(|| client::connect(closer.at()).unwrap());
        if kind == "udp" {
            closer.send();
        }
        project.wait_event("shop", "ready", 2);
        let number = closer.number("last");
        assert_eq!(closer.tell(&format!("take {number}")), "taken", "{kind}");
        drop(waiting);
    }
}

/// Runs a closure while strace(1) traces a process; returns strace's output.
fn traced(pid: u32, options: &[&str], during: impl FnOnce()) -> String {
    need(&["strace"]);
    let summary = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace")
        .args(options)
        .args(["-f", "-p", &pid.to_string(), "-o"])
        .arg(summary.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(strace.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "{line}");
    during();
    let tracer = rustix::process::Pid::from_child(&strace);
    rustix::process::kill_process(tracer, rustix::process::Signal::INT).unwrap();
    strace.wait().unwrap();
    std::fs::read_to_string(summary.path()).unwrap()
}

/// The count of each system call of a process during a closure. While a call is pending, the
/// supervisor looks after it every 10 ms, so a busy machine has twice as many: limits are far
/// above, and a tenth of one call for each descriptor.
fn system_calls(pid: u32, during: impl FnOnce()) -> Vec<(String, u64)> {
    let text = traced(pid, &["-c", "-U", "calls,name"], during);
    let row = |line: &str| {
        let (count, name) = line.trim().split_once(' ')?;
        Some((name.trim().to_owned(), count.parse().ok()?))
    };
    text.lines()
        .filter_map(row)
        .filter(|(name, _)| name != "total")
        .collect()
}

/// A rebind looks at no other sockets.
#[test]
fn a_rebind_costs_the_same_whatever_else_is_open() {
    const REBINDS: u64 = 20;
    let closer = Closer::supervised("cost");
    closer.ok("crowd 40 250");
    let mut number = closer.number("listen tcp @");
    let calls = system_calls(closer.supervisor(), || {
        for _ in 0..REBINDS {
            closer.ok(&format!("close {number}"));
            number = closer.number("listen tcp @");
        }
    });
    let total: u64 = calls.iter().map(|(_, count)| count).sum();
    // 10,000 descriptors.
    assert!(total < REBINDS * 1_000, "{total}: {calls:?}");
}

/// Nor does the bind of a wildcard whose port the program has closed at its localhost, nor the
/// other way round.
#[test]
fn a_bind_beside_a_closed_socket_costs_the_same_whatever_else_is_open() {
    const REBINDS: u64 = 20;
    let closer = Closer::supervised("beside");
    closer.ok("crowd 40 250");
    let calls = system_calls(closer.supervisor(), || {
        for kind in ["tcp", "udp"] {
            for _ in 0..REBINDS / 2 {
                let number = closer.number(&format!("listen {kind} @ localhost"));
                closer.ok(&format!("close {number}"));
                let number = closer.number(&format!("listen {kind} @"));
                closer.ok(&format!("close {number}"));
            }
        }
    });
    let total: u64 = calls.iter().map(|(_, count)| count).sum();
    // 10,000 descriptors, and two binds each.
    assert!(total < REBINDS * 2_000, "{total}: {calls:?}");
}

/// One walk answers for all.
#[test]
fn a_thousand_closed_listeners_are_one_search() {
    const COUNT: u64 = 900;
    let closer = Closer::supervised("thousand");
    closer.ok("crowd 10 100");
    closer.ok(&format!("range {COUNT} 30000"));
    let listened = |port: u64| is_listened_on((closer.address, u16::try_from(port).unwrap()).into());
    assert!(listened(30_000) && listened(30_000 + COUNT - 1));
    let calls = system_calls(closer.supervisor(), || {
        closer.ok("close-range");
        wait_until("the last listener's end", || {
            // Meanwhile everything else goes on.
            closer.stale() == 0
                && ![30_000, 30_000 + COUNT / 2, 30_000 + COUNT - 1]
                    .into_iter()
                    .any(listened)
        });
    });
    let total: u64 = calls.iter().map(|(_, count)| count).sum();
    // 1,000 descriptors.
    assert!(total < COUNT * 100, "{total}: {calls:?}");
    // Each port is free.
    closer.ok(&format!("range {COUNT} 30000"));
}

/// The duplicate on which a trapped call was carried out is closed before the call is answered,
/// however long that takes.
#[test]
fn a_program_is_told_nothing_of_sockets_that_it_closes_after_a_call() {
    let closer = Closer::supervised("answered");
    closer.number("listen tcp @");
    closer.ok("dial tcp @ 5");
    assert_eq!(closer.stale(), 0);
    for slow in ["close", "fcntl", "getsockopt", "getsockname", "sendmsg"] {
        let inject = format!("inject={slow}:delay_enter=10000:delay_exit=10000");
        let said = traced(closer.supervisor(), &["-e", &inject], || {
            closer.ok("dial tcp @ 10");
            let number = closer.number("listen udp @");
            closer.ok("dial udp @ 10");
            closer.ok(&format!("close {number}"));
            wait_until("the socket's end", || !closer.is_bound());
        });
        assert!(said.contains("INJECTED") || said.contains("DELAYED"), "{said}");
        assert_eq!(closer.stale(), 0, "{slow}");
    }
}

/// A duplicate dropped in doubt is retained again, and is the next boot's when the program is
/// killed.
#[test]
fn a_listener_that_has_moved_is_the_next_boots_too() {
    let closer = Closer::of("again", &["30417"], &["listen tcp 30417"], &[]);
    let project = closer.project.as_ref().unwrap();
    for kill in 1..=3 {
        let number = closer.number("last");
        if kill % 2 == 1 {
            closer.number(&format!("move {number}"));
        } else {
            closer.ok("crowd 1 0");
            closer.ok(&format!("close {number}"));
        }
        // The bind finds out, and is answered once that is over.
        assert_eq!(closer.tell("listen tcp @"), "EADDRINUSE");
        let mut waiting = client::connect(closer.at()).unwrap();
        project.kill(project.host("shop").pid.unwrap());
        project.wait_event("shop", "exit", kill);
        let number = closer.number("last");
        assert_eq!(closer.tell(&format!("take {number}")), "taken");
        assert_eq!(waiting.read(&mut [0; 1]).unwrap(), 0, "it was accepted, and closed");
    }
}

/// A program that may not be inspected (PR_SET_DUMPABLE, for ordinary users) hides its closes: the
/// host keeps its sockets.
#[test]
fn a_program_that_may_not_be_looked_into_keeps_what_it_has() {
    let closer = Closer::of("hidden", &["30417"], &["listen tcp 30417"], &[]);
    let number = closer.number("last");
    closer.ok("hide");
    for _ in 0..10 {
        client::connect(closer.at()).unwrap();
        assert_eq!(closer.tell(&format!("take {number}")), "taken");
    }
    let mut waiting = client::connect(closer.at()).unwrap();
    let project = closer.project.as_ref().unwrap();
    assert!(client::ask_line(closer.control, "die").is_err());
    project.wait_event("shop", "exit", 1);
    let number = closer.number("last");
    assert_eq!(closer.tell(&format!("take {number}")), "taken");
    assert_eq!(waiting.read(&mut [0; 1]).unwrap(), 0, "it was accepted, and closed");
}
