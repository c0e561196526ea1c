//! Names of images.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::{Store, StoreError, failed};
use crate::digest::Digest;
use crate::reference::Reference;

/// The digests that names stand for.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<Reference, Digest>);

/// The file `names.json`: names in full.
#[derive(Default, Serialize, Deserialize)]
struct File {
    names: BTreeMap<String, Digest>,
}

impl Names {
    pub(super) fn get(&self, name: &Reference) -> Option<Digest> {
        self.0.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Reference, Digest)> {
        self.0.iter().map(|(name, digest)| (name, *digest))
    }
}

impl Store {
    pub(super) fn names(&self) -> Result<Names, StoreError> {
        let path = self.path.join("names.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Names::default()),
            Err(error) => return Err(failed("reading", &path)(error)),
        };
        let file: File = serde_json::from_slice(&text).map_err(|source| StoreError::Names { path, source })?;
        // A name that a later version allows is no image of this one.
        let names = file.names.into_iter();
        let known = names.filter_map(|(name, digest)| Some((name.parse().ok()?, digest)));
        Ok(Names(known.collect()))
    }

    /// Changes names, of which other processes see all changes or none.
    pub(super) fn change_names(&self, change: impl FnOnce(&mut BTreeMap<Reference, Digest>)) -> Result<(), StoreError> {
        let _lock = Lock::exclusive(&self.path.join("names.lock"))?;
        let mut names = self.names()?;
        let before = names.0.clone();
        change(&mut names.0);
        if names.0 == before {
            return Ok(());
        }
        let names = names.0.iter().map(|(name, digest)| (name.to_string(), *digest));
        let file = File { names: names.collect() };
        let text = serde_json::to_vec_pretty(&file).expect("names and digests are JSON");
        self.write_file(&self.path.join("names.json"), &text)
    }
}
