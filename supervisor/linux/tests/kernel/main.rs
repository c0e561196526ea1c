//! The kernel suite: each fact about the kernel that imsup relies on, with the man page or kernel
//! file that states the fact.
//!
//! A kernel with another behaviour fails here, and not in a user's cluster.

mod aio;
mod arrivals;
mod confinement;
mod cut_short;
mod datagrams;
mod families;
mod freezer;
mod handed_over;
mod holders;
mod holes;
mod neighbours;
#[path = "../../../cli/tests/common/network.rs"]
mod network;
mod notification;
mod occupants;
mod orphaned;
mod owners;
mod pipes;
mod removed;
mod resolvers;
mod roots;
mod routes;
mod script;
mod sockets;
mod stopped;
mod takeover;
mod tasks;
mod traffic;
mod unix_diag;
mod waiting;
mod zygote;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

const A: Ipv4Addr = Ipv4Addr::new(127, 77, 254, 1);
const B: Ipv4Addr = Ipv4Addr::new(127, 77, 254, 2);

/// A listener on a port of `A` that the kernel chose.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((A, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
