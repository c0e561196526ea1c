//! docs/deviations.md, made of the reasons and of the cases and tests that show them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;

use crate::deviations::{Deviation, Reason, User, deviations, read, reasons, testdata};

const HEAD: &str = "# Deviations

What a program may find different under imsup, each with its reason. Made by `IMSUP_REGENERATE=1 cargo test -p imsup --test conformance`
from `testdata/conformance/reasons.toml`, `testdata/conformance/deviations.toml` and `testdata/suites/differences.toml`; the tests fail where any of it
is not so, and where anything else differs. Do not edit. What the cases are: [conformance.md](conformance.md).
";

/// Tests of other people's suites that end differently under imsup.
#[derive(Debug, Deserialize)]
struct Difference {
    suite: String,
    tests: Vec<String>,
    reason: String,
}

fn differences() -> Vec<Difference> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        difference: Vec<Difference>,
    }
    const PATH: &str = "suites/differences.toml";
    if testdata(PATH).exists() {
        read::<File>(PATH).difference
    } else {
        Vec::new()
    }
}

fn document(reasons: &[Reason], deviations: &[Deviation], differences: &[Difference]) -> String {
    let mut text = HEAD.to_owned();
    text += "\n";
    for reason in reasons {
        writeln!(text, "* [{}](#{})", reason.title, reason.id).unwrap();
    }
    for reason in reasons {
        section(&mut text, reason, deviations, differences);
    }
    text
}

fn section(text: &mut String, reason: &Reason, deviations: &[Deviation], differences: &[Difference]) {
    let Reason {
        id,
        title,
        text: why,
        shown_by,
    } = reason;
    writeln!(text, "\n<a id=\"{id}\"></a>\n\n## {title}\n\n{}", why.trim()).unwrap();
    let of_this: Vec<&Deviation> = deviations.iter().filter(|one| one.reason == *id).collect();
    let differing: Vec<&Difference> = differences.iter().filter(|one| one.reason == *id).collect();
    assert!(
        !of_this.is_empty() || !differing.is_empty() || !shown_by.is_empty(),
        "reasons.toml: nothing has the reason {id}"
    );
    // The same change in many cases is told once.
    let mut cases_of = BTreeMap::new();
    for one in of_this {
        for (native, supervised) in &one.changes {
            let key = (native.as_str(), supervised.as_str(), one.mode.as_deref(), one.user);
            cases_of
                .entry(key)
                .or_insert_with(Vec::new)
                .extend(one.cases.iter().map(String::as_str));
        }
    }
    if !cases_of.is_empty() {
        text.push_str("\n| natively | under imsup | cases |\n|---|---|---|\n");
    }
    for ((native, supervised, mode, user), cases) in cases_of {
        let mut only = mode
            .map(|mode| format!(" (only in the {mode} mode)"))
            .unwrap_or_default();
        only += match user {
            Some(User::Root) => " (only for root)",
            Some(User::Ordinary) => " (only for ordinary users)",
            None => "",
        };
        let cases: Vec<String> = cases.iter().map(|case| format!("`{case}`")).collect();
        writeln!(
            text,
            "| {} | {} | {}{only} |",
            cell(native),
            cell(supervised),
            cases.join(" ")
        )
        .unwrap();
    }
    for one in differing {
        let tests: Vec<String> = one.tests.iter().map(|test| format!("`{test}`")).collect();
        writeln!(text, "\n{}: {}", one.suite, tests.join(" ")).unwrap();
    }
    for test in shown_by {
        let (file, name) = test.split_once("::").expect("FILE::NAME");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{file}.rs"));
        let there = std::fs::read_to_string(&path).is_ok_and(|source| source.contains(&format!("\nfn {name}() {{")));
        assert!(there, "reasons.toml: there is no {name} in {}", path.display());
        writeln!(text, "\nShown by `supervisor/cli/tests/{file}.rs`, `{name}`.").unwrap();
    }
}

/// Lines as a cell of a table.
fn cell(lines: &str) -> String {
    let lines: Vec<String> = lines.trim().lines().map(|line| format!("`{}`", line.trim())).collect();
    if lines.is_empty() {
        "(nothing)".to_owned()
    } else {
        lines.join("<br>")
    }
}

/// Compares with a file of the repository, after writing that file if asked to.
pub fn compare_with_file(path: &str, text: &str) {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("IMSUP_REGENERATE").is_some() {
        std::fs::write(&whole, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let present = std::fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(
        present == text,
        "{path} is not what is made now: write it anew with IMSUP_REGENERATE=1. Now:\n{text}"
    );
}

#[test]
fn the_document_of_deviations_is_current() {
    let (reasons, deviations, differences) = (reasons(), deviations(), differences());
    let used = deviations.iter().map(|one| &one.reason);
    for id in used.chain(differences.iter().map(|one| &one.reason)) {
        assert!(
            reasons.iter().any(|reason| reason.id == *id),
            "reasons.toml has no {id}"
        );
    }
    compare_with_file("docs/deviations.md", &document(&reasons, &deviations, &differences));
}
