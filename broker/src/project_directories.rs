//! The directories of a project's files.

use std::path::Path;

use crate::error::BrokerError;
use crate::files;

/// The purpose of a directory, and the variable that selects another.
pub(crate) struct Kept {
    what: &'static str,
    variable: &'static str,
}

/// For what lasts as long as the project is up.
pub(crate) const RUNTIME: Kept = Kept {
    what: "the runtime directory",
    variable: "IMSUP_RUNTIME_DIR",
};
/// For what lasts longer.
pub(crate) const STATE: Kept = Kept {
    what: "the state directory",
    variable: "IMSUP_STATE_DIR",
};

/// Makes a directory of one kind, for this user only.
///
/// # Errors
/// mkdir(2), or what is there belongs to another user.
pub(crate) fn make_directory(kind: &Kept, path: &Path) -> Result<(), BrokerError> {
    files::make_private_directory(path).map_err(|source| BrokerError::Directory {
        what: kind.what,
        path: path.to_owned(),
        variable: kind.variable,
        source,
    })
}
