//! The progress of images on their way into the store: a line that changes on a terminal, plain
//! lines elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use imsup_images::Digest;
use imsup_images::progress::{Progress, Step};

use super::human;
use super::output;

/// How often the line changes at most.
const REFRESH: Duration = Duration::from_millis(100);

/// A listener for one image.
pub struct Shown {
    name: String,
    how: How,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Line,
    Lines,
    Nothing,
}

#[derive(Default)]
struct State {
    /// The bytes of each layer: how many there are, and how many have come.
    layers: HashMap<Digest, (u64, u64)>,
    whole: usize,
    /// Whether the first of [`How::Lines`] was written.
    announced: bool,
    drawn: Option<Instant>,
}

impl Shown {
    /// A listener for an image; a quiet one shows nothing.
    pub fn new(name: &str, quiet: bool) -> Self {
        let how = match (quiet, io::stderr().is_terminal()) {
            (true, _) => How::Nothing,
            (false, true) => How::Line,
            (false, false) => How::Lines,
        };
        Self {
            name: name.to_owned(),
            how,
            state: Mutex::default(),
        }
    }

    /// Clears the line.
    pub fn end(&self) {
        if self.how == How::Line {
            draw("");
        }
    }
}

impl State {
    /// `nginx:latest: 7 layers, 60.1 MB`.
    fn announcement(&self, name: &str) -> String {
        let total: u64 = self.layers.values().map(|(total, _)| total).sum();
        let layers = match self.layers.len() {
            1 => "1 layer".to_owned(),
            count => format!("{count} layers"),
        };
        format!("{name}: {layers}, {}", human::bytes(total))
    }

    /// `nginx:latest: 2 of 7 layers, 12.5 of 60.1 MB`.
    fn line(&self, name: &str) -> String {
        let total: u64 = self.layers.values().map(|(total, _)| total).sum();
        let done: u64 = self.layers.values().map(|(_, done)| done).sum();
        let (whole, layers) = (self.whole, self.layers.len());
        let (done, total) = (human::bytes(done), human::bytes(total));
        format!("{name}: {whole} of {layers} layers, {done} of {total}")
    }
}

impl Progress for Shown {
    fn begin(&self, layers: &[(Digest, u64)]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.layers = layers.iter().map(|(digest, bytes)| (*digest, (*bytes, 0))).collect();
        state.whole = 0;
        state.announced = false;
    }

    fn step(&self, layer: Digest, step: Step) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let Some((total, done)) = state.layers.get_mut(&layer) else {
            return;
        };
        match step {
            Step::Downloading { done: now, .. } => *done = now,
            Step::Unpacking => *done = *total,
            Step::Done | Step::Exists => {
                *done = *total;
                state.whole += 1;
            }
        }
        // Nothing is said of an image that is there already.
        if self.how == How::Lines && step != Step::Exists && !state.announced {
            state.announced = true;
            output::note(&state.announcement(&self.name));
        }
        let is_whole = matches!(step, Step::Done | Step::Exists);
        match self.how {
            How::Lines if step == Step::Done => output::note(&state.line(&self.name)),
            How::Line if is_whole || state.drawn.is_none_or(|drawn| drawn.elapsed() >= REFRESH) => {
                state.drawn = Some(Instant::now());
                draw(&state.line(&self.name));
            }
            _ => (),
        }
    }
}

/// Writes over the terminal's line. A longer text would leave its beginning behind.
fn draw(text: &str) {
    let mut stderr = io::stderr().lock();
    let size = rustix::termios::tcgetwinsize(&stderr).ok();
    // A terminal of no size does not know its size.
    let width = size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
    let text: String = text.chars().take(width.unwrap_or(80).max(20) - 1).collect();
    // If standard error is gone, so is the reader.
    let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_layers_and_bytes() {
        let shown = Shown::new("nginx:latest", true);
        let [one, two] = [b"1", b"2"].map(|text| Digest::of(text));
        shown.begin(&[(one, 30_000_000), (two, 30_500_000)]);
        shown.step(
            one,
            Step::Downloading {
                done: 12_500_000,
                total: 30_000_000,
            },
        );
        let line = || shown.state.lock().unwrap().line(&shown.name);
        assert_eq!(line(), "nginx:latest: 0 of 2 layers, 12.5 MB of 60.5 MB");
        shown.step(one, Step::Done);
        shown.step(two, Step::Exists);
        assert_eq!(line(), "nginx:latest: 2 of 2 layers, 60.5 MB of 60.5 MB");
    }
}
