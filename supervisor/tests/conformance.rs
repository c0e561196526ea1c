//! Conformance: every case of testdata/guests/conformance runs natively and supervised, and prints the same.
//!
//! Where it may print something else, testdata/conformance/deviations.toml says what, and why; a deviation that no longer happens
//! fails the test too.

mod common;

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::command::run;
use common::{Project, guest};
use rustix::net::{AddressFamily, SocketType};
use serde::Deserialize;

/// Ports for one run of one case; cases use ten.
const PORTS: u16 = 10;

/// What a case may print differently when supervised.
#[derive(Debug, Deserialize)]
struct Deviation {
    /// Which cases; each of them must show it.
    cases: Vec<String>,
    /// Lines it prints natively, and lines printed in their place. Both stand for every occurrence.
    native: String,
    supervised: String,
    /// Why that is right, or unavoidable.
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Deviations {
    #[serde(default)]
    deviation: Vec<Deviation>,
}

fn deviations() -> Vec<Deviation> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/conformance/deviations.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let parsed: Deviations = toml::from_str(&text).expect("deviations.toml");
    for one in &parsed.deviation {
        assert!(
            !one.reason.trim().is_empty(),
            "a deviation of {:?} has no reason",
            one.cases
        );
        assert_ne!(one.native, one.supervised, "a deviation of {:?} is none", one.cases);
    }
    parsed.deviation
}

/// Hands out ranges of ports that nobody uses, not even in TIME_WAIT; below the ephemeral ones, so that the kernel hands out none of them.
struct Ports(u16);

impl Ports {
    fn new() -> Self {
        // Runs side by side begin at different places.
        let offset = (std::process::id() % 200) as u16 * 100;
        Self(10_000 + offset)
    }

    fn next(&mut self) -> Range {
        for _ in 0..3000 {
            let base = self.0;
            self.0 = if base + PORTS >= 32_000 { 10_000 } else { base + PORTS };
            if let Some(range) = Range::claim(base) {
                return range;
            }
        }
        panic!("no free range of {PORTS} ports");
    }
}

/// A range of ports that other runs on this machine, by whatever user, leave alone as long as this is kept.
struct Range {
    base: u16,
    _claim: UnixListener,
}

impl Range {
    fn claim(base: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("imsup-conformance-{base}")).unwrap();
        let claim = UnixListener::bind_addr(&name).ok()?;
        (base..base + PORTS).all(free).then_some(Self { base, _claim: claim })
    }
}

fn free(port: u16) -> bool {
    [SocketType::STREAM, SocketType::DGRAM].into_iter().all(|kind| {
        // Without SO_REUSEADDR, which std sets: a port in TIME_WAIT is not free. The dual-stack wildcard conflicts with both families.
        let socket = rustix::net::socket(AddressFamily::INET6, kind, None).unwrap();
        rustix::net::sockopt::set_ipv6_v6only(&socket, false).unwrap();
        rustix::net::bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)).is_ok()
    })
}

/// What differs from what is expected in one case, or nothing.
fn compare(case: &str, native: &str, supervised: &str, deviations: &[&Deviation]) -> Option<String> {
    let mut expected = native.to_owned();
    for one in deviations {
        let (from, to) = (one.native.trim_end(), one.supervised.trim_end());
        if !lines_contain(&expected, from) {
            return Some(format!(
                "{case}: the deviation from\n{from}\ndoes not apply; natively it prints\n{native}"
            ));
        }
        expected = expected.replace(&format!("{from}\n"), &format!("{to}\n"));
    }
    if expected == supervised {
        return None;
    }
    let mut text = format!("{case}:\n");
    let (mut left, mut right) = (expected.lines(), supervised.lines());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Some(text),
            (a, b) if a == b => {}
            (a, b) => {
                text += &format!(
                    "  expected   {}\n  supervised {}\n",
                    a.unwrap_or("(end)"),
                    b.unwrap_or("(end)")
                );
            }
        }
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

fn lines_contain(text: &str, lines: &str) -> bool {
    format!("\n{text}").contains(&format!("\n{lines}\n"))
}

#[test]
fn every_case_prints_the_same_natively_and_supervised() {
    let project = Project::up(
        "conformance",
        "services: { other: { command: [\"@guest@\", --tcp, \"8080\"] } }\n",
    );
    let program = guest("conformance");
    let program = program.to_str().unwrap();
    let list = run(project.command(program, &["list"]), common::LIMIT).expect_success("conformance list");
    let cases: Vec<&str> = list.lines().collect();
    assert!(cases.len() > 100, "{} cases", cases.len());
    let deviations = deviations();
    let mut by_case: BTreeMap<&str, Vec<&Deviation>> = BTreeMap::new();
    for one in &deviations {
        for case in &one.cases {
            assert!(cases.contains(&case.as_str()), "there is no case {case}");
            by_case.entry(case).or_default().push(one);
        }
    }
    let (next, ports, failures) = (AtomicUsize::new(0), Mutex::new(Ports::new()), Mutex::new(Vec::new()));
    let limit = Duration::from_secs(30);
    std::thread::scope(|scope| {
        // The cases wait more than they work.
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let range = || ports.lock().unwrap().next();
                    let (first, second) = (range(), range());
                    let native = run(project.command(program, &[case, &first.base.to_string()]), limit);
                    let supervised = run(
                        project.imsup_command(&["run", "--", program, case, &second.base.to_string()]),
                        limit,
                    );
                    if !native.success() {
                        failures.lock().unwrap().push(format!("{case} natively: {native}"));
                        continue;
                    }
                    let known = by_case.get(case).map_or(&[][..], Vec::as_slice);
                    let mut found = compare(case, &native.stdout, &without_addresses(&supervised.stdout), known);
                    if found.is_none() && !supervised.success() {
                        found = Some(format!("{case} supervised: {supervised}"));
                    }
                    if let Some(mut text) = found {
                        text += &format!("  {}; standard error: {}\n", supervised.status, supervised.stderr);
                        failures.lock().unwrap().push(text);
                    }
                }
            });
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
}

#[test]
fn the_comparison_finds_what_it_should() {
    assert_eq!(compare("a", "x: 1\ny: 2\n", "x: 1\ny: 2\n", &[]), None);
    assert!(compare("a", "x: 1\n", "x: 2\n", &[]).is_some());
    assert!(compare("a", "x: 1\n", "x: 1\nmore\n", &[]).is_some());
    let one = Deviation {
        cases: vec!["a".into()],
        native: "x: 1".into(),
        supervised: "x: 2".into(),
        reason: "r".into(),
    };
    assert_eq!(compare("a", "x: 1\ny: 2\n", "x: 2\ny: 2\n", &[&one]), None);
    assert!(
        compare("a", "x: 1\n", "x: 1\n", &[&one]).is_some(),
        "a deviation that does not happen"
    );
    assert!(
        compare("a", "xx: 1\n", "xx: 2\n", &[&one]).is_some(),
        "whole lines only"
    );
}
