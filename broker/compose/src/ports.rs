//! `ports` and `expose`: `[IP:][MACHINE[-LAST]:]PORT[-LAST][/tcp|udp]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use imsup_wire::Transport;

/// Why text is not taken as a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's message says what its fields are")]
pub enum PortError {
    /// The text has another form.
    #[error(
        "'{0}' is no port: write PORT, MACHINE:PORT or IP:MACHINE:PORT, with /udp behind it where needed, \
         for example \"8080:80\" or \"127.0.0.1:5353:53/udp\""
    )]
    Malformed(String),
    /// Not from 1 to 65535.
    #[error("port {0} does not exist: ports are 1 to 65535")]
    Number(String),
    /// A range that ends before it begins.
    #[error("the range {0} ends before it begins")]
    Backwards(String),
    /// Two ranges of different lengths.
    #[error("the ranges {machine} and {target} differ in length: each port of the machine leads to one of the host's")]
    Lengths { machine: String, target: String },
    /// A transport that imsup has not.
    #[error("'{0}' is not supported: use tcp or udp")]
    Transport(String),
    /// The machine's address is malformed.
    #[error("'{0}' is no address of the machine: write an IPv4 address, or an IPv6 address in brackets")]
    Address(String),
    /// `expose` with more than a port.
    #[error("'{0}' publishes a port of the machine: 'expose' takes the host's own port alone; use 'ports'")]
    ExposePublishes(String),
    /// The machine's address is one of the hosts'.
    #[error("{0} is an address of the hosts, not of the machine: they are reached there without 'ports'")]
    HostAddress(Ipv4Addr),
}

/// One or more consecutive ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub first: u16,
    pub last: u16,
}

impl Range {
    pub fn len(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    pub fn parse(text: &str) -> Result<Self, PortError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self {
            first: number(first, text)?,
            last: number(last, text)?,
        };
        if range.first > range.last {
            return Err(PortError::Backwards(text.to_owned()));
        }
        Ok(range)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

fn number(text: &str, whole: &str) -> Result<u16, PortError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        let negative = text.is_empty() && whole.starts_with('-') && whole[1..].bytes().all(|b| b.is_ascii_digit());
        return Err(if negative && whole.len() > 1 {
            PortError::Number(whole.to_owned())
        } else {
            PortError::Malformed(whole.to_owned())
        });
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(PortError::Number(text.to_owned())),
        Ok(port) => Ok(port),
    }
}

/// An entry of `ports`, before the division among replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The machine's address; all addresses if `None`.
    pub ip: Option<IpAddr>,
    /// The machine's port: any in this range; chosen by the kernel if `None`.
    pub machine: Option<Range>,
    /// The host's port.
    pub port: u16,
    pub transport: Transport,
}

/// The short form of an entry of `ports`.
pub(super) fn parse_short(text: &str) -> Result<Vec<Mapping>, PortError> {
    let text = text.trim();
    let (rest, transport) = split_transport(text)?;
    let (front, target) = match rest.rsplit_once(':') {
        Some((front, target)) => (Some(front), target),
        None => (None, rest),
    };
    let target = Range::parse(target).map_err(|error| whole(error, text))?;
    let (ip, machine) = match front.map(|front| front.rsplit_once(':').ok_or(front)) {
        None => (None, None),
        Some(Ok((ip, machine))) => (Some(ip), Some(machine)),
        Some(Err(machine)) => (None, Some(machine)),
    };
    // `:MACHINE:PORT` is any address, as variables leave behind that are not set.
    let ip = ip.filter(|ip| !ip.is_empty()).map(address).transpose()?;
    // `IP::PORT`, `:PORT` and `0:PORT` leave the machine's port to the kernel.
    let machine = machine
        .filter(|machine| !matches!(*machine, "" | "0"))
        .map(|machine| Range::parse(machine).map_err(|error| whole(error, text)))
        .transpose()?;
    mappings(ip, machine, target, transport)
}

/// Shows a malformed part within the whole text.
fn whole(error: PortError, text: &str) -> PortError {
    match error {
        PortError::Malformed(_) => PortError::Malformed(text.to_owned()),
        other => other,
    }
}

/// Pairs the machine's ports with the host's.
pub(super) fn mappings(
    ip: Option<IpAddr>,
    machine: Option<Range>,
    target: Range,
    transport: Transport,
) -> Result<Vec<Mapping>, PortError> {
    let entry = |machine, port| Mapping {
        ip,
        machine,
        port,
        transport,
    };
    let targets = target.first..=target.last;
    match machine {
        None => Ok(targets.map(|port| entry(None, port)).collect()),
        Some(range) if target.len() == 1 => Ok(vec![entry(Some(range), target.first)]),
        Some(range) if range.len() == target.len() => Ok(targets
            .zip(range.first..=range.last)
            .map(|(port, machine)| {
                let single = Range {
                    first: machine,
                    last: machine,
                };
                entry(Some(single), port)
            })
            .collect()),
        Some(range) => Err(PortError::Lengths {
            machine: range.to_string(),
            target: target.to_string(),
        }),
    }
}

/// An entry of `expose`.
pub(super) fn parse_expose(text: &str) -> Result<(Range, Transport), PortError> {
    let text = text.trim();
    let (rest, transport) = split_transport(text)?;
    if rest.contains(':') {
        return Err(PortError::ExposePublishes(text.to_owned()));
    }
    Ok((Range::parse(rest)?, transport))
}

fn split_transport(text: &str) -> Result<(&str, Transport), PortError> {
    match text.rsplit_once('/') {
        None => Ok((text, Transport::Tcp)),
        Some((rest, name)) => Ok((rest, transport(name)?)),
    }
}

/// A transport by its name.
pub(super) fn transport(name: &str) -> Result<Transport, PortError> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Transport::Tcp),
        "udp" => Ok(Transport::Udp),
        _ => Err(PortError::Transport(name.to_owned())),
    }
}

/// An address of the machine; IPv6 with or without brackets.
pub(super) fn address(text: &str) -> Result<IpAddr, PortError> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let ip: IpAddr = bare.parse().map_err(|_| PortError::Address(text.to_owned()))?;
    match ip {
        IpAddr::V4(v4) if v4.octets()[0] == 127 && (77..=79).contains(&v4.octets()[1]) => {
            Err(PortError::HostAddress(v4))
        }
        ip => Ok(ip),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Result<Vec<String>, PortError> {
        let show = |mapping: Mapping| {
            let ip = mapping.ip.map_or("*".to_owned(), |ip| ip.to_string());
            let machine = mapping.machine.map_or("?".to_owned(), |machine| machine.to_string());
            format!("{ip} {machine} {}/{}", mapping.port, mapping.transport)
        };
        parse_short(text).map(|mappings| mappings.into_iter().map(show).collect())
    }

    #[test]
    fn the_short_forms() {
        for (text, expected) in [
            ("80", &["* ? 80/tcp"][..]),
            ("8080:80", &["* 8080 80/tcp"]),
            ("127.0.0.1:8080:80/udp", &["127.0.0.1 8080 80/udp"]),
            ("[::1]:80:80", &["::1 80 80/tcp"]),
            ("::1:80:81", &["::1 80 81/tcp"]),
            ("0.0.0.0:8080:80/TCP", &["0.0.0.0 8080 80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1 ? 80/tcp"]),
            ("8000-8001:80-81", &["* 8000 80/tcp", "* 8001 81/tcp"]),
            ("8000-8009:80", &["* 8000-8009 80/tcp"]),
            ("80-81", &["* ? 80/tcp", "* ? 81/tcp"]),
            (":80", &["* ? 80/tcp"]),
            ("0:80", &["* ? 80/tcp"]),
            (":8080:80", &["* 8080 80/tcp"]),
            ("65535:65535", &["* 65535 65535/tcp"]),
        ] {
            assert_eq!(shown(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_named() {
        use PortError::*;
        for bad in ["", ":", "a", "80:", "8080:a", "80/", "1:2:3:4:x", "80-", "-"] {
            let error = parse_short(bad).unwrap_err();
            assert!(matches!(error, Malformed(_) | Transport(_)), "{bad:?}: {error:?}");
        }
        assert_eq!(shown("8080:0"), Err(Number("0".to_owned())));
        assert_eq!(shown("8080:65536"), Err(Number("65536".to_owned())));
        assert_eq!(shown("-1"), Err(Number("-1".to_owned())));
        assert_eq!(shown("80-79"), Err(Backwards("80-79".to_owned())));
        assert!(matches!(shown("8000-8002:80-81"), Err(Lengths { .. })));
        assert_eq!(shown("80/sctp"), Err(Transport("sctp".to_owned())));
        assert_eq!(shown("localhost:80:80"), Err(Address("localhost".to_owned())));
        assert!(matches!(shown("127.77.1.1:80:80"), Err(HostAddress(_))));
        assert!(matches!(parse_expose("8080:80"), Err(ExposePublishes(_))));
    }

    fn transports() -> impl Strategy<Value = Transport> {
        prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)]
    }

    fn ips() -> impl Strategy<Value = Option<IpAddr>> {
        prop_oneof![
            Just(None),
            (1..=126u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))),
            any::<[u16; 8]>().prop_map(|parts| Some(IpAddr::V6(parts.into()))),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            ip in ips(),
            machine in 1..=65000u16,
            port in 1..=65000u16,
            more in 0..500u16,
            transport in transports(),
        ) {
            let ranges = [machine, port].map(|first| Range { first, last: first + more });
            let ip_text = match ip {
                None => String::new(),
                Some(IpAddr::V4(ip)) => format!("{ip}:"),
                Some(IpAddr::V6(ip)) => format!("[{ip}]:"),
            };
            let text = format!("{ip_text}{}:{}/{transport}", ranges[0], ranges[1]);
            let mappings = parse_short(&text).unwrap();
            prop_assert_eq!(mappings.len(), usize::from(more) + 1);
            for (offset, mapping) in (0..).zip(mappings) {
                let one = Range { first: machine + offset, last: machine + offset };
                prop_assert_eq!(mapping, Mapping { ip, machine: Some(one), port: port + offset, transport });
            }
        }

        #[test]
        fn any_text_is_a_port_or_an_error(text in "[-0-9:./a-z\\[\\]]*") {
            let _ = parse_short(&text);
            let _ = parse_expose(&text);
        }
    }
}
