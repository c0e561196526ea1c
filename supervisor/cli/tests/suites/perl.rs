//! Perl's core tests of IO, Socket and IO::Socket::IP, and those of Debian's IO::Socket::SSL and
//! IO::Socket::INET6, with Debian's perl.

use std::path::Path;

use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

/// Source package, directory in it, and tests left out.
const DISTRIBUTIONS: &[(&str, &str, &[&str])] = &[
    ("perl", "dist/IO", &[]),
    ("perl", "cpan/Socket", &[]),
    // The internet, and the style of the documentation.
    (
        "perl",
        "cpan/IO-Socket-IP",
        &["31nonblocking-connect-internet", "99pod"],
    ),
    ("libio-socket-ssl-perl", "", &[]),
    (
        "libio-socket-inet6-perl",
        "",
        &["pod", "pod-coverage", "style-trailing-space"],
    ),
];

#[test]
fn perl_comes_out_the_same() {
    let mut units = Vec::new();
    for (package, directory, left_out) in DISTRIBUTIONS {
        let directory = fetched(package).join(directory);
        let before = units.len();
        let mut files: Vec<_> = std::fs::read_dir(directory.join("t"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        for file in files
            .iter()
            .filter(|path| path.extension().is_some_and(|ending| ending == "t"))
        {
            let name = file.file_stem().unwrap().to_str().unwrap();
            if !left_out.contains(&name) {
                units.push(unit(package, &directory, name));
            }
        }
        assert!(units.len() > before, "no tests in {}", directory.display());
    }
    suite("perl", units);
}

fn unit(package: &str, directory: &Path, name: &str) -> Unit {
    // By "blib" in the path of libraries these tests know that they are not part of a build of perl
    // itself.
    let command = ["perl", "-I@dir@/blib", &format!("t/{name}.t")];
    let mut unit = Unit::new(format!("{package} {name}"), &command, Format::Tap);
    unit.copy = Some(directory.to_owned());
    unit.as_root = true;
    unit
}
