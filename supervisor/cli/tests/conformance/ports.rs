//! Ports for the cases: unused ranges.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use std::sync::RwLock;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Held exclusively while ports are tried, and shared while programs are started: until it executes
/// its program, a child holds its parent's open descriptors, which makes a port seem taken to the
/// next one.
static TRYING: RwLock<()> = RwLock::new(());

/// Runs a closure that starts programs.
pub fn while_none_is_tried<T>(work: impl FnOnce() -> T) -> T {
    let _not_while_ports_are_tried = TRYING.read().unwrap();
    work()
}

/// Ports for one run of one case; cases use ten.
const PORTS: u16 = 10;

/// Hands out ranges of unused ports, not even in TIME_WAIT; below the ephemeral ports, so that the
/// kernel hands out none of them.
pub struct Ports(u16);

impl Ports {
    pub fn new() -> Self {
        // Runs side by side begin at different places.
        let offset = (std::process::id() % 200) as u16 * 100;
        Self(10_000 + offset)
    }

    pub fn next(&mut self) -> Range {
        for _ in 0..3000 {
            let base = self.0;
            self.0 = if base + PORTS >= 32_000 { 10_000 } else { base + PORTS };
            if let Some(range) = Range::claim(base) {
                return range;
            }
        }
        panic!("no free range of {PORTS} ports");
    }
}

/// A range of ports that other runs on this machine, by any user, leave alone while this value is
/// kept.
pub struct Range {
    pub base: u16,
    _claim: UnixListener,
}

impl Range {
    fn claim(base: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("imsup-conformance-{base}")).unwrap();
        let claim = UnixListener::bind_addr(&name).ok()?;
        let _nobody_starts = TRYING.write().unwrap();
        (base..base + PORTS).all(free).then_some(Self { base, _claim: claim })
    }
}

fn free(port: u16) -> bool {
    [SocketType::STREAM, SocketType::DGRAM].into_iter().all(|kind| {
        // Without SO_REUSEADDR, which std sets: a port in TIME_WAIT is not free. The dual-stack
        // wildcard conflicts with both families.
        let socket = rustix::net::socket_with(AddressFamily::INET6, kind, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::sockopt::set_ipv6_v6only(&socket, false).unwrap();
        rustix::net::bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)).is_ok()
    })
}
