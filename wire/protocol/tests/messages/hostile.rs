//! Bytes from a peer that means harm, or is of another version.

use imsup_protocol::codec::{self, CodecError, MAX_FRAME_BYTES};
use imsup_protocol::control::Opening;
use imsup_protocol::{Request, Response, ToBroker, ToSupervisor};
use imsup_wire::{ErrorKind, Index};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::DeserializeOwned;

use crate::{frame, variants};

/// What decoding one frame may have allocated at a time on the sender's word alone: bincode takes
/// up to eight frames for a string, serde up to 1 MiB for a sequence (`serde::de::size_hint`), and
/// a message has few of them within each other.
const ON_TRUST_BYTES: u64 = 12 * MAX_FRAME_BYTES as u64;

/// And for each byte that did come: the largest element for its wire size is an empty string, 24
/// bytes for one, in a vector that doubles, whose old and new half exist together while it grows.
const PER_BYTE: u64 = 72;

/// Decodes with every decoder, and returns the most that one of them had allocated at a time.
fn decode_all(frame: &[u8]) -> u64 {
    fn one<M: DeserializeOwned>(frame: &[u8]) -> u64 {
        let mut buffer = frame.to_vec();
        let info = allocation_counter::measure(|| {
            let _ = codec::decode::<M>(&mut buffer);
        });
        info.bytes_max
    }
    [
        one::<Opening>(frame),
        one::<ToBroker>(frame),
        one::<ToSupervisor>(frame),
        one::<Request>(frame),
        one::<Response>(frame),
    ]
    .into_iter()
    .max()
    .expect("there are decoders")
}

fn bound(frame: &[u8]) -> u64 {
    ON_TRUST_BYTES + PER_BYTE * frame.len() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn random_streams_neither_panic_nor_allocate_beyond_the_bound(bytes in vec(any::<u8>(), 0..2048)) {
        prop_assert!(decode_all(&bytes) <= bound(&bytes));
    }

    /// Bodies that begin like a message, so that the decoders get far.
    #[test]
    fn random_bodies_neither_panic_nor_allocate_beyond_the_bound(
        first in 0..18_u8,
        second in 0..18_u8,
        rest in vec(prop_oneof![0..4_u8, 250..=255_u8, any::<u8>()], 0..256),
    ) {
        let frame = frame(&[&[first, second], &rest[..]].concat());
        prop_assert!(decode_all(&frame) <= bound(&frame));
    }
}

/// The variant of [`Response::Error`].
const ERROR: u8 = 7;

/// bincode's marker of a length in the next eight bytes.
const U64_FOLLOWS: u8 = 253;

/// A length prefix that promises more than will come.
fn promise(length: u64) -> Vec<u8> {
    [&[U64_FOLLOWS], &length.to_le_bytes()[..]].concat()
}

#[test]
fn promised_lengths_are_not_believed() {
    const RESOLVE: u8 = 3;
    const EVENTS: u8 = 4;
    for length in [
        MAX_FRAME_BYTES as u64,
        MAX_FRAME_BYTES as u64 + 1,
        u64::from(u32::MAX),
        u64::MAX,
    ] {
        for head in [&[RESOLVE][..], &[EVENTS, 0][..]] {
            let frame = frame(&[head, &promise(length)].concat());
            let result = codec::decode::<Request>(&mut frame.clone());
            assert!(matches!(result, Err(CodecError::Malformed(_))), "{length}: {result:?}");
            assert!(decode_all(&frame) <= bound(&frame), "{length}");
        }
    }
}

#[test]
fn the_worst_whole_frame_stays_within_the_bound() {
    // A Hello whose argv is nothing but empty strings, as many as a frame holds.
    let head = [0, 0, 1];
    let count = MAX_FRAME_BYTES - head.len() - 9 - 1;
    let body = [&head[..], &promise(count as u64), &vec![0; count], &[0]].concat();
    let frame = frame(&body);
    let Ok(Some(ToBroker::Hello { command, .. })) = codec::decode(&mut frame.clone()) else {
        panic!("it is a message");
    };
    assert_eq!(command.len(), count);
    assert!(decode_all(&frame) <= bound(&frame));
}

/// Bodies that are messages but for one value, each beside the same with a good value there.
#[test]
fn values_that_cannot_be_are_refused() {
    fn check<M: DeserializeOwned>(what: &str, bad: &[u8], good: &[u8]) {
        assert!(codec::decode::<M>(&mut frame(good)).is_ok(), "{what}: the counterpart");
        let refused = matches!(codec::decode::<M>(&mut frame(bad)), Err(CodecError::Malformed(_)));
        assert!(refused, "{what}");
    }
    const RESOLVE: u8 = 3;
    const EVENTS: u8 = 4;
    const STOP_HOSTS: u8 = 6;
    check::<Request>(
        "a host's name with a space",
        &[STOP_HOSTS, 1, 3, b'a', b' ', b'b'],
        &[STOP_HOSTS, 1, 3, b'a', b'-', b'b'],
    );
    check::<Request>(
        "a name that is no UTF-8",
        &[RESOLVE, 2, 0xc3, 0x28],
        &[RESOLVE, 2, 0xc3, 0xa8],
    );
    check::<Request>("a bool of 2", &[EVENTS, 2, 0], &[EVENTS, 1, 0]);
    const HOSTS: u8 = 1;
    check::<Request>("a variant that is none", &[variants::<Request>()], &[HOSTS]);
    const STOP_WITH_SIGTERM: [u8; 2] = [6, 30];
    const A_SECOND_IN_NANOS: [u8; 5] = [252, 0x00, 0xca, 0x9a, 0x3b];
    let grace = |seconds| [&STOP_WITH_SIGTERM[..], &promise(seconds), &A_SECOND_IN_NANOS].concat();
    check::<ToSupervisor>("a duration that overflows", &grace(u64::MAX), &grace(u64::MAX - 1));
}

#[test]
fn the_brokers_own_address_cannot_arrive_as_a_hosts_index() {
    for number in 0..=u16::MAX {
        let mut encoded = codec::encode(&number).unwrap();
        let decoded = codec::decode::<Index>(&mut encoded).ok().flatten();
        assert_eq!(decoded, Index::new(number));
    }
}

#[test]
fn a_kind_of_error_that_is_not_known_yet_is_another() {
    for kind in ["a-kind-to-come", "", "Unknown-Host"] {
        let length = u8::try_from(kind.len()).unwrap();
        let body = [&[ERROR, length], kind.as_bytes(), &[2, b'n', b'o']].concat();
        let error = codec::decode(&mut frame(&body));
        assert_eq!(
            error,
            Ok(Some(Response::Error(ErrorKind::Other.because("no")))),
            "{kind}"
        );
    }
}

#[test]
fn messages_of_a_version_that_knows_more_are_refused() {
    let after_the_last = variants::<ToBroker>();
    let unknown = codec::decode::<ToBroker>(&mut frame(&[after_the_last, 1, 2, 3]));
    assert!(matches!(unknown, Err(CodecError::Malformed(_))), "{unknown:?}");
    const SETTLED: u8 = 3;
    let longer = codec::decode::<ToBroker>(&mut frame(&[SETTLED, 1]));
    assert_eq!(longer, Err(CodecError::Trailing(1)));
}

#[test]
fn a_stream_that_is_not_ours_is_refused_at_once() {
    let mut http = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    let length = u32::from_le_bytes(*b"GET ") as usize;
    assert_eq!(codec::decode::<Opening>(&mut http), Err(CodecError::TooLarge(length)));
}
