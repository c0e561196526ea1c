//! A launcher without processes, for tests: keeps what it is told, and tells what the test says.

use std::cell::{RefCell, RefMut};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use imsup_wire::ExitStatus;
use rustix::process::{Pid, Signal};
use slotmap::SecondaryMap;

use super::{Launch, LaunchEvent, Launcher, Leftovers, Outcome, Standing};
use crate::ids::InstanceId;

/// A call of a launcher that a test looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A supervisor is to be started: the host, and if only the surest road will do.
    Start(String, bool),
    /// A supervisor is sent this signal.
    Signal(InstanceId, Signal),
    /// An instance's leftovers are to be ended.
    Clear(InstanceId),
    /// An instance is over.
    Forget(InstanceId),
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    /// The tokens of all boots, the last one last.
    boots: Vec<u64>,
    standings: SecondaryMap<InstanceId, Standing>,
    outcomes: Vec<Outcome>,
    /// To be called when leftovers are gone.
    done: Vec<Box<dyn FnOnce() + Send>>,
}

/// The test and the broker have the same.
#[derive(Clone, Default)]
pub(crate) struct LauncherDouble(Rc<RefCell<State>>);

impl LauncherDouble {
    fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// The calls since this was last asked.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// The tokens of all boots, the last one last.
    pub(crate) fn boots(&self) -> Vec<u64> {
        self.state().boots.clone()
    }

    /// This is the next outcome.
    pub(crate) fn happens(&self, instance: InstanceId, event: LaunchEvent) {
        let mut state = self.state();
        if matches!(event, LaunchEvent::Started) {
            state.standings.insert(instance, Standing::Watched);
        }
        state.outcomes.push(Outcome { instance, event });
    }

    /// All leftovers that were to be ended are gone.
    pub(crate) fn clears(&self) {
        let done = std::mem::take(&mut self.state().done);
        done.into_iter().for_each(|done| done());
    }
}

impl Launcher for LauncherDouble {
    fn prepare(&mut self, _project: &str) {}

    fn finish(&mut self) {}

    fn start(&mut self, launch: &Launch<'_>) {
        let mut state = self.state();
        state.calls.push(Call::Start(launch.host.to_string(), launch.again));
        state.boots.push(launch.boot);
        state.standings.insert(launch.instance, Standing::Starting);
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.state().outcomes)
    }

    fn due(&mut self) -> Option<Duration> {
        None
    }

    fn start_helper(
        &mut self,
        _arguments: &[&OsStr],
        _stdin: OwnedFd,
        _output: Option<OwnedFd>,
    ) -> io::Result<(Pid, OwnedFd)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn adopt(&mut self, instance: InstanceId, _pid: u32) -> Vec<PathBuf> {
        self.state().standings.insert(instance, Standing::Watched);
        Vec::new()
    }

    fn note_program(&mut self, _instance: InstanceId, _pid: u32) {}

    fn process(&self, _instance: InstanceId) -> Option<u32> {
        None
    }

    fn standing(&self, instance: InstanceId) -> Standing {
        let standing = self.state().standings.get(instance).copied();
        standing.unwrap_or(Standing::Unknown)
    }

    fn signal(&mut self, instance: InstanceId, signal: Signal) {
        self.state().calls.push(Call::Signal(instance, signal));
    }

    fn look_at(&mut self, _instance: InstanceId) {}

    fn reap(&mut self) {}

    fn clear(&mut self, left: &Leftovers<'_>, done: Box<dyn FnOnce() + Send>) {
        let mut state = self.state();
        state.calls.push(Call::Clear(left.instance));
        state.done.push(done);
    }

    fn forget(&mut self, instance: InstanceId) -> Option<ExitStatus> {
        let mut state = self.state();
        state.calls.push(Call::Forget(instance));
        state.standings.remove(instance);
        None
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}
