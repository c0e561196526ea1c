//! Hosts that end come back: exits, kills under load, supervisors and brokers killed, programs that
//! cannot be started.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::client::{self, Answer, ask};
use common::command::wait_exit;
use common::{Background, LIMIT, Project, parent, wait_until};
use rustix::process::{Pid, PidfdFlags, Signal};

const KILLS: u64 = 1001;
const CLIENTS: usize = 4;

/// A request that was not answered: whose it was, when it began, when it failed, and how.
struct Lost {
    client: usize,
    began: Instant,
    ended: Instant,
    how: String,
}

/// Clients that ask without pause, while the program, and every fifth time its supervisor, is
/// killed. No connect may fail, and a request may be lost only if it was in flight while a process
/// was being killed.
#[test]
fn over_a_thousand_kills_under_load_no_connect_is_refused_and_only_requests_in_flight_are_lost() {
    let project = Project::up(
        "kills",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let address = project.at("web", 8080);
    let (done, serving, answered) = (
        AtomicBool::new(false),
        AtomicU32::new(ask(address).pid()),
        AtomicU64::new(0),
    );
    let lost = Mutex::new(Vec::new());
    let refused = Mutex::new(Vec::new());
    let mut kills: Vec<(Instant, Instant)> = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (done, serving, answered, lost, refused) = (&done, &serving, &answered, &lost, &refused);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let mut stream = match TcpStream::connect(address) {
                        Ok(stream) => stream,
                        Err(error) => return refused.lock().unwrap().push(error.to_string()),
                    };
                    stream.set_read_timeout(Some(LIMIT)).unwrap();
                    match client::talk(&mut stream, "hello") {
                        Ok(line) => {
                            serving.store(Answer(line).pid(), Ordering::Relaxed);
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            lost.lock().unwrap().push(Lost {
                                client,
                                began,
                                ended: Instant::now(),
                                how: error.to_string(),
                            });
                        }
                    }
                }
            });
        }
        let finish = Finish(&done);
        let mut killed = 0;
        while kills.len() < KILLS as usize {
            wait_until("the next program to answer", || {
                serving.load(Ordering::Relaxed) != killed || !refused.lock().unwrap().is_empty()
            });
            if !refused.lock().unwrap().is_empty() {
                break;
            }
            let pid = serving.load(Ordering::Relaxed);
            let victim = if kills.len() % 5 == 4 {
                parent(pid).unwrap_or(pid)
            } else {
                pid
            };
            let began = Instant::now();
            // A client may report late an answer of a process that has been killed before.
            if kill_both(pid, victim) {
                kills.push((began, Instant::now()));
            }
            killed = pid;
        }
        drop(finish);
    });
    let refused = refused.into_inner().unwrap();
    assert!(refused.is_empty(), "after {} kills: {refused:?}", kills.len());
    let lost = lost.into_inner().unwrap();
    for client in 0..CLIENTS {
        // One client's requests come one after the other, and so do the kills: each request that
        // was lost has a kill of its own.
        let mut kills = kills.iter();
        for one in lost.iter().filter(|one| one.client == client) {
            let kill = kills.find(|(_, ended)| one.began <= *ended);
            assert!(
                kill.is_some_and(|(began, _)| *began <= one.ended),
                "client {client} lost a request without a kill: {}",
                one.how
            );
        }
    }
    assert!(answered.load(Ordering::Relaxed) >= KILLS, "load was served in between");
    // The last kill was perhaps not noticed by any client yet.
    ask(address);
    let host = project.host("web");
    assert!(host.boots > KILLS, "{}", host.boots);
    eprintln!(
        "{KILLS} kills: {} answered, {} in flight were lost",
        answered.load(Ordering::Relaxed),
        lost.len()
    );
}

/// Ends the clients, even if the test fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills `victim`, the program itself or its supervisor, and waits until the program is gone. Not
/// if it was gone before.
fn kill_both(program: u32, victim: u32) -> bool {
    let open = |pid: u32| rustix::process::pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty());
    let (Ok(of_victim), Ok(_pinned)) = (open(victim), open(program)) else {
        return false;
    };
    if wait_exit(program, Duration::ZERO) {
        return false;
    }
    let name = std::fs::read_to_string(format!("/proc/{victim}/comm")).unwrap_or_default();
    assert!(["guest", "imsup"].contains(&name.trim()), "{victim} is '{name}'");
    rustix::process::pidfd_send_signal(&of_victim, Signal::KILL).unwrap();
    assert!(wait_exit(program, LIMIT), "the program outlives its supervisor");
    true
}

#[test]
fn a_program_that_exits_is_imaginary_again_and_the_next_connection_boots_it() {
    let project = Project::up(
        "exits",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080", --exit-after, "1"], expose: ["8080"] }
"#,
    );
    let address = project.at("web", 8080);
    for count in 1..=5 {
        assert_eq!(ask(address).value("host"), "web");
        project.wait_event("web", "exit", count);
        let host = project.wait_state("web", "imaginary");
        assert_eq!((host.pid, host.boots), (None, count as u64));
    }
}

#[test]
fn a_crash_is_told_and_the_next_connection_boots_the_host() {
    let project = Project::up(
        "crashes",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080", --crash-after, "1"], expose: ["8080"] }
"#,
    );
    ask(project.at("web", 8080));
    let exit = project.wait_event("web", "exit", 1);
    assert!(exit.json.to_string().contains("signal 6"), "{:?}", exit.json);
    ask(project.at("web", 8080));
    project.wait_event("web", "exit", 2);
}

#[test]
fn every_process_of_a_host_whose_supervisor_is_killed_ends() {
    let project = Project::up(
        "orphans",
        r#"
services:
  web: { command: ["@guest@", --workers, "3", --ignore-term, --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let address = project.at("web", 8080);
    ask(address);
    project.wait_event("web", "ready", 1);
    let of_host = || -> Vec<u32> {
        let guest = common::guest("guest");
        let mark = guest.display().to_string();
        project
            .processes()
            .into_iter()
            .filter(|one| one.command.starts_with(&mark))
            .map(|one| one.pid)
            .collect()
    };
    // One worker may answer before the others have been forked.
    let mut before = Vec::new();
    wait_until("all workers", || {
        before = of_host();
        before.len() == 4
    });
    let first = project.host("web").pid.unwrap();
    project.kill(parent(first).unwrap());
    for pid in before {
        assert!(wait_exit(pid, LIMIT), "{pid} outlives its supervisor");
    }
    project.wait_state("web", "imaginary");
    assert_eq!(ask(address).value("host"), "web");
    assert_eq!(project.host("web").boots, 2);
}

#[test]
fn a_program_that_fails_to_start_is_retried_and_waiting_clients_get_an_end() {
    let project = Project::up(
        "fails",
        r#"
services:
  broken: { command: ["@guest@", --exit-now, "3"], expose: ["8080"] }
  missing: { command: [/nowhere/program], expose: ["8080"] }
"#,
    );
    // A program that is not there is not tried again by itself.
    for (host, why, fails) in [("broken", "status 3", 2), ("missing", "/nowhere/program", 1)] {
        let error = client::ask_line(project.at(host, 8080), "hello").expect_err("nobody can answer");
        assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
        let fail = project.wait_event(host, "fail", fails);
        assert!(fail.json.to_string().contains(why), "{:?}", fail.json);
        let shown = project.wait_state(host, "failed");
        assert!(shown.json.to_string().contains(why), "{:?}", shown.json);
        assert!(project.ok(&["ps"]).contains(why));
    }
    let said = project.fails(1, &["wake", "broken"]);
    assert!(said.contains("status 3"), "{said}");
}

#[test]
fn a_program_that_fails_twice_answers_the_client_that_waited() {
    let project = Project::up(
        "third",
        r#"
x-imsup: { idle_after: never }
services:
  web:
    command: [sh, -c, "echo x >>@dir@/tries; [ $$(wc -l <@dir@/tries) -ge 3 ] || exit 9; exec @guest@ --tcp 8080"]
    expose: ["8080"]
"#,
    );
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    project.wait_event("web", "ready", 1);
    let names = project.event_names("web");
    assert_eq!(names.iter().filter(|name| *name == "fail").count(), 2, "{names:?}");
    assert_eq!(project.host("web").state, "running");
}

#[test]
fn a_host_that_failed_is_cured_by_the_next_signal() {
    let project = Project::up(
        "cured",
        r#"
x-imsup: { idle_after: never }
services:
  web: { command: [sh, -c, "[ -e @dir@/cure ] || exit 9; exec @guest@ --tcp 8080"], expose: ["8080"] }
"#,
    );
    let address = project.at("web", 8080);
    client::ask_line(address, "hello").expect_err("it fails");
    std::fs::write(project.path("cure"), "").unwrap();
    // The retries of the first signal may still be going on; either way a later client is served.
    wait_until("the host to be cured", || client::ask_line(address, "hello").is_ok());
    assert_eq!(project.wait_state("web", "running").state, "running");
}

#[test]
fn a_program_that_a_real_time_signal_ends_is_booted_again() {
    const SIGRTMIN_AND_ONE: &str = "35";
    let project = Project::up("realtime", PAIR);
    let address = project.at("web", 8080);
    let pid = ask(address).pid();
    project.wait_event("web", "ready", 1);
    let sent = std::process::Command::new("sh")
        .args(["-c", &format!("kill -{SIGRTMIN_AND_ONE} {pid}")])
        .status();
    assert!(sent.unwrap().success());
    let exit = project.wait_event("web", "exit", 1);
    assert!(exit.json.to_string().contains("signal 35"), "{:?}", exit.json);
    assert_ne!(ask(address).pid(), pid);
    assert_eq!(project.host("web").boots, 2);
}

/// No host falls asleep before a slow test has looked.
const PAIR: &str = r#"
x-imsup: { idle_after: never }
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  learned: { command: ["@guest@", --tcp, "9000"] }
  asleep: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#;

#[test]
fn running_hosts_keep_serving_without_a_broker_and_are_adopted_by_the_next() {
    let project = Project::up("adoption", PAIR);
    let address = project.at("web", 8080);
    project.run_guest(&["--call", "learned:9000"]);
    let mut held = client::connect(address).unwrap();
    let pid = Answer(client::talk(&mut held, "hello").unwrap()).pid();
    project.wait_event("web", "ready", 1);
    let before = project.ps();
    let history = project.events().len();
    project.kill_broker();
    let again = client::talk(&mut held, "hello").expect("an established connection goes on");
    assert_eq!(Answer(again).pid(), pid);
    assert_eq!(ask(address).pid(), pid, "new connections as well");
    assert!(!project.imsup(&["ps"]).success());

    project.ok(&["up", "-d"]);
    for name in ["web", "learned"] {
        let after = project.wait_state(name, "running");
        assert_eq!(
            (after.pid, after.address),
            (before[name].pid, before[name].address),
            "{name}"
        );
    }
    assert_eq!(ask(address).pid(), pid, "the adopted host serves");
    assert_eq!(ask(project.at("learned", 9000)).value("host"), "learned");
    assert_eq!(ask(project.at("asleep", 8080)).value("host"), "asleep", "sleepers boot");
    assert!(project.events().len() >= history, "the history is kept");
    let said = client::talk(&mut held, "hello").unwrap();
    assert_eq!(Answer(said).pid(), pid);

    project.kill(pid);
    project.wait_state("web", "imaginary");
    assert_ne!(ask(address).pid(), pid, "an adopted host that ends is booted again");
}

#[test]
fn a_supervised_program_calls_sleepers_after_its_broker_was_replaced() {
    let project = Project::up(
        "replaced",
        r#"
x-imsup: { idle_after: never }
services:
  web: { command: ["@guest@", --tcp, "8080", --upstream, "db:9000"], expose: ["8080"] }
  db: { command: ["@guest@", --start-delay, "100", --tcp, "9000"] }
"#,
    );
    let address = project.at("web", 8080);
    project.ok(&["wake", "web"]);
    project.kill_broker();
    project.ok(&["up", "-d"]);
    project.wait_state("web", "running");
    assert!(ask(address).0.contains("host=db "));
}

#[test]
fn down_without_a_broker_ends_what_it_left() {
    let project = Project::up("brokerless", PAIR);
    ask(project.at("web", 8080));
    project.wait_event("web", "ready", 1);
    project.kill_broker();
    project.down();
}

#[test]
fn a_connection_made_while_the_program_dies_is_answered_by_the_next() {
    let project = Project::up(
        "queue",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let address: SocketAddr = project.at("web", 8080);
    let pid = ask(address).pid();
    project.wait_event("web", "ready", 1);
    // Stopped, it cannot accept: new connections wait in the queue, and outlive the process.
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
    rustix::process::pidfd_send_signal(&pidfd, Signal::STOP).unwrap();
    let mut waiting: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = client::connect(address).expect("queued");
            stream.write_all(b"hello\n").unwrap();
            stream
        })
        .collect();
    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    for stream in &mut waiting {
        let answer = Answer(client::talk(stream, "again").expect("a queued connection is not lost"));
        assert_ne!(answer.pid(), pid);
    }
    assert_eq!(project.host("web").boots, 2);
}

#[test]
fn restart_and_stop_leave_no_gap_for_clients() {
    let project = Project::up(
        "restart",
        r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let address = project.at("web", 8080);
    let mut pid = ask(address).pid();
    for verb in ["restart", "stop", "restart", "stop"] {
        project.ok(&[verb, "web"]);
        assert!(
            wait_exit(pid, Duration::ZERO),
            "{verb} returns when the program has ended"
        );
        let next = ask(address).pid();
        assert_ne!(next, pid);
        pid = next;
    }
}

/// The host is booted again in any case, so no client is turned away.
#[test]
fn whoever_waits_for_a_host_that_is_restarted_while_it_boots_is_answered() {
    let project = Project::up(
        "restart-boot",
        r#"
services:
  web: { command: ["@guest@", --start-once, "@dir@/go", --tcp, "8080"], expose: ["8080"] }
"#,
    );
    let address = project.at("web", 8080);
    let client = std::thread::spawn(move || client::ask_line(address, "hello"));
    project.wait_event("web", "boot", 1);
    let restart = Background::collecting(project.imsup_command(&["restart", "web"]));
    project.wait_event("web", "exit", 1);
    std::fs::write(project.path("go"), "").unwrap();
    restart.finish(LIMIT).expect_success("imsup restart");
    client.join().unwrap().expect("the next boot answers");
}
