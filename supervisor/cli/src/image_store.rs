//! The store of images, as the user who owns the files of images.

use std::path::PathBuf;

use anyhow::{Context, Result};
use imsup_images::Store;
use imsup_images::store::default_path;
use imsup_images::unpack::Owners;
use imsup_linux::root::subordinate::ids_of_caller;
use imsup_linux::single_thread::SingleThread;
use imsup_linux::user_namespace::enter_subordinate;
use imsup_wire::Ids;

use super::failure::hinted;

/// The store, to look at.
///
/// # Errors
/// The directory cannot be made or read.
pub fn look() -> Result<Store> {
    let store = open(default_path())?;
    Ok(match ids_of_caller() {
        Ids::Ranges { .. } => store.with_owners(Owners::Recorded),
        Ids::Identity | Ids::One { .. } => store,
    })
}

/// The store, to change. A user with subordinate ids (subuid(5)) becomes root of a user namespace,
/// in which the files of images belong to whom the images say. For a process with one thread.
///
/// # Errors
/// The ids cannot be had, or the directory cannot be made or written.
pub fn enter() -> Result<Store> {
    // Root of the namespace is no root of the machine.
    let path = default_path();
    let thread = SingleThread::prove().context("entering a user namespace")?;
    enter_subordinate(&thread)?;
    open(path)
}

fn open(path: PathBuf) -> Result<Store> {
    Store::open(path).map_err(|error| {
        hinted(
            anyhow::Error::from(error).context("the store of images"),
            "set IMSUP_IMAGE_DIR to a directory that you can write",
        )
    })
}
