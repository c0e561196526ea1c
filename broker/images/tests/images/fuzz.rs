//! The fuzz targets over mutated seeds: on a stable compiler, the same bounded inputs every time.

use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tar::EntryType;

use crate::archive::Layer;
use crate::image::{Compression, gzip, index};
use crate::sources::sample;

#[path = "../../fuzz/target.rs"]
mod target;

/// Each makes a few directories and files.
const LAYERS: u32 = 400;
const DOCUMENTS: u32 = 4_000;

/// Layers with entries of every kind. Their owner is root, whoever runs the test.
fn layers() -> Vec<(&'static str, Vec<u8>)> {
    let owner: &[(&str, &[u8])] = &[
        ("uid", b"0"),
        ("gid", b"0"),
        ("mtime", b"1.5"),
        ("SCHILY.xattr.user.a", b"\n"),
    ];
    let plain = || {
        Layer::of_root()
            .directory("d", 0o755)
            .file("d/f", "content")
            .hard_link("h", "d/f")
            .symbolic_link("s", "../d")
            .file("s/g", "")
            .deleted("gone")
            .opaque("d")
            .special("p", EntryType::Fifo)
    };
    let extended = Layer::of_root()
        .records(owner)
        .file(&"n".repeat(120), "x")
        .directory("d", 0)
        .deleted("d");
    vec![
        ("plain", plain().tar()),
        ("extended", extended.tar()),
        ("gzip", gzip(&plain().tar())),
    ]
}

fn documents() -> Vec<(&'static str, Vec<u8>)> {
    let image = sample(Compression::Gzip);
    let name = format!("localhost:5000/a/b:1@{}", image.digest()).into_bytes();
    vec![
        ("index", index(&[&image]).content),
        ("manifest", image.manifest().content.clone()),
        ("config", image.config),
        ("name", name),
        ("platform", b"linux/arm/v7".to_vec()),
    ]
}

fn kept(target: &str, name: &str, input: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/seeds/{target}/{name}.bin"));
    if std::env::var_os("IMSUP_REGENERATE").is_some() {
        std::fs::write(&path, input).unwrap();
    }
    assert!(path.exists(), "{}: IMSUP_REGENERATE=1 writes the seeds", path.display());
}

#[test]
fn the_seeds_are_taken() {
    for (name, layer) in layers() {
        let input = [&[0], &layer[..]].concat();
        kept("layer", name, &input);
        assert!(target::layer(&input), "{name}");
    }
    for (name, document) in documents() {
        kept("document", name, &document);
        target::document(&document);
    }
}

/// Changes of single bytes, at places of any input.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    // Dots, slashes and digits, of which paths and numbers are made.
    let telling = prop_oneof![Just(b'.'), Just(b'/'), Just(0), b'0'..=b'7', any::<u8>()];
    prop::collection::vec((any::<prop::sample::Index>(), telling), 1..12)
}

fn run(cases: u32, inputs: Vec<Vec<u8>>, target: impl Fn(&[u8])) {
    let mut config = ProptestConfig::with_cases(cases);
    config.failure_persistence = None;
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let input = (prop::sample::select(inputs), changes());
    let result = runner.run(&input, |(mut input, changes)| {
        for (place, value) in changes {
            let place = place.index(input.len());
            input[place] = value;
        }
        target(&input);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn mutated_layers_stay_in_their_directory() {
    let inputs = layers().into_iter().map(|(_, layer)| [&[1], &layer[..]].concat());
    run(LAYERS, inputs.collect(), |input| {
        target::layer(input);
    });
}

#[test]
fn mutated_documents_are_refused_or_mean_one_thing() {
    let inputs = documents().into_iter().map(|(_, document)| document);
    run(DOCUMENTS, inputs.collect(), target::document);
}
