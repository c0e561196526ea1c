//! The fuzz target over mutated golden vectors: on a stable compiler, the same bounded inputs every
//! time.

use std::path::PathBuf;

use imsup_protocol::codec;
use imsup_protocol::version::OURS;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde::Serialize;

use crate::samples::{self, Samples};

#[path = "../../fuzz/target.rs"]
mod target;

const INPUTS: u32 = 20_000;

/// The frames of every sample, by the decoder of the target that reads them and the name of its
/// seed.
fn frames() -> [(u8, &'static str, Vec<Vec<u8>>); 6] {
    fn encode<M: Serialize>(samples: Samples<M>) -> Vec<Vec<u8>> {
        samples.iter().map(|(_, value)| codec::encode(value).unwrap()).collect()
    }
    [
        (0, "opening", encode(samples::openings())),
        (1, "to_broker", encode(samples::to_broker())),
        (2, "to_supervisor", encode(samples::to_supervisor())),
        (3, "request", encode(samples::requests())),
        (4, "response", encode(samples::responses())),
        (5, "hello", vec![OURS.to_hello().to_vec()]),
    ]
}

/// An input of these frames, in pieces of seven bytes.
fn input(decoder: u8, frames: &[Vec<u8>]) -> Vec<u8> {
    [&[decoder, 6], &frames.concat()[..]].concat()
}

#[test]
fn the_seeds_are_the_golden_vectors() {
    for (decoder, name, frames) in frames() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/seeds/decode/{name}.bin"));
        let input = input(decoder, &frames);
        if std::env::var_os("IMSUP_REGENERATE").is_some() {
            std::fs::write(&path, &input).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            kept == input,
            "{} is old: IMSUP_REGENERATE=1 writes it anew",
            path.display()
        );
        assert_eq!(target::run(&input), frames.len());
    }
}

/// One change to an input, of the kinds that fuzzers make.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Copy(prop::sample::Index, prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<prop::sample::Index>;
    // Values at which a varint, a length or a discriminant becomes something else.
    let telling = prop_oneof![0..10_u8, 249..=255_u8, any::<u8>()];
    prop_oneof![
        (place(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (place(), telling).prop_map(|(at, value)| Mutation::Set(at, value)),
        (place(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (place(), 1..9_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (place(), place(), 1..64_usize).prop_map(|(from, to, count)| Mutation::Copy(from, to, count)),
    ]
}

fn mutate(input: &mut Vec<u8>, mutation: &Mutation) {
    let length = input.len();
    match mutation {
        Mutation::Flip(at, bit) => input[at.index(length)] ^= 1 << bit,
        Mutation::Set(at, value) => input[at.index(length)] = *value,
        Mutation::Insert(at, bytes) => {
            let at = at.index(length);
            input.splice(at..at, bytes.iter().copied());
        }
        Mutation::Remove(at, count) => {
            let at = at.index(length);
            // Never all of it: the next mutation needs a byte to work on.
            input.drain(at.max(1)..(at + count).min(length).max(at.max(1)));
        }
        Mutation::Copy(from, to, count) => {
            let (from, to) = (from.index(length), to.index(length));
            let copied = input[from..(from + count).min(length)].to_vec();
            input.splice(to..to, copied);
        }
    }
}

#[test]
fn mutated_messages_neither_panic_nor_change_on_their_way() {
    // Single frames, so that a change is not lost behind an earlier one that ends the stream.
    let inputs: Vec<Vec<u8>> = frames()
        .into_iter()
        .flat_map(|(decoder, _, frames)| frames.into_iter().map(move |frame| input(decoder, &[frame])))
        .collect();
    let mut config = ProptestConfig::with_cases(INPUTS);
    config.failure_persistence = None;
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let input = (prop::sample::select(inputs), prop::collection::vec(mutation(), 1..6));
    runner
        .run(&input, |(mut input, mutations)| {
            for mutation in &mutations {
                mutate(&mut input, mutation);
            }
            target::run(&input);
            Ok(())
        })
        .unwrap();
}
