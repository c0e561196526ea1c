//! Images made here, unpacked, stored and loaded.

mod archive;
mod hostile;
mod unpacking;
