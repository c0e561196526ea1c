//! The measured programs: this binary, executed again natively and under imsup. They use no part of
//! imsup.

mod accept;
mod bulk;
mod calls;
mod connect;
mod control;
mod datagrams;
mod echo;
mod greet;
mod listeners;
mod ping;
pub mod ports;
mod rate;
mod relay;
mod serve;
mod trapped;

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::affinity;

/// The role of a guest.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Serve all the others
    Serve {
        /// The address of all its ports.
        ip: Ipv4Addr,
        /// The processor it stays on.
        #[arg(long)]
        cpu: Option<usize>,
        /// End when the standard input ends, and say when it is ready.
        #[arg(long)]
        controlled: bool,
    },
    /// Send a byte and wait for it to come back
    Ping {
        /// A server.
        ip: Ipv4Addr,
        /// The processor it stays on.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Send much
    Bulk {
        /// A server.
        ip: Ipv4Addr,
        /// The processor it stays on.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Send back what comes, in one thread with epoll
    Echo {
        /// The address on which the daemon listens.
        at: SocketAddrV4,
    },
    /// Connect and close
    Connect {
        /// A server.
        ip: Ipv4Addr,
        /// The processor it stays on.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Send datagrams
    Datagrams {
        /// A server.
        ip: Ipv4Addr,
        /// The processor it stays on.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Pass on to the next of a chain
    Relay {
        /// The address on which the daemon listens.
        at: SocketAddrV4,
        /// The next one, `NAME:PORT`.
        next: Option<String>,
    },
    /// Connect and close from several threads
    Rate {
        /// A server.
        ip: Ipv4Addr,
        /// How many.
        #[arg(long)]
        threads: usize,
    },
    /// Accept
    Accept {
        /// The address on which the daemon listens.
        at: SocketAddrV4,
    },
    /// System calls that imsup does not trap
    Calls,
    /// System calls that imsup traps
    Trapped,
    /// Listen on one port of each of many addresses
    Listeners {
        /// How many.
        count: u32,
    },
}

/// Is the guest.
///
/// # Errors
/// The guest's work fails.
pub fn run(role: Role) -> Result<()> {
    match role {
        Role::Serve { ip, cpu, controlled } => {
            pin(cpu)?;
            serve::run(ip, controlled)
        }
        Role::Ping { ip, cpu } => {
            pin(cpu)?;
            ping::run(ip)
        }
        Role::Bulk { ip, cpu } => {
            pin(cpu)?;
            bulk::run(ip)
        }
        Role::Connect { ip, cpu } => {
            pin(cpu)?;
            connect::run(ip)
        }
        Role::Datagrams { ip, cpu } => {
            pin(cpu)?;
            datagrams::run(ip)
        }
        Role::Rate { ip, threads } => rate::run(ip, threads),
        Role::Relay { at, next } => relay::run(at, next.as_deref()),
        Role::Echo { at } => echo::run(at),
        Role::Accept { at } => accept::run(at),
        Role::Calls => calls::run(),
        Role::Trapped => trapped::run(),
        Role::Listeners { count } => listeners::run(count),
    }
}

fn pin(cpu: Option<usize>) -> Result<()> {
    affinity::pin(cpu).context("choosing a processor")
}
