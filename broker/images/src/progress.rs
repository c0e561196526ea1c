//! What is going on, for whoever waits.

use crate::digest::Digest;

/// A step of a layer on its way into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The layer is in the store already.
    Exists,
    /// So many bytes of so many have arrived.
    Downloading {
        /// The bytes that have arrived.
        done: u64,
        /// All bytes.
        total: u64,
    },
    /// The layer is unpacked.
    Unpacking,
    /// The layer is in the store.
    Done,
}

/// A listener to the steps of layers, of several threads.
pub trait Progress: Sync {
    /// The layers of the image that is added now, by the digests in its manifest, with their
    /// lengths.
    fn begin(&self, layers: &[(Digest, u64)]);

    /// A layer, by the digest in its manifest, takes a step.
    fn step(&self, layer: Digest, step: Step);
}

/// Nobody listens.
impl Progress for () {
    fn begin(&self, _: &[(Digest, u64)]) {}

    fn step(&self, _: Digest, _: Step) {}
}
