//! A program that was booted by a connection sees the connections of the family that it binds, exactly as when it is run by hand: addresses, options,
//! flags, and nobody else.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use common::{Background, Project, client, guest};

const MODES: [&str; 7] = ["block", "pollblock", "poll", "edge", "defer", "threads", "prefork"];
const FAMILIES: [&str; 2] = ["4", "6"];

/// A host for each family and mode, which takes 300 ms until it listens.
fn compose() -> String {
    let mut text = "services:\n".to_owned();
    for (family, mode) in all() {
        text += &format!(
            "  {mode}{family}: {{ command: [\"@guests@/families\", \"{family}\", {mode}, \"7000\", \"300\"], expose: [\"7000\"] }}\n"
        );
    }
    text
}

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    FAMILIES
        .into_iter()
        .flat_map(|family| MODES.into_iter().map(move |mode| (family, mode)))
}

/// What the guest prints of a connection when it is run by hand.
fn natively(project: &Project, family: &str, mode: &str) -> String {
    // Somebody else on the machine may be quicker to take the port.
    let listening = (0..10).find_map(|_| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let command = project.command(guest("families"), &[family, mode, &port.to_string()]);
        let mut running = Background::spawn(command, Stdio::piped());
        let mut said = String::new();
        let output = running.child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        (said == "listening\n").then_some((running, port))
    });
    let (_running, port) = listening.expect("the guest listens");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let facts = ask(&mut connect(address, "ask"));
    assert_eq!(ask(&mut connect(address, "count")), "accepted=2 spurious=0");
    facts
}

fn connect(address: SocketAddr, line: &str) -> TcpStream {
    let mut stream = client::connect(address).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    stream
}

/// All that is answered.
fn ask(stream: &mut TcpStream) -> String {
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said.trim_end().to_owned()
}

/// The facts without what a connection tells that its peer had closed before it was accepted: the kernel converts no such socket.
fn without_domain(facts: &str) -> String {
    let (before, connection) = facts.split_once(" of the connection:").unwrap();
    let kept = connection.split(' ').filter(|word| {
        !["domain=", "v6only=", "tclass=", "hops=", "set_tclass=", "set_hops="]
            .iter()
            .any(|name| word.starts_with(name))
    });
    format!("{before}{}", kept.collect::<Vec<_>>().join(" "))
}

/// Boots a host with several connections at once, and compares what each is told; then some more, once it runs.
fn boot_and_compare(project: &Project, natively: &str, host: &str) {
    let address = project.at(host, 7000);
    let mut waiting: Vec<TcpStream> = (0..5).map(|_| connect(address, "ask")).collect();
    let mut closed = connect(address, "ask");
    closed.shutdown(Shutdown::Write).unwrap();
    for stream in &mut waiting {
        assert_eq!(ask(stream), natively, "{host}: one that waited");
    }
    assert_eq!(
        without_domain(&ask(&mut closed)),
        without_domain(natively),
        "{host}: one that had closed its side"
    );
    for _ in 0..3 {
        assert_eq!(
            ask(&mut connect(address, "ask")),
            natively,
            "{host}: one that came later"
        );
    }
    assert_eq!(ask(&mut connect(address, "count")), "accepted=10 spurious=0", "{host}");
}

#[test]
fn whoever_boots_a_program_is_seen_as_natively() {
    let project = Project::up("families", &compose());
    for (family, mode) in all() {
        let natively = natively(&project, family, mode);
        boot_and_compare(&project, &natively, &format!("{mode}{family}"));
    }
}
