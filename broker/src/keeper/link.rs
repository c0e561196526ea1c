//! The broker's connection to a keeper, and the messages that are still to be sent.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use imsup_protocol::version::OURS;

use super::Successor;
use super::message::{self, Message, Together};
use crate::launcher::Launcher;

/// How a keeper is started.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// The project.
    pub(crate) project: String,
    /// How the next broker is started.
    pub(crate) successor: Successor,
    /// The soft limit of descriptors that programs have.
    pub(crate) descriptor_limit: Option<u64>,
}

/// A message not sent yet.
#[derive(Debug)]
pub(super) enum Unsent {
    /// Store the descriptor of this name, if still kept.
    Store(String),
    /// Any other message, with its descriptor.
    Other(Message, Option<OwnedFd>),
}

/// The connection to a keeper.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: OwnedFd,
    pub(super) process: Option<OwnedFd>,
    pub(super) unsent: VecDeque<Unsent>,
}

impl Link {
    /// Starts a keeper of this recipe.
    pub(super) fn start(recipe: &Recipe, launcher: &mut dyn Launcher) -> io::Result<Self> {
        let (ours, theirs) = message::pair()?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut arguments: Vec<std::ffi::OsString> =
            vec!["keeper".into(), "--project".into(), (&recipe.project).into()];
        arguments.push("--".into());
        arguments.extend(recipe.successor.arguments.iter().cloned());
        if let Some(limit) = recipe.descriptor_limit {
            arguments.extend(["--nofile".into(), limit.to_string().into()]);
        }
        let arguments: Vec<&std::ffi::OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        let (_, process) = launcher.start_helper(&arguments, theirs, None)?;
        Ok(Self {
            socket: ours,
            process: Some(process),
            unsent: VecDeque::from([hello()]),
        })
    }

    /// Sends as many messages as the socket takes. Neighbours that store descriptors go together.
    pub(super) fn flush(&mut self, kept: &BTreeMap<String, Arc<OwnedFd>>) {
        while let Some(next) = self.unsent.front() {
            let (count, sent) = match next {
                Unsent::Store(_) => {
                    let (count, together) = first_stored(&self.unsent, kept);
                    (count, together.send(&self.socket))
                }
                Unsent::Other(message, fd) => {
                    let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
                    (1, message::send(&self.socket, message, &fds))
                }
            };
            match sent {
                Ok(()) => drop(self.unsent.drain(..count)),
                // EAGAIN: the socket is full. ETOOMANYREFS: the descriptors in flight are as many
                // as a user may have open. The end of the keeper is an event.
                Err(_) => return,
            }
        }
    }
}

/// How many of the first messages go together, and what they store. Descriptors that are not kept
/// any more are left out.
fn first_stored<'a>(unsent: &VecDeque<Unsent>, kept: &'a BTreeMap<String, Arc<OwnedFd>>) -> (usize, Together<'a>) {
    let (mut count, mut together) = (0, Together::default());
    for next in unsent {
        let Unsent::Store(name) = next else { break };
        if !together.has_room() {
            break;
        }
        count += 1;
        if let Some(fd) = kept.get(name) {
            together.add(name, fd.as_fd());
        }
    }
    (count, together)
}

/// What is said first.
pub(super) fn hello() -> Unsent {
    Unsent::Other(Message::Hello(OURS), None)
}
