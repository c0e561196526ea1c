//! Keeps other machines from hosts' addresses.
//!
//! The kernel drops packets for 127.0.0.0/8 from a network, unless `route_localnet` is on
//! (net/ipv4/route.c, ip_route_input_slow). Packets for any other local prefix (`x-imsup.subnet`)
//! are accepted, so a neighbour with one route could boot and use hosts. Sockets at addresses in
//! these prefixes get a filter (socket(7), SO_ATTACH_FILTER) that only accepts packets from the
//! loopback device. Connections inherit the filter from their listener.
//!
//! The filter is used rather than SO_BINDTODEVICE, which cannot be taken back without CAP_NET_RAW,
//! keeps a program from binding a device of its own, and cuts off clients at the machine's other
//! addresses (supervisor/linux/tests/kernel/neighbours.rs).

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;

use socket2::{SockFilter, SockRef};

const CONF: &str = "/proc/sys/net/ipv4/conf";
/// The index of the loopback device in every network namespace (include/linux/netdevice.h,
/// LOOPBACK_IFINDEX).
const LOOPBACK_INDEX: u32 = 1;
/// The index of the device by which a packet came (linux/filter.h, SKF_AD_OFF + SKF_AD_IFINDEX).
const DEVICE: u32 = 0xffff_f000 + 8;
/// BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// How many instructions the filter has.
pub const FILTER_LENGTH: u32 = 4;

/// Keeps other machines from a socket that is, or will be, bound to `address`. Does nothing if the
/// kernel already drops these packets. Replaces an existing filter of the socket. Costs some 12 us
/// and 4 KiB of the kernel's memory (measured).
///
/// # Errors
/// Errors of setsockopt(2): ENOMEM beyond net.core.optmem_max, EPERM if the socket's filter is
/// locked.
pub fn keep_out(socket: impl AsFd, address: Ipv4Addr) -> io::Result<()> {
    if !can_reach(address) {
        return Ok(());
    }
    let filter: [_; FILTER_LENGTH as usize] = [
        SockFilter::new(LOAD, 0, 0, DEVICE),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, LOOPBACK_INDEX),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    SockRef::from(&socket).attach_filter(&filter)
}

/// Whether the kernel lets other machines reach an address that is local here. Whether
/// `route_localnet` is on was read the first time.
pub fn can_reach(address: Ipv4Addr) -> bool {
    static IS_ROUTED: OnceLock<bool> = OnceLock::new();
    !address.is_loopback() || *IS_ROUTED.get_or_init(|| is_localnet_routed(Path::new(CONF)))
}

/// True if a device accepts packets for 127.0.0.0/8 from outside: `all`, or any device
/// (ip-sysctl.rst, route_localnet).
fn is_localnet_routed(conf: &Path) -> bool {
    let is_on = |device: &Path| fs::read(device.join("route_localnet")).is_ok_and(|value| value.first() == Some(&b'1'));
    let devices = fs::read_dir(conf).into_iter().flatten().flatten();
    is_on(&conf.join("all")) || devices.map(|entry| entry.path()).any(|device| is_on(&device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_device_is_enough_for_127_0_0_0_to_be_reached() {
        let directory = std::env::temp_dir().join(format!("imsup-neighbours-{}", std::process::id()));
        for (device, value) in [("all", "0\n"), ("lo", "0\n"), ("docker0", "1\n")] {
            fs::create_dir_all(directory.join(device)).unwrap();
            fs::write(directory.join(device).join("route_localnet"), value).unwrap();
        }
        let with = is_localnet_routed(&directory);
        fs::write(directory.join("docker0/route_localnet"), "0\n").unwrap();
        let without = is_localnet_routed(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert!(with && !without);
        assert!(can_reach(Ipv4Addr::new(10, 77, 5, 1)));
    }
}
