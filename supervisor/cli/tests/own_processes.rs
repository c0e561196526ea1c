//! Privileges of imsup's own processes and threads, and what programs inherit of them:
//! capabilities, seccomp filters, descriptors.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;

use common::command::run;
use common::{LIMIT, Project, leaks, need, wait_until};
use imsup_linux::privileges::OF_A_SUPERVISOR;
use rustix::thread::CapabilitySet;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

/// O_CLOEXEC, as /proc/PID/fdinfo/N has it.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// Asks a name server, by a socket that imsup replaces.
const ASK: &str = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.53', 53))";

/// The fields of /proc/PID/status, or of a thread's, that this is about.
#[derive(Clone, Debug)]
struct Status(HashMap<String, String>);

impl Status {
    fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(
            fields
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    fn of(directory: &Path) -> Option<Self> {
        Some(Self::parse(&std::fs::read_to_string(directory.join("status")).ok()?))
    }

    fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(&self.0[set], 16).unwrap()
    }

    fn is_filtered(&self) -> bool {
        self.0["Seccomp"] == "2"
    }

    /// A program's view of its capabilities.
    fn all_capabilities(&self) -> BTreeMap<&str, u64> {
        let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
        sets.map(|set| (set, self.capabilities(set))).into()
    }
}

/// The values here, outside of any project.
fn own() -> Status {
    Status::of(Path::new("/proc/thread-self")).unwrap()
}

/// A process's threads: the name of each, and its status.
fn threads(pid: u32) -> Vec<(String, Status)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let one = |task: std::fs::DirEntry| {
        let status = Status::of(&task.path())?;
        Some((status.0["Name"].clone(), status))
    };
    tasks.filter_map(one).collect()
}

/// imsup's processes of a project: `broker`, `zygote`, `resolvers`, and the supervisor of its host
/// `web`.
struct Own {
    broker: u32,
    zygote: u32,
    resolvers: u32,
    supervisor: u32,
}

impl Own {
    fn find(project: &Project) -> Self {
        let verb = |verb: &str| {
            let mut found = None;
            wait_until(&format!("the process 'imsup {verb}'"), || {
                let running = leaks::processes(&project.path(""));
                found = running
                    .into_iter()
                    .find(|process| process.command.split(' ').nth(1) == Some(verb));
                found.is_some()
            });
            found.unwrap().pid
        };
        let program = project.host("web").pid.expect("web runs");
        let parent = &Status::of(&Path::new("/proc").join(program.to_string())).unwrap().0["PPid"];
        Self {
            broker: verb("broker"),
            zygote: verb("zygote"),
            resolvers: verb("resolvers"),
            supervisor: parent.parse().unwrap(),
        }
    }
}

/// A project with all parts: a running host, a published port, and a process for resolvers.
fn everything(net: u8) -> (Project, Own) {
    need(&["python3"]);
    // An address of the test's own (`127.NET`), all of whose ports are free.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let project = Project::up(
        "own",
        &format!(
            "services:\n  web: {{ command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"], ports: [\"127.{net}.{high}.{low}:8080:8080\"] }}\n"
        ),
    );
    project.ok(&["wake", "web"]);
    project
        .run(&["python3", "-c", ASK])
        .expect_success("to ask a name server");
    let own = Own::find(&project);
    (project, own)
}

/// A program has the capabilities it natively has, whoever started it: a shell, or the broker by
/// way of the zygote.
#[test]
fn programs_have_the_capabilities_they_natively_have() {
    let project = Project::up(
        "own",
        "services: { web: { command: [sh, -c, 'cat /proc/self/status; exec @guest@ --tcp 8080'], expose: ['8080'] } }\n",
    );
    let natively = Status::parse(&project.outside("cat", &["/proc/self/status"]));
    let supervised = Status::parse(&project.run(&["cat", "/proc/self/status"]).expect_success("cat"));
    project.ok(&["wake", "web"]);
    let launched = Status::parse(&project.ok(&["logs", "web"]).replace("web | ", ""));
    for (how, status) in [("imsup run", supervised), ("the broker", launched)] {
        assert_eq!(status.all_capabilities(), natively.all_capabilities(), "{how}");
        if natively.capabilities("CapEff") & CapabilitySet::SYS_ADMIN.bits() != 0 {
            assert_eq!(status.0["NoNewPrivs"], natively.0["NoNewPrivs"], "{how}");
        }
    }
}

#[test]
fn each_process_and_thread_has_what_it_needs() {
    let (_project, own_processes) = everything(200);
    let natively = own().capabilities("CapEff");
    let inherited = own().is_filtered();

    for (name, status) in threads(own_processes.supervisor) {
        let expected = natively & OF_A_SUPERVISOR.bits();
        assert_eq!(status.capabilities("CapEff"), expected, "supervisor, {name}");
        assert_eq!(status.capabilities("CapPrm"), expected, "supervisor, {name}");
        assert!(status.is_filtered(), "supervisor, {name}");
    }
    // A helper confines itself as its first act, some time after it was made.
    wait_until("the process for resolvers to be confined", || {
        let threads = threads(own_processes.resolvers);
        !threads.is_empty()
            && threads
                .iter()
                .all(|(_, status)| status.is_filtered() && status.capabilities("CapPrm") == 0)
    });
    for helper in ["names", "published", "senders", "queues"] {
        let kept = match helper {
            "published" => natively & CapabilitySet::SYS_RESOURCE.bits(),
            _ => 0,
        };
        wait_until(&format!("the broker's thread '{helper}' to be confined"), || {
            threads(own_processes.broker)
                .iter()
                .any(|(name, status)| name == helper && status.is_filtered() && status.capabilities("CapPrm") == kept)
        });
    }
    // The starters of programs: any capability they dropped would be missing in programs.
    for (process, pid) in [("broker", own_processes.broker), ("zygote", own_processes.zygote)] {
        let threads = threads(pid);
        let (name, main) = &threads[0];
        assert_eq!(main.is_filtered(), inherited, "{process}, {name}");
        assert_eq!(main.capabilities("CapEff"), natively, "{process}, {name}");
    }
}

/// All descriptors of imsup's own processes except the standard ones are close-on-exec, since
/// another of their threads may execute a program at any time.
#[test]
fn all_descriptors_of_imsup_are_closed_in_what_it_starts() {
    let (_project, own) = everything(201);
    let processes = [
        ("broker", own.broker),
        ("zygote", own.zygote),
        ("resolvers", own.resolvers),
        ("supervisor", own.supervisor),
    ];
    for (process, pid) in processes {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
        let mut looked_at = 0;
        for entry in descriptors {
            let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
            let Ok(info) = std::fs::read_to_string(entry.path()) else {
                // Closed meanwhile.
                continue;
            };
            looked_at += 1;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            let link = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
            assert!(
                number <= 2 || flags & CLOSE_ON_EXEC != 0,
                "descriptor {number} of the {process} is inherited: {}",
                link.display()
            );
        }
        assert!(looked_at > 2, "{process}");
    }
}

/// In a sandbox that refuses the confinement, hosts run, and a warning tells the consequences.
#[test]
fn a_confinement_that_fails_is_said_and_the_host_runs() {
    let project = Project::up(
        "own",
        "services: { other: { command: [\"@guest@\", --tcp, \"8080\"] } }\n",
    );
    let command = project.imsup_command(&["run", "--", "echo", "it ran"]);
    let finished = without_confinement(command);
    let said = &finished.stderr;
    assert!(finished.success() && finished.stdout == "it ran\n", "{finished}");
    for what in ["keeps capabilities that it does not need", "runs unconfined"] {
        assert_eq!(said.matches(what).count(), 1, "{what}: {finished}");
    }
}

/// Runs a command for which capset(2) is refused, and seccomp(2) except with a listener, by which
/// programs are supervised.
fn without_confinement(command: Command) -> common::Finished {
    const SET_MODE_FILTER: u64 = libc::SECCOMP_SET_MODE_FILTER as u64;
    let is =
        |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value).unwrap();
    let rules = [
        (libc::SYS_capset, vec![]),
        (
            libc::SYS_seccomp,
            vec![SeccompRule::new(vec![is(0, SET_MODE_FILTER), is(1, 0)]).unwrap()],
        ),
    ];
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules.into(), SeccompAction::Allow, SeccompAction::Errno(1), arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    // A thread of its own, since there is no way back; its children inherit the filter.
    let confined = std::thread::spawn(move || {
        seccompiler::apply_filter(&program).unwrap();
        run(command, LIMIT)
    });
    confined.join().unwrap()
}
