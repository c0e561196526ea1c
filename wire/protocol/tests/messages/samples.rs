//! One value for every variant of every message: what the golden vectors are made from.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use imsup_protocol::control::{Change, HostUsage, Opening, Recreate};
use imsup_protocol::message::{Adoption, Role};
use imsup_protocol::zygote::{SpawnReply, SpawnRequest};
use imsup_protocol::{Outcome, Request, Response, ToBroker, ToSupervisor};
use imsup_wire::limits::{Confinement, Limits};
use imsup_wire::{
    Cause, CauseKind, Endpoint, ErrorKind, Event, EventKind, ExitStatus, Health, HostName, HostState, HostStatus,
    Index, Planes, ProgramSpec, PublishedPort,
};

use crate::sleep_samples::{awake, orders, reports, sleep_policy, usage, wake_cause, whys};

/// Values under the names they have in the golden files.
pub type Samples<M> = Vec<(String, M)>;

pub(crate) fn named<M>(samples: impl IntoIterator<Item = (&'static str, M)>) -> Samples<M> {
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
        ("out-of-memory", ExitStatus::OutOfMemory(64 << 20)),
    ])
}

pub fn host_states() -> Samples<HostState> {
    named([
        ("imaginary", HostState::Imaginary),
        ("booting", HostState::Booting),
        ("running", HostState::Running),
        ("suspended", HostState::Suspended),
        ("failed", HostState::Failed),
        ("completed", HostState::Completed),
    ])
}

pub fn event_kinds() -> Samples<EventKind> {
    named([
        ("allocate", EventKind::Allocate),
        ("boot", EventKind::Boot),
        ("ready", EventKind::Ready),
        ("exit", EventKind::Exit),
        ("fail", EventKind::Fail),
        ("suspend", EventKind::Suspend),
        ("wake", EventKind::Wake),
        ("tick", EventKind::Tick),
        ("reclaim", EventKind::Reclaim),
        ("terminate", EventKind::Terminate),
        ("unmet", EventKind::Unmet),
        ("oom", EventKind::Oom),
        ("restart", EventKind::Restart),
        ("healthy", EventKind::Healthy),
        ("unhealthy", EventKind::Unhealthy),
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
        ("data", CauseKind::Data),
        ("timer", CauseKind::Timer),
        ("signal", CauseKind::Signal),
        ("descriptor", CauseKind::Descriptor),
        ("idle", CauseKind::Idle),
        ("dependency", CauseKind::Dependency),
    ])
}

pub fn error_kinds() -> Samples<ErrorKind> {
    named(ErrorKind::ALL.iter().map(|kind| (kind.name(), *kind)))
}

pub fn to_broker() -> Samples<ToBroker> {
    let hello = |role| ToBroker::Hello {
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
                host: None,
                role: Role::Transient,
                command: vec![],
                adoption: None,
            },
        ),
        (
            "hello-adoption",
            ToBroker::Hello {
                host: Some(host("db")),
                role: Role::Launched { boot: 7 },
                command: strings(&["redis-server"]),
                adoption: Some(Adoption {
                    index: index(0x0507),
                    pid: 4711,
                    started_us: 1_763_000_000_123_456,
                    ready: true,
                    suspended_us: Some(1_763_000_009_000_000),
                    usage: usage(),
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
            .map(|(name, status)| (format!("exited-{name}"), ToBroker::Exited { status, usage: usage() })),
    );
    samples.extend(of_sleep());
    samples.extend(
        reports()
            .into_iter()
            .map(|(name, report)| (format!("answer-{name}"), ToBroker::Answer { id: 300, report })),
    );
    samples
}

fn of_sleep() -> Samples<ToBroker> {
    let took = Duration::from_micros(312);
    named([
        (
            "suspended",
            ToBroker::Suspended {
                time_us: 1_763_000_000_123_456,
                deadline_us: Some(1_763_000_010_000_000),
                took,
                usage: usage(),
            },
        ),
        (
            "woke",
            ToBroker::Woke {
                time_us: 1_763_000_009_876_543,
                cause: wake_cause(),
                named_later: true,
                slept: Duration::from_millis(3_200),
                ticks: 3,
                took,
                usage: usage(),
            },
        ),
        (
            "woken-by",
            ToBroker::WokenBy {
                by: Some(SocketAddr::from((vip(3), 40_112))),
                port: Some(80),
            },
        ),
        (
            "ticked",
            ToBroker::Ticked {
                deadline_us: None,
                took,
            },
        ),
        (
            "reclaimed",
            ToBroker::Reclaimed {
                bytes: 13_107_200,
                took,
                detail: Some("anonymous memory needs swap, and there is none".to_owned()),
            },
        ),
        (
            "terminating",
            ToBroker::Terminating {
                slept: Duration::from_secs(60),
                usage: usage(),
            },
        ),
        (
            "disposable",
            ToBroker::Disposable {
                peers: [0x0507, 0x0508].into_iter().filter_map(Index::new).collect(),
            },
        ),
        (
            "closed",
            ToBroker::Closed {
                id: 1 << 63,
                endpoint: Endpoint::tcp(vip(7), 8080),
                inode: 123_456,
            },
        ),
        (
            "other-family",
            ToBroker::OtherFamily {
                endpoint: Endpoint::tcp(vip(254), 80),
            },
        ),
        ("resolver-sockets", ToBroker::ResolverSockets),
        ("binds", ToBroker::Binds { uid: 1001 }),
        (
            "trusts",
            ToBroker::Trusts {
                uid: 1001,
                endpoint: Endpoint::tcp(vip(254), 80),
            },
        ),
        (
            "out-of-memory",
            ToBroker::OutOfMemory {
                killed: 2,
                limit_bytes: 64 << 20,
            },
        ),
        ("acknowledge", ToBroker::Acknowledge),
        ("notify-listener", ToBroker::NotifyListener),
    ])
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
                reach_timeout: Duration::from_millis(61_500),
                sleep: Some(sleep_policy()),
                awake: awake(),
                retained: vec![Endpoint::tcp(vip(254), 80), Endpoint::udp(vip(254), 53)],
                families_known: true,
                confinement: Box::new(Confinement {
                    limits: Limits {
                        memory_bytes: Some(64 << 20),
                        milli_cpus: Some(1_500),
                        pids: None,
                    },
                    beside: Some(4711),
                }),
            },
        ),
        ("keep-awake", ToSupervisor::KeepAwake(awake())),
        (
            "rejected",
            ToSupervisor::Rejected(
                ErrorKind::AlreadyRunning.because("host 'web' runs already; stop it with `imsup stop web` – or wait"),
            ),
        ),
        ("claimed", ToSupervisor::Claimed { id: 300, found: false }),
        (
            "stop",
            ToSupervisor::Stop {
                signal: 15,
                grace: Duration::from_secs(10),
            },
        ),
        ("resolver-sockets", ToSupervisor::ResolverSockets { v4: 8, v6: 4 }),
        (
            "trusted",
            ToSupervisor::Trusted {
                uid: 1001,
                endpoint: Endpoint::tcp(vip(254), 80),
                is_trusted: true,
            },
        ),
        ("retake-running", ToSupervisor::RetakeRunning),
        ("acknowledged", ToSupervisor::Acknowledged),
    ]);
    samples.extend(
        outcomes()
            .into_iter()
            .map(|(name, outcome)| (format!("reached-{name}"), ToSupervisor::Reached { id: 1, outcome })),
    );
    samples.extend(
        orders()
            .into_iter()
            .map(|(name, order)| (format!("ask-{name}"), ToSupervisor::Ask { id: 300, order })),
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
        (
            "suspend",
            Request::Suspend {
                hosts: vec![host("web")],
                by: "root".to_owned(),
            },
        ),
        (
            "resume",
            Request::Resume {
                hosts: vec![host("web"), host("db")],
                by: "root".to_owned(),
            },
        ),
        (
            "keep-awake",
            Request::KeepAwake {
                host: host("db"),
                lease: Duration::from_secs(600),
                by: "root".to_owned(),
            },
        ),
        ("why", Request::Why { host: host("db") }),
        ("program", Request::Program { host: host("db") }),
        ("usage", Request::Usage { hosts: vec![] }),
        ("down", Request::Down),
        (
            "apply",
            Request::Apply {
                recreate: Recreate::Changed,
                remove_orphans: true,
            },
        ),
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
        wakes: 12,
        next_deadline_us: Some(1_763_000_000_800_000),
        since_us: 1_763_000_000_000_000,
        detail: Some("exited with status 3 before it listened".to_owned()),
        command: strings(&["nginx"]),
        declared: true,
        health: Some(Health::Healthy),
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
        usage: (kind == EventKind::Suspend).then(usage),
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
        (
            "change",
            Response::Change {
                host: host("web"),
                change: Change::Changed {
                    keys: strings(&["image", "environment"]),
                },
            },
        ),
        (
            "program",
            Response::Program {
                pid: 4711,
                spec: Some(Box::new(ProgramSpec::new(["server"]))),
            },
        ),
        (
            "usage",
            Response::Usage(HostUsage {
                host: host("db"),
                since_us: 1_763_000_000_000_000,
                states: vec![
                    (HostState::Running, Duration::from_millis(5_001)),
                    (HostState::Suspended, Duration::from_secs(3600)),
                ],
                cpu: Duration::from_micros(1_234_567),
                memory_byte_ms: u128::from(u64::MAX) + 1,
                boots: 2,
                wakes: 12,
            }),
        ),
        ("done", Response::Done),
        (
            "error",
            Response::Error(ErrorKind::UnknownHost.because("no host 'wep'; did you mean 'web'?")),
        ),
    ]);
    samples.extend(
        host_states()
            .into_iter()
            .map(|(name, state)| (format!("host-{name}"), Response::Host(host_status(state)))),
    );
    samples.extend(whys().into_iter().map(|(name, why)| {
        let why = Response::Why {
            host: host("db"),
            state: HostState::Suspended,
            since_us: 1_763_000_000_000_000,
            why,
        };
        (format!("why-{name}"), why)
    }));
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
    samples.extend(
        requests()
            .into_iter()
            .map(|(name, request)| (format!("control-{name}"), Opening::Control(request))),
    );
    samples
}

/// Requests to the zygote: one with every field, one with none that may be missing.
pub fn spawn_requests() -> Samples<SpawnRequest> {
    let least = ProgramSpec::new(["server"]);
    let mut full = ProgramSpec::new(["server", "--port", "80"]);
    full.environment.insert("MODE".to_owned(), "fast".to_owned());
    full.working_dir = "/srv".into();
    full.user = Some("web:www".to_owned());
    full.descriptor_limit = Some(1024);
    full.limits = Limits {
        memory_bytes: Some(64 << 20),
        milli_cpus: Some(1500),
        pids: Some(100),
    };
    full.stop_signal = 3;
    full.stop_grace = Duration::from_millis(2500);
    full.logging.max_size = None;
    full.logging.max_files = 5;
    named([
        (
            "full",
            SpawnRequest {
                program: full,
                host: host("web"),
                boot: 0x0123_4567_89ab_cdef,
                expires_us: Some(1_000_000),
            },
        ),
        (
            "least",
            SpawnRequest {
                program: least,
                host: host("db"),
                boot: 1,
                expires_us: None,
            },
        ),
    ])
}

pub fn spawn_replies() -> Samples<SpawnReply> {
    named([("process", Ok(4711)), ("errno", Err(62))])
}
