//! Names of images.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::{Store, StoreError, failed};
use crate::digest::Digest;
use crate::reference::Reference;

/// The digests that names stand for.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<Reference, Named>);

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    digest: Digest,
    /// The last time that an image was loaded or pulled by this name, in seconds since 1970.
    since: u64,
}

/// The file `names.json`: names in full.
#[derive(Default, Serialize, Deserialize)]
struct File {
    names: BTreeMap<String, Named>,
}

impl Names {
    pub(super) fn get(&self, name: &Reference) -> Option<Digest> {
        self.0.get(name).map(|named| named.digest)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Reference, Digest)> {
        self.0.iter().map(|(name, named)| (name, named.digest))
    }
}

impl Named {
    /// A name that is given now.
    pub(super) fn now(digest: Digest) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            digest,
            since: since.unwrap_or_default().as_secs(),
        }
    }

    /// How long ago that was. A clock that was set back makes the name as old as can be.
    fn age(self, now: SystemTime) -> Duration {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let age = now.checked_sub(Duration::from_secs(self.since));
        age.unwrap_or(Duration::MAX)
    }
}

impl Store {
    /// The time since an image was last loaded or pulled by this name, which may have been the same
    /// image; `None` for a digest, and for a name that is not known.
    ///
    /// # Errors
    /// The names cannot be read.
    pub fn age(&self, name: &Reference, now: SystemTime) -> Result<Option<Duration>, StoreError> {
        let names = self.names()?;
        let named = names.0.get(name).filter(|_| name.digest().is_none());
        Ok(named.map(|named| named.age(now)))
    }

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
        let known = names.filter_map(|(name, named)| Some((name.parse().ok()?, named)));
        Ok(Names(known.collect()))
    }

    /// Changes names, of which other processes see all changes or none.
    pub(super) fn change_names(&self, change: impl FnOnce(&mut BTreeMap<Reference, Named>)) -> Result<(), StoreError> {
        let _lock = Lock::exclusive(&self.path.join("names.lock"))?;
        let mut names = self.names()?;
        let before = names.0.clone();
        change(&mut names.0);
        if names.0 == before {
            return Ok(());
        }
        let names = names.0.iter().map(|(name, named)| (name.to_string(), *named));
        let file = File { names: names.collect() };
        let text = serde_json::to_vec_pretty(&file).expect("names and digests are JSON");
        self.write_file(&self.path.join("names.json"), &text)
    }
}
