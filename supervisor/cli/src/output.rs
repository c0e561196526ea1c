//! Output to the terminal, and its colours.
//!
//! All output goes through anstream, which removes colours if the stream is no terminal, `NO_COLOR`
//! is set or `TERM=dumb`. Colours are kept if `CLICOLOR_FORCE` asks for this.

use std::io::{self, StdoutLock, Write};

use anstream::{AutoStream, ColorChoice};
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

/// The colours that distinguish prefixes, in turn; red is kept for failures.
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

/// How much is written at once.
const WRITTEN_TOGETHER: usize = 64 * 1024;

/// Lines that are written together: by default, standard output is written with each.
pub struct Lines<W: Write> {
    to: W,
    color: ColorChoice,
    text: Vec<u8>,
}

impl Lines<StdoutLock<'static>> {
    /// Lines for standard output.
    pub fn to_stdout() -> Self {
        Self {
            color: AutoStream::choice(&io::stdout()),
            to: io::stdout().lock(),
            text: Vec::new(),
        }
    }
}

impl<W: Write> Lines<W> {
    /// Adds a line, given without its newline.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn add(&mut self, line: &str) -> io::Result<()> {
        match self.color {
            ColorChoice::Never => write!(self.text, "{}", anstream::adapter::strip_str(line))?,
            _ => self.text.extend_from_slice(line.as_bytes()),
        }
        self.text.push(b'\n');
        if self.text.len() < WRITTEN_TOGETHER {
            Ok(())
        } else {
            self.write()
        }
    }

    /// Writes the collected lines.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn write(&mut self) -> io::Result<()> {
        let written = self.to.write_all(&self.text).and_then(|()| self.to.flush());
        self.text.clear();
        written
    }
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
        HostState::Completed => GREEN,
    }
}

/// The colour of an event.
pub fn event_style(kind: EventKind) -> Style {
    match kind {
        EventKind::Allocate | EventKind::Restart => CYAN,
        EventKind::Boot => YELLOW,
        EventKind::Ready | EventKind::Healthy => GREEN,
        EventKind::Exit => DIM,
        EventKind::Fail | EventKind::Unmet | EventKind::Oom | EventKind::Unhealthy => RED,
        EventKind::Suspend | EventKind::Tick | EventKind::Reclaim | EventKind::Terminate => DIM,
        EventKind::Wake => CYAN,
    }
}

/// The colour of a present or missing item.
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
/// Errors of writing to standard output.
pub fn json_line(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Prints an error as a line of JSON to standard error, in one piece.
pub fn error_object(error: &impl Serialize) {
    let mut line = Vec::new();
    // If standard error itself is gone, the message cannot be shown.
    let _ = json_line(&mut line, error).map(|()| io::stderr().write_all(&line));
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

/// Prints `imsup: MESSAGE` to standard error, for messages that are no errors.
pub fn note(message: &str) {
    diagnostic(Style::new(), "imsup:", message);
}

fn diagnostic(style: Style, label: &str, message: &str) {
    let mut stream = AutoStream::auto(io::stderr()).lock();
    // If standard error itself is gone, the message cannot be shown.
    let _ = writeln!(stream, "{} {message}", paint(style, label));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the writes.
    #[derive(Default)]
    struct Counted(Vec<usize>);

    impl Write for Counted {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.push(text.len());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn many_lines_are_written_by_few_calls_and_without_colours_where_there_are_none() {
        let mut lines = Lines {
            to: Counted::default(),
            color: ColorChoice::Never,
            text: Vec::new(),
        };
        for _ in 0..10_000 {
            lines.add(&paint(BOLD, "12 characters")).unwrap();
        }
        lines.write().unwrap();
        let written = lines.to.0;
        assert_eq!(written.iter().sum::<usize>(), 10_000 * 14);
        assert_eq!(written.len(), 10_000 * 14 / WRITTEN_TOGETHER + 1);
    }
}
