//! The answer to a query: a pure function of the query and the names.

use std::net::{IpAddr, Ipv4Addr};

use imsup_wire::address::Plane;
use simple_dns::rdata::{A, AAAA, PTR, RData};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

use super::Names;

/// How long an answer may be kept, in seconds: transient hosts come and go.
const TTL: u32 = 5;

/// The largest answer over UDP to a client that does not state its limit (RFC 1035, section 2.3.4).
const PLAIN_UDP_BYTES: usize = 512;

/// The treatment of a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The answer is known.
    Answer {
        /// The answer.
        bytes: Vec<u8>,
        /// Hosts that the look-up boots.
        wake: Vec<Ipv4Addr>,
    },
    /// The name is not of the project: the query goes to another server.
    Forward,
    /// The packet is not a query.
    Ignore,
}

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Udp,
    Tcp,
}

/// Decides the treatment of a query from this address.
pub(super) fn decide(query: &[u8], names: &Names, search: &[String], over: Over, asker: IpAddr) -> Decision {
    const HEADER_BYTES: usize = 12;
    if query.len() < HEADER_BYTES {
        return Decision::Ignore;
    }
    let Ok(packet) = Packet::parse(query) else {
        // The query may be newer than the codec.
        return Decision::Forward;
    };
    if packet.has_flags(PacketFlag::RESPONSE) {
        return Decision::Ignore;
    }
    let [question] = packet.questions.as_slice() else {
        return Decision::Forward;
    };
    if packet.opcode() != OPCODE::StandardQuery {
        return Decision::Forward;
    }
    let asked = question.qname.to_string();
    if let Some(address) = reversed(&asked) {
        return match names.planes.place(address) {
            Some(place) if place.plane == Plane::Vip => match names.name_of(address) {
                Some(name) => answer(
                    &packet,
                    pointer(&question.qname, name, question.qtype),
                    RCODE::NoError,
                    over,
                    &[],
                ),
                None => answer(&packet, Vec::new(), RCODE::NameError, over, &[]),
            },
            _ => Decision::Forward,
        };
    }
    if let Some(addresses) = names.extra_of(&asked, asker) {
        let records = addresses
            .iter()
            .filter_map(|address| of_address(*address, question.qtype));
        let record = |data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data);
        return answer(&packet, records.map(record).collect(), RCODE::NoError, over, &[]);
    }
    let Some(addresses) = names.take_turns(&asked, search, asker) else {
        return Decision::Forward;
    };
    let is_a = matches!(question.qtype, QTYPE::TYPE(TYPE::A) | QTYPE::ANY);
    let wake: Vec<Ipv4Addr> = match is_a {
        true => addresses
            .iter()
            .copied()
            .filter(|address| names.prefetched.contains(address))
            .collect(),
        false => Vec::new(),
    };
    let records = addresses.iter().filter(|_| is_a).map(|address| {
        let data = RData::A(A {
            address: u32::from(*address),
        });
        ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data)
    });
    // A name that exists and has no record of that type: no error, no answer (AAAA, so that callers
    // take the A).
    answer(&packet, records.collect(), RCODE::NoError, over, &wake)
}

/// An address as an answer to a question of this type.
fn of_address(address: IpAddr, kind: QTYPE) -> Option<RData<'static>> {
    match address {
        IpAddr::V4(four) if matches!(kind, QTYPE::TYPE(TYPE::A) | QTYPE::ANY) => {
            Some(RData::A(A { address: four.into() }))
        }
        IpAddr::V6(six) if matches!(kind, QTYPE::TYPE(TYPE::AAAA) | QTYPE::ANY) => {
            Some(RData::AAAA(AAAA { address: six.into() }))
        }
        _ => None,
    }
}

/// The answer if no server could be asked.
pub(super) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let packet = Packet::parse(query).ok()?;
    match answer(&packet, Vec::new(), RCODE::ServerFailure, Over::Udp, &[]) {
        Decision::Answer { bytes, .. } => Some(bytes),
        Decision::Forward | Decision::Ignore => None,
    }
}

fn pointer<'a>(owner: &Name<'a>, name: &'a str, kind: QTYPE) -> Vec<ResourceRecord<'a>> {
    let wanted = matches!(kind, QTYPE::TYPE(TYPE::PTR) | QTYPE::ANY);
    Name::new(name)
        .ok()
        .filter(|_| wanted)
        .map(|name| ResourceRecord::new(owner.clone(), CLASS::IN, TTL, RData::PTR(PTR(name))))
        .into_iter()
        .collect()
}

fn answer(
    query: &Packet<'_>,
    records: Vec<ResourceRecord<'_>>,
    code: RCODE,
    over: Over,
    wake: &[Ipv4Addr],
) -> Decision {
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    if code != RCODE::ServerFailure {
        reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    }
    *reply.rcode_mut() = code;
    reply.questions.clone_from(&query.questions);
    reply.answers = records;
    let limit = match over {
        Over::Tcp => usize::from(u16::MAX),
        Over::Udp => query.opt().map_or(PLAIN_UDP_BYTES, |opt| {
            usize::from(opt.udp_packet_size).max(PLAIN_UDP_BYTES)
        }),
    };
    let mut bytes = reply.build_bytes_vec_compressed();
    if bytes.as_ref().is_ok_and(|bytes| bytes.len() > limit) {
        reply.answers.clear();
        reply.set_flags(PacketFlag::TRUNCATION);
        bytes = reply.build_bytes_vec_compressed();
    }
    match bytes {
        Ok(bytes) => Decision::Answer {
            bytes,
            wake: wake.to_vec(),
        },
        Err(_) => Decision::Ignore,
    }
}

/// The address that a name under `in-addr.arpa` stands for.
fn reversed(name: &str) -> Option<Ipv4Addr> {
    let lower = name.to_ascii_lowercase();
    let mut bytes: Vec<u8> = lower
        .strip_suffix(".in-addr.arpa")?
        .split('.')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    bytes.reverse();
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::Question;

    use super::super::tests::{OUTSIDE, names};
    use super::*;

    fn query(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(0x1234);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        packet
            .questions
            .push(Question::new(name, kind.into(), CLASS::IN.into(), false));
        packet.build_bytes_vec().unwrap()
    }

    fn answered(name: &str, kind: TYPE) -> (RCODE, Vec<String>, Vec<Ipv4Addr>) {
        let Decision::Answer { bytes, wake } = decide(&query(name, kind), &names(), &[], Over::Udp, OUTSIDE) else {
            panic!("{name} must be answered");
        };
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.id(), 0x1234);
        assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
        assert_eq!(
            packet.questions[0].qname.to_string(),
            name,
            "the question is repeated as it came"
        );
        let records = packet.answers.iter().map(|record| match &record.rdata {
            RData::A(a) => Ipv4Addr::from(a.address).to_string(),
            RData::PTR(ptr) => ptr.0.to_string(),
            other => panic!("{other:?}"),
        });
        (packet.rcode(), records.collect(), wake)
    }

    #[test]
    fn hosts_have_an_address_and_nothing_else() {
        let (code, records, wake) = answered("Web-1", TYPE::A);
        assert_eq!(
            (code, records, wake),
            (RCODE::NoError, vec!["127.77.5.1".to_owned()], vec![])
        );
        let (code, records, _) = answered("web-1.shop", TYPE::AAAA);
        assert_eq!((code, records), (RCODE::NoError, vec![]));
        assert_eq!(answered("web", TYPE::A).1.len(), 2);
    }

    #[test]
    fn a_look_up_wakes_who_asked_for_that() {
        assert_eq!(answered("db", TYPE::A).2, [Ipv4Addr::new(127, 77, 5, 3)]);
        assert!(answered("db", TYPE::AAAA).2.is_empty());
    }

    #[test]
    fn addresses_have_names() {
        let (code, records, _) = answered("3.5.77.127.in-addr.arpa", TYPE::PTR);
        assert_eq!((code, records), (RCODE::NoError, vec!["db".to_owned()]));
        assert_eq!(answered("9.9.77.127.in-addr.arpa", TYPE::PTR).0, RCODE::NameError);
    }

    #[test]
    fn what_is_no_name_of_the_project_is_somebody_elses() {
        for name in ["example.com", "dbx", "1.0.0.127.in-addr.arpa"] {
            assert_eq!(
                decide(&query(name, TYPE::A), &names(), &[], Over::Udp, OUTSIDE),
                Decision::Forward
            );
        }
        let failed = failure(&query("example.com", TYPE::A)).unwrap();
        assert_eq!(Packet::parse(&failed).unwrap().rcode(), RCODE::ServerFailure);
    }

    #[test]
    fn an_answer_too_large_for_udp_says_so() {
        let mut names = names();
        for low in 10..200 {
            names.add_host(
                &format!("r-{low}"),
                &["many".to_owned()],
                Ipv4Addr::new(127, 77, 6, low),
            );
        }
        let Decision::Answer { bytes, .. } = decide(&query("many", TYPE::A), &names, &[], Over::Udp, OUTSIDE) else {
            panic!("not answered");
        };
        let packet = Packet::parse(&bytes).unwrap();
        assert!(packet.has_flags(PacketFlag::TRUNCATION) && packet.answers.is_empty());
        let Decision::Answer { bytes, .. } = decide(&query("many", TYPE::A), &names, &[], Over::Tcp, OUTSIDE) else {
            panic!("not answered");
        };
        assert_eq!(Packet::parse(&bytes).unwrap().answers.len(), 190);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            decide(&bytes, &names(), &[], Over::Udp, OUTSIDE);
            failure(&bytes);
        }

        #[test]
        fn damaged_queries_are_survived(at in 0usize..40, value in any::<u8>()) {
            let mut bytes = query("web.shop", TYPE::A);
            let place = at % bytes.len();
            bytes[place] = value;
            decide(&bytes, &names(), &[], Over::Udp, OUTSIDE);
        }
    }
}
