//! Natively and supervised, test by test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use serde::Deserialize;

use crate::common::Project;
use crate::results::{Results, WHOLE};
use crate::unit::{self, Side, Unit};

/// Units that are run at once, natively or supervised: they wait more than they work.
const WORKERS: usize = 3;
/// The number of runs of a unit that differs. Tests with times in them fail now and then on a busy
/// machine, natively as well; only a difference in every run counts.
const ATTEMPTS: usize = 5;

/// Shared by first runs of units, of any suite. A unit that differed is run again without our other
/// runs: a failure caused by a busy machine would occur each time.
static QUIET: RwLock<()> = RwLock::new(());

/// A difference that is known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The suite, and the unit in it.
    suite: String,
    unit: String,
    /// The tests; a name that ends with `*` stands for all tests with this beginning, at least one
    /// of which must show the difference.
    tests: Vec<String>,
    native: String,
    supervised: String,
    /// Why that is right, or unavoidable.
    reason: String,
    /// The test that shows the difference, if it does not happen every time.
    flaky: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Differences {
    #[serde(default)]
    difference: Vec<Difference>,
}

fn known(suite: &str) -> Vec<Difference> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/suites/differences.toml");
    let parsed: Differences = toml::from_str(&std::fs::read_to_string(path).unwrap()).expect("differences.toml");
    for one in &parsed.difference {
        assert!(!one.reason.trim().is_empty(), "{:?} has no reason", one.tests);
        assert_ne!(one.native, one.supervised, "{:?} is no difference", one.tests);
    }
    parsed.difference.into_iter().filter(|one| one.suite == suite).collect()
}

/// All outcomes that a test had.
type Seen = BTreeMap<String, BTreeSet<String>>;

fn add(seen: &mut Seen, results: Results) {
    for (test, outcome) in results {
        seen.entry(test).or_default().insert(outcome);
    }
}

/// All tests, with the outcomes natively and supervised.
type Both = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

fn both(native: &Seen, supervised: &Seen) -> Both {
    let none = BTreeSet::from(["absent".to_owned()]);
    let of = |seen: &Seen, test: &String| seen.get(test).unwrap_or(&none).clone();
    let tests = native.keys().chain(supervised.keys());
    tests
        .map(|test| (test.clone(), (of(native, test), of(supervised, test))))
        .collect()
}

/// Complaints: tests that never came out the same without a known difference, and known differences
/// that do not happen.
fn complaints(unit: &str, all: &Both, known: &[&Difference]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut found = all.clone();
    found.retain(|_, (native, supervised)| native.is_disjoint(supervised));
    // A unit in which a test fails fails as a whole.
    let whole = found.remove(WHOLE).filter(|_| found.is_empty());
    found.extend(whole.map(|both| (WHOLE.to_owned(), both)));
    for one in known {
        for pattern in &one.tests {
            let matches = |test: &str| match pattern.strip_suffix('*') {
                Some(prefix) => test.starts_with(prefix),
                None => test == pattern,
            };
            // Natively the result may have been different as well, at a busy moment.
            let shows = |test: &str, (native, supervised): &(BTreeSet<String>, BTreeSet<String>)| {
                matches(test) && native.contains(&one.native) && supervised.iter().eq([&one.supervised])
            };
            found.retain(|test, outcomes| !shows(test, outcomes));
            if !all.iter().any(|(test, outcomes)| shows(test, outcomes)) && one.flaky.is_none() {
                complaints.push(format!(
                    "{unit}: {pattern}: the difference ({} natively, {} supervised) does not happen",
                    one.native, one.supervised
                ));
            }
        }
    }
    complaints.extend(found.into_iter().map(|(test, (native, supervised))| {
        let words = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" or ");
        format!(
            "{unit}: {test}: natively {}, supervised {}",
            words(native),
            words(supervised)
        )
    }));
    complaints
}

/// One unit, and its results so far.
struct Attempts<'a> {
    unit: &'a Unit,
    known: Vec<&'a Difference>,
    native: Seen,
    supervised: Seen,
    count: usize,
    /// The last output of both sides.
    said: [String; 2],
}

impl<'a> Attempts<'a> {
    fn new(unit: &'a Unit, known: &'a [Difference]) -> Self {
        Self {
            unit,
            known: known.iter().filter(|one| one.unit == unit.name).collect(),
            native: Seen::new(),
            supervised: Seen::new(),
            count: 0,
            said: Default::default(),
        }
    }

    /// Runs it natively and supervised, and returns the complaints.
    fn run(&mut self, project: &Project) -> Vec<String> {
        let first = unit::run(project, self.unit, Side::Native);
        let second = unit::run(project, self.unit, Side::Supervised);
        self.count += 1;
        self.said = [first.said, second.said];
        add(&mut self.native, first.results);
        add(&mut self.supervised, second.results);
        let (name, all) = (&self.unit.name, both(&self.native, &self.supervised));
        let mut found = complaints(name, &all, &self.known);
        if !self.unit.format.may_be_empty() && !self.native.keys().any(|test| test != WHOLE) {
            found.push(format!("{name} runs no test natively"));
        }
        match found.is_empty() {
            true => println!("{name}: {} the same, attempt {}", all.len(), self.count),
            false => println!("{name}: attempt {}:\n  {}", self.count, found.join("\n  ")),
        }
        found
    }

    /// Runs it again, alone, until there is no complaint or the tries are used up.
    fn run_again(&mut self, project: &Project) -> Vec<String> {
        let mut found = Vec::new();
        while self.count < ATTEMPTS {
            let _alone = QUIET.write().unwrap();
            found = self.run(project);
            if found.is_empty() {
                return found;
            }
        }
        for (side, said) in ["natively", "supervised"].iter().zip(&self.said) {
            let lines: Vec<&str> = said.lines().collect();
            let end = lines[lines.len().saturating_sub(200)..].join("\n");
            println!("---- {} {side} said, at last:\n{end}\n----", self.unit.name);
        }
        found
    }
}

/// Runs a suite; fails if a test comes out differently.
pub fn suite(name: &str, units: Vec<Unit>) {
    let known = known(name);
    for one in &known {
        assert!(
            units.iter().any(|unit| unit.name == one.unit),
            "{name} has no {}",
            one.unit
        );
    }
    let root = rustix::process::geteuid().is_root();
    let units: Vec<Unit> = units.into_iter().filter(|unit| unit.as_root || !root).collect();
    // For work on a few units: IMSUP_UNITS=test_ssl,unit/auth.
    let only = std::env::var("IMSUP_UNITS").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    let units: Vec<Unit> = units
        .into_iter()
        .filter(|unit| only.is_empty() || only.contains(&unit.name.as_str()))
        .collect();
    if units.is_empty() && root && only.is_empty() {
        println!("{name}: the ordinary user runs all of it");
        return;
    }
    assert!(!units.is_empty(), "no unit of {name} is {only:?}");
    let project = Project::up("suites", "services: { other: { command: [sleep, \"1000\"] } }\n");
    let (next, differing) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut attempts = Attempts::new(unit, &known);
                    let _beside_others = QUIET.read().unwrap();
                    if !attempts.run(&project).is_empty() {
                        differing.lock().unwrap().push(attempts);
                    }
                }
            });
        }
    });
    let differing = differing.into_inner().unwrap();
    let failures: Vec<String> = differing
        .into_iter()
        .flat_map(|mut attempts| attempts.run_again(&project))
        .collect();
    assert!(
        failures.is_empty(),
        "{} differences:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pairs: &[(&str, &str)]) -> Seen {
        let mut seen = Seen::new();
        add(
            &mut seen,
            pairs
                .iter()
                .map(|(test, outcome)| ((*test).into(), (*outcome).into()))
                .collect(),
        );
        seen
    }

    fn known(tests: &[&str]) -> Difference {
        Difference {
            suite: "s".into(),
            unit: "u".into(),
            tests: tests.iter().map(|&test| test.into()).collect(),
            native: "ok".into(),
            supervised: "fail".into(),
            reason: "r".into(),
            flaky: None,
        }
    }

    #[test]
    fn every_difference_is_found() {
        let native = seen(&[("a", "ok"), ("b", "ok"), ("c", "fail"), (WHOLE, "fail")]);
        let supervised = seen(&[("a", "ok"), ("b", "fail"), ("d", "ok"), (WHOLE, "fail")]);
        let found = complaints("u", &both(&native, &supervised), &[]);
        let expected = [
            "u: b: natively ok, supervised fail",
            "u: c: natively fail, supervised absent",
            "u: d: natively absent, supervised ok",
        ];
        assert_eq!(found, expected);
        assert_eq!(complaints("u", &both(&native, &native), &[]), [""; 0]);
        let found = complaints("u", &both(&seen(&[(WHOLE, "ok")]), &seen(&[(WHOLE, "no end")])), &[]);
        assert_eq!(found.len(), 1, "a unit that does not end");
    }

    #[test]
    fn what_comes_out_the_same_once_is_no_difference() {
        let (native, mut supervised) = (seen(&[("a", "ok")]), seen(&[("a", "fail")]));
        assert_eq!(complaints("u", &both(&native, &supervised), &[]).len(), 1);
        add(&mut supervised, Results::from([("a".into(), "ok".into())]));
        assert_eq!(complaints("u", &both(&native, &supervised), &[]), [""; 0]);
    }

    #[test]
    fn known_differences_must_happen() {
        let (native, supervised) = (
            seen(&[("a1", "ok"), ("a2", "ok")]),
            seen(&[("a1", "fail"), ("a2", "ok")]),
        );
        let all = both(&native, &supervised);
        assert_eq!(complaints("u", &all, &[&known(&["a1"])]), [""; 0]);
        assert_eq!(complaints("u", &all, &[&known(&["a*"])]), [""; 0]);
        assert_eq!(complaints("u", &all, &[&known(&["a1", "a2"])]).len(), 1);
        assert_eq!(complaints("u", &Both::new(), &[&known(&["a*"])]).len(), 1);
    }

    #[test]
    fn a_known_difference_happens_also_where_the_test_failed_natively_once() {
        let (mut native, mut supervised) = (seen(&[("a", "fail")]), seen(&[("a", "fail")]));
        assert_eq!(complaints("u", &both(&native, &supervised), &[&known(&["a"])]).len(), 1);
        add(&mut native, Results::from([("a".into(), "ok".into())]));
        assert_eq!(complaints("u", &both(&native, &supervised), &[&known(&["a"])]), [""; 0]);
        add(&mut supervised, Results::from([("a".into(), "ok".into())]));
        assert_eq!(complaints("u", &both(&native, &supervised), &[&known(&["a"])]).len(), 1);
    }
}
