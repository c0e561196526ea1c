//! The bytes of every message against `testdata/wire/`, from both sides.
//!
//! `IMSUP_REGENERATE=1 cargo test -p imsup-protocol --test messages` writes the files anew. See the README there.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::path::PathBuf;

use imsup_protocol::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::assert_every_variant;
use crate::samples::{self, Samples};
use crate::sleep_samples;

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/wire")
        .join(file)
}

/// The vectors of a file: `NAME HEX` a line, `#` begins a comment.
fn vectors(file: &str) -> BTreeMap<String, Vec<u8>> {
    let text = std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
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
    assert_every_variant(samples.iter().map(|(_, value)| value));
    if std::env::var_os("IMSUP_REGENERATE").is_some() {
        let mut text = format!("# {}, version {}\n", std::any::type_name::<M>(), codec::VERSION);
        for (name, value) in &samples {
            let frame = codec::encode(value).unwrap();
            write!(text, "\n# {value:?}\n{name} {}\n", to_hex(&frame)).unwrap();
        }
        std::fs::write(path(file), text).unwrap();
    }
    let mut golden = vectors(file);
    for (name, value) in samples {
        let frame = golden.remove(&name).unwrap_or_else(|| panic!("{file} lacks {name}"));
        assert_eq!(
            to_hex(&codec::encode(&value).unwrap()),
            to_hex(&frame),
            "{file}: {name} is encoded differently. A change of the messages needs a new codec::VERSION, and \
             IMSUP_REGENERATE=1 to write the vectors"
        );
        let mut buffer = frame;
        assert_eq!(
            codec::decode(&mut buffer),
            Ok(Some(value)),
            "{file}: {name} is decoded differently"
        );
        assert!(buffer.is_empty());
    }
    assert!(
        golden.is_empty(),
        "{file} has vectors of no sample: {:?}",
        golden.keys()
    );
}

#[test]
fn to_broker() {
    check("to_broker.hex", samples::to_broker());
}

#[test]
fn to_supervisor() {
    check("to_supervisor.hex", samples::to_supervisor());
}

#[test]
fn requests() {
    check("request.hex", samples::requests());
}

#[test]
fn responses() {
    check("response.hex", samples::responses());
}

#[test]
fn openings() {
    check("opening.hex", samples::openings());
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
