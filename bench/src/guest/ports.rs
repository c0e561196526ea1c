//! The ports of `serve`.

use std::ops::RangeInclusive;

/// Sends every byte back.
pub const PING: u16 = 7001;
/// Receives as many bytes as requested, then reports that.
pub const BULK: u16 = 7002;
/// Greets; for blocking sockets.
pub const BLOCKING: u16 = 7003;
/// Greets; for non-blocking clients.
pub const NON_BLOCKING: u16 = 7004;
/// Accepts and closes.
pub const RATE: u16 = 7005;
/// Sends every datagram back.
pub const ECHO_DATAGRAMS: u16 = 7006;
/// Takes datagrams in.
pub const TAKE_DATAGRAMS: u16 = 7007;
/// Greet too; connected to in turn. There are more of them than a supervisor remembers endpoints
/// that answered lately (256), so that each connect is as slow as the first.
pub const ROTATION: RangeInclusive<u16> = 7100..=7499;

/// As compose's `expose` has them.
pub fn exposed() -> [String; 3] {
    let range = |from: u16, to: u16| format!("{from}-{to}");
    [
        range(PING, RATE),
        range(*ROTATION.start(), *ROTATION.end()),
        range(ECHO_DATAGRAMS, TAKE_DATAGRAMS) + "/udp",
    ]
}
