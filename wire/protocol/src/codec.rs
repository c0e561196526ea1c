//! Frames: a little-endian `u32` length, then that many bytes of bincode.
//!
//! The only module that knows bincode. The crate is unmaintained (RUSTSEC-2025-0141) and pinned to
//! 2.0.1; replacing it touches nothing outside this file.
//!
//! bincode writes neither names nor lengths of fields. So a released variant keeps its number and
//! its fields as long as [`OURS`](crate::version::OURS) has a version with this variant. A new
//! message, or a message with another field, is a new variant at the end of its enum, in a higher
//! version. A sender checks [`Channel::version`](crate::channel::Channel::version) before the use
//! of such a variant.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest frame body in bytes. A host's argv, the largest thing sent, is bounded by the kernel to
/// 128 KiB a string and in practice to far less; 1 MiB leaves room and bounds what a hostile peer
/// makes us allocate.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Most descriptors that one frame carries: SCM_MAX_FD of the kernel (include/net/scm.h).
pub const MAX_FRAME_FDS: usize = 253;

/// The length of a frame's body, before it.
pub(crate) const LENGTH_BYTES: usize = 4;

/// What bincode may count for one body before it gives up. It counts eight bytes for a `u64` that
/// takes one, so only eight times the frame is a limit that no whole message can meet; what it is
/// needed for is that the length of a string is not believed.
const DECODER_LIMIT_BYTES: usize = 8 * MAX_FRAME_BYTES;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The frame announces more than [`MAX_FRAME_BYTES`].
    #[error("a frame of {0} bytes is larger than the {MAX_FRAME_BYTES} allowed")]
    TooLarge(usize),
    /// The body is not a message of this version.
    #[error("a frame could not be decoded: {0}")]
    Malformed(String),
    /// The body goes on after the message.
    #[error("a frame has {0} bytes after its message")]
    Trailing(usize),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODER_LIMIT_BYTES>()
}

/// A value without a frame, of any size, for a file of memory that this program itself reads again.
///
/// # Errors
/// [`CodecError::Malformed`] for a value that bincode does not know.
pub fn to_bytes<V: Serialize>(value: &V) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|error| CodecError::Malformed(error.to_string()))
}

/// The value of [`to_bytes`].
///
/// # Errors
/// [`CodecError::Malformed`], [`CodecError::Trailing`].
pub fn from_bytes<V: DeserializeOwned>(bytes: &[u8]) -> Result<V, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, bincode::config::standard())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        more => Err(CodecError::Trailing(more)),
    }
}

/// Encodes a message as a whole frame.
///
/// # Errors
/// [`CodecError::TooLarge`] where its body exceeds [`MAX_FRAME_BYTES`].
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, CodecError> {
    let mut frame = vec![0; LENGTH_BYTES];
    bincode::serde::encode_into_std_write(message, &mut frame, config())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    let body = frame.len() - LENGTH_BYTES;
    if body > MAX_FRAME_BYTES {
        return Err(CodecError::TooLarge(body));
    }
    let length = u32::try_from(body).map_err(|_| CodecError::TooLarge(body))?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Whether [`decode`] finds a whole frame at the front of `buffer`, or an error.
pub fn has_frame(buffer: &[u8]) -> bool {
    buffer.first_chunk::<LENGTH_BYTES>().is_some_and(|header| {
        let length = u32::from_le_bytes(*header) as usize;
        length > MAX_FRAME_BYTES || buffer.len() - LENGTH_BYTES >= length
    })
}

/// Takes the next whole frame off the front of `buffer` and decodes it; `None` while it is
/// incomplete.
///
/// # Errors
/// Any [`CodecError`]; the stream is then useless, since frame boundaries are lost.
pub fn decode<M: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<M>, CodecError> {
    let Some(header) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*header) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(CodecError::TooLarge(length));
    }
    let end = LENGTH_BYTES + length;
    let Some(body) = buffer.get(LENGTH_BYTES..end) else {
        return Ok(None);
    };
    let (message, used) =
        bincode::serde::decode_from_slice(body, config()).map_err(|error| CodecError::Malformed(error.to_string()))?;
    if used != length {
        return Err(CodecError::Trailing(length - used));
    }
    buffer.drain(..end);
    Ok(Some(message))
}
