//! imsup's own log. A failed write is no reason to end, or to wait: see [`imsup_supervisor::said`].

mod limit;

use std::io::{self, IsTerminal};

use imsup_supervisor::said::Stderr;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::layer::{Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use self::limit::Limit;

/// The variable with the log's filter; see tracing-subscriber's EnvFilter for the syntax.
const VARIABLE: &str = "IMSUP_LOG";

/// Logs to standard error from here on: with the filter of `IMSUP_LOG`, else `default`.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    subscribe(filter, is_terminal());
}

/// Logs to standard error what `IMSUP_LOG` asks for, else warnings: those of a program that is
/// supervised, whose boot has no time to parse a filter for them. Does nothing in a supervisor of
/// the zygote, which has done this before.
pub fn start_quietly() {
    if !tracing::dispatcher::has_been_set() {
        start_for(is_terminal());
    }
}

/// The same for a process whose standard error becomes a file.
pub fn start_for_a_file() {
    start_for(false);
}

fn start_for(terminal: bool) {
    match EnvFilter::try_from_env(VARIABLE) {
        Ok(filter) if std::env::var_os(VARIABLE).is_some() => subscribe(filter, terminal),
        _ => subscribe(LevelFilter::WARN, terminal),
    }
}

fn subscribe(filter: impl Filter<Registry> + Send + Sync + 'static, terminal: bool) {
    let lines = fmt::layer()
        .with_writer(|| Stderr)
        .log_internal_errors(false)
        .with_ansi(terminal)
        .with_target(false)
        .with_filter(filter.and(Limit::default()));
    tracing_subscriber::registry().with(lines).init();
}

fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
