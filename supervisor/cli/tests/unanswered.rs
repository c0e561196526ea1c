//! Questions that a broker has not answered when it is killed are answered by the next one.

mod common;

use std::process::Stdio;

use common::client::PersistentConnection;
use common::{Background, Project, guest, stop, wait_until};

const HOSTS: &str = r#"
x-imsup: { idle_after: never }
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  back: { command: ["@guests@/ledger", serve, threads, "8080", "@dir@/back"], expose: ["8080"] }
  front: { command: ["@guests@/ledger", forward, "8080", "@dir@/front", back, "8080"], expose: ["8080"] }
"#;

/// How many questions wait at port 53 in the namespace of resolvers: lines of /proc/PID/net/udp
/// whose queue is not empty (proc_pid_net(5)).
fn waiting_questions(resolvers: u32) -> usize {
    let sockets = std::fs::read_to_string(format!("/proc/{resolvers}/net/udp")).unwrap();
    let waits = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[1].ends_with(":0035") && !words[4].ends_with(":00000000")
    };
    sockets.lines().skip(1).filter(waits).count()
}

#[test]
fn the_next_broker_answers_the_names_that_were_asked_of_the_last() {
    let project = Project::up("names", HOSTS);
    let mut front = PersistentConnection::connect(project.at("front", 8080));
    for round in 0..3 {
        // A broker has them from the first question that finds an empty stock.
        let mut resolvers = None;
        wait_until("the process that makes sockets for resolvers", || {
            front.say(&format!("{round}.before")).unwrap();
            assert!(front.hear().unwrap().contains(" via "));
            let all = project.processes().into_iter();
            resolvers = all
                .map(|process| (process.pid, process.command))
                .find(|(_, command)| command.contains(" resolvers "));
            resolvers.is_some()
        });
        let broker = project.broker();
        stop(&project, broker);
        front.say(&format!("{round}.waits")).unwrap();
        wait_until("the question to wait", || {
            waiting_questions(resolvers.as_ref().unwrap().0) > 0
        });
        project.kill(broker);
        let answer = front.hear().unwrap();
        assert!(answer.contains(" via "), "{answer}");
    }
    project.down();
}

/// True if a process has a socket: a command's first is its connection to the broker.
fn has_socket(pid: u32) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let mut names = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    names.any(|name| name.to_string_lossy().starts_with("socket:"))
}

#[test]
fn the_next_broker_answers_commands_that_the_last_did_not() {
    let project = Project::up("commands", HOSTS);
    let program = guest("guest");
    let call = ["--", program.to_str().unwrap(), "--call", "web:8080"];
    let commands: [Vec<&str>; 5] = [
        vec!["ps"],
        vec!["wake", "web"],
        vec!["why", "web"],
        [&["run"], &call[..]].concat(),
        [&["exec", "front"], &call[..]].concat(),
    ];
    let broker = project.broker();
    stop(&project, broker);
    let mut running: Vec<Background> = commands
        .iter()
        .map(|command| Background::spawn_to(project.imsup_command(command), Stdio::null(), Stdio::inherit()))
        .collect();
    wait_until("all to have connected", || {
        running.iter().all(|process| has_socket(process.child.id()))
    });
    project.kill(broker);
    for (command, process) in commands.iter().zip(&mut running) {
        let status = process.child.wait().unwrap();
        assert!(status.success(), "imsup {command:?}: {status}");
    }
    project.down();
}

/// A supervisor that has said hello and was not welcomed runs no program yet, and says it again.
#[test]
fn a_command_starts_while_brokers_die() {
    let project = Project::up("starts", HOSTS);
    let program = guest("guest");
    let stops = std::sync::atomic::AtomicBool::new(false);
    let asked = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        let run = |by: &'static [&'static str]| {
            let (project, program, stops, asked) = (&project, &program, &stops, &asked);
            scope.spawn(move || {
                while !stops.load(std::sync::atomic::Ordering::Relaxed) {
                    let arguments = [by, &["--", program.to_str().unwrap(), "--call", "web:8080"]].concat();
                    let finished = project.imsup(&arguments);
                    if !finished.success() {
                        return Err(format!("imsup {by:?}: {finished}"));
                    }
                    asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let runs = [
            run(&["run"]),
            run(&["run"]),
            run(&["run", "--host", "back"]),
            run(&["exec", "front"]),
        ];
        for _ in 0..4 {
            let before = asked.load(std::sync::atomic::Ordering::Relaxed);
            wait_until("commands to succeed", || {
                asked.load(std::sync::atomic::Ordering::Relaxed) > before || runs.iter().any(|run| run.is_finished())
            });
            project.kill(project.broker());
            project.ps();
        }
        stops.store(true, std::sync::atomic::Ordering::Relaxed);
        for run in runs {
            run.join().unwrap().unwrap();
        }
    });
    project.down();
}

/// The successor of a terminated program's listener is its supervisor's until a broker has it.
#[test]
fn who_comes_while_a_host_is_terminated_and_its_broker_dies_is_served() {
    let project = Project::up(
        "terminated",
        r#"
x-imsup: { idle_after: 50ms, terminate_after: 50ms }
services:
  edge: { command: ["@guests@/servers", edge, "8080"], expose: ["8080"] }
  threads: { command: ["@guests@/servers", threads, "8080"], expose: ["8080"] }
"#,
    );
    // The keeper makes five brokers a minute.
    for _ in 0..2 {
        for host in ["edge", "threads"] {
            let address = project.at(host, 8080);
            let mut before = PersistentConnection::connect(address);
            let program = before.ask("before").pid();
            // No message is left that only the broker could send.
            project.wait_state(host, "suspended");
            let broker = project.broker();
            stop(&project, broker);
            drop(before);
            wait_until("the program to end", || {
                !project.processes().iter().any(|process| process.pid == program)
            });
            let mut after = PersistentConnection::connect(address);
            after.say("after").unwrap();
            project.kill(broker);
            let answer = after.hear().unwrap();
            assert!(answer.starts_with("after "), "{answer}");
        }
    }
    project.down();
}
