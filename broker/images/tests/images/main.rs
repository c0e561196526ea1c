//! Images made here, unpacked, stored and loaded.

mod archive;
mod faulty;
mod fuzz;
mod hostile;
mod image;
mod registry;
mod server;
mod sources;
mod store;
mod unpacking;
