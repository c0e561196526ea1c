//! The version of the messages that two processes speak.
//!
//! A broker and its supervisors can be of different builds: the binary is replaced while a project
//! runs. So each side begins a connection with a *hello*, which names the lowest and the highest
//! version that the side speaks. Both sides take the highest common version ([`agree`]).
//!
//! The layout of a hello never changes, so that any two builds can read each other's range:
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..10 | the lowest version, little-endian `u16`, at least 1 |
//! | 10..12 | the highest version, little-endian `u16`, from the lowest to [`MAX_SPAN`] above |
//!
//! Frames ([`crate::codec`]) follow.
//!
//! * The connecting side sends the hello and the first frames together, without waiting. Before the
//!   peer's hello has arrived, a side may say only messages that all versions of its own range
//!   share.
//! * The accepting side says nothing before a hello has arrived. Then this side sends a hello too,
//!   also if there is no common version, and closes the connection only after that. So each side
//!   knows both ranges, and can name both in an error.
//! * Version 4 had no hello. The first frame of version 4 is recognised (`refusal_of_version_4`),
//!   and refused in a frame of version 4.

use std::fmt;

use crate::codec;

/// The first bytes of a hello. Peers before version 5 read the length of a frame here, and refuse
/// the connection at once: the length is far above [`codec::MAX_FRAME_BYTES`].
pub const MAGIC: [u8; 8] = *b"\xf5imsup\r\n";

/// The length of a hello.
pub const HELLO_BYTES: usize = 12;

/// The largest distance between the lowest and the highest version. No build is tested with more
/// versions.
pub const MAX_SPAN: u16 = 255;

/// The range of this build. `testdata/wire/README.md` has the steps that raise the highest or the
/// lowest version.
pub const OURS: Versions = Versions { lowest: 5, highest: 5 };

/// The last version without a hello.
const LAST_WITHOUT_HELLO: u16 = 4;

/// The versions that a process speaks: all from the lowest to the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    lowest: u16,
    highest: u16,
}

impl Versions {
    /// The range from `lowest` to `highest`; `None` for version 0, for a `highest` below `lowest`,
    /// and for a range wider than [`MAX_SPAN`].
    pub const fn new(lowest: u16, highest: u16) -> Option<Self> {
        if lowest == 0 || highest < lowest || highest - lowest > MAX_SPAN {
            return None;
        }
        Some(Self { lowest, highest })
    }

    /// The lowest version.
    pub const fn lowest(self) -> u16 {
        self.lowest
    }

    /// The highest version.
    pub const fn highest(self) -> u16 {
        self.highest
    }

    /// All versions, in ascending order.
    pub fn all(self) -> impl Iterator<Item = u16> {
        self.lowest..=self.highest
    }

    /// The hello of a process with this range.
    pub fn to_hello(self) -> [u8; HELLO_BYTES] {
        let mut hello = [0; HELLO_BYTES];
        hello[..8].copy_from_slice(&MAGIC);
        hello[8..10].copy_from_slice(&self.lowest.to_le_bytes());
        hello[10..].copy_from_slice(&self.highest.to_le_bytes());
        hello
    }

    /// The range in the hello at the front of `bytes`; `None` for an incomplete hello.
    ///
    /// # Errors
    /// [`HelloError`], as soon as the bytes cannot become a hello.
    pub fn from_hello(bytes: &[u8]) -> Result<Option<Self>, HelloError> {
        if bytes.iter().zip(&MAGIC).any(|(byte, expected)| byte != expected) {
            return Err(HelloError::NoHello);
        }
        let Some(hello) = bytes.first_chunk::<HELLO_BYTES>() else {
            return Ok(None);
        };
        let [.., a, b, c, d] = *hello;
        let (lowest, highest) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        Self::new(lowest, highest)
            .map(Some)
            .ok_or(HelloError::NoRange { lowest, highest })
    }
}

/// "version 5", "versions 5 to 7".
impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lowest, highest } = self;
        match lowest == highest {
            true => write!(f, "version {lowest}"),
            false => write!(f, "versions {lowest} to {highest}"),
        }
    }
}

/// Why bytes are not a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The bytes do not begin with [`MAGIC`].
    #[error("the peer does not begin as imsup does")]
    NoHello,
    /// The hello has no valid range.
    #[error("the peer claims to speak versions {lowest} to {highest}, which is no range")]
    NoRange {
        /// The lowest version in the hello.
        lowest: u16,
        /// The highest version in the hello.
        highest: u16,
    },
}

/// Two processes have no common version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this imsup speaks {ours} of imsup's messages, and the peer {theirs}: use one imsup for both")]
pub struct Disagreement {
    /// The range of this process.
    pub ours: Versions,
    /// The range of the peer.
    pub theirs: Versions,
}

/// The highest common version.
///
/// # Errors
/// [`Disagreement`] without a common version.
pub fn agree(ours: Versions, theirs: Versions) -> Result<u16, Disagreement> {
    let highest = ours.highest.min(theirs.highest);
    if highest < ours.lowest.max(theirs.lowest) {
        return Err(Disagreement { ours, theirs });
    }
    Ok(highest)
}

/// The reply to the first frame of a peer of version 4, in a frame of version 4; `None` for any
/// other bytes.
pub(crate) fn refusal_of_version_4(bytes: &[u8], ours: Versions) -> Option<(Disagreement, Vec<u8>)> {
    /// The first bytes of `Opening` in version 4: from a supervisor, and from the command line.
    const SUPERVISOR: [u8; 3] = [0, 0, 4];
    const CONTROL: [u8; 2] = [1, 4];
    /// The variants `ToSupervisor::Rejected` and `Response::Error` of version 4. A string follows.
    const REJECTED: u8 = 1;
    const ERROR: u8 = 7;

    let body = bytes.get(codec::LENGTH_BYTES..)?;
    let variant = if body.starts_with(&SUPERVISOR) {
        REJECTED
    } else if body.starts_with(&CONTROL) {
        ERROR
    } else {
        return None;
    };
    let theirs = Versions {
        lowest: LAST_WITHOUT_HELLO,
        highest: LAST_WITHOUT_HELLO,
    };
    let message = format!(
        "the project's broker speaks {ours} of imsup's messages, and this imsup {theirs}: use the imsup that started the \
         project, or end its broker, process {}, and run `imsup up` again",
        std::process::id()
    );
    let frame = codec::encode(&(variant, message)).ok()?;
    Some((Disagreement { ours, theirs }, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(lowest: u16, highest: u16) -> Versions {
        Versions::new(lowest, highest).unwrap()
    }

    #[test]
    fn the_highest_common_version_is_agreed_on_by_both_sides() {
        for (ours, theirs, agreed) in [
            ((5, 5), (5, 5), Some(5)),
            ((5, 7), (6, 9), Some(7)),
            ((5, 9), (6, 7), Some(7)),
            ((5, 6), (6, 9), Some(6)),
            ((5, 6), (7, 9), None),
            ((1, 1), (u16::MAX, u16::MAX), None),
        ] {
            let (ours, theirs) = (versions(ours.0, ours.1), versions(theirs.0, theirs.1));
            assert_eq!(agree(ours, theirs).ok(), agreed);
            assert_eq!(agree(theirs, ours).ok(), agreed);
        }
    }

    #[test]
    fn a_disagreement_names_both_ranges() {
        let said = agree(versions(5, 5), versions(7, 9)).unwrap_err().to_string();
        assert!(
            said.contains("version 5 ") && said.contains("versions 7 to 9"),
            "{said}"
        );
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (lowest, highest) in [(0, 0), (0, 5), (6, 5), (1, 257), (5, u16::MAX)] {
            assert_eq!(Versions::new(lowest, highest), None);
            let mut hello = OURS.to_hello();
            hello[8..10].copy_from_slice(&lowest.to_le_bytes());
            hello[10..].copy_from_slice(&highest.to_le_bytes());
            assert_eq!(
                Versions::from_hello(&hello),
                Err(HelloError::NoRange { lowest, highest })
            );
        }
        assert!(Versions::new(1, 256).is_some());
    }

    #[test]
    fn a_hello_is_read_back_and_a_part_of_one_is_waited_for() {
        let hello = versions(5, 0x0102).to_hello();
        assert_eq!(hello, *b"\xf5imsup\r\n\x05\x00\x02\x01");
        for length in 0..HELLO_BYTES {
            assert_eq!(Versions::from_hello(&hello[..length]), Ok(None));
        }
        let more = [&hello[..], b"more"].concat();
        assert_eq!(Versions::from_hello(&more), Ok(Some(versions(5, 0x0102))));
        for byte in 0..MAGIC.len() {
            let mut other = hello;
            other[byte] ^= 1;
            assert_eq!(Versions::from_hello(&other), Err(HelloError::NoHello));
            assert_eq!(Versions::from_hello(&other[..=byte]), Err(HelloError::NoHello));
        }
    }

    #[test]
    fn peers_before_the_hello_refuse_it_by_its_length() {
        let length = u32::from_le_bytes(*MAGIC.first_chunk().unwrap());
        assert!(length as usize > codec::MAX_FRAME_BYTES);
    }
}
