//! `imsup run`: one supervised program.

use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use imsup_bpf_filters::Families;
use imsup_linux::cgroup_paths;
use imsup_linux::clock::Stamp;
use imsup_linux::confinement;
use imsup_protocol::channel::ChannelError;
use imsup_protocol::message::Role;
use imsup_protocol::{ToBroker, ToSupervisor};
use imsup_wire::limits::Confinement;
use imsup_wire::{Awake, ExitStatus, HostName, ProgramSpec, SleepPolicy};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use crate::error::{RunError, Trying};
use crate::handover::Handovers;
use crate::host::bound::BoundSockets;
use crate::host::closed_listeners::ClosedListeners;
use crate::host::{Answered, Descriptors, Host, Start};
use crate::identity::Identity;
use crate::incoming::Incoming;
use crate::link::Link;
use crate::receive::Loop;
use crate::resolvers::Resolvers;
use crate::rooted;
use crate::running::{Running, RunningLock, RunningLockError};
use crate::sleep::{self, ProcessTree, Sleep};
use crate::sockets::{NativePorts, OwnConnections, Retained, SocketTable};
use crate::strangers::Strangers;
use crate::trace::Trace;
use crate::unhonoured::Warned;
use crate::user;
use crate::{environment, init, reconnect};
use imsup_linux::root::{Join, Place, Root};
use imsup_linux::single_thread::SingleThread;
use imsup_linux::spawn::{self, Credentials, SpawnError};
use imsup_linux::support::Support;
use imsup_linux::{self, capabilities, duplicates, pidfd, socket};

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Which host of which project a program is.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The broker's socket.
    pub broker_socket: PathBuf,
    /// The directory for the lock that says "this host runs"; `None` for a command of `imsup exec`.
    pub running_directory: Option<PathBuf>,
    /// Lines for /etc/hosts, which the broker writes.
    pub hosts_file: PathBuf,
    /// The host; for a transient host, the requested name.
    pub host: Option<HostName>,
    /// The supervisor's role in the host.
    pub role: Role,
    /// Whether each trapped call is told on standard error.
    pub trace: bool,
    /// The process whose root the program joins, for a command of `imsup exec` in the root of an
    /// image; a new root is made if `None`.
    pub beside: Option<u32>,
}

/// Runs a program as a host until it ends, and ends what it leaves behind. The caller must have a
/// single thread.
///
/// # Errors
/// Any [`RunError`]; no program runs then.
pub fn run(spec: &ProgramSpec, assignment: &Assignment) -> Result<ExitStatus, RunError> {
    let thread = SingleThread::prove().trying("this process has more than one thread")?;
    let command = c_strings(&spec.command)?;
    let root = spec.root.as_deref();
    let beside = assignment.beside.map(|pid| pidfd::open_process(pid.cast_signed()));
    let beside = beside.transpose().trying("the host has just ended")?;
    let join = root.zip(beside.as_ref());
    let join = join.map(|(root, process)| Join::new(process.as_fd(), root, &spec.working_dir));
    let join = join.transpose()?;
    let new = root.filter(|_| join.is_none());
    new.map_or(Ok(()), rooted::make_directories)
        .map_err(RunError::RootDirectories)?;
    let new = new.map(|root| Root::plan(root, &spec.working_dir)).transpose()?;
    let place = match (&new, &join) {
        (Some(root), _) => Place::Root(root),
        (None, Some(join)) => Place::Beside(join),
        (None, None) => Place::Machine,
    };
    let (credentials, environment) = become_user(spec, &assignment.role)?;
    let hello = hello(spec, assignment);
    let broker = |source| RunError::Broker {
        path: assignment.broker_socket.clone(),
        source,
    };
    // The broker answers while the cgroup is made.
    let link = reconnect::open(&assignment.broker_socket, &hello).map_err(broker)?;
    let signals = init::handled_signals();
    let mut inherited = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut inherited)).trying("cannot block signals")?;
    nix::sys::prctl::set_child_subreaper(true).trying("cannot become the parent of orphans")?;
    let mut tree = match sleep::sleeps(&assignment.role) {
        true => ProcessTree::new(&cgroup_name(assignment)),
        false => ProcessTree::unheld(),
    };
    let (welcome, mut link, lock) = take_place(link, &hello, assignment)?;
    confine(&mut tree, &welcome, assignment);
    let filter = imsup_bpf_filters::notify_filter(Support::present().sockets(), welcome.families);
    let mut program = spawn::Program {
        command: &command,
        environment: environment.as_deref(),
        credentials: credentials.as_ref(),
        // A launched program must not get the signals of the terminal that the broker was started
        // from.
        new_session: matches!(assignment.role, Role::Launched { .. }),
        descriptor_limit: spec.descriptor_limit,
        signals: inherited,
        // A program with a user namespace of its own has the capability that its filter needs there.
        no_new_privs: match root {
            Some(root) => root.no_new_privs,
            None => !capabilities::has_capability(CAP_SYS_ADMIN),
        },
        cgroup: tree.cgroup(),
        place,
    };
    let mut prepared = spawn::prepare(&program, filter, &thread);
    if assignment.role == Role::Exec
        && program.cgroup.is_some()
        && let Err(SpawnError::Fork(errno @ (Errno::EACCES | Errno::EPERM))) = prepared
    {
        // If `up` was run in a cgroup of its own, processes from elsewhere may not be moved there
        // (cgroup-v2.rst, "Delegation Containment").
        tracing::warn!(%errno, "the command is outside the host's limits: its caller is in a cgroup that is not delegated together with the host's");
        program.cgroup = None;
        prepared = spawn::prepare(&program, filter, &thread);
    }
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // If a supervisor hangs up without a message, the broker ends all leftovers, the
            // supervisor itself included.
            say_not_executed(link, error.errno());
            return Err(error.into());
        }
    };
    let child = prepared.pid();
    link.go_on().map_err(broker)?;

    // Before the child executes the program: the first instruction is already under the limits.
    if let Err(error) = tree.join(child.as_raw()) {
        tracing::warn!("{error}: its limits do not hold");
    }
    link.share_notify_listener(prepared.listener());
    let listener = match prepared.execute() {
        Ok(listener) => listener,
        Err(errno) => {
            let _ = nix::sys::wait::waitpid(child, None);
            drop(lock);
            return Ok(say_not_executed(link, errno));
        }
    };
    link.send(
        &ToBroker::Started {
            pid: child.as_raw().cast_unsigned(),
        },
        Vec::new(),
    );
    raise_descriptor_limit();
    duplicates::note_filters();
    confinement::confine_supervisor();
    let host = Host {
        listener,
        descriptors: Descriptors::new(Support::present()),
        identity: welcome.identity,
        hostname: welcome.hostname,
        role: assignment.role.clone(),
        sockets: SocketTable::default(),
        retained: welcome.retained,
        handovers: Handovers::new(welcome.families == Families::Unknown),
        closed_listeners: ClosedListeners::default(),
        incoming: Incoming::default(),
        begun_anew: None,
        native_ports: NativePorts::default(),
        own_connections: OwnConnections::default(),
        bound: BoundSockets::default(),
        has_bound_datagrams: false,
        answered: Answered::default(),
        strangers: Strangers::default(),
        link,
        resolvers: Resolvers::default(),
        hosts_file: assignment.hosts_file.clone(),
        hold_timeout: welcome.hold_timeout,
        reach_timeout: welcome.reach_timeout,
        start: Start {
            last_step: Instant::now(),
            listening: false,
            announced: false,
            settled: false,
        },
        warned: Warned::default(),
        trace: Trace::new(assignment.trace),
    };
    let introduction = reconnect::Introduction {
        hello,
        host: welcome.host,
        pid: child.as_raw().cast_unsigned(),
        started: Stamp::now(),
    };
    let memory = tree.take_memory_watch();
    let sleep = Sleep::new(welcome.sleep, welcome.awake, tree);
    let mut running = Loop::new(host, sleep, child, introduction, assignment.role.clone(), lock)?;
    running.watch_memory(memory);
    running.run()
}

/// The user and the environment of a program; `None` for our own.
fn become_user(spec: &ProgramSpec, role: &Role) -> Result<(Option<Credentials>, Option<Vec<CString>>), RunError> {
    if let Some(root) = &spec.root {
        let user = rooted::user(root, spec.user.as_deref())?;
        let environment = rooted::environment(spec, root, role, &user);
        return Ok((user.credentials, Some(environment)));
    }
    let user = spec.user.as_deref().map(user::resolve).transpose()?.flatten();
    let others = user
        .as_ref()
        .filter(|user| user.credentials.uid != nix::unistd::getuid());
    let environment = environment::of_program(spec, role, others);
    Ok((user.map(|user| user.credentials), environment))
}

/// Tells the broker that the program was not executed, and why.
fn say_not_executed(link: Link, errno: Errno) -> ExitStatus {
    let status = ExitStatus::NotExecuted(errno as i32);
    link.finish(&ToBroker::Exited {
        status,
        usage: imsup_wire::Usage::default(),
    });
    status
}

/// Takes the place that a broker assigns, so that every later broker sees that the host runs. A new
/// broker looks for running hosts only once, when it begins. It does not know a place that was not
/// taken by then, and may give that place to others. No process of this host runs yet, so the new
/// broker is asked instead.
fn take_place(
    mut link: Link,
    hello: &ToBroker,
    assignment: &Assignment,
) -> Result<(Welcome, Link, Option<RunningLock>), RunError> {
    for _ in 0..reconnect::BROKERS {
        let (welcome, answered) = Welcome::await_in(link, hello)?;
        let lock = match lock(&welcome, assignment) {
            Ok(lock) => lock,
            Err(error) => {
                say_not_executed(answered, Errno::EBUSY);
                return Err(error.into());
            }
        };
        let path = answered.path().to_owned();
        if !answered.has_hung_up() || !reconnect::next_comes(&path) {
            return Ok((welcome, answered, lock));
        }
        drop(lock);
        let failed = |source| RunError::Broker {
            path: path.clone(),
            source,
        };
        if !reconnect::is_for_any(hello) {
            return Err(failed(ChannelError::Closed));
        }
        link = reconnect::open(&path, hello).map_err(failed)?;
    }
    Err(RunError::Broker {
        path: assignment.broker_socket.clone(),
        source: ChannelError::Closed,
    })
}

fn lock(welcome: &Welcome, assignment: &Assignment) -> Result<Option<RunningLock>, RunningLockError> {
    let running = Running {
        host: welcome.host.clone(),
        index: welcome.identity.index,
        boot: match assignment.role {
            Role::Launched { boot } => Some(boot),
            _ => None,
        },
    };
    let directory = assignment.running_directory.as_deref();
    directory
        .map(|directory| RunningLock::take(directory, running))
        .transpose()
}

/// Confines the program to the limits of its host, before the program runs.
fn confine(tree: &mut ProcessTree, welcome: &Welcome, assignment: &Assignment) {
    let Confinement { limits, beside } = &welcome.confinement;
    if limits.is_empty() {
        return;
    }
    let name = cgroup_paths::of_host(&project(assignment), welcome.host.as_str());
    if assignment.role == Role::Exec {
        if let Some(pid) = beside {
            tree.confine_beside(*pid, &name);
        }
        return;
    }
    for error in tree.limit(&name, limits) {
        // `up` has said so of all hosts.
        match assignment.role {
            Role::Launched { .. } => tracing::debug!("{error}"),
            _ => tracing::warn!("{error}"),
        }
    }
}

/// Does the common beginning of every [`run`], for processes that are forked from this process.
pub fn prepare() {
    let _ = Support::present();
    // If one of these fails, `run` reports the failure.
    let _ = imsup_bpf_filters::confinement();
    let _ = imsup_linux::cgroup::own_directory();
}

/// The broker's first message.
struct Welcome {
    host: HostName,
    hostname: String,
    identity: Identity,
    hold_timeout: Duration,
    reach_timeout: Duration,
    sleep: Option<SleepPolicy>,
    awake: Awake,
    retained: Retained,
    families: Families,
    confinement: Confinement,
}

impl Welcome {
    /// The broker's reply. If the broker died before its reply, the reply of the broker that the
    /// keeper starts.
    fn await_in(mut link: Link, hello: &ToBroker) -> Result<(Self, Link), RunError> {
        for _ in 0..reconnect::BROKERS {
            let answered = Self::receive(&mut link);
            let path = link.path().to_owned();
            if !matches!(answered, Err(RunError::Broker { .. }))
                || !reconnect::is_for_any(hello)
                || !reconnect::next_comes(&path)
            {
                return Ok((answered?, link));
            }
            link = reconnect::open(&path, hello).map_err(|source| RunError::Broker { path, source })?;
        }
        Ok((Self::receive(&mut link)?, link))
    }

    fn receive(link: &mut Link) -> Result<Self, RunError> {
        let path = link.path().to_owned();
        let message = link.welcome().map_err(|source| RunError::Broker {
            path: path.clone(),
            source,
        })?;
        match message {
            ToSupervisor::Rejected(failure) => Err(RunError::Rejected(failure)),
            ToSupervisor::Welcome {
                host,
                hostname,
                index,
                planes,
                name_server,
                hold_timeout,
                sleep,
                awake,
                retained: endpoints,
                reach_timeout,
                families_known,
                confinement,
            } => {
                let mut retained = Retained::default();
                let sockets = link
                    .take_fds(endpoints.len())
                    .map_err(|source| RunError::Broker { path, source })?;
                for (endpoint, socket) in endpoints.into_iter().zip(sockets) {
                    let inode = socket::inode(socket.as_fd()).trying("cannot look at a retained socket")?;
                    retained.add_waiting(endpoint, socket, inode);
                }
                Ok(Self {
                    host,
                    hostname,
                    identity: Identity {
                        planes,
                        index,
                        name_server,
                    },
                    hold_timeout,
                    reach_timeout,
                    sleep,
                    awake,
                    retained,
                    confinement: *confinement,
                    families: if families_known {
                        Families::Known
                    } else {
                        Families::Unknown
                    },
                })
            }
            _ => Err(RunError::OutOfTurn),
        }
    }
}

/// The name of the host's cgroup. By this name a broker finds the leftovers of a dead supervisor.
fn cgroup_name(assignment: &Assignment) -> String {
    match &assignment.host {
        Some(host) => cgroup_paths::of_host(&project(assignment), host.as_str()),
        None => cgroup_paths::of_host(&project(assignment), &std::process::id().to_string()),
    }
}

/// The name of the project: the directory of its broker's socket.
fn project(assignment: &Assignment) -> String {
    let directory = assignment.broker_socket.parent();
    let name = directory.and_then(|directory| directory.file_name());
    name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn hello(spec: &ProgramSpec, assignment: &Assignment) -> ToBroker {
    ToBroker::Hello {
        host: assignment.host.clone(),
        role: assignment.role.clone(),
        command: spec.command_text(),
        adoption: None,
    }
}

fn c_strings(command: &[OsString]) -> Result<Vec<CString>, RunError> {
    if command.is_empty() {
        return Err(RunError::NoCommand);
    }
    command
        .iter()
        .map(|argument| CString::new(argument.clone().into_vec()).map_err(|_| RunError::NulInCommand))
        .collect()
}

/// Raises the limit, since pending calls and retained sockets are descriptors. The program has its
/// own limit, inherited before.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
