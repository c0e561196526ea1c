//! Decisions about a host's sockets, without effects.

use imsup_lifecycle::After;

use crate::sockets::Family;

/// A retained socket whose program is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    /// The host has a program that can come next.
    pub(super) is_declared: bool,
    pub(super) is_tentative: bool,
    pub(super) after: After,
    /// The right family, if the socket has another: `Some(None)` for either family.
    pub(super) other_family: Option<Option<Family>>,
}

/// The fate of a socket whose program is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The socket is of no more use.
    GiveUp,
    /// Connections and datagrams wait in the socket for the next program.
    Keep {
        replacement: Replacement,
        /// Waiting connections are reset: no program comes for them.
        resets: bool,
    },
}

/// The socket that takes the place of one whose program is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// A listener of this family, or of either.
    OfFamily(Option<Family>),
    /// A datagram socket of both families if the program has left an empty IPv4 socket, else none.
    OfBoth,
}

pub(super) fn decide_left(left: Left) -> Fate {
    let is_retried = left.after == After::Retry;
    if !left.is_declared || (left.is_tentative && !is_retried) {
        return Fate::GiveUp;
    }
    Fate::Keep {
        replacement: left.other_family.map_or(Replacement::OfBoth, Replacement::OfFamily),
        resets: left.after == After::GaveUp,
    }
}

/// A socket on which a program listens, says its supervisor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    /// The socket is bound to the announced endpoint, which is the host's.
    pub(super) is_genuine: bool,
    /// The socket is retained already.
    pub(super) is_known: bool,
    pub(super) is_declared: bool,
    /// The host has no room for one more, or the broker has none.
    pub(super) is_full: bool,
    /// The host is being ended: a new listener takes over from the earlier listeners.
    pub(super) is_terminating: bool,
}

/// The decision about an announced socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adopted {
    /// The socket is not what the supervisor says.
    Refused,
    /// The socket is gone with the program. `for_room` is true if there is no room for the socket.
    Unretained { for_room: bool },
    /// The socket is retained.
    Retained {
        is_new: bool,
        /// The earlier sockets at the endpoint go with the program.
        is_successor: bool,
    },
}

pub(super) fn decide_announced(announced: Announced) -> Adopted {
    if !announced.is_genuine {
        return Adopted::Refused;
    }
    let is_new = !announced.is_known;
    if is_new && (!announced.is_declared || announced.is_full) {
        let for_room = announced.is_declared;
        return Adopted::Unretained { for_room };
    }
    Adopted::Retained {
        is_new,
        is_successor: announced.is_terminating,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Left = Left {
        is_declared: true,
        is_tentative: false,
        after: After::Retry,
        other_family: None,
    };

    fn kept(resets: bool) -> Fate {
        Fate::Keep {
            replacement: Replacement::OfBoth,
            resets,
        }
    }

    #[test]
    fn a_socket_without_a_next_program_is_given_up() {
        assert_eq!(decide_left(LEFT), kept(false));
        let of_transient = Left {
            is_declared: false,
            ..LEFT
        };
        assert_eq!(decide_left(of_transient), Fate::GiveUp);
        let of_caller = Left {
            is_tentative: true,
            ..LEFT
        };
        assert_eq!(decide_left(of_caller), kept(false), "the caller waits for the retry");
        let after = After::GaveUp;
        assert_eq!(decide_left(Left { after, ..of_caller }), Fate::GiveUp);
        assert_eq!(decide_left(Left { after, ..LEFT }), kept(true));
    }

    #[test]
    fn a_socket_of_the_wrong_family_is_replaced() {
        for family in [None, Some(Family::V4), Some(Family::V6)] {
            let left = Left {
                other_family: Some(family),
                ..LEFT
            };
            let replacement = Replacement::OfFamily(family);
            assert_eq!(
                decide_left(left),
                Fate::Keep {
                    replacement,
                    resets: false
                }
            );
        }
    }

    const ANNOUNCED: Announced = Announced {
        is_genuine: true,
        is_known: false,
        is_declared: true,
        is_full: false,
        is_terminating: false,
    };

    #[test]
    fn a_genuine_socket_of_a_declared_host_is_retained_if_there_is_room() {
        let retained = |is_new, is_successor| Adopted::Retained { is_new, is_successor };
        assert_eq!(decide_announced(ANNOUNCED), retained(true, false));
        let full = Announced {
            is_full: true,
            ..ANNOUNCED
        };
        assert_eq!(decide_announced(full), Adopted::Unretained { for_room: true });
        let known = Announced { is_known: true, ..full };
        assert_eq!(decide_announced(known), retained(false, false), "it has its room");
        let of_transient = Announced {
            is_declared: false,
            ..full
        };
        assert_eq!(decide_announced(of_transient), Adopted::Unretained { for_room: false });
        let forged = Announced {
            is_genuine: false,
            ..known
        };
        assert_eq!(decide_announced(forged), Adopted::Refused);
    }

    #[test]
    fn what_listens_while_the_host_is_ended_is_a_successor() {
        let late = Announced {
            is_terminating: true,
            ..ANNOUNCED
        };
        for is_known in [false, true] {
            let adopted = decide_announced(Announced { is_known, ..late });
            assert_eq!(
                adopted,
                Adopted::Retained {
                    is_new: !is_known,
                    is_successor: true
                }
            );
        }
    }
}
