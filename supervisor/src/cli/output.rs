//! What is written to the terminal, and in which colours.
//!
//! Everything goes through anstream, which takes colours away where the stream is no terminal, `NO_COLOR` is set or
//! `TERM=dumb`, and keeps them where `CLICOLOR_FORCE` asks for that.

use std::io::{self, StdoutLock, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use imsup_wire::{EventKind, HostState};
use serde::Serialize;

/// Less important than the rest.
pub const DIM: Style = Style::new().dimmed();
/// Headings.
pub const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default();
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

/// What prefixes are told apart by, in turn; red is kept for failures.
const PREFIXES: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::Green,
    AnsiColor::BrightCyan,
    AnsiColor::BrightMagenta,
];

/// Standard output, locked.
pub fn stdout() -> AutoStream<StdoutLock<'static>> {
    AutoStream::auto(io::stdout()).lock()
}

/// Text in a style.
pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The colour of a state.
pub fn state_style(state: HostState) -> Style {
    match state {
        HostState::Imaginary => DIM,
        HostState::Booting => YELLOW,
        HostState::Running => GREEN,
        HostState::Suspended => CYAN,
        HostState::Failed => RED,
    }
}

/// The colour of an event.
pub fn event_style(kind: EventKind) -> Style {
    match kind {
        EventKind::Allocate | EventKind::Restart => CYAN,
        EventKind::Boot => YELLOW,
        EventKind::Ready => GREEN,
        EventKind::Exit => DIM,
        EventKind::Fail | EventKind::Unmet | EventKind::Oom => RED,
        EventKind::Suspend | EventKind::Tick | EventKind::Reclaim | EventKind::Terminate => DIM,
        EventKind::Wake => CYAN,
    }
}

/// The colour of what is there or missing.
pub fn presence_style(present: bool) -> Style {
    if present { GREEN } else { RED }
}

/// The colour of the `position`th host's prefix.
pub fn prefix_style(position: usize) -> Style {
    PREFIXES[position % PREFIXES.len()].on_default()
}

/// Writes one JSON object and a newline.
///
/// # Errors
/// Those of writing to standard output.
pub fn json_line(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Prints `imsup: MESSAGE` to standard error.
pub fn error(message: &str) {
    diagnostic(RED, "imsup:", message);
}

/// Prints `imsup: warning: MESSAGE` to standard error.
pub fn warning(message: &str) {
    diagnostic(YELLOW, "imsup: warning:", message);
}

/// Prints `hint: MESSAGE` to standard error.
pub fn hint(message: &str) {
    diagnostic(CYAN, "hint:", message);
}

/// Prints `imsup: MESSAGE` to standard error, where it is no error.
pub fn note(message: &str) {
    diagnostic(Style::new(), "imsup:", message);
}

fn diagnostic(style: Style, label: &str, message: &str) {
    let mut stream = AutoStream::auto(io::stderr()).lock();
    // Nothing is left to tell anybody where standard error itself is gone.
    let _ = writeln!(stream, "{} {message}", paint(style, label));
}
