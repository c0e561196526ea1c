//! The layers of the workspace: which crate may depend on which, where
//! `unsafe` may stand, and how long a file may become. Each rule is a pure function over a
//! [`Workspace`]; the first test of each rule applies the function to this repository, the others
//! show that the function finds a violation.

mod crates;
mod length;
mod unsafety;
mod workspace;

use crates::Row;
use workspace::Workspace;

/// The crate that all `unsafe` lives in.
const UNSAFE_CRATE: &str = "imsup-linux";

/// The crates of the workspace and the crates of ours that each may depend on, from the bottom up.
const CRATES: &[Row] = &[
    Row {
        name: "imsup-wire",
        may_use: &[],
        tests_may_use: &[],
    },
    Row {
        name: "imsup-bpf-filters",
        may_use: &[],
        tests_may_use: &[],
    },
    Row {
        name: "imsup-protocol",
        may_use: &["imsup-wire"],
        tests_may_use: &[],
    },
    Row {
        name: UNSAFE_CRATE,
        may_use: &["imsup-wire", "imsup-bpf-filters"],
        tests_may_use: &["imsup-protocol"],
    },
    Row {
        name: "imsup-compose",
        may_use: &["imsup-wire"],
        tests_may_use: &[],
    },
    Row {
        name: "imsup-lifecycle",
        may_use: &["imsup-wire"],
        tests_may_use: &[],
    },
    Row {
        name: "imsup-images",
        may_use: &["imsup-wire"],
        tests_may_use: &[],
    },
    Row {
        name: "imsup-supervisor",
        may_use: &["imsup-wire", "imsup-protocol", "imsup-bpf-filters", UNSAFE_CRATE],
        tests_may_use: &[],
    },
    Row {
        name: "imsup-broker",
        may_use: &[
            "imsup-wire",
            "imsup-protocol",
            UNSAFE_CRATE,
            "imsup-compose",
            "imsup-lifecycle",
            "imsup-images",
        ],
        tests_may_use: &[],
    },
    Row {
        name: "imsup",
        may_use: &[
            "imsup-wire",
            "imsup-protocol",
            "imsup-bpf-filters",
            UNSAFE_CRATE,
            "imsup-compose",
            "imsup-lifecycle",
            "imsup-images",
            "imsup-supervisor",
            "imsup-broker",
        ],
        tests_may_use: &[],
    },
    Row {
        name: "imsup-bench",
        may_use: &[],
        tests_may_use: &[],
    },
];

/// The longest that a file may be, in lines of code outside tests.
const MOST_LINES: usize = 400;

/// The files that are longer than [`MOST_LINES`], each with a limit of its own. The list only
/// shrinks: a file that has become short enough leaves the list.
const LONG_FILES: &[(&str, usize)] = &[
    ("supervisor/src/sleep/hold.rs", 450),
    ("supervisor/src/syscalls/bind.rs", 410),
];

#[test]
fn crates_depend_on_lower_crates_only() {
    assert_none(crates::violations(&Workspace::read(), CRATES));
}

#[test]
fn unsafe_stands_in_one_crate_only() {
    assert_none(unsafety::violations(&Workspace::read(), UNSAFE_CRATE));
}

#[test]
fn files_are_short() {
    assert_none(length::violations(&Workspace::read(), MOST_LINES, LONG_FILES));
}

#[track_caller]
fn assert_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}
