//! Frames in a stream that arrives in pieces of any size.

use imsup_protocol::codec::{self, CodecError, MAX_FRAME_BYTES};
use imsup_protocol::{Response, ToBroker, ToSupervisor};
use imsup_wire::ErrorKind;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{LENGTH_BYTES, frame, strategies};

proptest! {
    #[test]
    fn a_stream_cut_anywhere_gives_the_same_messages(
        messages in vec(strategies::to_broker(), 1..8),
        pieces in vec(1..40_usize, 1..20),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| codec::encode(message).unwrap()).collect();
        let mut rest = &stream[..];
        let mut buffer = Vec::new();
        let mut received = Vec::new();
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            buffer.extend_from_slice(now);
            while let Some(message) = codec::decode::<ToBroker>(&mut buffer).unwrap() {
                received.push(message);
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(received, messages);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn a_truncated_frame_is_waited_for(message in strategies::response(), cut in any::<prop::sample::Index>()) {
        let whole = codec::encode(&message).unwrap();
        let mut buffer = whole[..cut.index(whole.len())].to_vec();
        let before = buffer.clone();
        prop_assert_eq!(codec::decode::<Response>(&mut buffer), Ok(None));
        prop_assert_eq!(buffer, before, "what has come is kept");
    }

    #[test]
    fn a_body_shorter_than_its_message_is_malformed(
        message in strategies::response(),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = codec::encode(&message).unwrap();
        let body = &whole[LENGTH_BYTES..];
        let result = codec::decode::<Response>(&mut frame(&body[..cut.index(body.len())]));
        prop_assert!(matches!(result, Err(CodecError::Malformed(_))), "{:?}", result);
    }

    #[test]
    fn a_body_longer_than_its_message_is_refused(message in strategies::response(), extra in vec(any::<u8>(), 1..9)) {
        let whole = codec::encode(&message).unwrap();
        let body = [&whole[LENGTH_BYTES..], &extra].concat();
        let result = codec::decode::<Response>(&mut frame(&body));
        prop_assert_eq!(result, Err(CodecError::Trailing(extra.len())));
    }
}

#[test]
fn an_oversized_frame_is_refused_by_its_header_alone() {
    for length in [MAX_FRAME_BYTES + 1, u32::MAX as usize] {
        let mut header = u32::try_from(length).unwrap().to_le_bytes().to_vec();
        assert_eq!(
            codec::decode::<Response>(&mut header),
            Err(CodecError::TooLarge(length))
        );
    }
    let mut largest = u32::try_from(MAX_FRAME_BYTES).unwrap().to_le_bytes().to_vec();
    assert_eq!(
        codec::decode::<Response>(&mut largest),
        Ok(None),
        "the largest frame is waited for"
    );
}

/// Discriminant, kind and length prefix of a [`ToSupervisor::Rejected`] with so long a message.
const REJECTED_OVERHEAD: usize = 1 + 1 + "other".len() + 5;

#[test]
fn the_largest_message_fits_and_one_byte_more_does_not() {
    let reason = "x".repeat(MAX_FRAME_BYTES - REJECTED_OVERHEAD);
    let fits = ToSupervisor::Rejected(ErrorKind::Other.because(reason.clone()));
    let mut frame = codec::encode(&fits).unwrap();
    assert_eq!(frame.len(), LENGTH_BYTES + MAX_FRAME_BYTES);
    assert_eq!(codec::decode(&mut frame), Ok(Some(fits)));
    let too_large = ToSupervisor::Rejected(ErrorKind::Other.because(reason + "x"));
    assert_eq!(
        codec::encode(&too_large),
        Err(CodecError::TooLarge(MAX_FRAME_BYTES + 1))
    );
}

#[test]
fn an_empty_body_is_malformed() {
    let result = codec::decode::<ToBroker>(&mut frame(&[]));
    assert!(matches!(result, Err(CodecError::Malformed(_))), "{result:?}");
}
