//! imsup's benchmarks: native and imsup interleaved in one run. See bench/README.md.
#![forbid(unsafe_code)]

mod affinity;
mod baselines;
mod cgroups;
mod cli;
mod command;
mod compose;
mod context;
mod docker;
mod environment;
mod guest;
mod interrupt;
mod isolated;
mod listening;
mod machine;
mod process;
mod project;
mod regress;
mod report;
mod rounds;
mod sandbox;
mod stats;
mod subject;
mod suites;
mod tidier;
mod tidy;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("imsup-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
