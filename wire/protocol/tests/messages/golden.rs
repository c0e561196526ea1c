//! The bytes of every message against `testdata/wire/`, from both sides.
//!
//! Each version has a recorded set of files. This build must write the latest set, and must read
//! the sets of all versions in the range of the build. `IMSUP_REGENERATE=1 cargo test -p
//! imsup-protocol --test messages` writes the latest set anew. See the README there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write};
use std::path::PathBuf;

use imsup_protocol::codec;
use imsup_protocol::version::{HELLO_BYTES, OURS, Versions};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::assert_every_variant;
use crate::samples::{self, Samples};
use crate::sleep_samples;

fn recorded() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/wire")
}

fn path(version: u16, file: &str) -> PathBuf {
    recorded().join(format!("v{version}")).join(file)
}

/// The vectors of a file: `NAME HEX` a line, `#` begins a comment.
fn vectors(path: PathBuf) -> BTreeMap<String, Vec<u8>> {
    let file = path.display();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, digits) = line.split_once(' ').unwrap_or_else(|| panic!("{file}: {line}"));
            (name.to_owned(), from_hex(digits))
        })
        .collect()
}

fn from_hex(digits: &str) -> Vec<u8> {
    let bytes = digits.as_bytes().chunks(2);
    bytes
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check<M>(file: &str, samples: Samples<M>)
where
    M: Serialize + DeserializeOwned + Debug + PartialEq,
{
    if std::env::var_os("IMSUP_REGENERATE").is_some() {
        let (kind, version) = (std::any::type_name::<M>(), OURS.highest());
        let mut text = format!("# {kind}, version {version}\n");
        for (name, value) in &samples {
            let frame = codec::encode(value).unwrap();
            write!(text, "\n# {value:?}\n{name} {}\n", to_hex(&frame)).unwrap();
        }
        std::fs::write(path(version, file), text).unwrap();
    }
    let samples = samples.into_iter().collect();
    for version in OURS.all() {
        decodes(version, file, &samples);
    }
    encodes(file, &samples);
}

/// [`check`] for an enum; all variants must be among the samples.
fn check_enum<M>(file: &str, samples: Samples<M>)
where
    M: Serialize + DeserializeOwned + Debug + PartialEq,
{
    assert_every_variant(samples.iter().map(|(_, value)| value));
    check(file, samples);
}

/// The messages of a peer of this version are understood.
fn decodes<M>(version: u16, file: &str, samples: &BTreeMap<String, M>)
where
    M: DeserializeOwned + Debug + PartialEq,
{
    for (name, mut frame) in vectors(path(version, file)) {
        let decoded = codec::decode::<M>(&mut frame);
        let sample = samples.get(&name);
        assert!(sample.is_some(), "v{version}/{file}: there is no sample of {name}");
        assert_eq!(
            decoded.as_ref().map(Option::as_ref),
            Ok(sample),
            "v{version}/{file}: {name} is decoded differently"
        );
        assert!(frame.is_empty());
    }
}

/// This build encodes messages as recorded in the latest set.
fn encodes<M: Serialize>(file: &str, samples: &BTreeMap<String, M>) {
    let version = OURS.highest();
    let golden = vectors(path(version, file));
    let (recorded, sampled): (Vec<_>, Vec<_>) = (golden.keys().collect(), samples.keys().collect());
    assert_eq!(
        recorded, sampled,
        "v{version}/{file} has other vectors than there are samples"
    );
    for (name, value) in samples {
        assert_eq!(
            to_hex(&codec::encode(value).unwrap()),
            to_hex(&golden[name]),
            "v{version}/{file}: {name} is encoded differently: testdata/wire/README.md says how messages change"
        );
    }
}

#[test]
fn to_broker() {
    check_enum("to_broker.hex", samples::to_broker());
}

#[test]
fn to_supervisor() {
    check_enum("to_supervisor.hex", samples::to_supervisor());
}

#[test]
fn requests() {
    check_enum("request.hex", samples::requests());
}

#[test]
fn responses() {
    check_enum("response.hex", samples::responses());
}

#[test]
fn openings() {
    check_enum("opening.hex", samples::openings());
}

#[test]
fn spawn_requests() {
    check("spawn_request.hex", samples::spawn_requests());
}

#[test]
fn spawn_replies() {
    check("spawn_reply.hex", samples::spawn_replies());
}

#[test]
fn error_kinds() {
    check("error_kind.hex", samples::error_kinds());
}

/// The layout of a hello never changes, so this file is never written anew.
#[test]
fn hellos() {
    let hellos = vectors(recorded().join("hello.hex"));
    assert!(!hellos.is_empty());
    for (name, hello) in hellos {
        let (lowest, highest) = name.split_once('-').unwrap();
        let versions = Versions::new(lowest.parse().unwrap(), highest.parse().unwrap()).unwrap();
        assert_eq!(hello.len(), HELLO_BYTES);
        assert_eq!(Versions::from_hello(&hello), Ok(Some(versions)), "{name}");
        assert_eq!(to_hex(&versions.to_hello()), to_hex(&hello), "{name}");
    }
}

#[test]
fn there_is_a_set_of_each_version_that_is_spoken_and_of_no_other() {
    let entries = std::fs::read_dir(recorded()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let sets: BTreeSet<String> = names.filter(|name| name.starts_with('v')).collect();
    assert_eq!(sets, OURS.all().map(|version| format!("v{version}")).collect());
}

#[test]
fn every_variant_inside_the_messages_has_a_sample() {
    fn check<M: Serialize + DeserializeOwned + Debug>(samples: Samples<M>) {
        assert_every_variant(samples.iter().map(|(_, value)| value));
    }
    check(samples::roles());
    check(samples::outcomes());
    check(samples::exit_statuses());
    check(samples::host_states());
    check(samples::event_kinds());
    check(samples::cause_kinds());
    check(sleep_samples::orders());
    check(sleep_samples::reports());
    check(sleep_samples::reason_kinds());
    check(sleep_samples::wait_kinds());
    check(sleep_samples::whys());
}
