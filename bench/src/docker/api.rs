//! The daemon's HTTP over its Unix socket: one connection for all requests, as a program that
//! pauses and unpauses would keep.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Spoken by every docker since 20.10, and still by 28.
const VERSION: &str = "/v1.41";
/// No request takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The methods used here.
#[derive(Clone, Copy, Debug)]
pub enum Method {
    /// Ask.
    Get,
    /// Requests an action.
    Post,
    /// Take away.
    Delete,
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Api {
    stream: BufReader<UnixStream>,
}

impl Api {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request and returns the body of the reply.
    ///
    /// # Errors
    /// The daemon refuses, with its message.
    pub fn call(&mut self, method: Method, path: &str, body: Option<&[u8]>) -> Result<String> {
        let json = "application/json";
        self.request(method, path, json, body.unwrap_or_default())
    }

    /// Sends a tar archive.
    ///
    /// # Errors
    /// As of [`Self::call`].
    pub fn upload(&mut self, path: &str, archive: &[u8]) -> Result<String> {
        self.request(Method::Post, path, "application/x-tar", archive)
    }

    fn request(&mut self, method: Method, path: &str, kind: &str, body: &[u8]) -> Result<String> {
        let verb = match method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        };
        let mut message = format!(
            "{verb} {VERSION}{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        message.extend_from_slice(body);
        self.stream.get_mut().write_all(&message).context("asking docker")?;
        let (status, text) = answer(&mut self.stream).with_context(|| format!("docker, {verb} {path}"))?;
        ensure!(
            (200..300).contains(&status),
            "docker, {verb} {path}: {status} {}",
            text.trim()
        );
        Ok(text)
    }
}

/// Reads one reply: status and body.
fn answer(stream: &mut impl BufRead) -> Result<(u16, String)> {
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("'{first}' is no answer"))?;
    let (mut length, mut chunked) = (0, false);
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        match header.split_once(": ") {
            None if header.is_empty() => break,
            Some(("content-length", value)) => length = value.parse().context("a length that is no number")?,
            Some(("transfer-encoding", "chunked")) => chunked = true,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = usize::from_str_radix(&line(stream)?, 16).context("a chunk without a size")?;
            take(stream, size, &mut body)?;
            line(stream)?;
            if size == 0 {
                break;
            }
        }
    } else {
        take(stream, length, &mut body)?;
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line).context("reading the answer")? == 0 {
        bail!("the connection ended");
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}

fn take(stream: &mut impl BufRead, size: usize, body: &mut Vec<u8>) -> Result<()> {
    let start = body.len();
    body.resize(start + size, 0);
    stream.read_exact(&mut body[start..]).context("reading the answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_their_end_and_no_further() {
        let text = "HTTP/1.1 204 No Content\r\nServer: x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone\
                    HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let mut stream = text.as_bytes();
        let mut next = || answer(&mut stream).unwrap();
        assert_eq!(next(), (204, String::new()));
        assert_eq!(next(), (404, "none".to_owned()));
        assert_eq!(next(), (200, "abcde".to_owned()));
        assert!(answer(&mut stream).is_err());
    }
}
