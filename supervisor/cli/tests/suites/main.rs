//! Other people's test suites, natively and under `imsup run`: every test of theirs must come out
//! the same.
//!
//! Permitted differences, with their reasons, are in testdata/suites/differences.toml; a difference
//! that no longer happens fails the test too. The suites are Debian packages (CPython's) and source
//! packages, fetched and built by scripts/suites.sh.
//!
//! All of it runs as the ordinary user. Root runs the units that say so: those in which privilege
//! changes the kernel's or imsup's behaviour.

mod c_ares;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod cpython;
mod libevent;
mod libuv;
mod node;
mod perl;
mod php;
mod redis;
mod results;
mod ruby;
mod unit;

use std::path::PathBuf;

/// The files that scripts/suites.sh fetched of a source package.
#[track_caller]
fn fetched(package: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("suites")
        .join(package);
    assert!(
        directory.join(".complete").exists(),
        "{} is missing or incomplete: run 'make suites'",
        directory.display()
    );
    directory
}
