//! `broker`: a broker with the hosts of `FAKE_HOSTS`, a host per line: the name, then `key=value`
//! words, then `--` and the actions of the supervisor.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use imsup_broker::keeper::{Keeper, Restored, Successor};
use imsup_broker::paths::Paths;
use imsup_broker::{Options, run as run_broker};
use imsup_compose::cluster::{Cluster, HostSpec, ProgramSpec, Publish, Restart, RestartCondition, Settings};
use imsup_wire::Transport;
use rustix::process::{Resource, Rlimit, setrlimit};

pub fn run() -> ExitCode {
    let variable = |name: &str| std::env::var(name).expect(name);
    let project = variable("FAKE_PROJECT");
    if let Ok(descriptors) = std::env::var("FAKE_DESCRIPTORS") {
        let most = Some(descriptors.parse().expect("a number"));
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        setrlimit(Resource::Nofile, limit).expect("setrlimit(2)");
    }
    let cluster = Cluster {
        directory: PathBuf::from("/"),
        subnet: None,
        hosts: variable("FAKE_HOSTS").lines().map(host).collect(),
        project: project.clone(),
    };
    let restored = std::env::args().any(|argument| argument == "--successor").then(|| {
        let keeper = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor");
        let limit = std::env::args().skip_while(|argument| argument != "--nofile").nth(1);
        let limit = limit.map(|limit| limit.parse().expect("a number"));
        Restored::receive(keeper, limit).expect("what the keeper has")
    });
    let cluster = match &restored {
        Some(restored) => restored.cluster().expect("the cluster"),
        None => cluster,
    };
    let arguments = vec!["broker".into(), "--successor".into()];
    let options = Options {
        cluster,
        paths: Paths::of(&project),
        ephemeral: std::env::var_os("FAKE_EPHEMERAL").is_some(),
        resolv_conf: PathBuf::from(variable("FAKE_RESOLV_CONF")),
        imsup_exe: std::env::current_exe().expect("an executable"),
        stand_back: || {},
        on_ready: Box::new(|| {
            println!("ready");
            std::io::stdout().flush().expect("stdout");
        }),
        on_event: None,
        successor: std::env::var_os("FAKE_KEEPER").map(|_| Successor { arguments }),
        restored,
    };
    match run_broker(options) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `keeper --project P -- ARGUMENTS`.
pub fn keep() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let separator = arguments.iter().position(|argument| argument == "--").expect("--");
    let keeper = Keeper {
        paths: Paths::of(arguments[3].to_str().expect("a project")),
        executable: std::env::current_exe().expect("an executable"),
        arguments: arguments[separator + 1..].to_vec(),
        log_to_file: |_| Ok(()),
    };
    let broker = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null").expect("/dev/null")).expect("dup2(2)");
    match imsup_broker::keeper::keep(&keeper, broker) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn host(line: &str) -> HostSpec {
    let (words, command) = line.split_once(" -- ").expect("a command");
    let mut words = words.split_ascii_whitespace();
    let name = words.next().expect("a name");
    let mut host = HostSpec {
        name: name.parse().expect("a host's name"),
        hostname: name.to_owned(),
        aliases: Vec::new(),
        extra_hosts: Vec::new(),
        networks: Vec::new(),
        address: None,
        program: ProgramSpec {
            working_dir: PathBuf::from("/"),
            stop_grace: Duration::from_secs(2),
            ..ProgramSpec::new(command.split_ascii_whitespace())
        },
        container: None,
        expose: Vec::new(),
        published: Vec::new(),
        restart: None,
        dependencies: Vec::new(),
        prerequisites: Vec::new(),
        health: None,
        labels: BTreeMap::new(),
        imsup: Settings::default(),
    };
    for word in words {
        let (key, value) = word.split_once('=').expect("key=value");
        match key {
            "tcp" => host.expose.push((Transport::Tcp, value.parse().expect("a port"))),
            "udp" => host.expose.push((Transport::Udp, value.parse().expect("a port"))),
            "alias" => host.aliases.push(value.to_owned()),
            "hold" => host.imsup.hold_timeout = Duration::from_millis(value.parse().expect("milliseconds")),
            "idle" => host.imsup.idle_after = Some(Duration::from_millis(value.parse().expect("milliseconds"))),
            "terminate" => {
                host.imsup.terminate_after = Some(Duration::from_millis(value.parse().expect("milliseconds")))
            }
            "disposable" => host.imsup.disposable = true,
            "keep" => host.imsup.keep_awake = true,
            "restart" => {
                host.restart = Some(Restart::new(match value {
                    "always" => RestartCondition::Always,
                    "on-failure" => RestartCondition::OnFailure,
                    other => panic!("no such policy: {other}"),
                }));
            }
            "delay" => {
                let restart = host.restart.as_mut().expect("restart comes first");
                restart.delay = Duration::from_millis(value.parse().expect("milliseconds"));
            }
            "max" => {
                let restart = host.restart.as_mut().expect("restart comes first");
                restart.max_attempts = Some(value.parse().expect("a number"));
            }
            "needs" => host.dependencies.push(value.parse().expect("a host's name")),
            "prefetch" => host.imsup.prefetch_dns = true,
            "publish" => {
                let port = value.parse().expect("a port");
                host.expose.push((Transport::Tcp, port));
                host.published.push(Publish {
                    machine_ip: None,
                    machine_port: None,
                    port,
                    transport: Transport::Tcp,
                });
            }
            "dir" => host.program.working_dir = PathBuf::from(value),
            other => panic!("no such key: {other}"),
        }
    }
    host
}
