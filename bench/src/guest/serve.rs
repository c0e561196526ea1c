//! The server of all clients: ping, bulk and greetings.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};

use super::{bulk, control, datagrams, greet, ports, rate};

/// Serves until killed, or until the end of the input if the guest is controlled.
pub fn run(ip: Ipv4Addr, controlled: bool) -> Result<()> {
    // A service has a session of its own, natively and as a host, and the scheduler treats sessions
    // apart (sched(7), autogroup). The call fails if the process leads a session already.
    let _ = rustix::process::setsid();
    each_connection(listen(ip, ports::PING)?, echo);
    each_connection(listen(ip, ports::BULK)?, bulk::take);
    let acceptor = listen(ip, ports::RATE)?;
    thread::spawn(move || rate::take(&acceptor));
    each_datagram(ip, ports::ECHO_DATAGRAMS, datagrams::echo)?;
    each_datagram(ip, ports::TAKE_DATAGRAMS, datagrams::take)?;
    let greeted = [ports::BLOCKING, ports::NON_BLOCKING]
        .into_iter()
        .chain(ports::ROTATION);
    let listeners = greeted.map(|port| listen(ip, port)).collect::<Result<Vec<_>>>()?;
    let greeter = thread::spawn(move || greet::run(&listeners));
    if controlled {
        return control::serve(|_| Ok(Vec::new()));
    }
    match greeter.join() {
        Ok(ended) => ended,
        Err(_) => anyhow::bail!("the greeter panicked"),
    }
}

/// Listens.
pub fn listen(ip: Ipv4Addr, port: u16) -> Result<TcpListener> {
    TcpListener::bind((ip, port)).with_context(|| format!("listening on {ip}:{port}"))
}

/// Serves each connection in a thread of its own; a failure concerns that client only.
fn each_connection(listener: TcpListener, serve: fn(TcpStream) -> std::io::Result<()>) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
}

fn each_datagram(ip: Ipv4Addr, port: u16, serve: fn(&UdpSocket) -> std::io::Result<()>) -> Result<()> {
    let socket = UdpSocket::bind((ip, port)).with_context(|| format!("binding {ip}:{port} for datagrams"))?;
    thread::spawn(move || serve(&socket));
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}
