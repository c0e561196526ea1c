//! System calls that imsup does not trap. A sample is the nanoseconds of [`BLOCK`] calls: a single
//! call is too short to be timed.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::control::{self, nanoseconds};

const BLOCK: usize = 1_000;

pub fn run() -> Result<()> {
    let mut zero = File::open("/dev/zero").context("opening /dev/zero")?;
    let mut null = File::create("/dev/null").context("opening /dev/null")?;
    let (near, far) = connected()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &near, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let mut events = Vec::with_capacity(4);
    let mut byte = [1];
    control::serve(|count| {
        Ok(vec![
            block("getppid", count, || {
                std::hint::black_box(rustix::process::getppid());
                Ok(())
            })?,
            block("read", count, || Ok(zero.read_exact(&mut byte)?))?,
            block("write", count, || Ok(null.write_all(&byte)?))?,
            block("epoll_wait", count, || {
                epoll::wait(
                    &epoll,
                    rustix::buffer::spare_capacity(&mut events),
                    Some(&rustix::event::Timespec::default()),
                )?;
                Ok(())
            })?,
            // If a call is trapped for some arguments only, the kernel cannot allow it beforehand
            // (no bitmap, kernel/seccomp.c) and runs the filter.
            block("send", count, || {
                send(&near, &[], SendFlags::empty())?;
                Ok(())
            })?,
            block("recv", count, || match recv(&far, &mut byte, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => Ok(()),
                other => anyhow::bail!("recv of nothing said {other:?}"),
            })?,
            block("send+recv", count, || {
                send(&near, &[1], SendFlags::empty())?;
                recv(&far, &mut byte, RecvFlags::empty())?;
                Ok(())
            })?,
            block("openat+close", count, || {
                drop(File::open("/dev/null")?);
                Ok(())
            })?,
        ])
    })
}

fn block(name: &'static str, count: usize, mut call: impl FnMut() -> Result<()>) -> Result<control::Series> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        for _ in 0..BLOCK {
            call()?;
        }
        times.push(nanoseconds(start));
    }
    Ok((name, times))
}

fn connected() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listening")?;
    let near = TcpStream::connect(listener.local_addr()?).context("connecting to oneself")?;
    near.set_nodelay(true)?;
    let (far, _) = listener.accept().context("accepting from oneself")?;
    Ok((near, far))
}
