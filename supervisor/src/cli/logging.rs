//! What imsup itself logs.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// The variable that says how much; see tracing-subscriber's EnvFilter for what can be said.
const VARIABLE: &str = "IMSUP_LOG";

/// Logs to standard error from here on: what `IMSUP_LOG` asks for, else `default`.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    subscribe(filter);
}

/// Logs to standard error what `IMSUP_LOG` asks for, else warnings: those of a program that is supervised, whose boot has no time to parse a
/// filter for them.
pub fn start_quietly() {
    match EnvFilter::try_from_env(VARIABLE) {
        Ok(filter) if std::env::var_os(VARIABLE).is_some() => subscribe(filter),
        _ => tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_writer(io::stderr)
            .with_ansi(is_terminal())
            .with_target(false)
            .init(),
    }
}

fn subscribe(filter: EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(is_terminal())
        .with_target(false)
        .init();
}

fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
