//! The arguments that name a program: the same for `imsup run` and `imsup exec`.

use std::ffi::OsString;

use imsup_wire::ProgramSpec;

/// A command, and its user.
#[derive(Debug, clap::Args)]
pub struct ProgramArgs {
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
        ProgramSpec {
            user: self.user,
            ..ProgramSpec::new(self.command)
        }
    }
}
