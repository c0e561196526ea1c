//! Any message there can be.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use imsup_protocol::control::{Change, HostUsage, Opening, Recreate};
use imsup_protocol::message::{Adoption, Role};
use imsup_protocol::{Outcome, Request, Response, ToBroker, ToSupervisor};
use imsup_wire::limits::{Confinement, Limits};
use imsup_wire::{
    Cause, CauseKind, Endpoint, ErrorKind, Event, EventKind, ExitStatus, Failure, Health, HostName, HostState,
    HostStatus, Index, Planes, PublishedPort, Transport,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::samples;
use crate::sleep_strategies::{awake, order, report, sleep_policy, usage, wake_cause, why};

pub(crate) fn host() -> impl Strategy<Value = HostName> {
    "[a-z0-9][a-z0-9_.-]{0,62}".prop_filter_map("a number is no name", |name| name.parse().ok())
}

fn index() -> impl Strategy<Value = Index> {
    any::<u16>().prop_filter_map("low byte 0 is the broker's", Index::new)
}

pub(crate) fn duration() -> impl Strategy<Value = Duration> {
    (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn socket_address_v4() -> impl Strategy<Value = SocketAddrV4> {
    (any::<Ipv4Addr>(), any::<u16>()).prop_map(|(address, port)| SocketAddrV4::new(address, port))
}

/// serde keeps neither the flow label nor the scope of an IPv6 address.
pub(crate) fn socket_address() -> impl Strategy<Value = SocketAddr> {
    (any::<std::net::IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    (transport, socket_address_v4()).prop_map(|(transport, address)| Endpoint { transport, address })
}

fn planes() -> impl Strategy<Value = Planes> {
    any::<[[u8; 2]; 3]>().prop_map(|[vip, localhost, v6_shadow]| Planes {
        vip,
        localhost,
        v6_shadow,
    })
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![
        any::<u64>().prop_map(|boot| Role::Launched { boot }),
        Just(Role::Started),
        Just(Role::Transient),
        Just(Role::Exec),
    ]
}

fn adoption() -> impl Strategy<Value = Adoption> {
    let slept = (option::of(any::<u64>()), usage());
    (index(), any::<u32>(), any::<u64>(), any::<bool>(), slept).prop_map(
        |(index, pid, started_us, ready, (suspended_us, usage))| Adoption {
            index,
            pid,
            started_us,
            ready,
            suspended_us,
            usage,
        },
    )
}

fn exit_status() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        any::<i32>().prop_map(ExitStatus::Code),
        any::<i32>().prop_map(ExitStatus::Signal),
        any::<i32>().prop_map(ExitStatus::NotExecuted),
        Just(ExitStatus::Lost),
        any::<u64>().prop_map(ExitStatus::OutOfMemory),
    ]
}

fn confinement() -> impl Strategy<Value = Confinement> {
    let amount = || option::of(any::<u64>());
    (amount(), amount(), amount(), option::of(any::<u32>())).prop_map(|(memory_bytes, milli_cpus, pids, beside)| {
        Confinement {
            limits: Limits {
                memory_bytes,
                milli_cpus,
                pids,
            },
            beside,
        }
    })
}

pub fn failure() -> impl Strategy<Value = Failure> {
    let kinds: Vec<ErrorKind> = samples::error_kinds().into_iter().map(|(_, kind)| kind).collect();
    (select(kinds), any::<String>()).prop_map(|(kind, message)| kind.because(message))
}

pub fn to_broker() -> impl Strategy<Value = ToBroker> {
    let hello = (
        option::of(host()),
        role(),
        vec(any::<String>(), 0..5),
        option::of(adoption()),
    );
    let others = prop_oneof![
        hello.prop_map(|(host, role, command, adoption)| ToBroker::Hello {
            host,
            role,
            command,
            adoption,
        }),
        any::<u32>().prop_map(|pid| ToBroker::Started { pid }),
        endpoint().prop_map(|endpoint| ToBroker::Listening { endpoint }),
        Just(ToBroker::Settled),
        (any::<u64>(), endpoint(), any::<bool>()).prop_map(|(id, endpoint, can_wait)| ToBroker::Reach {
            id,
            endpoint,
            can_wait,
        }),
        any::<u64>().prop_map(|id| ToBroker::CancelReach { id }),
        (any::<u64>(), endpoint()).prop_map(|(id, endpoint)| ToBroker::Claim { id, endpoint }),
        (exit_status(), usage()).prop_map(|(status, usage)| ToBroker::Exited { status, usage }),
        Just(ToBroker::ResolverSockets),
        Just(ToBroker::NotifyListener),
        any::<u32>().prop_map(|uid| ToBroker::Binds { uid }),
        (any::<u32>(), endpoint()).prop_map(|(uid, endpoint)| ToBroker::Trusts { uid, endpoint }),
        (any::<u64>(), any::<u64>()).prop_map(|(killed, limit_bytes)| ToBroker::OutOfMemory { killed, limit_bytes }),
        Just(ToBroker::Acknowledge),
    ];
    // By how many variants there are of each.
    prop_oneof![14 => others, 9 => of_sleep()]
}

fn of_sleep() -> impl Strategy<Value = ToBroker> {
    let deadline = || option::of(any::<u64>());
    let woke = (
        (any::<u64>(), wake_cause(), any::<bool>()),
        (duration(), any::<u64>(), duration(), usage()),
    );
    prop_oneof![
        (any::<u64>(), deadline(), duration(), usage()).prop_map(|(time_us, deadline_us, took, usage)| {
            ToBroker::Suspended {
                time_us,
                deadline_us,
                took,
                usage,
            }
        }),
        woke.prop_map(
            |((time_us, cause, named_later), (slept, ticks, took, usage))| ToBroker::Woke {
                time_us,
                cause,
                named_later,
                slept,
                ticks,
                took,
                usage,
            }
        ),
        (option::of(socket_address()), option::of(any::<u16>())).prop_map(|(by, port)| ToBroker::WokenBy { by, port }),
        (deadline(), duration()).prop_map(|(deadline_us, took)| ToBroker::Ticked { deadline_us, took }),
        (any::<u64>(), duration(), option::of(any::<String>()))
            .prop_map(|(bytes, took, detail)| { ToBroker::Reclaimed { bytes, took, detail } }),
        (duration(), usage()).prop_map(|(slept, usage)| ToBroker::Terminating { slept, usage }),
        vec(index(), 0..4).prop_map(|peers| ToBroker::Disposable { peers }),
        (any::<u64>(), endpoint(), any::<u64>()).prop_map(|(id, endpoint, inode)| ToBroker::Closed {
            id,
            endpoint,
            inode
        }),
        endpoint().prop_map(|endpoint| ToBroker::OtherFamily { endpoint }),
        (any::<u64>(), report()).prop_map(|(id, report)| ToBroker::Answer { id, report }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Connect),
        Just(Outcome::Refused),
        Just(Outcome::TimedOut),
        Just(Outcome::Busy),
        Just(Outcome::Unknown),
    ]
}

pub fn to_supervisor() -> impl Strategy<Value = ToSupervisor> {
    let welcome = (
        host(),
        any::<String>(),
        index(),
        planes(),
        socket_address_v4(),
        (duration(), duration()),
        vec(endpoint(), 0..20),
        (option::of(sleep_policy()), awake(), any::<bool>(), confinement()),
    );
    prop_oneof![
        welcome.prop_map(
            |(
                host,
                hostname,
                index,
                planes,
                name_server,
                (hold_timeout, reach_timeout),
                retained,
                (sleep, awake, families_known, confinement),
            )| {
                ToSupervisor::Welcome {
                    host,
                    hostname,
                    index,
                    planes,
                    name_server,
                    hold_timeout,
                    sleep,
                    awake,
                    retained,
                    reach_timeout,
                    families_known,
                    confinement: Box::new(confinement),
                }
            }
        ),
        failure().prop_map(ToSupervisor::Rejected),
        (any::<u64>(), outcome()).prop_map(|(id, outcome)| ToSupervisor::Reached { id, outcome }),
        (any::<u64>(), any::<bool>()).prop_map(|(id, found)| ToSupervisor::Claimed { id, found }),
        awake().prop_map(ToSupervisor::KeepAwake),
        (any::<u64>(), order()).prop_map(|(id, order)| ToSupervisor::Ask { id, order }),
        (any::<i32>(), duration()).prop_map(|(signal, grace)| ToSupervisor::Stop { signal, grace }),
        (any::<u8>(), any::<u8>()).prop_map(|(v4, v6)| ToSupervisor::ResolverSockets { v4, v6 }),
        (any::<u32>(), endpoint(), any::<bool>()).prop_map(|(uid, endpoint, is_trusted)| ToSupervisor::Trusted {
            uid,
            endpoint,
            is_trusted,
        }),
        Just(ToSupervisor::RetakeRunning),
        Just(ToSupervisor::Acknowledged),
    ]
}

pub fn request() -> impl Strategy<Value = Request> {
    let hosts = || vec(host(), 0..4);
    prop_oneof![
        Just(Request::Broker),
        Just(Request::Hosts),
        Just(Request::Names),
        any::<String>().prop_map(|name| Request::Resolve { name }),
        (any::<bool>(), hosts()).prop_map(|(follow, hosts)| Request::Events { follow, hosts }),
        (hosts(), any::<String>(), any::<bool>()).prop_map(|(hosts, by, exec)| Request::Wake { hosts, by, exec }),
        hosts().prop_map(|hosts| Request::Stop { hosts }),
        (hosts(), any::<String>()).prop_map(|(hosts, by)| Request::Restart { hosts, by }),
        (hosts(), any::<String>()).prop_map(|(hosts, by)| Request::Suspend { hosts, by }),
        (hosts(), any::<String>()).prop_map(|(hosts, by)| Request::Resume { hosts, by }),
        (host(), duration(), any::<String>()).prop_map(|(host, lease, by)| Request::KeepAwake { host, lease, by }),
        host().prop_map(|host| Request::Why { host }),
        host().prop_map(|host| Request::Program { host }),
        hosts().prop_map(|hosts| Request::Usage { hosts }),
        Just(Request::Down),
        (recreate(), any::<bool>()).prop_map(|(recreate, remove_orphans)| Request::Apply {
            recreate,
            remove_orphans
        }),
    ]
}

fn recreate() -> impl Strategy<Value = Recreate> {
    prop_oneof![Just(Recreate::Changed), Just(Recreate::All), Just(Recreate::Never)]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::New),
        vec(any::<String>(), 0..4).prop_map(|keys| Change::Changed { keys }),
        Just(Change::Removed),
        Just(Change::Orphan),
    ]
}

fn host_state() -> impl Strategy<Value = HostState> {
    prop_oneof![
        Just(HostState::Imaginary),
        Just(HostState::Booting),
        Just(HostState::Running),
        Just(HostState::Suspended),
        Just(HostState::Failed),
        Just(HostState::Completed),
    ]
}

fn host_status() -> impl Strategy<Value = HostStatus> {
    let published = (socket_address(), endpoint()).prop_map(|(machine, endpoint)| PublishedPort { machine, endpoint });
    let seen = (host(), any::<Ipv4Addr>(), host_state(), option::of(any::<u32>()));
    let ports = (vec(endpoint(), 0..4), vec(published, 0..4));
    let sleep = (any::<u64>(), option::of(any::<u64>()));
    let past = (any::<u64>(), sleep, any::<u64>(), option::of(any::<String>()));
    let made = (vec(any::<String>(), 0..4), any::<bool>(), option::of(health()));
    (seen, ports, past, made).prop_map(
        |(
            (name, address, state, pid),
            (ports, published),
            (boots, sleep, since_us, detail),
            (command, declared, health),
        )| {
            HostStatus {
                name,
                address,
                state,
                pid,
                ports,
                published,
                boots,
                wakes: sleep.0,
                next_deadline_us: sleep.1,
                since_us,
                detail,
                command,
                declared,
                health,
            }
        },
    )
}

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![Just(Health::Starting), Just(Health::Healthy), Just(Health::Unhealthy)]
}

pub(crate) fn cause_kind() -> impl Strategy<Value = CauseKind> {
    prop_oneof![
        Just(CauseKind::Connection),
        Just(CauseKind::Connect),
        Just(CauseKind::Datagram),
        Just(CauseKind::Published),
        Just(CauseKind::Wake),
        Just(CauseKind::Exec),
        Just(CauseKind::Lookup),
        Just(CauseKind::Data),
        Just(CauseKind::Timer),
        Just(CauseKind::Signal),
        Just(CauseKind::Descriptor),
        Just(CauseKind::Idle),
        Just(CauseKind::Dependency),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        Just(EventKind::Allocate),
        Just(EventKind::Boot),
        Just(EventKind::Ready),
        Just(EventKind::Exit),
        Just(EventKind::Fail),
        Just(EventKind::Suspend),
        Just(EventKind::Wake),
        Just(EventKind::Tick),
        Just(EventKind::Reclaim),
        Just(EventKind::Terminate),
        Just(EventKind::Unmet),
        Just(EventKind::Oom),
        Just(EventKind::Restart),
        Just(EventKind::Healthy),
        Just(EventKind::Unhealthy),
    ];
    let cause = (cause_kind(), option::of(any::<String>()), option::of(any::<u16>()))
        .prop_map(|(kind, by, port)| Cause { kind, by, port });
    (
        any::<u64>(),
        host(),
        kind,
        option::of(cause),
        option::of(duration()),
        option::of(any::<String>()),
        option::of(usage()),
    )
        .prop_map(|(time_us, host, kind, cause, duration, detail, usage)| Event {
            time_us,
            host,
            kind,
            cause,
            duration,
            detail,
            usage,
        })
}

fn host_usage() -> impl Strategy<Value = HostUsage> {
    let states = vec((host_state(), duration()), 0..6);
    let used = (duration(), any::<u128>(), any::<u64>(), any::<u64>());
    (host(), any::<u64>(), states, used).prop_map(|(host, since_us, states, (cpu, memory_byte_ms, boots, wakes))| {
        HostUsage {
            host,
            since_us,
            states,
            cpu,
            memory_byte_ms,
            boots,
            wakes,
        }
    })
}

pub fn response() -> impl Strategy<Value = Response> {
    let broker = (
        any::<String>(),
        any::<u32>(),
        any::<String>(),
        any::<u64>(),
        socket_address_v4(),
        any::<u64>(),
    );
    prop_oneof![
        broker.prop_map(
            |(project, pid, version, hosts, name_server, socket_limit)| Response::Broker {
                project,
                pid,
                version,
                hosts,
                name_server,
                socket_limit,
            }
        ),
        host_status().prop_map(Response::Host),
        (any::<String>(), any::<Ipv4Addr>()).prop_map(|(name, address)| Response::Name { name, address }),
        event().prop_map(Response::Event),
        (host(), host_state(), any::<u64>(), why()).prop_map(|(host, state, since_us, why)| Response::Why {
            host,
            state,
            since_us,
            why,
        }),
        host_usage().prop_map(Response::Usage),
        Just(Response::Done),
        failure().prop_map(Response::Error),
        any::<u32>().prop_map(|pid| Response::Program { pid, spec: None }),
        (host(), change()).prop_map(|(host, change)| Response::Change { host, change }),
    ]
}

pub fn opening() -> impl Strategy<Value = Opening> {
    prop_oneof![
        to_broker().prop_map(Opening::Supervisor),
        request().prop_map(Opening::Control),
    ]
}
