//! Layers of strangers. See README.md.
#![no_main]

#[path = "../target.rs"]
#[allow(dead_code)] // the other target uses the rest
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    target::layer(input);
});
