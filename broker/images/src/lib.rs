//! Images of hosts: their names, the store that keeps them unpacked, and where they come from.
//!
//! An image is known by a [`Reference`]; its content by [`Digest`]s.
#![forbid(unsafe_code)]

pub mod add;
pub mod config;
pub mod decompress;
pub mod digest;
pub mod manifest;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod source;
pub mod store;
pub mod tar;
pub mod unpack;
pub mod wanted;

pub use config::{Healthcheck, ImageConfig};
pub use digest::Digest;
pub use platform::Platform;
pub use reference::Reference;
pub use store::{Image, Store};
pub use wanted::{Pull, Wanted};
