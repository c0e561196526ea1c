//! Servers that run natively, on addresses of their own outside imsup's planes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::context::Context;
use crate::listening::wait_for;

/// The address of native server `number`. Processes with neighbouring ids have different addresses,
/// since tests start such processes side by side.
pub fn address(number: u8) -> Ipv4Addr {
    let [.., hi, lo] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 200 + number, hi, lo)
}

/// A native server, ended on drop.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts the daemon, and waits until it listens.
    ///
    /// # Errors
    /// The server cannot be started or does not listen.
    pub fn start(context: &Context, words: &[String], listens: SocketAddrV4) -> Result<Self> {
        let server = Self::spawn(context, words)?;
        wait_for(listens).with_context(|| words[0].clone())?;
        Ok(server)
    }

    /// Starts it.
    ///
    /// # Errors
    /// The server cannot be started.
    pub fn spawn(context: &Context, words: &[String]) -> Result<Self> {
        // In a session of its own, as a service or host is: the scheduler treats sessions apart
        // (sched(7), autogroup). setsid(1) becomes the server: it forks only as a group leader. The
        // server dies with us, in any case.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "setsid"])
            .args(words)
            .current_dir(context.sandbox.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {} by setpriv and setsid (util-linux)", words[0]))?;
        Ok(Self(child))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// SIGSTOP, until the process has stopped.
    ///
    /// # Errors
    /// The process is gone.
    pub fn stop(&self) -> Result<()> {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::STOP).context("stopping a server")?;
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).context("waiting until a server has stopped")?;
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The process is gone.
    pub fn go_on(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::CONT).context("having a server go on")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
