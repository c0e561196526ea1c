//! Images made here, unpacked, stored and loaded.

mod archive;
mod hostile;
mod image;
mod sources;
mod store;
mod unpacking;
