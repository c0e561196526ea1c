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

/// Logs to standard error only where `IMSUP_LOG` asks for it: a host's boot has no time for more.
pub fn start_if_asked() {
    if std::env::var_os(VARIABLE).is_some()
        && let Ok(filter) = EnvFilter::try_from_env(VARIABLE)
    {
        subscribe(filter);
    }
}

fn subscribe(filter: EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
}
