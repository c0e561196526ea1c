//! The arguments that name a program: the same for `imsup run` and `imsup exec`.

use std::ffi::OsString;
use std::path::PathBuf;

use imsup_wire::ProgramSpec;

/// A command, and its user.
#[derive(Debug, clap::Args)]
pub struct ProgramArgs {
    /// Run it in this directory
    #[arg(short, long = "workdir", value_name = "DIRECTORY")]
    working_dir: Option<PathBuf>,
    /// Set a variable, or hand on one of the caller's
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    environment: Vec<String>,
    /// Run it as this user, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The command and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) command: Vec<OsString>,
}

impl ProgramArgs {
    /// The program as the command line describes it.
    pub fn into_spec(self) -> ProgramSpec {
        let mut spec = ProgramSpec::new(self.command);
        spec.user = self.user;
        spec.working_dir = self.working_dir.unwrap_or_default();
        let variables = self
            .environment
            .into_iter()
            .filter_map(|text| match text.split_once('=') {
                Some((name, value)) => Some((name.to_owned(), value.to_owned())),
                None => Some((text.clone(), std::env::var(text).ok()?)),
            });
        spec.environment.extend(variables);
        spec
    }
}
