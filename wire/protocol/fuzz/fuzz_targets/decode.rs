//! Bytes from outside, as a stream that arrives in pieces. See README.md.
#![no_main]

#[path = "../target.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    target::run(input);
});
