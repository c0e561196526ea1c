//! Conformance: every case of testdata/guests/conformance runs natively and supervised, and prints
//! the same.
//!
//! Permitted differences are in testdata/conformance/deviations.toml; a deviation that no longer
//! happens fails the test too. `IMSUP_REGENERATE=1` writes docs/deviations.md and
//! docs/conformance.md again.

#[path = "../common/mod.rs"]
mod common;
mod coverage;
mod deviations;
mod document;
mod ports;
mod running;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::command::run;
use common::{Project, guest};
use deviations::{Deviation, compare};
use ports::Ports;

/// A mode in which imsup runs programs; each has its own deviations.
struct Mode {
    /// The mode's name in deviations.toml.
    name: &'static str,
    /// The variable that selects the mode.
    environment: &'static [(&'static str, &'static str)],
}

/// Descriptors of the program are reached by pidfd_getfd(2).
const PIDFD: Mode = Mode {
    name: "pidfd",
    environment: &[],
};

/// pidfd_getfd(2) and process_vm_readv(2) are refused, as in a container: the supervisor makes the
/// program's sockets and keeps copies.
const COPIES: Mode = Mode {
    name: "copies",
    environment: &[("IMSUP_WITHOUT", "pidfd_getfd,process_vm_readv")],
};

const MODES: &[&Mode] = &[&PIDFD, &COPIES];

/// Natively a case takes half a second at most, but machines are busy.
const LIMIT: Duration = Duration::from_secs(120);

/// The cases wait more than they work.
const AT_ONCE: usize = 8;

/// Natively, the stand-in for the address that a machine's own name resolves to.
const OWN: &str = "127.0.0.2";

#[test]
fn every_case_prints_the_same_natively_and_supervised() {
    compare_all(&PIDFD);
}

#[test]
fn every_case_prints_the_same_where_descriptors_cannot_be_duplicated() {
    compare_all(&COPIES);
}

/// The names of all cases.
fn list(project: &Project) -> String {
    let program = guest("conformance");
    run(project.command(program, &["list"]), common::LIMIT).expect_success("conformance list")
}

fn compare_all(mode: &Mode) {
    let (project, list) = ports::while_none_is_tried(|| {
        let project = Project::up(
            "conformance",
            "services: { other: { command: [\"@guest@\", --tcp, \"8080\"] } }\n",
        );
        let list = list(&project);
        (project, list)
    });
    let cases: Vec<&str> = list.lines().collect();
    let deviations = deviations::deviations();
    let modes: Vec<&str> = MODES.iter().map(|mode| mode.name).collect();
    deviations::check(&deviations, &cases, &modes);
    let (ports, failures) = (Mutex::new(Ports::new()), Mutex::new(Vec::new()));
    for_each(&cases, |case| {
        let concerns = |one: &&Deviation| one.concerns(case) && one.applies_in(mode.name);
        let known: Vec<&Deviation> = deviations.iter().filter(concerns).collect();
        if let Some(failure) = compare_one(&project, mode, case, &ports, &known) {
            failures.lock().unwrap().push(failure);
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} cases differ\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    ports::while_none_is_tried(|| drop(project));
}

/// Runs a closure for each case, several at once.
fn for_each(cases: &[&str], work: impl Fn(&str) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(case);
                }
            });
        }
    });
}

/// Runs a case natively and supervised; returns the difference.
fn compare_one(
    project: &Project,
    mode: &Mode,
    case: &str,
    ports: &Mutex<Ports>,
    known: &[&Deviation],
) -> Option<String> {
    // One after the other, so that they may have the same ports.
    let range = ports.lock().unwrap().next();
    let native = running::natively(project, case, range.base);
    if !native.success {
        return Some(format!("{case} natively: {}", native.text()));
    }
    let supervised = running::supervised(project, mode, case, range.base);
    let expected = native.stdout.replace(OWN, "VIP");
    let found = compare(case, &expected, &without_addresses(&supervised.stdout), known);
    match found {
        Some(text) => Some(format!("{text}  {}\n", supervised.stderr)),
        None => (!supervised.success).then(|| format!("{case} supervised: {}", supervised.text())),
    }
}

/// The output with the host's own addresses, which differ from run to run, as words.
fn without_addresses(text: &str) -> String {
    let planes = [
        ("127.77.", "VIP"),
        ("127.78.", "OWN-LOCALHOST"),
        ("127.79.", "V6-SHADOW"),
    ];
    let mut text = text.to_owned();
    for (prefix, word) in planes {
        while let Some(start) = text.find(prefix) {
            let rest = &text[start + prefix.len()..];
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            text.replace_range(start..start + prefix.len() + end, word);
        }
    }
    text
}
