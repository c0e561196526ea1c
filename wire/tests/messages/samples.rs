//! One value for every variant of every message: what the golden vectors are made from.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use imsup_wire::control::Opening;
use imsup_wire::message::{Adoption, Role};
use imsup_wire::{
    Cause, CauseKind, Endpoint, Event, EventKind, ExitStatus, HostName, HostState, HostStatus, Index, Outcome, Planes,
    PublishedPort, Request, Response, ToBroker, ToSupervisor,
};

/// Values under the names they have in the golden files.
pub type Samples<M> = Vec<(String, M)>;

fn named<M>(samples: impl IntoIterator<Item = (&'static str, M)>) -> Samples<M> {
    samples
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn host(name: &str) -> HostName {
    name.parse().expect("a good name")
}

fn index(number: u16) -> Index {
    Index::new(number).expect("a host's index")
}

fn vip(low: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, 5, low)
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub fn roles() -> Samples<Role> {
    named([
        (
            "launched",
            Role::Launched {
                boot: 0x0123_4567_89ab_cdef,
            },
        ),
        ("started", Role::Started),
        ("transient", Role::Transient),
        ("exec", Role::Exec),
    ])
}

pub fn outcomes() -> Samples<Outcome> {
    named([
        ("connect", Outcome::Connect),
        ("refused", Outcome::Refused),
        ("timed-out", Outcome::TimedOut),
        ("busy", Outcome::Busy),
        ("unknown", Outcome::Unknown),
    ])
}

pub fn exit_statuses() -> Samples<ExitStatus> {
    named([
        ("code", ExitStatus::Code(3)),
        ("signal", ExitStatus::Signal(9)),
        ("not-executed", ExitStatus::NotExecuted(2)),
        ("lost", ExitStatus::Lost),
    ])
}

pub fn host_states() -> Samples<HostState> {
    named([
        ("imaginary", HostState::Imaginary),
        ("booting", HostState::Booting),
        ("running", HostState::Running),
        ("failed", HostState::Failed),
    ])
}

pub fn event_kinds() -> Samples<EventKind> {
    named([
        ("allocate", EventKind::Allocate),
        ("boot", EventKind::Boot),
        ("ready", EventKind::Ready),
        ("exit", EventKind::Exit),
        ("fail", EventKind::Fail),
    ])
}

pub fn cause_kinds() -> Samples<CauseKind> {
    named([
        ("connection", CauseKind::Connection),
        ("connect", CauseKind::Connect),
        ("datagram", CauseKind::Datagram),
        ("published", CauseKind::Published),
        ("wake", CauseKind::Wake),
        ("exec", CauseKind::Exec),
        ("lookup", CauseKind::Lookup),
    ])
}

pub fn to_broker() -> Samples<ToBroker> {
    let hello = |role| ToBroker::Hello {
        version: 1,
        host: Some(host("web")),
        role,
        command: strings(&["nginx", "-g", "daemon off;"]),
        adoption: None,
    };
    let mut samples: Samples<ToBroker> = roles()
        .into_iter()
        .map(|(name, role)| (format!("hello-{name}"), hello(role)))
        .collect();
    samples.extend(named([
        (
            "hello-unnamed",
            ToBroker::Hello {
                version: 1,
                host: None,
                role: Role::Transient,
                command: vec![],
                adoption: None,
            },
        ),
        (
            "hello-adoption",
            ToBroker::Hello {
                version: 1,
                host: Some(host("db")),
                role: Role::Launched { boot: 7 },
                command: strings(&["redis-server"]),
                adoption: Some(Adoption {
                    index: index(0x0507),
                    pid: 4711,
                    started_us: 1_763_000_000_123_456,
                    ready: true,
                }),
            },
        ),
        ("started", ToBroker::Started { pid: 70_000 }),
        (
            "listening-tcp",
            ToBroker::Listening {
                endpoint: Endpoint::tcp(vip(7), 6379),
            },
        ),
        (
            "listening-udp",
            ToBroker::Listening {
                endpoint: Endpoint::udp(vip(7), 53),
            },
        ),
        ("settled", ToBroker::Settled),
        (
            "reach",
            ToBroker::Reach {
                id: 42,
                endpoint: Endpoint::tcp(vip(8), 443),
                can_wait: true,
            },
        ),
        ("cancel-reach", ToBroker::CancelReach { id: 42 }),
        (
            "claim",
            ToBroker::Claim {
                id: u64::MAX,
                endpoint: Endpoint::tcp(vip(8), 80),
            },
        ),
    ]));
    samples.extend(
        exit_statuses()
            .into_iter()
            .map(|(name, status)| (format!("exited-{name}"), ToBroker::Exited { status })),
    );
    samples
}

pub fn to_supervisor() -> Samples<ToSupervisor> {
    let mut samples = named([
        (
            "welcome",
            ToSupervisor::Welcome {
                host: host("web"),
                hostname: "web.example".to_owned(),
                index: index(0x05fe),
                planes: Planes::default(),
                name_server: SocketAddrV4::new(vip(0), 1053),
                hold_timeout: Duration::from_millis(60_500),
                retained: vec![Endpoint::tcp(vip(254), 80), Endpoint::udp(vip(254), 53)],
            },
        ),
        (
            "rejected",
            ToSupervisor::Rejected {
                reason: "host 'web' runs already; stop it with `imsup stop web` – or wait".to_owned(),
            },
        ),
        ("claimed", ToSupervisor::Claimed { id: 300, found: false }),
        (
            "stop",
            ToSupervisor::Stop {
                signal: 15,
                grace: Duration::from_secs(10),
            },
        ),
    ]);
    samples.extend(
        outcomes()
            .into_iter()
            .map(|(name, outcome)| (format!("reached-{name}"), ToSupervisor::Reached { id: 1, outcome })),
    );
    samples
}

pub fn requests() -> Samples<Request> {
    named([
        ("broker", Request::Broker),
        ("hosts", Request::Hosts),
        ("names", Request::Names),
        (
            "resolve",
            Request::Resolve {
                name: "Web.".to_owned(),
            },
        ),
        (
            "events",
            Request::Events {
                follow: true,
                hosts: vec![host("web"), host("db")],
            },
        ),
        (
            "wake",
            Request::Wake {
                hosts: vec![host("db")],
                by: "root".to_owned(),
                exec: false,
            },
        ),
        ("stop", Request::Stop { hosts: vec![] }),
        (
            "restart",
            Request::Restart {
                hosts: vec![host("web")],
                by: "uid 1000".to_owned(),
            },
        ),
        ("down", Request::Down),
    ])
}

fn host_status(state: HostState) -> HostStatus {
    HostStatus {
        name: host("web"),
        address: vip(1),
        state,
        pid: Some(4711),
        ports: vec![Endpoint::tcp(vip(1), 80)],
        published: vec![
            PublishedPort {
                machine: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
                endpoint: Endpoint::tcp(vip(1), 80),
            },
            PublishedPort {
                machine: SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 8080)),
                endpoint: Endpoint::tcp(vip(1), 80),
            },
        ],
        boots: 3,
        since_us: 1_763_000_000_000_000,
        detail: Some("exited with status 3 before it listened".to_owned()),
        command: strings(&["nginx"]),
        declared: true,
    }
}

fn event(kind: EventKind, cause: Option<CauseKind>) -> Event {
    Event {
        time_us: 1_763_000_000_000_001,
        host: host("db"),
        kind,
        cause: cause.map(|kind| Cause {
            kind,
            by: Some("web".to_owned()),
            port: Some(6379),
        }),
        duration: Some(Duration::from_micros(14_250)),
        detail: None,
    }
}

pub fn responses() -> Samples<Response> {
    let mut samples = named([
        (
            "broker",
            Response::Broker {
                project: "shop".to_owned(),
                pid: 1,
                version: "0.1.0".to_owned(),
                hosts: 10_000,
                name_server: SocketAddrV4::new(vip(0), 1053),
                socket_limit: 1_048_000,
            },
        ),
        (
            "name",
            Response::Name {
                name: "cache".to_owned(),
                address: vip(9),
            },
        ),
        ("done", Response::Done),
        (
            "error",
            Response::Error {
                message: "no host 'wep'; did you mean 'web'?".to_owned(),
            },
        ),
    ]);
    samples.extend(
        host_states()
            .into_iter()
            .map(|(name, state)| (format!("host-{name}"), Response::Host(host_status(state)))),
    );
    samples.extend(
        event_kinds()
            .into_iter()
            .map(|(name, kind)| (format!("event-{name}"), Response::Event(event(kind, None)))),
    );
    samples.extend(cause_kinds().into_iter().map(|(name, cause)| {
        let event = event(EventKind::Allocate, Some(cause));
        (format!("event-cause-{name}"), Response::Event(event))
    }));
    samples
}

pub fn openings() -> Samples<Opening> {
    let mut samples: Samples<Opening> = to_broker()
        .into_iter()
        .map(|(name, message)| (format!("supervisor-{name}"), Opening::Supervisor(message)))
        .collect();
    samples.extend(requests().into_iter().map(|(name, request)| {
        let opening = Opening::Control { version: 1, request };
        (format!("control-{name}"), opening)
    }));
    samples
}
