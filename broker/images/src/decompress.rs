//! Layers as tar, whatever they are compressed with.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How much is read at once.
const BUFFER: usize = 128 * 1024;

/// How some content is compressed, by its first bytes: media types are not reliable, since the
/// layers of `docker save` have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    /// A compression that no layer has by the standards.
    Foreign(&'static str),
}

impl Compression {
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Foreign("xz"),
            [b'B', b'Z', b'h', ..] => Self::Foreign("bzip2"),
            _ => Self::None,
        }
    }
}

/// The content of `input` without its compression (gzip, zstd or none).
///
/// # Errors
/// Errors of reading, and a compression that is not among these.
pub fn decompress<'a>(mut input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut start = Vec::new();
    input.by_ref().take(6).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let whole = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(input));
    match compression {
        Compression::None => Ok(Box::new(whole)),
        Compression::Gzip => Ok(Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole)))),
        Compression::Zstd => Ok(Box::new(ZstdReader::new(whole))),
        Compression::Foreign(name) => Err(io::Error::other(format!(
            "it is compressed with {name}; layers are compressed with gzip or zstd, or not at all"
        ))),
    }
}

/// Whether a file is compressed. The file is left at its beginning.
///
/// # Errors
/// Errors of reading.
pub fn is_compressed(mut file: &File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.take(6).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(Compression::of(&start) != Compression::None)
}

/// Frames of zstd (RFC 8878), one after another; ruzstd knows single ones.
///
/// A frame's window, which is what a decoder keeps in memory, is 100 MB at most (ruzstd's bound).
struct ZstdReader<R> {
    input: R,
    decoder: FrameDecoder,
    /// Whether a frame has begun and is not read to its end.
    in_frame: bool,
}

impl<R: BufRead> ZstdReader<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// Begins the next frame; `false` at the end of the input.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.input) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                // zstd:chunked keeps a table of contents in such frames.
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.input.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }

    /// Compares the frame's checksum with that of what was decoded, if the frame has one.
    fn end(&mut self) -> io::Result<()> {
        self.in_frame = false;
        let (said, found) = (
            self.decoder.get_checksum_from_data(),
            self.decoder.get_calculated_checksum(),
        );
        match said.is_none() || said == found {
            true => Ok(()),
            false => Err(io::Error::other("a frame of zstd has a wrong checksum")),
        }
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let strategy = BlockDecodingStrategy::UptoBytes(buffer.len());
                self.decoder
                    .decode_blocks(&mut self.input, strategy)
                    .map_err(io::Error::other)?;
            }
            let length = self.decoder.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            self.end()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        compress_to_vec(content, CompressionLevel::Fastest)
    }

    fn read(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        decompress(input)?.read_to_end(&mut content)?;
        Ok(content)
    }

    fn sample() -> Vec<u8> {
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect()
    }

    #[test]
    fn what_was_compressed_comes_back() {
        let content = sample();
        for (name, compressed) in [
            ("none", content.clone()),
            ("gzip", gzip(&content)),
            ("zstd", zstd(&content)),
        ] {
            assert!(read(&compressed).unwrap() == content, "{name}");
        }
        assert_eq!(
            (read(b"").unwrap(), read(b"abc").unwrap()),
            (Vec::new(), b"abc".to_vec())
        );
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"toc"].concat();
        let frames = [
            skipped.clone(),
            zstd(b"one "),
            skipped.clone(),
            zstd(b""),
            zstd(b"two"),
            skipped,
        ]
        .concat();
        assert_eq!(read(&frames).unwrap(), b"one two");
        let members = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&members).unwrap(), b"one two");
    }

    #[test]
    fn damage_is_noticed() {
        let content = sample();
        for compressed in [gzip(&content), zstd(&content)] {
            assert!(read(&compressed[..compressed.len() / 2]).is_err());
            let mut flipped = compressed.clone();
            let last = flipped.len() - 5;
            flipped[last] ^= 0x55;
            assert!(read(&flipped).is_err());
        }
        let error = read(b"\xfd7zXZ\0...").unwrap_err().to_string();
        assert!(error.contains("xz"), "{error}");
    }
}
