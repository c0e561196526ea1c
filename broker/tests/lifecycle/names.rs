//! The name server of a project that is up.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use imsup_protocol::{Request, Response};
use imsup_wire::{CauseKind, HostState};
use libtest_mimic::Trial;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, Question, RCODE, TYPE};

use crate::peer::Peer;
use crate::trial;
use crate::world::{World, request, until};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_name_server_knows_hosts", hosts),
        trial("a_look_up_boots_who_asked_for_that", prefetch),
        trial(
            "a_silent_name_server_of_the_machine_delays_no_name_of_the_project",
            silent,
        ),
    ]
}

fn server(world: &World) -> SocketAddr {
    match world.ask(Request::Broker).unwrap().remove(0) {
        Response::Broker { name_server, .. } => SocketAddr::V4(name_server),
        other => panic!("no broker: {other:?}"),
    }
}

fn query(name: &str) -> Vec<u8> {
    let mut query = Packet::new_query(5);
    let question = Question::new(Name::new(name).unwrap(), TYPE::A.into(), CLASS::IN.into(), false);
    query.questions.push(question);
    query.build_bytes_vec().unwrap()
}

fn look_up(world: &World, name: &str) -> Result<Vec<String>, RCODE> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(&query(name), server(world)).unwrap();
    let mut buffer = [0; 4096];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, server(world));
    let answer = Packet::parse(&buffer[..count]).unwrap();
    if answer.rcode() != RCODE::NoError {
        return Err(answer.rcode());
    }
    let addresses = answer.answers.iter().map(|record| match &record.rdata {
        RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
        other => panic!("{other:?}"),
    });
    Ok(addresses.collect())
}

fn hosts() {
    let world = World::up("web alias=www -- serve");
    let vip = vec![world.vip("web").to_string()];
    for name in ["web", "www", "WEB", &format!("web.{}", world.project)] {
        assert_eq!(look_up(&world, name), Ok(vip.clone()), "{name}");
    }
    assert_eq!(
        look_up(&world, "example.com"),
        Err(RCODE::ServerFailure),
        "there is nobody to ask"
    );
    let (_peer, index) = Peer::transient(&world.paths, Some("tool"));
    let vip = imsup_wire::Planes::default().vip(index).to_string();
    assert_eq!(look_up(&world, "tool"), Ok(vec![vip]));
    assert_eq!(world.host("web").state, HostState::Imaginary);
}

fn prefetch() {
    let world = World::up("web prefetch=1 -- settle serve");
    look_up(&world, "web").unwrap();
    world.wait_for_state("web", HostState::Running);
    let cause = world.events()[0].cause.clone().unwrap();
    assert_eq!(
        (cause.kind, cause.by.as_deref()),
        (CauseKind::Lookup, Some("127.0.0.1"))
    );
}

fn silent() {
    // There is no answer from this address, over UDP or TCP.
    let (udp, tcp) = std::iter::repeat_with(|| {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
        Some((udp, tcp))
    })
    .find_map(|both| both)
    .unwrap();
    let mut world = World::prepare("web tcp=8080 -- listen:8080 settle serve");
    let line = format!("nameserver [127.0.0.1]:{}\n", udp.local_addr().unwrap().port());
    std::fs::write(world.path("resolv.conf"), line).unwrap();
    world.start();
    udp.set_nonblocking(true).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let query = query("example.com");
    let asking = UdpSocket::bind("127.0.0.1:0").unwrap();
    asking.send_to(&query, server(&world)).unwrap();
    until("the question over UDP", || udp.recv_from(&mut [0; 512]).ok());
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    let mut over_tcp = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(server(&world)).unwrap();
        stream.write_all(&[&length[..], &query].concat()).unwrap();
        let forwarded = until("the question over TCP", || tcp.accept().ok());
        over_tcp.push((stream, forwarded));
    }
    let vip = world.vip("web");
    assert_eq!(look_up(&world, "web"), Ok(vec![vip.to_string()]));
    assert_eq!(request(world.tcp("web", 8080)).unwrap(), "web");
}
