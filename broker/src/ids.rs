//! Keys with generations: the key of something that was removed is never the key of what has taken
//! its slot.

slotmap::new_key_type! {
    /// A host of the project, declared or transient.
    pub(crate) struct HostId;

    /// A run of a host's program under a supervisor.
    pub struct InstanceId;

    /// A connection of a supervisor or client.
    pub(crate) struct SessionId;

    /// A retained socket.
    pub(crate) struct SocketId;
}
