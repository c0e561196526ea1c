//! System calls that imsup traps: socket(2) only if needed, and a call that is left to the kernel
//! at once, which is the least cost of any notification.

use std::hint::black_box;
use std::net::TcpListener;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::control::{self, nanoseconds};

pub fn run() -> Result<()> {
    let unix =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).context("making a socket")?;
    let nowhere = SocketAddrUnix::new("/nonexistent/imsup-bench")?;
    let listener = TcpListener::bind("127.0.0.1:0").context("listening")?;
    control::serve(|count| {
        Ok(vec![
            each("socket", count, || {
                black_box(socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).is_ok());
            }),
            each("continue", count, || {
                black_box(connect(&unix, &nowhere).is_err());
            }),
            each("getsockname", count, || {
                black_box(listener.local_addr().is_ok());
            }),
            each("uname", count, || {
                black_box(rustix::system::uname());
            }),
        ])
    })
}

fn each(name: &'static str, count: usize, mut call: impl FnMut()) -> control::Series {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        call();
        times.push(nanoseconds(start));
    }
    (name, times)
}
