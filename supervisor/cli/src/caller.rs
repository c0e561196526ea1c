//! The user of the command line.

use nix::unistd::{Uid, User};

/// The user's name, else number: the sender of a `wake` in events.
pub fn name() -> String {
    let uid = Uid::current();
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
}
