//! The known deviations: testdata/conformance/deviations.toml, applied to a case's native output.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The reason for a difference, for users.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// The anchor in docs/deviations.md.
    pub id: String,
    pub title: String,
    pub text: String,
    /// Tests elsewhere that show the deviation, as `FILE::NAME` of supervisor/cli/tests/.
    #[serde(default)]
    pub shown_by: Vec<String>,
}

/// The output that supervised cases may print differently.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// The id of the reason.
    pub reason: String,
    /// The cases, as globs; each match must show the deviation.
    pub cases: Vec<String>,
    /// Lines printed natively, and their supervised replacements, for every occurrence.
    pub changes: Vec<(String, String)>,
    /// Only in the mode of this name.
    pub mode: Option<String>,
    /// For root only, or for an ordinary user only.
    pub user: Option<User>,
}

/// The user of imsup.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum User {
    Root,
    Ordinary,
}

impl User {
    fn this() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Root
        } else {
            Self::Ordinary
        }
    }
}

impl Deviation {
    pub fn concerns(&self, case: &str) -> bool {
        self.cases.iter().any(|glob| fast_glob::glob_match(glob, case))
    }

    pub fn applies_in(&self, mode: &str) -> bool {
        self.mode.as_deref().is_none_or(|only| only == mode) && self.user.is_none_or(|user| user == User::this())
    }
}

/// A file of testdata/.
pub fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(path)
}

/// Reads a TOML file of testdata/.
pub fn read<T: DeserializeOwned>(path: &str) -> T {
    let text = std::fs::read_to_string(testdata(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn reasons() -> Vec<Reason> {
    #[derive(Deserialize)]
    struct File {
        reason: Vec<Reason>,
    }
    read::<File>("conformance/reasons.toml").reason
}

pub fn deviations() -> Vec<Deviation> {
    #[derive(Deserialize)]
    struct File {
        deviation: Vec<Deviation>,
    }
    let found = read::<File>("conformance/deviations.toml").deviation;
    assert!(
        found.iter().all(|one| !one.changes.is_empty()),
        "a deviation without a change"
    );
    for (native, supervised) in found.iter().flat_map(|one| &one.changes) {
        assert_ne!(native, supervised, "a deviation that is none");
    }
    found
}

/// Every glob finds a case, and every mode is known.
pub fn check(deviations: &[Deviation], cases: &[&str], modes: &[&str]) {
    for one in deviations {
        for glob in &one.cases {
            assert!(
                cases.iter().any(|case| fast_glob::glob_match(glob, case)),
                "deviations.toml: there is no case {glob}"
            );
        }
        let mode = one.mode.as_deref();
        assert!(
            mode.is_none_or(|mode| modes.contains(&mode)),
            "there is no mode {mode:?}"
        );
    }
}

/// The difference from the expectation in one case, or none.
pub fn compare(case: &str, native: &str, supervised: &str, deviations: &[&Deviation]) -> Option<String> {
    let mut expected = native.to_owned();
    for (from, to) in deviations.iter().flat_map(|one| &one.changes) {
        match replace_lines(&expected, from, to) {
            Some(changed) => expected = changed,
            None => {
                return Some(format!(
                    "{case}: the deviation from\n{from}\ndoes not apply; expected is\n{expected}supervised it prints\n{supervised}"
                ));
            }
        }
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

/// The text with these lines replaced by those; `None` if the lines do not occur.
fn replace_lines(text: &str, from: &str, to: &str) -> Option<String> {
    let (lines, from): (Vec<&str>, Vec<&str>) = (text.lines().collect(), from.trim_matches('\n').lines().collect());
    let (mut done, mut at, mut found) = (Vec::new(), 0, false);
    while at < lines.len() {
        if lines[at..].starts_with(&from) {
            done.extend(to.trim_matches('\n').lines());
            at += from.len();
            found = true;
        } else {
            done.push(lines[at]);
            at += 1;
        }
    }
    found.then(|| done.into_iter().flat_map(|line| [line, "\n"]).collect())
}

#[test]
fn the_comparison_finds_what_it_should() {
    assert_eq!(compare("a", "x: 1\ny: 2\n", "x: 1\ny: 2\n", &[]), None);
    assert!(compare("a", "x: 1\n", "x: 2\n", &[]).is_some());
    assert!(compare("a", "x: 1\n", "x: 1\nmore\n", &[]).is_some());
    let change = |from: &str, to: &str| Deviation {
        reason: "r".into(),
        cases: vec!["a".into()],
        changes: vec![(from.into(), to.into())],
        mode: None,
        user: None,
    };
    let one = change("x: 1", "x: 2");
    assert_eq!(compare("a", "x: 1\ny: 2\n", "x: 2\ny: 2\n", &[&one]), None);
    assert_eq!(
        compare("a", "x: 1\nx: 1\ny: 2\nx: 1\n", "x: 2\nx: 2\ny: 2\nx: 2\n", &[&one]),
        None,
        "every occurrence, also side by side"
    );
    assert_eq!(
        compare("a", "w: 1\nx: 1\ny: 1\n", "w: 1\ny: 1\n", &[&change("x: 1", "")]),
        None
    );
    assert_eq!(compare("a", "x: 1\ny: 1\n", "z\ny: 1\n", &[&change("x: 1", "z")]), None);
    assert!(
        compare("a", "x: 1\n", "x: 1\n", &[&one]).is_some(),
        "a deviation that does not happen"
    );
    assert!(
        compare("a", "xx: 1\n", "xx: 2\n", &[&one]).is_some(),
        "whole lines only"
    );
}
