//! The listener of a program's calls, of which the broker has a duplicate. Here the listener is a
//! FIFO: the reader sees when no process has the FIFO open any more.

use std::fs::File;
use std::io::{ErrorKind, Read};

use imsup_wire::HostState;
use libtest_mimic::Trial;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;

use crate::ends::{expect_ended, left_by};
use crate::trial;
use crate::world::{World, kill, request, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "the_listener_of_calls_is_kept_until_what_a_killed_supervisor_left_is_ended",
            killed,
        ),
        trial("the_listener_of_calls_is_closed_when_a_host_ends", ended),
        trial(
            "the_listener_of_calls_is_not_kept_where_descriptors_are_few",
            few_descriptors,
        ),
    ]
}

/// A FIFO, and its reading end.
struct Fifo {
    path: String,
    reader: File,
}

impl Fifo {
    fn make(world: &World) -> Self {
        let path = world.path("fifo");
        rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        // Without O_NONBLOCK this would wait for a writer (fifo(7)).
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let reader = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        Self {
            path,
            reader: reader.into(),
        }
    }

    /// Waits until no process has the FIFO open for writing. At first, a process has the FIFO open.
    fn await_end(&mut self) {
        until("the end of the FIFO", || match self.reader.read(&mut [0]) {
            Ok(0) => Some(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            other => panic!("{other:?}"),
        });
    }
}

fn killed() {
    let mut world = World::prepare("");
    let mut fifo = Fifo::make(&world);
    world.hosts = format!("web tcp=8080 -- listener:{} leave listen:8080 settle serve", fifo.path);
    world.start();
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    let pid = world.host("web").pid.unwrap();
    let left = left_by(pid);
    kill(pid, Signal::KILL);
    fifo.await_end();
    expect_ended(&left);
}

fn ended() {
    let mut world = World::prepare("");
    let mut fifo = Fifo::make(&world);
    world.hosts = format!("web tcp=8080 -- listener:{} listen:8080 settle serve", fifo.path);
    world.start();
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    world
        .ask(imsup_protocol::Request::Stop {
            hosts: vec!["web".parse().unwrap()],
        })
        .unwrap();
    fifo.await_end();
    world.wait_for_state("web", HostState::Imaginary);
}

fn few_descriptors() {
    let mut world = World::prepare("");
    world.descriptors = Some(48);
    let mut fifo = Fifo::make(&world);
    world.hosts = format!("web tcp=8080 -- listener:{} listen:8080 settle serve", fifo.path);
    world.start();
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    fifo.await_end();
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
    assert_eq!(world.host("web").boots, 1);
}
