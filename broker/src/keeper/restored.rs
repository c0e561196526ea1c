//! The descriptors that the keeper gives to a broker after the death of the last one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;

use imsup_protocol::version::{self, Disagreement, OURS};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::message::{self, Message};
use super::names::What;
use imsup_compose::cluster::Cluster;
use imsup_protocol::codec;

/// The reasons why a broker cannot take the place of a dead broker.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The connection to the keeper.
    #[error("hearing the keeper: {0}; nobody but the keeper starts a broker so")]
    Connection(#[source] io::Error),
    /// It speaks other versions.
    #[error("{0}; the project's keeper is of another imsup: `imsup down` ends it")]
    Versions(#[from] Disagreement),
    /// It did not say which versions it speaks.
    #[error(
        "the project's keeper is of an older imsup, and does not say which versions it speaks: `imsup down` ends it"
    )]
    NoHello,
    /// The keeper ended before all descriptors were given.
    #[error("the keeper ended before it had given everything")]
    Ended,
    /// The cluster is missing or cannot be read.
    #[error("the keeper has not given the cluster: {0}")]
    Cluster(#[source] io::Error),
}

/// The descriptors that a keeper had, and the connection to the keeper.
#[derive(Debug)]
pub struct Restored {
    pub(super) keeper: OwnedFd,
    pub(super) fds: BTreeMap<String, OwnedFd>,
    /// The soft limit of descriptors that programs start with; `None` for no limit.
    pub(crate) descriptor_limit: Option<u64>,
}

impl Restored {
    /// Takes all descriptors from the keeper at the other end of this socket. Raises the soft limit
    /// of descriptors to the hard one, since there may be more descriptors than programs may have
    /// open. Programs start with `descriptor_limit`: the soft limit of the first broker, `None` for
    /// no limit.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn receive(keeper: OwnedFd, descriptor_limit: Option<u64>) -> Result<Self, RestoreError> {
        let connection = |errno: Errno| RestoreError::Connection(errno.into());
        let mut raised = getrlimit(Resource::Nofile);
        raised.current = raised.maximum;
        setrlimit(Resource::Nofile, raised).map_err(connection)?;
        let mut fds = BTreeMap::new();
        let mut has_agreed = false;
        loop {
            match message::receive(&keeper).map_err(connection)? {
                Some((Message::Hello(theirs), _)) => {
                    version::agree(OURS, theirs)?;
                    has_agreed = true;
                }
                Some(_) if !has_agreed => return Err(RestoreError::NoHello),
                Some((Message::Store(name), stored)) => fds.extend(stored.into_iter().map(|fd| (name.clone(), fd))),
                Some((Message::StoreAll(names), stored)) => fds.extend(names.into_iter().zip(stored)),
                Some((Message::Ready, _)) => break,
                Some(_) => {}
                None => return Err(RestoreError::Ended),
            }
        }
        Ok(Self {
            keeper,
            fds,
            descriptor_limit,
        })
    }

    /// The cluster of the last broker.
    ///
    /// # Errors
    /// [`RestoreError::Cluster`].
    pub fn cluster(&self) -> Result<Cluster, RestoreError> {
        let is_it = |name: &&String| What::of(name) == Some(What::Cluster);
        let name = self.fds.keys().find(is_it);
        let fd = name.and_then(|name| self.fds.get(name));
        let fd = fd.ok_or_else(|| RestoreError::Cluster(io::ErrorKind::NotFound.into()))?;
        read(fd).map_err(RestoreError::Cluster)
    }
}

fn read(fd: &OwnedFd) -> io::Result<Cluster> {
    let mut file = File::from(fd.try_clone()?);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    codec::from_bytes(&bytes).map_err(io::Error::other)
}

/// A file of memory that holds the cluster. The next broker is of the same executable, and reads it
/// as it was written: bincode, since 1,000 hosts are 650 KB of JSON, a tenth of the time of `up`.
pub(super) fn write(cluster: &Cluster) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(c"imsup-cluster", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(&codec::to_bytes(cluster).map_err(io::Error::other)?)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use imsup_compose::cluster::Publish;

    #[test]
    fn a_cluster_is_read_back_as_it_was() {
        let mut web = crate::testing::host("web");
        web.program.environment.insert("A".to_owned(), "b\n\"c\"".to_owned());
        web.program.working_dir = OsStr::from_bytes(b"/srv/\xff").into();
        web.expose.push((imsup_wire::Transport::Udp, 53));
        web.published.push(Publish {
            machine_ip: Some("::1".parse().unwrap()),
            machine_port: None,
            port: 80,
            transport: imsup_wire::Transport::Tcp,
        });
        web.imsup.terminate_after = Some(std::time::Duration::from_nanos(1_500_000_007));
        let mut cluster = crate::testing::cluster("shop", vec![web]);
        cluster.subnet = Some("10.77.0.0/16".parse().unwrap());
        let fd = write(&cluster).unwrap();
        for _ in 0..2 {
            assert_eq!(read(&fd).unwrap(), cluster);
        }
    }
}
