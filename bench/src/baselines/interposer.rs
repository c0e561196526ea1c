//! A libc interposer: proxychains4, configured to reach every destination here directly.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;
use crate::context::{Baseline, Context};

/// proxychains4 with a configuration of ours.
#[derive(Clone, Debug)]
pub struct Interposer {
    program: PathBuf,
    configuration: PathBuf,
}

impl Interposer {
    /// Finds it.
    ///
    /// # Errors
    /// The interposer is missing, or left out by the command line.
    pub fn find(context: &Context) -> Result<Self> {
        context.wants(Baseline::Proxychains4)?;
        let program = command::find("proxychains4").context("there is no proxychains4 (Debian: proxychains4)")?;
        let configuration = context.sandbox.directory().join("proxychains.conf");
        // The interposer's connect(2) inspects each destination, and leaves these alone: the proxy
        // is never asked.
        command::write_file(
            &configuration,
            "strict_chain\nlocalnet 127.0.0.0/255.0.0.0\n[ProxyList]\nsocks5 127.0.0.1 9\n",
        )?;
        Ok(Self { program, configuration })
    }

    /// A program under the interposer.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-q").arg("-f").arg(&self.configuration).arg(program);
        command
    }
}
