//! `imsup resolvers`: makes sockets for programs whose resolver compares the sender of an answer.
//! The broker starts this process, and sends requests over the process's standard input.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};

use super::logging;

/// Whether this is exactly the broker's command line, `resolvers --project P`.
pub fn is_asked(mut arguments: impl Iterator<Item = OsString>) -> bool {
    let is_resolvers = arguments.next().is_some_and(|verb| verb == "resolvers")
        && arguments.next().is_some_and(|flag| flag == "--project");
    is_resolvers && arguments.next().is_some() && arguments.next().is_none()
}

/// Serves until the broker is gone.
///
/// # Errors
/// Standard input is not a connection to a broker, or fails.
pub fn serve() -> Result<()> {
    logging::start_for_a_file();
    let broker = std::io::stdin().as_fd().try_clone_to_owned()?;
    imsup_broker::make_resolver_sockets(UnixStream::from(broker))
        .context("hearing the broker; nobody else runs 'imsup resolvers'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_brokers_line_is_meant() {
        let asked = |line: &str| is_asked(line.split(' ').map(OsString::from));
        assert!(asked("resolvers --project shop"));
        for line in [
            "resolvers",
            "resolvers --project",
            "resolvers --project shop x",
            "ps --project shop",
        ] {
            assert!(!asked(line), "{line}");
        }
    }
}
