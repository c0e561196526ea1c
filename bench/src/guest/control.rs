//! How a guest is told what to do: a line with a number asks for so many samples of each series.

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, Result};

/// A name and samples.
pub type Series = (&'static str, Vec<u64>);

/// Reports readiness and takes a batch for each line of the standard input, until that ends.
///
/// # Errors
/// A batch could not be taken.
pub fn serve(mut batch: impl FnMut(usize) -> Result<Vec<Series>>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let count = line.parse().with_context(|| format!("'{line}' is no number"))?;
        let mut text = String::new();
        for (name, samples) in batch(count)? {
            text.push_str(name);
            for sample in samples {
                text.push(' ');
                text.push_str(&sample.to_string());
            }
            text.push('\n');
        }
        text.push_str("end\n");
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

/// The nanoseconds since `start`.
pub fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
