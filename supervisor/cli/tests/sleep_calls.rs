//! Every blocking call of signal(7)'s lists says the same natively and through sleeps: no EINTR,
//! nothing cut short, and limits that end in time.

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::client::PersistentConnection;
use common::{AS_IN_A_CONTAINER, Background, LIMIT, Project, control, guest};
use crossbeam_channel::{RecvTimeoutError, unbounded};

/// The calls of the guest: calls that an event ends, calls that end by their limit, and calls of
/// many transfers.
fn calls() -> [Vec<String>; 3] {
    let output = Command::new(guest("blocking")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (ended, others) = text.split_once("limits\n").expect("three lists");
    let (limited, races) = others.split_once("races\n").expect("three lists");
    let lists = [ended, limited, races].map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    assert!(
        lists[0].len() > 80 && lists[1].len() > 25 && lists[2].len() > 5,
        "{text}"
    );
    lists
}

/// Calls that may have moved bytes already, and connects whose limit the supervisor counts: their
/// hosts are left alone.
fn is_left_alone(call: &str, why: &str) -> bool {
    match why {
        why if why.contains("in the middle of a transfer") => is_transfer(call),
        why if why.contains("it waits for another host") => call.starts_with("connect-tcp"),
        _ => false,
    }
}

/// Suspends the host of a call; false if the host is left alone. An order is tried for 5 s, which
/// on a busy machine may be too short for a thread to become idle.
fn suspend(project: &Project, call: &str) -> Result<bool, String> {
    const ORDERS: u32 = 4;
    let mut refused = String::new();
    for _ in 0..ORDERS {
        match control::suspend(project, call) {
            Ok(()) => return Ok(true),
            Err(why) if is_left_alone(call, &why) => return Ok(false),
            Err(why) => refused = why,
        }
    }
    Err(format!("{call} did not sleep: {refused}"))
}

fn is_transfer(call: &str) -> bool {
    [
        "write",
        "pwrite",
        "send",
        "splice-out",
        "close",
        "dup2",
        "recv-waitall",
        "recvmsg-waitall",
    ]
    .iter()
    .any(|prefix| call.starts_with(prefix))
        || ["recvmmsg", "recvmmsg-timed", "read-tty-min", "io-getevents-two"].contains(&call)
}

/// A native guest in the project's directory, and its address.
fn native_program(project: &Project, name: &str, arguments: &[&str]) -> (SocketAddr, Background) {
    let command = project.command(guest(name), arguments);
    let mut program = Background::spawn(command, Stdio::piped());
    let mut port = String::new();
    BufReader::new(program.child.stdout.as_mut().unwrap())
        .read_line(&mut port)
        .unwrap();
    let port: u16 = port.trim().parse().unwrap();
    (SocketAddr::from(([127, 0, 0, 1], port)), program)
}

/// The call's native result.
fn native(project: &Project, call: &str) -> String {
    let (address, _program) = native_program(project, "blocking", &[call, "0"]);
    let mut held = PersistentConnection::connect(address);
    held.say("begin").unwrap();
    assert_eq!(held.hear().unwrap(), "begun");
    held.say("end").unwrap();
    held.hear().unwrap_or_else(|error| panic!("{call}, natively: {error}"))
}

fn compose(calls: &[String], slack: &str) -> String {
    let mut compose = format!("x-imsup: {{ idle_after: 1h, timer_slack: {slack} }}\nservices:\n");
    for call in calls {
        compose += &format!("  {call}: {{ command: [\"@guests@/blocking\", {call}, \"8080\"], expose: [\"8080\"] }}\n");
    }
    compose
}

/// Runs a closure for each of these, several at a time, and fails with all failures.
fn each(calls: &[String], at_once: usize, work: impl Fn(&str) -> Result<(), String> + Sync) {
    let next = Mutex::new(calls.iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some(call) = next.lock().unwrap().next() else {
                        return;
                    };
                    if let Err(why) = work(call) {
                        failed.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Each call is made, its host put to sleep and woken ten times, and then its event comes to a
/// sleeper.
#[test]
fn each_blocking_call_says_through_ten_sleeps_what_it_says_natively() {
    says_through_sleeps("calls", 10, &[]);
}

/// Their threads are made to make other calls in between.
#[test]
fn each_blocking_call_says_the_same_where_its_thread_hands_descriptors_over() {
    says_through_sleeps("calls-handed", 3, &AS_IN_A_CONTAINER);
}

fn says_through_sleeps(label: &str, sleeps: usize, variables: &[(&str, &str)]) {
    /// Longer than the slack: a time limit that was counted anew would be corrected after the wake,
    /// while a slow transfer is under way.
    const LATE: Duration = Duration::from_millis(500);
    let [calls, ..] = calls();
    let project = Project::up_with(label, &compose(&calls, "200ms"), variables);
    let hosts = project.ps();
    each(&calls, 8, |call| {
        let expected = native(&project, call);
        let mut held = PersistentConnection::connect((hosts[call].address, 8080).into());
        held.say("begin").unwrap();
        assert_eq!(held.hear().unwrap(), "begun", "{call}");
        for round in 1..=sleeps {
            if !suspend(&project, call)? {
                break;
            }
            if round < sleeps {
                control::resume(&project, call)?;
            }
        }
        if call.ends_with("-slow") {
            std::thread::sleep(LATE);
        }
        held.say("end").unwrap();
        let answer = held.hear().map_err(|error| format!("{call}: {error}"))?;
        match answer == expected {
            true => Ok(()),
            false => Err(format!("natively: {expected}\nslept:    {answer}")),
        }
    });
}

/// Each call has a limit of three seconds, and its host sleeps and wakes without pause: more often
/// than its limit is long.
#[test]
fn each_limit_ends_in_a_host_that_is_woken_all_the_time() {
    limits_end("limits", &[]);
}

#[test]
fn each_limit_ends_where_its_thread_hands_descriptors_over() {
    limits_end("limits-handed", &AS_IN_A_CONTAINER);
}

fn limits_end(label: &str, variables: &[(&str, &str)]) {
    const ASLEEP: Duration = Duration::from_millis(400);
    const GIVEN_UP: Duration = Duration::from_secs(40);
    let [_, calls, _] = calls();
    let project = Project::up_with(label, &compose(&calls, "200ms"), variables);
    let hosts = project.ps();
    each(&calls, calls.len(), |call| {
        let expected = native(&project, call);
        let mut held = PersistentConnection::connect((hosts[call].address, 8080).into());
        held.say("begin").unwrap();
        assert_eq!(held.hear().unwrap(), "begun", "{call}");
        let began = Instant::now();
        held.say("end").unwrap();
        let (sender, answers) = unbounded();
        std::thread::scope(|scope| {
            scope.spawn(move || sender.send(held.hear()));
            let mut slept = 0;
            loop {
                if began.elapsed() > GIVEN_UP {
                    let _ = control::resume(&project, call);
                    return Err(format!("{call} did not end within {GIVEN_UP:?}, woken {slept} times"));
                }
                let suspended = control::suspend(&project, call);
                match answers.recv_timeout(ASLEEP) {
                    Ok(answer) => {
                        let answer = answer.map_err(|error| format!("{call}: {error}"))?;
                        return match answer == expected {
                            true => Ok(()),
                            false => Err(format!("natively: {expected}\nslept:    {answer}")),
                        };
                    }
                    Err(RecvTimeoutError::Disconnected) => return Err(format!("{call}: no answer")),
                    Err(RecvTimeoutError::Timeout) => {}
                }
                match suspended {
                    Ok(()) => slept += 1,
                    Err(why) if is_left_alone(call, &why) => {}
                    // Its time may be over, and its answer in flight.
                    Err(why) => {
                        return match answers.recv() {
                            Ok(Ok(answer)) if answer == expected => Ok(()),
                            other => Err(format!("{call} did not sleep: {why}, and ended with {other:?}")),
                        };
                    }
                }
                control::resume(&project, call)?;
                std::thread::sleep(ASLEEP / 2);
            }
        })
    });
}

/// A host sleeps once in the middle of a call and then runs on: the limit counts from when the call
/// began. Another program, whose limit is as long and which begins while the host sleeps, ends
/// later; a limit that counted from the wake would end after that.
#[test]
fn each_limit_counts_from_when_its_call_began() {
    const PART: Duration = Duration::from_millis(800);
    const ATTEMPTS: u32 = 5;
    let [_, calls, _] = calls();
    let project = Project::up("once", &compose(&calls, "200ms"));
    let hosts = project.ps();
    let once = |call: &str| {
        let (address, _program) = native_program(&project, "blocking", &["nanosleep-limit", "0"]);
        let (mut later, mut held) = (
            PersistentConnection::connect(address),
            PersistentConnection::connect((hosts[call].address, 8080).into()),
        );
        held.say("begin").unwrap();
        assert_eq!(held.hear().unwrap(), "begun", "{call}");
        held.say("end").unwrap();
        suspend(&project, call)?;
        std::thread::sleep(PART);
        later.say("begin").unwrap();
        assert_eq!(later.hear().unwrap(), "begun");
        later.say("end").unwrap();
        std::thread::sleep(PART);
        control::resume(&project, call)?;
        let (sender, answers) = unbounded();
        std::thread::scope(|scope| {
            for (who, one) in [("the call", &mut held), ("the other", &mut later)] {
                let sender = sender.clone();
                scope.spawn(move || sender.send((who, one.hear())));
            }
            let (first, answer) = answers.recv().unwrap();
            match (first, answer) {
                ("the call", Ok(answer)) if !answer.contains("early") => Ok(true),
                // Perhaps the answer was late.
                ("the other", Ok(_)) => Ok(false),
                other => Err(format!("{call}: first came {other:?}")),
            }
        })
    };
    each(&calls, calls.len(), |call| {
        // A limit that starts again at a wake ends later each time.
        for _ in 0..ATTEMPTS {
            if once(call)? {
                return Ok(());
            }
        }
        Err(format!("{call}: the other came first, {ATTEMPTS} times"))
    });
}

/// Transfers one after the other, whose host is to be suspended all the time: mostly that is
/// refused, and sometimes a thread enters its call between the look and the hold. Each call is
/// whole.
#[test]
fn no_transfer_is_cut_short_by_orders_to_suspend() {
    let [_, _, calls] = calls();
    let project = Project::up("races", &compose(&calls, "200ms"));
    let hosts = project.ps();
    each(&calls, 3, |call| {
        let mut held = PersistentConnection::connect((hosts[call].address, 8080).into());
        held.say("begin").unwrap();
        assert_eq!(held.hear().unwrap(), "begun", "{call}");
        held.say("end").unwrap();
        // Its two threads take turns thousands of times, and each turn may have to wait for a
        // processor.
        held.stream().set_read_timeout(Some(10 * LIMIT)).unwrap();
        let (sender, answers) = unbounded();
        std::thread::scope(|scope| {
            scope.spawn(move || sender.send(held.hear()));
            loop {
                // An order is tried every millisecond while it stands.
                if control::suspend(&project, call).is_ok() {
                    control::resume(&project, call)?;
                }
                match answers.recv_timeout(Duration::from_millis(1)) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(Ok(answer)) if answer == format!("{call} = 0 errno 0 detail 0") => return Ok(()),
                    other => return Err(format!("{call}: {other:?}")),
                }
            }
        })
    });
}

/// The kinds of things that two programs of the guest share.
fn shared_kinds() -> Vec<String> {
    let output = Command::new(guest("sharing")).output().unwrap();
    let kinds: Vec<_> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert!(kinds.len() > 20, "{kinds:?}");
    kinds
}

/// Says a line, and hears this.
fn tell(held: &mut PersistentConnection, line: &str, expected: &str) -> Result<(), String> {
    held.say(line).map_err(|error| format!("{line}: {error}"))?;
    match held.hear() {
        Ok(answer) if answer == expected => Ok(()),
        other => Err(format!("{line}: {other:?}")),
    }
}

/// A wait for another host's or the machine's action on shared memory, a lock or a queue continues
/// after that action, although the host sleeps.
#[test]
fn another_hosts_and_the_machines_doing_wakes_whoever_waits_for_it() {
    const OWNER_DIED: i32 = 130; // EOWNERDEAD
    let kinds = shared_kinds();
    let mark = std::process::id();
    let name = |kind: &str, by: &str| format!("/imsup-{mark}-{kind}-{by}");
    let mut compose = "x-imsup: { idle_after: 100ms, timer_slack: 200ms }\nservices:\n".to_owned();
    for kind in &kinds {
        for by in ["host", "machine"] {
            for role in ["waits", "acts"] {
                compose += &format!(
                    "  {kind}-{by}-{role}: {{ command: [\"@guests@/sharing\", {kind}, \"{}\", \"8080\"], expose: [\"8080\"] }}\n",
                    name(kind, by)
                );
            }
        }
    }
    let project = Project::up("sharing", &compose);
    let watch = project.watch();
    let hosts = project.ps();
    let cases: Vec<_> = kinds
        .iter()
        .flat_map(|kind| ["host", "machine"].map(|by| format!("{kind}-{by}")))
        .collect();
    each(&cases, 16, |case| {
        let (kind, by) = case.rsplit_once('-').unwrap();
        let waits = format!("{case}-waits");
        let (mut acting, _program) = if by == "machine" {
            let (port, program) = native_program(&project, "sharing", &[kind, &name(kind, by), "0"]);
            (PersistentConnection::connect(port), Some(program))
        } else {
            (
                PersistentConnection::connect((hosts[&format!("{case}-acts")].address, 8080).into()),
                None,
            )
        };
        tell(&mut acting, "take", "taken")?;
        let mut waiting = PersistentConnection::connect((hosts[&waits].address, 8080).into());
        tell(&mut waiting, "begin", "begun")?;
        watch.wait(&waits, "suspend", 1);
        tell(&mut acting, "act", "acted").map_err(|error| format!("{case}: {error}"))?;
        let ended = waiting.hear();
        if !kind.ends_with("death") {
            // The dying process has done so itself.
            tell(&mut acting, "clean", "cleaned")?;
        }
        let ended = ended.map_err(|error| format!("{case} never went on: {error}"))?;
        let expected = match kind {
            "msgrcv" | "mq-receive" => 5,
            "fifo-data" => 1,
            "robust-death" => OWNER_DIED,
            _ => 0,
        };
        match ended == format!("ended {expected}") {
            true => Ok(()),
            false => Err(format!("{case}: {ended}")),
        }
    });
}
