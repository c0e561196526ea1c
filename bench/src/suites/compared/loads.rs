//! The clients that load a server once, and their reports.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::data_paths::DataPath;
use crate::command;
use crate::rounds::Series;

/// How long iperf3 sends, or how much.
pub const A_SECOND: [&str; 2] = ["--time", "1"];
pub const A_LOOK: [&str; 2] = ["--bytes", "256M"];

/// iperf3: bytes a second, as the receiver counts them.
///
/// # Errors
/// The client fails or prints no result.
pub fn iperf(data_path: &DataPath<'_>, program: &Path, amount: [&str; 2]) -> Result<Vec<Series>> {
    let mut client = data_path.client(program);
    client.args(["--client", &data_path.address.to_string(), "--port", "5201", "--json"]);
    client.args(amount);
    let value: Value = serde_json::from_str(&command::output(&mut client)?).context("reading what iperf3 says")?;
    let rate = value["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .context("iperf3 reports no rate")?;
    Ok(vec![("iperf3".to_owned(), vec![(rate / 8.0) as u64])])
}

/// wrk for a second: requests a second, and latencies in nanoseconds.
///
/// # Errors
/// The client fails, or a reply was not a 200.
pub fn wrk(data_path: &DataPath<'_>, program: &Path, connections: u16, keep_alive: bool) -> Result<Vec<Series>> {
    let mut client = data_path.client(program);
    client.args(["--threads", "1", "--connections", &connections.to_string()]);
    client.args(["--duration", "1s", "--latency"]);
    if !keep_alive {
        client.args(["--header", "Connection: close"]);
    }
    client.arg(format!("http://{}:8080/", data_path.address));
    let [rate, p50, p99] = wrk_figures(&command::output(&mut client)?)?;
    let kind = if keep_alive { "keep-alive" } else { "no keep-alive" };
    let named = |figure: &str, value| (format!("wrk {kind} {figure}"), vec![value]);
    Ok(vec![named("rate", rate), named("p50", p50), named("p99", p99)])
}

/// Requests a second, and the 50th and 99th percentile of the latency in nanoseconds.
fn wrk_figures(text: &str) -> Result<[u64; 3]> {
    if text.contains("Non-2xx") {
        bail!("wrk: {}", text.trim());
    }
    let after = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(str::trim).with_context(|| format!("wrk reports no '{name}'"))
    };
    let rate: f64 = after("Requests/sec:")?.parse().context("a rate of wrk's")?;
    let latency = |name| -> Result<u64> {
        let text = after(name)?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let scale = match &text[digits.len()..] {
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            unit => bail!("wrk has a latency in '{unit}'"),
        };
        let number: f64 = digits.parse().with_context(|| format!("wrk said '{text}'"))?;
        Ok((number * scale) as u64)
    };
    Ok([rate as u64, latency("50%")?, latency("99%")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read() {
        let text = "  Latency Distribution\n     50%   31.00us\n     75%   33.00us\n     90%   41.00us\n     99%    1.25ms\n\
                    \x20 28839 requests in 1.00s, 4.81MB read\nRequests/sec:  28564.12\nTransfer/sec:      4.77MB\n";
        assert_eq!(wrk_figures(text).unwrap(), [28_564, 31_000, 1_250_000]);
        assert!(wrk_figures("  Non-2xx or 3xx responses: 3\nRequests/sec: 1\n").is_err());
        assert!(wrk_figures("").is_err());
    }
}
