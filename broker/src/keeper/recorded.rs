//! What was recorded of the messages of each version (`testdata/wire/`), and peers of other
//! versions.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use imsup_protocol::version::{OURS, Versions};
use imsup_wire::{Endpoint, Transport};

use super::attempts::Attempts;
use super::message::{self, Message};
use super::names::What;
use super::process::{Ended, Store};
use super::restored::{RestoreError, Restored};

/// What each recorded message means, and what the name of a stored descriptor stands for.
fn samples() -> BTreeMap<&'static str, (Message, Option<What>)> {
    let vip = Ipv4Addr::new(127, 77, 3, 2);
    let store = |name: &str, what| (Message::Store(name.to_owned()), Some(what));
    let retained = |endpoint, tentative| What::Retained { endpoint, tentative };
    let server = SocketAddrV4::new(Ipv4Addr::new(127, 78, 3, 0), 1053);
    BTreeMap::from([
        ("hello", (Message::Hello(Versions::new(5, 7).unwrap()), None)),
        ("store-cluster", store("cluster 1", What::Cluster)),
        (
            "store-block",
            store("block udp 127.78.3.0 1053 2", What::Block(Transport::Udp, server)),
        ),
        (
            "store-retained",
            store("tcp 127.77.3.2 6379 3", retained(Endpoint::tcp(vip, 6379), false)),
        ),
        (
            "store-tentative",
            store(
                "tentative udp 127.77.3.2 514 4",
                retained(Endpoint::udp(vip, 514), true),
            ),
        ),
        (
            "store-published",
            store("published 127.77.3.2 2 5", What::Published { vip, place: 2 }),
        ),
        ("store-output", store("output 127.77.3.2 7", What::Output { vip })),
        (
            "store-resolvers",
            store("resolvers 3 6", What::Resolvers { namespace: 3 }),
        ),
        (
            "store-several",
            (
                Message::StoreAll(vec!["cluster 1".to_owned(), "tcp 127.77.3.2 6379 3".to_owned()]),
                None,
            ),
        ),
        ("remove", (Message::Remove("tcp 127.77.3.2 6379 3".to_owned()), None)),
        ("barrier", (Message::Barrier, None)),
        ("ready", (Message::Ready, None)),
        ("stopping", (Message::Stopping, None)),
        ("hand-over", (Message::HandOver, None)),
        ("retake-lock", (Message::RetakeLock, None)),
    ])
}

/// The texts that were recorded of a version: `NAME TEXT` a line, in which `\\n` is the end of a
/// line.
fn recorded(version: u16) -> BTreeMap<String, String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../testdata/wire/v{version}/keeper.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &str| {
        let (name, text) = line.split_once(' ').unwrap();
        (name.to_owned(), text.replace("\\n", "\n"))
    };
    lines.map(read).collect()
}

#[test]
fn what_was_recorded_of_any_version_is_understood() {
    let samples = samples();
    for version in OURS.all() {
        for (name, text) in recorded(version) {
            let (message, what) = &samples[name.as_str()];
            assert_eq!(Message::parse(&text).as_ref(), Some(message), "v{version}: {name}");
            if let (Message::Store(stored), Some(what)) = (message, what) {
                assert_eq!(What::of(stored), Some(*what), "v{version}: {name}");
            }
        }
    }
}

#[test]
fn what_is_said_is_what_was_recorded_of_the_latest_version() {
    let said = samples().into_iter();
    let said: BTreeMap<String, String> = said
        .map(|(name, (message, _))| (name.to_owned(), message.text()))
        .collect();
    assert_eq!(said, recorded(OURS.highest()));
}

/// Both ends of a connection, after the first has said this.
fn after(said: &[Message]) -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = message::pair().unwrap();
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    for message in said {
        let count = match message {
            Message::Store(_) => 1,
            Message::StoreAll(names) => names.len(),
            _ => 0,
        };
        message::send(&ours, message, &vec![file.as_fd(); count]).unwrap();
    }
    (ours, theirs)
}

fn newer() -> Message {
    Message::Hello(Versions::new(OURS.highest() + 1, OURS.highest() + 2).unwrap())
}

fn wider() -> Message {
    Message::Hello(Versions::new(OURS.lowest(), OURS.highest() + 2).unwrap())
}

fn stored() -> Message {
    Message::Store("cluster 1".to_owned())
}

#[test]
fn a_keeper_serves_who_speaks_a_version_of_its_own_and_says_why_it_does_not() {
    let serve = |said: &[Message]| {
        let (broker, keeper) = after(said);
        drop(broker);
        Store::default().serve(&keeper, &mut Attempts::default(), || {})
    };
    assert_eq!(serve(&[wider(), stored()]).unwrap(), Ended::Died);
    assert_eq!(serve(&[wider(), stored(), Message::Stopping]).unwrap(), Ended::Stopped);
    let error = serve(&[newer(), stored()]).unwrap_err().to_string();
    assert!(error.contains(&OURS.to_string()), "{error}");
    assert!(serve(&[stored()]).unwrap_err().to_string().contains("older"));
}

#[test]
fn a_broker_takes_the_place_of_another_if_it_speaks_a_version_of_the_keepers() {
    let receive = |said: &[Message]| {
        let (keeper, broker) = after(said);
        drop(keeper);
        Restored::receive(broker, None)
    };
    assert_eq!(receive(&[wider(), stored(), Message::Ready]).unwrap().fds.len(), 1);
    let several = Message::StoreAll(vec!["cluster 1".to_owned(), "published 127.77.3.2 2 5".to_owned()]);
    assert_eq!(receive(&[wider(), several, Message::Ready]).unwrap().fds.len(), 2);
    let refused = |said: &[Message]| receive(said).unwrap_err();
    assert!(matches!(refused(&[newer(), Message::Ready]), RestoreError::Versions(_)));
    assert!(matches!(refused(&[stored(), Message::Ready]), RestoreError::NoHello));
    assert!(matches!(refused(&[wider(), stored()]), RestoreError::Ended));
}
