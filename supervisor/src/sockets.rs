//! What is known of the program's sockets, if that is not what the kernel knows of them.

mod asked;
mod own;
mod ports;
mod recent;
mod retained;

pub use self::asked::{Asked, SocketTable};
pub use self::own::OwnConnections;
pub use self::ports::NativePorts;
pub use self::retained::{Given, Retained, Successor};
