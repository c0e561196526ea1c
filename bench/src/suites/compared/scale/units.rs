//! Many socket units of systemd's, each with its service.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::baselines::manager::Manager;
use crate::baselines::systemd::listening;
use crate::baselines::units::{self, Unit};
use crate::context::Context;
use crate::process;
use crate::rounds::Series;
use crate::suites::hosts;

/// Outside imsup's planes.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 91, 0, 1);
const PORT: u16 = 7000;
/// The number of units in one slice. With all units in one slice, each start costs systemd a walk
/// over all the others.
const SLICE: usize = 100;
/// 10,000 take about a minute.
const PATIENCE: Duration = Duration::from_secs(240);

/// As [`hosts::imaginary`], for systemd. The cost of a systemd without units is in series of its
/// own.
pub fn listen(context: &Context, count: usize) -> Result<Vec<Series>> {
    // Ended before the other starts: pages mapped by both would count for neither.
    let empty = {
        let manager = Manager::start(context, &[], &[], PATIENCE)?;
        (manager.took, process::memory(manager.pid()?)?)
    };
    let addresses: Vec<SocketAddrV4> = (0..u32::try_from(count)?)
        .map(|number| SocketAddrV4::new(Ipv4Addr::from(u32::from(FIRST) + number), PORT))
        .collect();
    let (services, sockets) = all(&addresses);
    let per_unit = |bytes: u64| bytes / count as u64;
    let before = hosts::settled()?;
    let manager = Manager::start(context, &services, &sockets, PATIENCE)?;
    let found = listening(&addresses);
    ensure!(found == count, "systemd listens on {found} of {count}");
    let kernel = per_unit(hosts::settled()?.saturating_sub(before));
    let pid = manager.pid()?;
    let memory = process::memory(pid)?;
    let one = |name: &str, value: u64| (name.to_owned(), vec![value]);
    Ok(vec![
        one("time", u64::try_from(manager.took.saturating_sub(empty.0).as_nanos())?),
        one("kernel", kernel),
        one("grown", per_unit(memory.private.saturating_sub(empty.1.private))),
        one(
            "all grown",
            kernel + per_unit(memory.proportional.saturating_sub(empty.1.proportional)),
        ),
        one("cpu", process::cpu_share(&[pid], hosts::watched(context))?),
        one("empty time", u64::try_from(empty.0.as_nanos())?),
        one("empty private", empty.1.private),
    ])
}

/// The services, and their sockets.
fn all(addresses: &[SocketAddrV4]) -> (Vec<Unit>, Vec<Unit>) {
    let words = ["/bin/sleep", "infinity"].map(str::to_owned);
    let unit = |(number, at): (usize, &SocketAddrV4)| {
        let (name, slice) = (format!("host-{number}"), format!("bench-{}", number / SLICE));
        (
            units::service(&name, "simple", &words, "", Some(&slice)),
            units::socket(&name, *at, &name, Some(&slice)),
        )
    };
    addresses.iter().enumerate().map(unit).unzip()
}
