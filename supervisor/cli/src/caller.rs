//! Who runs the command line.

use nix::unistd::{Uid, User};

/// The user's name, else number: what events call the sender of a `wake`.
pub fn name() -> String {
    let uid = Uid::current();
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
}
