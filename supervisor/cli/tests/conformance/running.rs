//! Runs one case: alone, with a second program beside it, or with a socket that it inherits.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use crate::common::command::{Background, Finished};
use crate::common::{Project, guest};
use crate::ports::while_none_is_tried;
use crate::{LIMIT, Mode, OWN};

/// The output of a case's programs, and whether they ended well.
pub struct Outcome {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn text(&self) -> String {
        format!("-- stdout\n{}\n-- stderr\n{}", self.stdout, self.stderr)
    }
}

pub fn natively(project: &Project, case: &str, port: u16) -> Outcome {
    run_case(case, |arguments| {
        let mut command = project.command(guest("conformance"), &[]);
        command.arg(case).arg(port.to_string()).args(arguments);
        command.env("CONFORMANCE_OWN", OWN);
        command
    })
}

pub fn supervised(project: &Project, mode: &Mode, case: &str, port: u16) -> Outcome {
    run_case(case, |arguments| {
        let mut command = project.imsup_command(&["run", "--"]);
        command
            .arg(guest("conformance"))
            .arg(case)
            .arg(port.to_string())
            .args(arguments);
        command.envs(mode.environment.iter().copied());
        command
    })
}

/// Runs the case's programs; `command` makes one with these further arguments.
fn run_case(case: &str, command: impl Fn(&[&str]) -> Command) -> Outcome {
    let first = match case {
        "inherited/listener" => with_listener(command(&[])),
        "inherited/connection" => with_connection(command(&[])),
        "inherited/datagram" => with_datagram(command(&[])),
        _ if case.starts_with("hosts/") => {
            let first = begin(command(&[]));
            let second = begin(command(&["other"]));
            return both(first.finish(LIMIT), second.finish(LIMIT));
        }
        _ => begin(command(&[])).finish(LIMIT),
    };
    Outcome {
        success: first.success(),
        stderr: format!("{}; standard error: {}", first.status, first.stderr),
        stdout: first.stdout,
    }
}

fn both(first: Finished, second: Finished) -> Outcome {
    Outcome {
        success: first.success() && second.success(),
        stdout: format!("{}== the other\n{}", first.stdout, second.stdout),
        stderr: format!("{} {} {}{}", first.status, second.status, first.stderr, second.stderr),
    }
}

fn localhost() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Starts a program and collects its output.
pub fn begin(command: Command) -> Background {
    begin_with(command, Stdio::null())
}

fn begin_with(command: Command, stdin: Stdio) -> Background {
    while_none_is_tried(|| Background::collecting_with(command, stdin))
}

fn start(command: Command, socket: impl Into<OwnedFd>) -> Background {
    begin_with(command, Stdio::from(socket.into()))
}

/// Sends "ping" and reads the reply; an end if there is none.
fn talk(mut client: TcpStream) {
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(b"ping").unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert_eq!(
        String::from_utf8_lossy(&answer),
        "pong",
        "the answer over an inherited socket"
    );
}

fn with_listener(command: Command) -> Finished {
    let listener = TcpListener::bind(localhost()).unwrap();
    let address = listener.local_addr().unwrap();
    let program = start(command, listener);
    talk(TcpStream::connect(address).unwrap());
    program.finish(LIMIT)
}

fn with_connection(command: Command) -> Finished {
    let listener = TcpListener::bind(localhost()).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let program = start(command, listener.accept().unwrap().0);
    talk(client);
    program.finish(LIMIT)
}

fn with_datagram(command: Command) -> Finished {
    let (server, client) = (
        UdpSocket::bind(localhost()).unwrap(),
        UdpSocket::bind(localhost()).unwrap(),
    );
    client.send_to(b"ping", server.local_addr().unwrap()).unwrap();
    let mut finished = start(command, server).finish(LIMIT);
    // Over loopback the data is there when the program has ended.
    client.set_nonblocking(true).unwrap();
    let answered = client.recv(&mut [0; 8]).is_ok();
    finished.stdout += &format!("answered: {answered}\n");
    finished
}
