//! The name server that a program asked over TCP. Its connection is redirected to the project's
//! name server, and the supervisor names the asked server in a first message of the connection.

use std::net::{IpAddr, Ipv6Addr};

/// Precedes the address. As a message to a name server (RFC 1035, section 4.1.1) this would be an
/// answer, so no program's question begins so.
const MAGIC: [u8; 12] = *b"\0\0\xff\xffasked-ip";

/// The message, preceded by its length (RFC 1035, section 4.2.2).
pub fn frame(server: IpAddr) -> Vec<u8> {
    let address = match server {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let message = [&MAGIC[..], &address.octets()].concat();
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], &message].concat()
}

/// The name server of a message without its length; `None` for any other message.
pub fn parse(message: &[u8]) -> Option<IpAddr> {
    let address: [u8; 16] = message.strip_prefix(&MAGIC)?.try_into().ok()?;
    Some(Ipv6Addr::from(address).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for server in ["10.0.0.1", "2001:db8::1", "::1", "127.0.0.53"] {
            let server: IpAddr = server.parse().unwrap();
            let frame = frame(server);
            assert_eq!(usize::from(u16::from_be_bytes([frame[0], frame[1]])), frame.len() - 2);
            assert_eq!(parse(&frame[2..]), Some(server));
            assert_eq!(parse(&frame[2..frame.len() - 1]), None);
        }
        assert_eq!(parse(&[0; 28]), None);
    }
}
