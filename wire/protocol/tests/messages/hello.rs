//! How connections begin: with peers of other versions, and with peers that are none.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use imsup_protocol::channel::{Channel, ChannelError};
use imsup_protocol::codec;
use imsup_protocol::control::Opening;
use imsup_protocol::version::{HELLO_BYTES, HelloError, MAGIC, MAX_SPAN, OURS, Versions};
use imsup_protocol::{Request, Response};

use crate::frame;

/// A range that ends so much later than this build's; it begins with this build's highest.
fn later(more: u16) -> Versions {
    Versions::new(OURS.highest(), OURS.highest() + more).unwrap()
}

/// A range of which this build speaks nothing.
fn newer() -> Versions {
    Versions::new(OURS.highest() + 1, OURS.highest() + 3).unwrap()
}

/// What a channel that was connected to makes of these bytes, which are all that the peer says, and
/// what it answers.
fn accepted(bytes: &[u8]) -> (Result<Option<Opening>, ChannelError>, Vec<u8>) {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    peer.write_all(bytes).unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    let mut channel = Channel::accepted(ours);
    let heard = channel.receive();
    drop(channel);
    let mut answer = Vec::new();
    // A reset: not all that was said was read.
    let _ = peer.read_to_end(&mut answer);
    (heard, answer)
}

fn request() -> Vec<u8> {
    codec::encode(&Opening::Control(Request::Hosts)).unwrap()
}

#[test]
fn a_peer_of_later_versions_is_understood_as_far_as_there_is_a_version_in_common() {
    for more in [0, 1, MAX_SPAN] {
        let bytes = [&later(more).to_hello()[..], &request()].concat();
        let (heard, _) = accepted(&bytes);
        assert_eq!(heard.unwrap(), Some(Opening::Control(Request::Hosts)));
    }
}

#[test]
fn the_first_message_goes_with_the_hello_and_so_does_the_answer() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let mut said = vec![0; 1024];
    let mut client = Channel::connected(ours);
    client.send(&Opening::Control(Request::Hosts), Vec::new()).unwrap();
    let length = peer.read(&mut said).unwrap();
    assert_eq!(said[..length], [&OURS.to_hello()[..], &request()].concat());

    let (mut peer, ours) = UnixStream::pair().unwrap();
    let mut broker = Channel::accepted(ours);
    peer.write_all(&[&OURS.to_hello()[..], &request()].concat()).unwrap();
    assert_eq!(broker.receive().unwrap(), Some(Opening::Control(Request::Hosts)));
    broker.send(&Response::Done, Vec::new()).unwrap();
    let length = peer.read(&mut said).unwrap();
    let done = codec::encode(&Response::Done).unwrap();
    assert_eq!(said[..length], [&OURS.to_hello()[..], &done].concat());
}

#[test]
fn who_waits_for_the_version_before_it_speaks_is_told() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.write_all(&later(1).to_hello()).unwrap();
    let mut channel = Channel::accepted(ours);
    assert_eq!(channel.version(), None);
    assert_eq!(channel.receive::<Opening>().unwrap(), None);
    assert_eq!(channel.version(), Some(OURS.highest()));
    let mut hello = [0; HELLO_BYTES];
    peer.read_exact(&mut hello).unwrap();
    assert_eq!(Versions::from_hello(&hello), Ok(Some(OURS)));
    peer.write_all(&request()).unwrap();
    assert_eq!(channel.receive().unwrap(), Some(Opening::Control(Request::Hosts)));
}

#[test]
fn a_peer_without_a_version_in_common_is_refused_and_both_know_why() {
    let bytes = [&newer().to_hello()[..], &request()].concat();
    let (heard, answer) = accepted(&bytes);
    let Err(ChannelError::Versions(known)) = heard else {
        panic!("{heard:?}");
    };
    assert_eq!((known.ours, known.theirs), (OURS, newer()));
    assert_eq!(Versions::from_hello(&answer), Ok(Some(OURS)), "the hello is the answer");

    let (mut peer, ours) = UnixStream::pair().unwrap();
    let mut client = Channel::connected(ours);
    client.send(&Opening::Control(Request::Down), Vec::new()).unwrap();
    peer.write_all(&newer().to_hello()).unwrap();
    let heard = client.receive::<Response>();
    assert!(matches!(heard, Err(ChannelError::Versions(known)) if known.theirs == newer()));
}

#[test]
fn what_is_no_hello_is_refused_at_once_and_not_answered() {
    let http = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    let damaged = [b"\xf5imsup\n\n", &OURS.to_hello()[8..], &request()].concat();
    for bytes in [b"\x01".to_vec(), http, request(), vec![0xff; 100_000], damaged] {
        let (heard, answer) = accepted(&bytes);
        assert!(
            matches!(heard, Err(ChannelError::Hello(HelloError::NoHello))),
            "{heard:?}"
        );
        assert!(answer.is_empty());
    }
}

#[test]
fn a_range_that_is_none_or_too_wide_is_refused_and_not_answered() {
    for (lowest, highest) in [(0_u16, 9_u16), (9, 1), (1, u16::MAX), (1, 2 + MAX_SPAN)] {
        let hello = [&MAGIC[..], &lowest.to_le_bytes(), &highest.to_le_bytes(), &request()].concat();
        let (heard, answer) = accepted(&hello);
        let refused = HelloError::NoRange { lowest, highest };
        assert!(
            matches!(&heard, Err(ChannelError::Hello(error)) if *error == refused),
            "{heard:?}"
        );
        assert!(answer.is_empty());
    }
}

#[test]
fn a_part_of_a_hello_is_the_end_and_no_more() {
    for length in 0..HELLO_BYTES {
        let (heard, answer) = accepted(&OURS.to_hello()[..length]);
        assert!(matches!(heard, Err(ChannelError::Closed)), "{heard:?}");
        assert!(answer.is_empty());
    }
}

/// Bytes one by one are the same as all at once; nothing is said before the hello is whole.
#[test]
fn a_hello_may_come_in_pieces() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    let mut channel = Channel::accepted(ours);
    for byte in OURS.to_hello() {
        assert!(peer.read(&mut [0]).is_err(), "nothing has been said yet");
        peer.write_all(&[byte]).unwrap();
        assert_eq!(channel.receive::<Opening>().unwrap(), None);
    }
    assert_eq!(channel.version(), Some(OURS.highest()));
}

/// As the frames of version 4 were: `Opening::Control` and `ToBroker::Hello`, with a version in
/// them and no hello before.
#[test]
fn version_4_is_refused_in_its_own_words() {
    const ERROR: u8 = 7;
    const REJECTED: u8 = 1;
    let hosts = frame(&[1, 4, 1]);
    let hello = frame(&[0, 0, 4, 1, 3, b'w', b'e', b'b', 1, 0, 0]);
    for (bytes, variant) in [(hosts, ERROR), (hello, REJECTED)] {
        let (heard, mut answer) = accepted(&bytes);
        let Err(ChannelError::Versions(known)) = heard else {
            panic!("{heard:?}");
        };
        assert_eq!(known.theirs, Versions::new(4, 4).unwrap());
        let (said, message): (u8, String) = codec::decode(&mut answer).unwrap().unwrap();
        assert_eq!(said, variant);
        for part in [OURS.to_string(), "version 4".to_owned(), "imsup up".to_owned()] {
            assert!(message.contains(&part), "{message}");
        }
    }
}

#[test]
fn descriptors_that_come_with_the_hello_are_kept_for_their_message() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut client = Channel::connected(ours);
    let mut broker = Channel::accepted(theirs);
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    client.send(&Request::Hosts, vec![file]).unwrap();
    assert_eq!(broker.receive().unwrap(), Some(Request::Hosts));
    assert_eq!(broker.take_fds(1).unwrap().len(), 1);
}
