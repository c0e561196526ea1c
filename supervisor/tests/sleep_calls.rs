//! Every blocking call of signal(7)'s lists says the same natively and through sleeps: no EINTR, nothing cut short, and limits that end in time.

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use common::client::Held;
use common::{Background, Project, control, guest};

/// The calls of the guest: those that something ends, and those that end by their limit.
fn calls() -> (Vec<String>, Vec<String>) {
    let output = Command::new(guest("blocking")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (ended, limited) = text.split_once("limits\n").expect("two lists");
    let list = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (ended, limited) = (list(ended), list(limited));
    assert!(ended.len() > 80 && limited.len() > 25, "{text}");
    (ended, limited)
}

/// Calls that may have moved something already: their hosts are left alone.
fn is_transfer(call: &str) -> bool {
    ["write", "send", "recv-waitall", "recvmsg-waitall"]
        .iter()
        .any(|prefix| call.starts_with(prefix))
        || ["recvmmsg", "recvmmsg-timed", "read-tty-min", "io-getevents-two"].contains(&call)
}

/// What the call says natively.
fn native(call: &str) -> String {
    let mut command = Command::new(guest("blocking"));
    command.args([call, "0"]);
    let mut program = Background::spawn(command, Stdio::piped());
    let mut port = String::new();
    BufReader::new(program.child.stdout.take().unwrap())
        .read_line(&mut port)
        .unwrap();
    let port: u16 = port.trim().parse().unwrap();
    let mut held = Held::connect(SocketAddr::from(([127, 0, 0, 1], port)));
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

/// Does something for each of these, several at a time, and fails with all that failed.
fn each(calls: &[String], at_once: usize, work: impl Fn(&str) -> Result<(), String> + Sync) {
    let next = Mutex::new(calls.iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some(call) = next.lock().unwrap().next() else { return };
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

/// Each call is made, its host put to sleep and woken ten times, and then what it waits for comes to a sleeper.
#[test]
fn each_blocking_call_says_through_ten_sleeps_what_it_says_natively() {
    const SLEEPS: usize = 10;
    let (calls, _) = calls();
    let project = Project::up("calls", &compose(&calls, "200ms"));
    let hosts = project.ps();
    each(&calls, 8, |call| {
        let expected = native(call);
        let mut held = Held::connect((hosts[call].address, 8080).into());
        held.say("begin").unwrap();
        assert_eq!(held.hear().unwrap(), "begun", "{call}");
        for round in 1..=SLEEPS {
            let slept = control::suspend(&project, call);
            if let Err(why) = slept {
                if is_transfer(call) && why.contains("in the middle of a transfer") {
                    break;
                }
                return Err(format!("{call} did not sleep: {why}"));
            }
            if round < SLEEPS {
                control::resume(&project, call)?;
            }
        }
        held.say("end").unwrap();
        let answer = held.hear().map_err(|error| format!("{call}: {error}"))?;
        match answer == expected {
            true => Ok(()),
            false => Err(format!("natively: {expected}\nslept:    {answer}")),
        }
    });
}

/// Each call has a limit of three seconds, and its host sleeps and wakes all the time: more often than its limit is long.
#[test]
fn each_limit_ends_in_a_host_that_is_woken_all_the_time() {
    const ASLEEP: Duration = Duration::from_millis(400);
    const GIVEN_UP: Duration = Duration::from_secs(40);
    let (_, calls) = calls();
    let project = Project::up("limits", &compose(&calls, "200ms"));
    let hosts = project.ps();
    each(&calls, calls.len(), |call| {
        let expected = native(call);
        let mut held = Held::connect((hosts[call].address, 8080).into());
        held.say("begin").unwrap();
        assert_eq!(held.hear().unwrap(), "begun", "{call}");
        let began = Instant::now();
        held.say("end").unwrap();
        let (sender, answers) = channel();
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
                if let Err(why) = suspended
                    && !is_transfer(call)
                {
                    return Err(format!("{call} did not sleep: {why}"));
                }
                slept += 1;
                control::resume(&project, call)?;
                std::thread::sleep(ASLEEP / 2);
            }
        })
    });
}
