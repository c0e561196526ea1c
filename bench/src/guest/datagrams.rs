//! Datagrams: round trips by each sending call, and throughput.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, sendmsg};
use rustix::net::{RecvFlags, recv};

use super::control::{self, nanoseconds};
use super::ports;

/// Over loopback a datagram is lost only by a full buffer, and then never comes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Datagrams in flight at once: they fit the default buffer (net.core.rmem_default), each taking
/// less than 1 KiB.
const WINDOW: usize = 128;
/// Datagrams of one sendmmsg(2).
const TOGETHER: usize = 16;
const PAYLOAD: [u8; 64] = [7; 64];

/// Sends every datagram back to its sender.
pub fn echo(socket: &UdpSocket) -> std::io::Result<()> {
    let mut bytes = [0; 2048];
    loop {
        let (count, from) = socket.recv_from(&mut bytes)?;
        // A client that is gone misses no reply.
        let _ = socket.send_to(&bytes[..count], from);
    }
}

/// Receives datagrams, and sends a byte to the sender of each [`WINDOW`]th.
pub fn take(socket: &UdpSocket) -> std::io::Result<()> {
    let mut bytes = [0; 2048];
    let mut taken = 0_usize;
    loop {
        let (_, from) = socket.recv_from(&mut bytes)?;
        taken += 1;
        if taken.is_multiple_of(WINDOW) {
            socket.send_to(&[1], from)?;
        }
    }
}

pub fn run(ip: Ipv4Addr) -> Result<()> {
    let echo = SocketAddrV4::new(ip, ports::ECHO_DATAGRAMS);
    let take = SocketAddrV4::new(ip, ports::TAKE_DATAGRAMS);
    let to_echo = SockaddrIn::from(echo);
    let to_take = SockaddrIn::from(take);
    // Each call has a socket of its own: imsup's work for one call must not help another.
    let by_sendto = socket()?;
    let by_sendmsg = socket()?;
    let connected = socket()?;
    connected.connect(SocketAddr::V4(echo)).context("connecting")?;
    let connected_by_sendmsg = socket()?;
    connected_by_sendmsg
        .connect(SocketAddr::V4(echo))
        .context("connecting")?;
    let sender = socket()?;
    let sender_together = socket()?;
    let payload = [IoSlice::new(&PAYLOAD)];
    let one = |socket: &UdpSocket, flags: MsgFlags, to: Option<&SockaddrIn>| -> Result<()> {
        let sent = sendmsg(socket.as_raw_fd(), &payload, &[], flags, to)?;
        whole(sent)
    };
    control::serve(|count| {
        let there_and_back = |name, socket: &UdpSocket, send: &dyn Fn(&UdpSocket) -> Result<()>| {
            let mut times = Vec::with_capacity(count);
            let mut bytes = [0; PAYLOAD.len()];
            for _ in 0..count {
                let start = Instant::now();
                send(socket)?;
                whole(socket.recv(&mut bytes).context("waiting for a datagram")?)?;
                times.push(nanoseconds(start));
            }
            Ok::<_, anyhow::Error>((name, times))
        };
        Ok(vec![
            there_and_back("sendto", &by_sendto, &|socket| whole(socket.send_to(&PAYLOAD, echo)?))?,
            there_and_back("sendmsg", &by_sendmsg, &|socket| {
                one(socket, MsgFlags::empty(), Some(&to_echo))
            })?,
            there_and_back("send", &connected, &|socket| whole(socket.send(&PAYLOAD)?))?,
            there_and_back("sendmsg-connected", &connected_by_sendmsg, &|socket| {
                one(socket, MsgFlags::MSG_NOSIGNAL, None)
            })?,
            rate("rate-sendto", count, &sender, || {
                whole(sender.send_to(&PAYLOAD, take)?).map(|()| 1)
            })?,
            rate("rate-sendmmsg", count, &sender_together, || {
                many(&sender_together, &to_take)
            })?,
        ])
    })
}

/// Samples are datagrams a second, each over some windows.
fn rate(
    name: &'static str,
    count: usize,
    socket: &UdpSocket,
    mut send: impl FnMut() -> Result<usize>,
) -> Result<control::Series> {
    const WINDOWS: usize = 8;
    // As many as there are round trips would take long.
    let count = count.div_ceil(20);
    let mut rates = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        for _ in 0..WINDOWS {
            let mut sent = 0;
            while sent < WINDOW {
                sent += send()?;
            }
            recv(socket, &mut [0_u8; 1], RecvFlags::empty()).context("waiting for the window's end")?;
        }
        rates.push(((WINDOWS * WINDOW) as f64 / start.elapsed().as_secs_f64()) as u64);
    }
    Ok((name, rates))
}

fn many(socket: &UdpSocket, to: &SockaddrIn) -> Result<usize> {
    let payload = [IoSlice::new(&PAYLOAD)];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(TOGETHER, None);
    let (slices, addresses) = (vec![payload; TOGETHER], vec![Some(*to); TOGETHER]);
    let sent = sendmmsg(
        socket.as_raw_fd(),
        &mut headers,
        &slices,
        addresses,
        [],
        MsgFlags::empty(),
    )?;
    let count = sent.count();
    Ok(count)
}

fn socket() -> Result<UdpSocket> {
    // Not std's bind: most clients send from an unbound socket.
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .context("making a socket")?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn whole(count: usize) -> Result<()> {
    if count != PAYLOAD.len() {
        bail!("{count} bytes of {}", PAYLOAD.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_fit_the_default_buffer() {
        let text = std::fs::read_to_string("/proc/sys/net/core/rmem_default").unwrap();
        let bytes: usize = text.trim().parse().unwrap();
        assert!(WINDOW * 1024 <= bytes, "net.core.rmem_default is {bytes}");
        assert_eq!(WINDOW % TOGETHER, 0);
    }
}
