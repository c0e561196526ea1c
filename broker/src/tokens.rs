//! What an event of the loop is about.

use mio::Token;

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The socket that supervisors and clients connect to.
    Listener,
    /// Signals, by their pipe.
    Signals,
    /// Other threads have sent something.
    Notices,
    /// A connection of a supervisor or client.
    Session,
    /// A retained socket.
    Socket,
    /// A supervisor's pidfd, by host.
    Ended,
    /// The project's files.
    Files,
    /// The connection to the keeper.
    Keeper,
    /// What the keeper closes once it has done what it was told.
    Barrier,
    /// The connection to the zygote.
    Zygote,
    /// The pidfd of a command's supervisor that has hung up.
    Orphaned,
}

const KINDS: [Kind; 11] = [
    Kind::Listener,
    Kind::Signals,
    Kind::Notices,
    Kind::Session,
    Kind::Socket,
    Kind::Ended,
    Kind::Files,
    Kind::Keeper,
    Kind::Barrier,
    Kind::Zygote,
    Kind::Orphaned,
];

/// The token of descriptor `number` of this kind.
pub(crate) fn token(kind: Kind, number: u32) -> Token {
    Token((kind as usize) << 32 | number as usize)
}

/// What a token is of.
pub(crate) fn parse(token: Token) -> Option<(Kind, u32)> {
    let number = u32::try_from(token.0 & 0xffff_ffff).ok()?;
    Some((*KINDS.get(token.0 >> 32)?, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back() {
        for kind in KINDS {
            assert_eq!(parse(token(kind, u32::MAX)), Some((kind, u32::MAX)));
        }
        assert_eq!(parse(Token(usize::MAX)), None);
    }
}
