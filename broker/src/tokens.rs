//! The subjects of the loop's events.

use mio::Token;
use slotmap::{Key, KeyData};

use crate::ids::{InstanceId, SessionId, SocketId};

/// A descriptor that the loop waits for.
///
/// Sessions, sockets and instances are named by their keys, whose generations are part of the token: an
/// event that was queued before a descriptor was closed is not taken for one of the descriptor that
/// has taken its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The socket that supervisors and clients connect to.
    Listener,
    /// Signals, by their pipe.
    Signals,
    /// Messages of other threads.
    LoopMessages,
    /// A connection of a supervisor or client.
    Session(SessionId),
    /// A retained socket.
    Socket(SocketId),
    /// A supervisor's pidfd, by instance.
    Ended(InstanceId),
    /// The project's files.
    Files(u32),
    /// The connection to the keeper.
    Keeper,
    /// The end of a pipe that the keeper closes after the earlier messages were carried out.
    Barrier(u32),
    /// The connection to the zygote.
    Zygote,
    /// The networks that the project shares with others.
    Networks,
    /// A check of a host's health.
    Check(u32),
    /// The pidfd of a command's supervisor that has hung up.
    Orphaned(u32),
}

/// Where a token has its kind: the bits of a key's slot that are never set, since descriptors are
/// fewer than 2^28.
const KIND_SHIFT: u32 = 28;
const KIND_MASK: u64 = 0xf << KIND_SHIFT;

const _: () = assert!(usize::BITS == u64::BITS, "a token holds a whole key");

impl From<Source> for Token {
    fn from(source: Source) -> Self {
        let (kind, value) = match source {
            Source::Listener => (0, 0),
            Source::Signals => (1, 0),
            Source::LoopMessages => (2, 0),
            Source::Session(id) => (3, id.data().as_ffi()),
            Source::Socket(id) => (4, id.data().as_ffi()),
            Source::Ended(id) => (5, id.data().as_ffi()),
            Source::Files(number) => (6, u64::from(number) << 32),
            Source::Keeper => (7, 0),
            Source::Barrier(number) => (8, u64::from(number) << 32),
            Source::Zygote => (9, 0),
            Source::Orphaned(number) => (10, u64::from(number) << 32),
            Source::Networks => (11, 0),
            Source::Check(number) => (12, u64::from(number) << 32),
        };
        assert_eq!(value & KIND_MASK, 0, "descriptors are fewer than 2^28");
        Self((value | kind << KIND_SHIFT) as usize)
    }
}

impl Source {
    /// The kind and number of a token.
    pub(crate) fn of(token: Token) -> Option<Self> {
        let token = token.0 as u64;
        let key = || KeyData::from_ffi(token & !KIND_MASK);
        let number = (token >> 32) as u32;
        Some(match (token & KIND_MASK) >> KIND_SHIFT {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::LoopMessages,
            3 => Self::Session(key().into()),
            4 => Self::Socket(key().into()),
            5 => Self::Ended(key().into()),
            6 => Self::Files(number),
            7 => Self::Keeper,
            8 => Self::Barrier(number),
            9 => Self::Zygote,
            10 => Self::Orphaned(number),
            11 => Self::Networks,
            12 => Self::Check(number),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn tokens_are_read_back() {
        let mut sessions = SlotMap::<SessionId, ()>::with_key();
        let mut sockets = SlotMap::<SocketId, ()>::with_key();
        let mut instances = SlotMap::<InstanceId, ()>::with_key();
        for _ in 0..1000 {
            let sources = [
                Source::Listener,
                Source::Signals,
                Source::LoopMessages,
                Source::Session(sessions.insert(())),
                Source::Socket(sockets.insert(())),
                Source::Ended(instances.insert(())),
                Source::Files(u32::MAX),
                Source::Keeper,
                Source::Barrier(u32::MAX),
                Source::Zygote,
                Source::Orphaned(u32::MAX),
                Source::Networks,
                Source::Check(u32::MAX),
            ];
            for source in sources {
                assert_eq!(Source::of(source.into()), Some(source));
            }
        }
        assert_eq!(Source::of(Token(usize::MAX)), None);
    }

    #[test]
    fn a_slot_that_is_used_again_has_another_token() {
        let mut sockets = SlotMap::<SocketId, ()>::with_key();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let id = sockets.insert(());
            let token = Token::from(Source::Socket(id));
            assert!(seen.insert(token), "{token:?}");
            sockets.remove(id);
            let Some(Source::Socket(stale)) = Source::of(token) else {
                panic!("{token:?} is no socket's");
            };
            sockets.insert(());
            assert!(sockets.get(stale).is_none(), "an event for a removed socket");
            sockets.clear();
        }
    }
}
