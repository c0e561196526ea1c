//! The messages as bytes: what every one of them looks like, that each comes back as it was sent,
//! and that what is no message is told so.

mod framing;
mod fuzz;
mod golden;
mod hello;
mod hostile;
mod roundtrip;
mod samples;
mod sleep_samples;
mod sleep_strategies;
mod strategies;

use imsup_protocol::codec::{self, CodecError};
use serde::Serialize;
use serde::de::DeserializeOwned;

const LENGTH_BYTES: usize = 4;

/// A frame with this body.
fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("test bodies are short");
    [&length.to_le_bytes(), body].concat()
}

/// The variant of an encoded enum: bincode's first byte, since no enum here has more than 250
/// variants.
fn variant<M: Serialize>(message: &M) -> u8 {
    codec::encode(message).expect("it fits a frame")[LENGTH_BYTES]
}

/// How many variants an enum has, by what its decoder says of one that does not exist.
fn variants<M: DeserializeOwned + std::fmt::Debug>() -> u8 {
    let error = codec::decode::<M>(&mut frame(&[250])).expect_err("no enum has so many variants");
    let CodecError::Malformed(text) = error else {
        panic!("{error:?}")
    };
    // "... expected variant index 0 <= i < N", or an allowed range, as serde's derive and bincode
    // put it.
    let digits: String = text
        .chars()
        .rev()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    let number: String = digits.chars().rev().collect();
    number
        .parse()
        .unwrap_or_else(|_| panic!("no number of variants in: {text}"))
}

/// Panics where a variant of `M` is not among the values.
fn assert_every_variant<'a, M: Serialize + DeserializeOwned + std::fmt::Debug + 'a>(
    values: impl IntoIterator<Item = &'a M>,
) {
    let present: std::collections::BTreeSet<u8> = values.into_iter().map(variant).collect();
    let all = (0..variants::<M>()).collect();
    assert_eq!(
        present,
        all,
        "every variant of {} must be there",
        std::any::type_name::<M>()
    );
}
