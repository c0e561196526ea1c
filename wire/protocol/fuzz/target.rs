//! What the fuzzer does with an input; also run by `cargo test -p imsup-protocol` over mutated
//! golden vectors.
//!
//! Byte 0 chooses the decoder, byte 1 the size of the pieces in which the stream arrives, the rest
//! is the stream.

use std::fmt::Debug;

use imsup_protocol::codec;
use imsup_protocol::control::Opening;
use imsup_protocol::version::{HELLO_BYTES, Versions};
use imsup_protocol::{Request, Response, ToBroker, ToSupervisor};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Decodes an input and returns the number of messages. Panics if a message does not come back as
/// decoded, or if the result depends on how the stream was cut.
pub fn run(input: &[u8]) -> usize {
    let [decoder, piece, stream @ ..] = input else {
        return 0;
    };
    let piece = usize::from(*piece) + 1;
    match decoder % 6 {
        0 => check::<Opening>(stream, piece),
        1 => check::<ToBroker>(stream, piece),
        2 => check::<ToSupervisor>(stream, piece),
        3 => check::<Request>(stream, piece),
        4 => check::<Response>(stream, piece),
        _ => check_hello(stream),
    }
}

fn check<M: Serialize + DeserializeOwned + Debug + PartialEq>(stream: &[u8], piece: usize) -> usize {
    let cut = messages::<M>(stream.chunks(piece));
    let whole = messages::<M>([stream].into_iter());
    assert_eq!(cut, whole, "it depends on how the stream is cut");
    for message in &whole {
        let mut frame = codec::encode(message).expect("no message grows by being decoded");
        let again = codec::decode::<M>(&mut frame).expect("what is encoded can be decoded");
        assert_eq!(again.as_ref(), Some(message));
    }
    whole.len()
}

/// A hello, of which bytes come one by one: what is refused is refused for good, and what is read
/// is what was said.
fn check_hello(stream: &[u8]) -> usize {
    let whole = Versions::from_hello(stream);
    for length in 0..stream.len() {
        let part = Versions::from_hello(&stream[..length]);
        assert!(
            part == whole || part == Ok(None),
            "{part:?} of a part, {whole:?} of the whole"
        );
    }
    match whole {
        Ok(Some(versions)) => {
            assert_eq!(versions.to_hello(), stream[..HELLO_BYTES]);
            1
        }
        _ => 0,
    }
}

/// The messages before the first error.
fn messages<'a, M: DeserializeOwned>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<M> {
    let mut buffer = Vec::new();
    let mut messages = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match codec::decode(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}
