//! Natively and supervised, test by test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

use crate::common::Project;
use crate::results::{Results, WHOLE};
use crate::unit::{self, Side, Unit};

/// Units that are run at once, natively or supervised: they wait more than they work.
const WORKERS: usize = 3;
/// How often a unit is run that differs. Tests with times in them fail now and then on a busy machine, natively as well; what differs every time
/// is a difference.
const ATTEMPTS: usize = 3;

/// A difference that is known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The suite, and the unit in it.
    suite: String,
    unit: String,
    /// The tests; one that ends with `*` stands for all that begin so, of which one at least must show it.
    tests: Vec<String>,
    native: String,
    supervised: String,
    /// Why that is right, or unavoidable.
    reason: String,
    /// Where it does not happen every time: what shows that.
    flaky: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Differences {
    #[serde(default)]
    difference: Vec<Difference>,
}

fn known(suite: &str) -> Vec<Difference> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/suites/differences.toml");
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

/// The tests that never came out the same, and how.
fn different(native: &Seen, supervised: &Seen) -> BTreeMap<String, (String, String)> {
    let none = BTreeSet::from(["absent".to_owned()]);
    let tests: BTreeSet<&String> = native.keys().chain(supervised.keys()).collect();
    tests
        .into_iter()
        .filter_map(|test| {
            let (a, b) = (native.get(test).unwrap_or(&none), supervised.get(test).unwrap_or(&none));
            let words = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" or ");
            a.is_disjoint(b).then(|| (test.clone(), (words(a), words(b))))
        })
        .collect()
}

/// What there is to complain of: differences that are not known, and known ones that do not happen.
fn complaints(unit: &str, mut found: BTreeMap<String, (String, String)>, known: &[&Difference]) -> Vec<String> {
    let mut complaints = Vec::new();
    // A unit in which a test fails fails as a whole.
    let whole = found.remove(WHOLE).filter(|_| found.is_empty());
    found.extend(whole.map(|both| (WHOLE.to_owned(), both)));
    for one in known {
        for pattern in &one.tests {
            let matches = |test: &str| match pattern.strip_suffix('*') {
                Some(prefix) => test.starts_with(prefix),
                None => test == pattern,
            };
            let before = found.len();
            found.retain(|test, (native, supervised)| {
                !(matches(test) && *native == one.native && *supervised == one.supervised)
            });
            if found.len() == before && one.flaky.is_none() {
                complaints.push(format!(
                    "{unit}: {pattern}: the difference ({} natively, {} supervised) does not happen",
                    one.native, one.supervised
                ));
            }
        }
    }
    complaints.extend(
        found
            .into_iter()
            .map(|(test, (native, supervised))| format!("{unit}: {test}: natively {native}, supervised {supervised}")),
    );
    complaints
}

/// What one unit has to complain of, and what it said.
fn check(project: &Project, unit: &Unit, known: &[&Difference]) -> Vec<String> {
    let (mut native, mut supervised) = (Seen::new(), Seen::new());
    for attempt in 1..=ATTEMPTS {
        let first = unit::run(project, unit, Side::Native);
        let second = unit::run(project, unit, Side::Supervised);
        let (count, said) = (first.results.len(), second.said);
        assert!(
            unit.format.may_be_empty() || first.results.keys().any(|test| test != WHOLE),
            "{} runs no test natively:\n{}",
            unit.name,
            first.said
        );
        add(&mut native, first.results);
        add(&mut supervised, second.results);
        let found = complaints(&unit.name, different(&native, &supervised), known);
        if found.is_empty() {
            println!("{}: {count} the same, attempt {attempt}", unit.name);
            return found;
        }
        println!("{}: attempt {attempt}:\n  {}", unit.name, found.join("\n  "));
        if attempt == ATTEMPTS {
            let lines: Vec<&str> = said.lines().collect();
            let end = lines[lines.len().saturating_sub(200)..].join("\n");
            println!("---- {} supervised said, at last:\n{end}\n----", unit.name);
            return found;
        }
    }
    unreachable!("the last attempt returns")
}

/// Runs a suite; fails where a test comes out differently.
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
    // For whoever works on one of them: IMSUP_UNITS=test_ssl,unit/auth.
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
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let known: Vec<_> = known.iter().filter(|one| one.unit == unit.name).collect();
                    let found = check(&project, unit, &known);
                    failures.lock().unwrap().extend(found);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
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
        let found = complaints("u", different(&native, &supervised), &[]);
        let expected = [
            "u: b: natively ok, supervised fail",
            "u: c: natively fail, supervised absent",
            "u: d: natively absent, supervised ok",
        ];
        assert_eq!(found, expected);
        assert_eq!(complaints("u", different(&native, &native), &[]), [""; 0]);
        let found = complaints(
            "u",
            different(&seen(&[(WHOLE, "ok")]), &seen(&[(WHOLE, "no end")])),
            &[],
        );
        assert_eq!(found.len(), 1, "a unit that does not end");
    }

    #[test]
    fn what_comes_out_the_same_once_is_no_difference() {
        let (native, mut supervised) = (seen(&[("a", "ok")]), seen(&[("a", "fail")]));
        assert_eq!(different(&native, &supervised).len(), 1);
        add(&mut supervised, Results::from([("a".into(), "ok".into())]));
        assert!(different(&native, &supervised).is_empty());
    }

    #[test]
    fn known_differences_must_happen() {
        let (native, supervised) = (
            seen(&[("a1", "ok"), ("a2", "ok")]),
            seen(&[("a1", "fail"), ("a2", "ok")]),
        );
        let found = || different(&native, &supervised);
        assert_eq!(complaints("u", found(), &[&known(&["a1"])]), [""; 0]);
        assert_eq!(complaints("u", found(), &[&known(&["a*"])]), [""; 0]);
        assert_eq!(complaints("u", found(), &[&known(&["a1", "a2"])]).len(), 1);
        assert_eq!(complaints("u", BTreeMap::new(), &[&known(&["a*"])]).len(), 1);
    }
}
