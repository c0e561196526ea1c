//! Making nodes: machines, containers, batch jobs or function instances on which hosts can run.
//!
//! An engine makes nodes, in seconds, and knows nothing of hosts. A launcher starts a host
//! on a node that is there, in milliseconds, and knows nothing of nodes. Placement is
//! between the two: placement asks an engine for nodes and chooses the node of a boot.
//!
//! There is no engine yet. What is here is the border that the first one keeps: orders are given
//! without waiting, and everything that happens comes back as an [`Outcome`], in the order in which
//! it happened. A broker passes outcomes to its loop as it does with a launcher's.

use std::fmt;

/// A node, as its engine numbers it. An engine never gives a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// What has become of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node is there, and its broker may join.
    Started(NodeId),
    /// The node will not come, also because it was cancelled. The reason is for people.
    Failed(NodeId, String),
    /// The node was there, and is gone. The reason is for people.
    Ended(NodeId, String),
    /// The node uses nothing until it is unparked.
    Parked(NodeId),
    /// The node is there again, with all that was on it.
    Unparked(NodeId),
}

/// An order that an engine cannot follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this engine does not support it")]
pub struct NotSupported;

/// Makes nodes and ends them. No method waits for a node.
pub trait Engine: fmt::Debug {
    /// Orders this many nodes, and gives their numbers. [`Outcome::Started`] or [`Outcome::Failed`]
    /// follows for each.
    fn start(&mut self, nodes: u32) -> Vec<NodeId>;

    /// Ends a node, or the wait for it. [`Outcome::Failed`] or [`Outcome::Ended`] follows, unless
    /// the node is gone already.
    fn cancel(&mut self, node: NodeId);

    /// Lets a node rest: its memory is kept, and its processors are free for others.
    /// [`Outcome::Parked`] follows.
    ///
    /// # Errors
    /// [`NotSupported`].
    fn park(&mut self, node: NodeId) -> Result<(), NotSupported>;

    /// Ends the rest of a parked node. [`Outcome::Unparked`] follows.
    ///
    /// # Errors
    /// [`NotSupported`].
    fn unpark(&mut self, node: NodeId) -> Result<(), NotSupported>;

    /// What has happened since this was last asked.
    fn outcomes(&mut self) -> Vec<Outcome>;
}
