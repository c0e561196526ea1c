//! Bad input, and peers that misbehave.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;

use imsup_protocol::codec;
use imsup_protocol::control::Opening;
use imsup_protocol::message::Role;
use imsup_protocol::version::{OURS, Versions};
use imsup_protocol::{Request, Response, ToBroker};
use imsup_wire::{ErrorKind, HostState};
use libtest_mimic::Trial;

use crate::peer::Peer;
use crate::trial;
use crate::world::{World, connect, no_starts};

/// nobody
const ORDINARY_USER: u32 = 65_534;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_second_broker_says_who_the_first_is", second_broker),
        trial("an_occupied_port_is_named", occupied),
        trial("a_port_that_needs_privilege_says_what_works", privileged),
        trial("too_many_ports_say_how_many_fit", too_many),
        trial("garbage_is_cut_off_and_others_are_served", garbage),
        trial("versions_are_agreed_on_or_both_are_named", version),
        trial("version_4_is_told_what_to_do", version_4),
        trial("a_client_says_which_version_the_broker_speaks", other_brokers),
        trial("a_client_that_does_not_read_holds_up_nobody", slow_client),
        trial("who_came_during_a_shortage_of_descriptors_is_served_after_it", shortage),
        trial("a_socket_that_is_not_what_it_says_is_not_retained", false_socket),
    ]
}

fn second_broker() {
    let world = World::up("web tcp=8080 -- serve");
    let error = world.failure();
    assert!(error.contains("already up"), "{error}");
    assert!(error.contains(&format!("pid {}", world.broker_pid())), "{error}");
    assert_eq!(world.host("web").state, HostState::Imaginary, "the first is unharmed");
}

fn occupied() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let world = World::prepare(&format!("web tcp={port} -- serve"));
    let error = world.failure();
    for part in ["host 'web'", &format!(":{port}/tcp"), "in use", "0.0.0.0"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert!(
        !world.paths.runtime().exists() && !world.paths.state().exists(),
        "something is left"
    );
}

fn privileged() {
    let world = World::prepare("web tcp=81 -- serve");
    // A place where an ordinary user can execute and write.
    let base = world.directory.path();
    let executable = base.join("lifecycle");
    // A file that another process has open for writing cannot be executed (execve(2), ETXTBSY).
    let _starts = no_starts();
    std::fs::copy(std::env::current_exe().unwrap(), &executable).unwrap();
    let mut command = std::process::Command::new(executable);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(base, Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
        command.uid(ORDINARY_USER).gid(ORDINARY_USER);
    }
    let original = world.command();
    let variables = original.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let output = command.arg("broker").envs(variables).output().unwrap();
    let error = String::from_utf8(output.stdout).unwrap();
    for part in [
        "host 'web'",
        "port 81",
        "setcap cap_net_bind_service",
        "ip_unprivileged_port_start=81",
    ] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

fn too_many() {
    let ports: Vec<String> = (1..=60).map(|port| format!("tcp={port}")).collect();
    let world = World::prepare(&format!("web {} -- serve", ports.join(" ")));
    let mut command = std::process::Command::new("sh");
    let original = world.command();
    let variables = original.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command
        .args(["-c", "ulimit -n 100; exec \"$0\" broker"])
        .arg(std::env::current_exe().unwrap())
        .envs(variables);
    let _starts = no_starts();
    let error = String::from_utf8(command.output().unwrap().stdout).unwrap();
    for part in ["60 ports of 1 hosts", "50 can be with 100", "ulimit"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

fn garbage() {
    let world = World::up("web tcp=8080 -- settle serve");
    let oversized = u32::MAX.to_le_bytes();
    let truncated = [200, 0, 0, 0, 1, 2, 3];
    let nonsense = [4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let hello = OURS.to_hello();
    let mut all_versions = hello;
    all_versions[8..].copy_from_slice(&[1, 0, 0xff, 0xff]);
    for bytes in [&oversized[..], &truncated, &nonsense, &hello[..7], &all_versions] {
        let mut stream = UnixStream::connect(world.paths.socket()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "there is nothing to answer");
    }
    for bytes in [&oversized[..], &truncated, &nonsense] {
        let mut stream = UnixStream::connect(world.paths.socket()).unwrap();
        stream.write_all(&[&hello, bytes].concat()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // A reset: not all that was said was read.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer == hello, "there is nothing else to answer");
    }
    // A supervisor that sends messages before the introduction, and a supervisor that announces a
    // socket without sending the socket.
    let mut stranger = Peer::connect(&world.paths);
    stranger.tell(&ToBroker::Settled, Vec::new());
    assert!(stranger.channel.receive::<Response>().is_err());
    let (mut liar, _) = Peer::transient(&world.paths, None);
    let endpoint = world.tcp("web", 8080);
    liar.tell(&ToBroker::Listening { endpoint }, Vec::new());
    assert!(liar.channel.receive::<Response>().is_err());
    assert_eq!(world.host("web").state, HostState::Imaginary);
}

/// A hello and a request, as the command line sends them.
fn asking(request: Request) -> Vec<u8> {
    let opening = codec::encode(&Opening::Control(request)).unwrap();
    [&OURS.to_hello()[..], &opening].concat()
}

fn version() {
    let world = World::up("web -- serve");
    let newer = Versions::new(OURS.highest() + 1, OURS.highest() + 2).unwrap();
    let mut stream = UnixStream::connect(world.paths.socket()).unwrap();
    let opening = codec::encode(&Opening::Control(Request::Down)).unwrap();
    stream.write_all(&[&newer.to_hello()[..], &opening].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(
        Versions::from_hello(&answer),
        Ok(Some(OURS)),
        "both know what the other speaks"
    );
    assert_eq!(answer.len(), OURS.to_hello().len());

    // One that speaks more has a version in common.
    let wider = Versions::new(OURS.lowest(), OURS.highest() + 2).unwrap();
    let mut stream = UnixStream::connect(world.paths.socket()).unwrap();
    let opening = codec::encode(&Opening::Control(Request::Hosts)).unwrap();
    stream.write_all(&[&wider.to_hello()[..], &opening].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer.drain(..OURS.to_hello().len());
    assert!(matches!(codec::decode(&mut answer), Ok(Some(Response::Host(_)))));
}

fn version_4() {
    let world = World::up("web -- serve");
    // `Opening::Control { version: 4, request: Hosts }`, as it was.
    let mut stream = UnixStream::connect(world.paths.socket()).unwrap();
    stream.write_all(&[3, 0, 0, 0, 1, 4, 1]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let (error, message): (u8, String) = codec::decode(&mut answer).unwrap().unwrap();
    assert_eq!(error, 7, "`Response::Error` of version 4");
    assert!(
        message.contains(&format!("process {}", world.broker_pid())),
        "{message}"
    );
    assert!(
        message.contains("version 4") && message.contains(&OURS.to_string()),
        "{message}"
    );
}

/// A broker that knows later versions only, and one from before the hello.
fn other_brokers() {
    let world = World::prepare("web -- serve");
    std::fs::create_dir_all(world.paths.runtime()).unwrap();
    let newer = Versions::new(OURS.highest() + 1, OURS.highest() + 2).unwrap();
    for (answer, said) in [
        (newer.to_hello().to_vec(), newer.to_string()),
        (Vec::new(), "another version".to_owned()),
    ] {
        let _ = std::fs::remove_file(world.paths.socket());
        let listener = UnixListener::bind(world.paths.socket()).unwrap();
        let accepting = listener.try_clone().unwrap();
        let broker = std::thread::spawn(move || {
            let (mut client, _) = accepting.accept().unwrap();
            let mut hello = OURS.to_hello();
            client.read_exact(&mut hello).unwrap();
            client.write_all(&answer).unwrap();
        });
        let error = world.ask(Request::Hosts).unwrap_err();
        broker.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::VersionMismatch, "{error}");
        let error = error.to_string();
        for part in [&said, &OURS.to_string(), "imsup up", &std::process::id().to_string()] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}

fn slow_client() {
    let lines: Vec<String> = (0..300)
        .map(|number| format!("host-{number} tcp=8080 -- serve"))
        .collect();
    let world = World::up(&lines.join("\n"));
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = UnixStream::connect(world.paths.socket()).unwrap();
        stream.write_all(&asking(Request::Hosts)).unwrap();
        streams.push(stream);
    }
    assert_eq!(world.ask(Request::Hosts).unwrap().len(), 300);
    // The slow clients get the whole answer in the end.
    let mut bytes = Vec::new();
    streams.pop().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes.starts_with(&OURS.to_hello()));
    bytes.drain(..OURS.to_hello().len());
    let mut hosts = 0;
    while let Some(Response::Host(_)) = codec::decode(&mut bytes).unwrap() {
        hosts += 1;
    }
    assert_eq!(hosts, 300);
}

fn shortage() {
    let mut world = World::prepare("web -- serve");
    world.descriptors = Some(80);
    world.start();
    let crowd: Vec<UnixStream> = (0..100)
        .map(|_| UnixStream::connect(world.paths.socket()).unwrap())
        .collect();
    let mut last = Peer::connect(&world.paths);
    last.hello(None, Role::Transient, None);
    drop(crowd);
    last.welcome();
}

fn false_socket() {
    let world = World::up("web tcp=8080 -- settle serve");
    let mut peer = Peer::connect(&world.paths);
    peer.hello(Some("web".parse().unwrap()), Role::Started, None);
    peer.welcome();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = world.tcp("web", 9090);
    peer.tell(&ToBroker::Listening { endpoint }, vec![other.into()]);
    assert!(!world.host("web").ports.contains(&endpoint));
    assert_eq!(world.host("web").state, HostState::Booting, "it is not ready by that");
    connect(world.tcp("web", 8080)).unwrap();
}
