//! A typical server: one thread, one epoll instance, any number of connections. It echoes its
//! input.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result};
use listenfd::ListenFd;
use rustix::event::epoll;

use super::serve::listen;

/// The event of the listener; a connection's event is its descriptor, which never equals this.
const LISTENER: u64 = u64::MAX;

pub fn run(at: SocketAddrV4) -> Result<()> {
    // A socket passed at the start (sd_listen_fds(3)), or a new one.
    let listener = match ListenFd::from_env().take_tcp_listener(0)? {
        Some(listener) => listener,
        None => listen(*at.ip(), at.port())?,
    };
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("making an epoll instance")?;
    let watch = |fd: &dyn std::os::fd::AsFd, data: u64| {
        epoll::add(
            &epoll,
            fd.as_fd(),
            epoll::EventData::new_u64(data),
            epoll::EventFlags::IN,
        )
    };
    watch(&listener, LISTENER).context("watching the listener")?;
    say_ready().context("saying that it is ready")?;
    let mut connections = HashMap::new();
    let mut events = Vec::with_capacity(16);
    loop {
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("waiting"),
        }
        for event in events.drain(..) {
            let data = event.data.u64();
            if data == LISTENER {
                let (stream, _) = listener.accept().context("accepting")?;
                stream.set_nodelay(true)?;
                let number = u64::try_from(stream.as_raw_fd())?;
                watch(&stream, number).context("watching a connection")?;
                connections.insert(number, stream);
            } else if !connections.get_mut(&data).is_some_and(echo) {
                connections.remove(&data);
            }
        }
    }
}

/// Reports readiness to the starter, if asked to: sd_notify(3).
fn say_ready() -> Result<()> {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET") {
        UnixDatagram::unbound()?.send_to(b"READY=1", path)?;
    }
    Ok(())
}

/// Echoes the available bytes; false if the client is gone.
fn echo(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    let echoed = stream
        .read(&mut bytes)
        .and_then(|count| stream.write_all(&bytes[..count]).map(|()| count));
    echoed.is_ok_and(|count| count > 0)
}
