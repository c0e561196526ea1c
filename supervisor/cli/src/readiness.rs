//! Reports of a background broker to the command that started the broker, until the broker is ready
//! or has failed for good. The reports are JSON lines over a pipe, the broker's standard output.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// A warning about the compose file for the user.
    Warning(String),
    /// The hosts exist. The last word.
    Ready {
        /// The project.
        project: String,
    },
    /// Another broker has the project. The last word.
    AlreadyUp {
        /// The remedy.
        message: String,
    },
    /// There will be no broker. The last word.
    Failed {
        /// The failure and its cause.
        message: String,
        /// The remedy.
        hint: Option<String>,
    },
}

/// Sends a word to the reader of standard output.
///
/// # Errors
/// There is no reader any more.
pub fn say(word: &Word) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, word).context("reporting to the command that started this broker")?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// Closes standard output, so that its reader sees the end, and standard input.
///
/// # Errors
/// /dev/null cannot be opened.
pub fn hang_up() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(())
}

/// Reads words until the last word; `None` if the broker ended without a last word.
///
/// # Errors
/// A line is not a word.
pub fn listen(pipe: impl Read, mut warn: impl FnMut(&str)) -> Result<Option<Word>> {
    for line in BufReader::new(pipe).lines() {
        let line = line.context("hearing from the broker")?;
        match serde_json::from_str(&line).with_context(|| format!("the broker said {line:?}"))? {
            Word::Warning(message) => warn(&message),
            last => return Ok(Some(last)),
        }
    }
    Ok(None)
}

/// Tells systemd that a `Type=notify` unit is ready (sd_notify(3)); does nothing if systemd did not
/// ask.
///
/// # Errors
/// The socket that systemd named cannot be used.
pub fn notify_systemd() -> Result<()> {
    use std::os::linux::net::SocketAddrExt;

    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let bytes = name.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    UnixDatagram::unbound()
        .and_then(|socket| socket.send_to_addr(b"READY=1", &address?))
        .with_context(|| format!("telling systemd at {} that the broker is ready", name.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> (Result<Option<Word>>, Vec<String>) {
        let mut warnings = Vec::new();
        let last = listen(text.as_bytes(), |warning| warnings.push(warning.to_owned()));
        (last, warnings)
    }

    #[test]
    fn warnings_come_before_the_last_word() {
        let (last, warnings) = heard("{\"warning\":\"a\"}\n{\"ready\":{\"project\":\"shop\"}}\n");
        assert_eq!(
            last.unwrap(),
            Some(Word::Ready {
                project: "shop".to_owned()
            })
        );
        assert_eq!(warnings, ["a"]);
    }

    #[test]
    fn an_end_without_a_last_word_is_told() {
        assert_eq!(heard("{\"warning\":\"a\"}\n").0.unwrap(), None);
        assert!(heard("panicked\n").0.is_err());
    }
}
