//! The broker from outside: a broker in a process of its own, supervisors that only speak the
//! protocol, and ordinary clients.
//!
//! This executable has all roles: `broker` runs a broker, `run` is started by the broker as a
//! host's supervisor, and without either the tests run.

mod bad;
mod boots;
mod called_off;
mod cleaners;
mod closed;
mod comes_back;
mod control;
mod ends;
mod fake_broker;
mod fake_supervisor;
mod history;
mod keeper;
mod names;
mod orphaned;
mod peer;
mod places;
mod power;
mod reach;
mod restart;
mod sleep;
mod strangers;
mod trust;
mod two_phase;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("broker") => fake_broker::run(),
        Some("run") => fake_supervisor::run(),
        Some("keeper") => fake_broker::keep(),
        _ => {
            let trials = [
                boots::trials(),
                ends::trials(),
                orphaned::trials(),
                closed::trials(),
                reach::trials(),
                control::trials(),
                names::trials(),
                places::trials(),
                restart::trials(),
                comes_back::trials(),
                called_off::trials(),
                keeper::trials(),
                sleep::trials(),
                two_phase::trials(),
                power::trials(),
                history::trials(),
                bad::trials(),
                strangers::trials(),
                trust::trials(),
                cleaners::trials(),
            ];
            libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit_code()
        }
    }
}

/// A trial of this name.
fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}
