//! Orders to a broker without the command line, for tests that give thousands.

use std::os::unix::net::UnixStream;

use imsup_protocol::channel::Channel;
use imsup_protocol::control::Opening;
use imsup_protocol::{Request, Response};
use imsup_wire::HostName;

use super::{LIMIT, Project};

/// Suspends a host; an error says why not.
pub fn suspend(project: &Project, host: &str) -> Result<(), String> {
    order(project, |hosts, by| Request::Suspend { hosts, by }, host)
}

/// Wakes a host; an error says why not.
pub fn resume(project: &Project, host: &str) -> Result<(), String> {
    order(project, |hosts, by| Request::Resume { hosts, by }, host)
}

fn order(project: &Project, request: impl Fn(Vec<HostName>, String) -> Request, host: &str) -> Result<(), String> {
    let socket = UnixStream::connect(project.runtime().join("broker.sock")).expect("a broker");
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut channel = Channel::connected(socket);
    let opening = Opening::Control(request(vec![host.parse().unwrap()], "a test".to_owned()));
    channel.send(&opening, Vec::new()).unwrap();
    match channel.receive().expect("the broker answers") {
        Some(Response::Done) => Ok(()),
        Some(Response::Error(failure)) => Err(failure.message),
        other => panic!("the broker answered an order with {other:?}"),
    }
}
