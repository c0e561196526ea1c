//! The server for clients that connect and close: it accepts, sends one byte, and waits until the
//! client closes.

use std::io::{Read, Write};
use std::net::TcpListener;

use anyhow::{Context, Result};
use rustix::event::epoll;

pub fn run(listeners: &[TcpListener]) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("making an epoll")?;
    for (number, listener) in listeners.iter().enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, listener, data, epoll::EventFlags::IN).context("watching a listener")?;
    }
    let mut events = Vec::with_capacity(16);
    loop {
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("waiting for connections"),
        }
        for event in events.drain(..) {
            let number = usize::try_from(event.data.u64())?;
            let (mut stream, _) = listeners[number].accept().context("accepting")?;
            // A client that is gone already is no loss.
            let _ = stream.write_all(&[1]).and_then(|()| stream.read(&mut [0]));
        }
    }
}
