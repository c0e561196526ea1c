//! A host's port that another socket has: `up` names the socket, whatever its state, each test in a
//! network of its own.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::mem::MaybeUninit;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use common::client::ask;
use common::{Background, LIMIT, Project, network};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};

const COMPOSE: &str = r#"
x-imsup: { subnet: 127.77.5.0/24 }
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#;

const WEB: &str = "127.77.5.1:8080";

/// A socket without SO_REUSEADDR, bound to the host's port.
fn bound() -> OwnedFd {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&socket, &WEB.parse::<SocketAddrV4>().unwrap()).unwrap();
    socket
}

fn listening() -> TcpListener {
    let socket = bound();
    rustix::net::listen(&socket, 1).unwrap();
    socket.into()
}

/// The two ends of a connection to the host's port. The server's end comes first.
fn connected() -> (TcpStream, TcpStream) {
    let listener = listening();
    let client = TcpStream::connect(WEB).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Runs `up`, which must fail, and returns its message.
fn said_of_up() -> String {
    let project = Project::new("occupied", COMPOSE);
    let said = project.fails(1, &["up", "-d"]);
    project.expect_nothing_left();
    said
}

/// `process 4711 (`, of this test.
fn own_process() -> String {
    format!("process {} (", std::process::id())
}

#[test]
fn a_process_that_has_a_hosts_port_is_named_in_every_state() {
    if !network::is_own() {
        return;
    }
    let expect = |how: &str| {
        let said = said_of_up();
        assert!(
            said.contains("host 'web': 127.77.5.1:8080/tcp is in use by user ") && said.contains(&own_process()),
            "{how}: {said}"
        );
        assert!(said.contains(how) && said.contains("end what uses it"), "{how}: {said}");
    };
    let socket = bound();
    expect("which has bound it and does not listen");
    drop(socket);
    let listener = listening();
    expect("which listens: ");
    drop(listener);
    let wildcard = TcpListener::bind("0.0.0.0:8080").unwrap();
    expect("which listens on 0.0.0.0, which is every address: ");
    drop(wildcard);
    let (_server, client) = connected();
    expect(&format!(
        "which has a connection with {}: ",
        client.local_addr().unwrap()
    ));
}

#[test]
fn a_connection_that_was_closed_is_told_with_the_remedy() {
    if !network::is_own() {
        return;
    }
    let (server, mut client) = connected();
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let peer = client.local_addr().unwrap();
    drop(client);
    let said = said_of_up();
    let words = format!(
        "is in use by a connection with {peer} that was closed within the last minute (TIME_WAIT): wait a minute, or \
         give the host another port or subnet"
    );
    assert!(said.contains(&words), "{said}");
}

/// The socket is in a message that nobody has received, so that no process has a descriptor of it:
/// like a socket of a process that is ending.
#[test]
fn up_waits_for_a_socket_that_no_process_has() {
    if !network::is_own() {
        return;
    }
    let ends = std::os::unix::net::UnixStream::pair().unwrap();
    let listener = listening();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let bytes = [std::io::IoSlice::new(b"x")];
    rustix::net::sendmsg(&ends.0, &bytes, &mut control, SendFlags::empty()).unwrap();
    drop(listener);
    let project = Project::new("occupied", COMPOSE);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut said = BufReader::new(reader).lines().map(Result::unwrap);
    let up = Background::spawn_to(project.imsup_command(&["up", "-d"]), Stdio::null(), writer.into());
    // The broker's log, which is the standard error of `up` until the hosts exist.
    const AGAIN: &str = "no process has it: imsup tries again";
    let warned = said.find(|line| line.contains(AGAIN)).expect("the broker tries again");
    drop(ends);
    let up = up.finish(LIMIT);
    assert!(up.success(), "{up}");
    assert!(
        warned.contains("WARN") && warned.contains("127.77.5.1:8080/tcp"),
        "{warned}"
    );
    let later: Vec<String> = said.collect();
    assert!(!later.iter().any(|line| line.contains(AGAIN)), "{later:?}");
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
}
