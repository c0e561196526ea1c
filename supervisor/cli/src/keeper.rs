//! `imsup keeper`: holds the retained sockets of a broker, and starts the next broker after the
//! broker's death. The broker starts the keeper, and talks to the keeper over the keeper's standard
//! input.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use imsup_broker::keeper::{self, Keeper};
use imsup_broker::paths::Paths;

use super::broker;
use super::logging;

/// The broker's command line, `keeper --project P -- ARGUMENTS`.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    project: String,
    successor: Vec<OsString>,
}

/// The parameters, if the command line is exactly this.
pub fn asked(mut arguments: impl Iterator<Item = OsString>) -> Option<Asked> {
    if arguments.next()? != "keeper" || arguments.next()? != "--project" {
        return None;
    }
    let project = arguments.next()?.into_string().ok()?;
    (arguments.next()? == "--").then(|| Asked {
        project,
        successor: arguments.collect(),
    })
}

/// Serves until the project is down.
///
/// # Errors
/// The project has a keeper, or standard input is not a connection to a broker.
pub fn serve(asked: Asked) -> Result<()> {
    logging::start_for_a_file();
    let log_to_file = |paths: &Paths| broker::log_to_file(paths).map_err(io::Error::other);
    let broker = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let keeper = Keeper {
        paths: Paths::of(&asked.project),
        executable: std::env::current_exe().context("finding imsup's own program")?,
        arguments: asked.successor,
        log_to_file,
    };
    keeper::keep(&keeper, broker).context("keeping the project's sockets; nobody else runs 'imsup keeper'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_brokers_line_is_meant() {
        let asked = |line: &str| asked(line.split(' ').map(OsString::from));
        let shop = Asked {
            project: "shop".to_owned(),
            successor: vec!["broker".into(), "--successor".into()],
        };
        assert_eq!(asked("keeper --project shop -- broker --successor"), Some(shop));
        for line in [
            "keeper",
            "keeper --project shop",
            "keeper --project shop --other -- y",
            "ps --project shop -- x",
        ] {
            assert_eq!(asked(line), None, "{line}");
        }
    }
}
