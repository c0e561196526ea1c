//! A run of a host's program under a supervisor.

use std::os::fd::OwnedFd;

use imsup_wire::{Endpoint, ExitStatus};

use super::Sleep;
use crate::ids::{InstanceId, SessionId};

/// Maximum number of sockets that are known of a program.
pub(crate) const MAX_SOCKETS: usize = 1024;

/// A supervisor that runs a host's program. The supervisor's process is known to the launcher
/// alone, by the key.
#[derive(Debug, Default)]
pub(crate) struct Instance {
    id: InstanceId,
    /// The boot's token, if any.
    boot: Option<u64>,
    /// True if a broker's launcher started the supervisor, and is thus also responsible for its
    /// end.
    launched: bool,
    /// True if the supervisor is to end as soon as it is there.
    unwanted: bool,
    /// True if the supervisor ran before this broker, and has not introduced itself yet.
    expected: bool,
    /// Its connection.
    session: Option<SessionId>,
    /// The program's first process, by the supervisor's number: shown to people.
    program: Option<u32>,
    /// A hash that distinguishes the program from the declared program, if another program was
    /// started.
    other_program: Option<u64>,
    /// Keeps the program's pending calls waiting if the supervisor is killed: a duplicate of the
    /// calls' listener, which is never read. Dropped with the instance, when all leftovers of the
    /// supervisor are ended.
    notify_listener: Option<OwnedFd>,
    /// True if accept(2) is the kernel's: the families of all retained sockets were known.
    accepts_natively: bool,
    /// Endpoints where the program listens on sockets that are not retained.
    listening: Vec<Endpoint>,
    /// Endpoints where the program listened, and has closed its listeners.
    closed: Vec<Endpoint>,
    /// The supervisor's report of the program's end.
    exited: Option<ExitStatus>,
    /// True while the broker cleans up after the supervisor.
    clearing: bool,
    sleep: Sleep,
}

impl Instance {
    /// An instance whose supervisor the launcher is asked for.
    pub(crate) fn launched(boot: u64) -> Self {
        Self {
            boot: Some(boot),
            launched: true,
            ..Self::default()
        }
    }

    /// An instance that ran before this broker, and was told to the last broker.
    pub(crate) fn expected(boot: Option<u64>) -> Self {
        Self {
            boot,
            launched: true,
            expected: true,
            ..Self::default()
        }
    }

    /// An instance whose supervisor has introduced itself. The supervisor was launched if it has a
    /// boot's token.
    pub(crate) fn introduced(boot: Option<u64>, program: Option<u32>, other_program: Option<u64>) -> Self {
        Self {
            boot,
            launched: boot.is_some(),
            program,
            other_program,
            ..Self::default()
        }
    }

    pub(super) fn with_id(mut self, id: InstanceId) -> Self {
        self.id = id;
        self
    }

    /// No other instance has this key.
    pub(crate) fn id(&self) -> InstanceId {
        self.id
    }

    /// The token of the boot, if any.
    pub(crate) fn boot(&self) -> Option<u64> {
        self.boot
    }

    /// The boot goes on under another token. A supervisor with the earlier token is refused.
    pub(crate) fn boot_again(&mut self, boot: u64) {
        self.boot = Some(boot);
    }

    /// True if the supervisor of this boot may introduce itself now.
    pub(crate) fn awaits(&self, boot: u64) -> bool {
        self.boot == Some(boot) && self.session.is_none() && !self.unwanted
    }

    /// True if a broker's launcher started the supervisor, and is thus also responsible for its
    /// end.
    pub(crate) fn is_launched(&self) -> bool {
        self.launched
    }

    /// The supervisor is to end as soon as it is there.
    pub(crate) fn call_off(&mut self) {
        self.unwanted = true;
    }

    /// True after [`Self::call_off`].
    pub(crate) fn is_called_off(&self) -> bool {
        self.unwanted
    }

    /// True if the supervisor ran before this broker, and has not introduced itself yet.
    pub(crate) fn is_expected(&self) -> bool {
        self.expected && self.session.is_none()
    }

    /// The supervisor's connection.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// The supervisor is welcomed over this connection.
    pub(crate) fn connect(&mut self, session: SessionId) {
        self.session = Some(session);
    }

    /// The supervisor's connection has ended.
    pub(crate) fn disconnect(&mut self) {
        self.session = None;
    }

    /// The program's first process, by the supervisor's number: shown to people.
    pub(crate) fn program(&self) -> Option<u32> {
        self.program
    }

    /// The program has started: its first process, by the supervisor's number.
    pub(crate) fn start_program(&mut self, pid: u32) {
        self.program = Some(pid);
    }

    /// A hash that distinguishes the program from the declared program, if another program was
    /// started.
    pub(crate) fn other_program(&self) -> Option<u64> {
        self.other_program
    }

    /// Keeps the listener of the program's calls as long as the instance, or none.
    pub(crate) fn keep_calls_pending(&mut self, listener: Option<OwnedFd>) {
        self.notify_listener = listener;
    }

    /// True if accept(2) is the kernel's: the families of all retained sockets were known.
    pub(crate) fn accepts_natively(&self) -> bool {
        self.accepts_natively
    }

    /// Whether the families of all retained sockets were known when the supervisor was welcomed.
    pub(crate) fn accept_natively(&mut self, known: bool) {
        self.accepts_natively = known;
    }

    /// Endpoints where the program listens on sockets that are not retained.
    pub(crate) fn unretained(&self) -> &[Endpoint] {
        &self.listening
    }

    /// True if the program listened at the endpoint and has closed the listener.
    pub(crate) fn has_closed(&self, endpoint: Endpoint) -> bool {
        self.closed.contains(&endpoint)
    }

    /// The program listens at an endpoint, on a socket that is not retained.
    pub(crate) fn listen_unretained(&mut self, endpoint: Endpoint) {
        if self.listening.len() < MAX_SOCKETS && !self.listening.contains(&endpoint) {
            self.listening.push(endpoint);
        }
    }

    /// The program listens at an endpoint, on a retained socket.
    pub(crate) fn listen_retained(&mut self, endpoint: Endpoint) {
        self.closed.retain(|closed| *closed != endpoint);
    }

    /// The program has closed all its listeners at an endpoint.
    pub(crate) fn close(&mut self, endpoint: Endpoint) {
        self.listening.retain(|listening| *listening != endpoint);
        if self.closed.len() < MAX_SOCKETS && !self.closed.contains(&endpoint) {
            self.closed.push(endpoint);
        }
    }

    /// The supervisor's report of the program's end.
    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        self.exited
    }

    /// The supervisor reports the program's end.
    pub(crate) fn exit(&mut self, status: ExitStatus) {
        self.exited = Some(status);
    }

    /// True while the broker cleans up after the supervisor.
    pub(crate) fn is_clearing(&self) -> bool {
        self.clearing
    }

    /// The broker begins to clean up after the supervisor.
    pub(crate) fn begin_clearing(&mut self) {
        self.clearing = true;
    }

    /// The known state of the host's sleep.
    pub(crate) fn sleep(&self) -> &Sleep {
        &self.sleep
    }

    /// The same, to be changed.
    pub(crate) fn sleep_mut(&mut self) -> &mut Sleep {
        &mut self.sleep
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn a_boot_is_awaited_once_by_its_last_token_unless_it_is_called_off() {
        let mut instance = Instance::launched(1);
        assert!(instance.awaits(1) && !instance.awaits(2));
        instance.boot_again(2);
        assert!(instance.awaits(2) && !instance.awaits(1));
        instance.connect(SlotMap::<SessionId, ()>::with_key().insert(()));
        assert!(!instance.awaits(2), "it is connected");
        instance.disconnect();
        instance.call_off();
        assert!(!instance.awaits(2));
    }

    #[test]
    fn a_supervisor_is_expected_until_it_is_connected() {
        let mut instance = Instance::expected(None);
        assert!(instance.is_expected() && instance.is_launched());
        instance.connect(SlotMap::<SessionId, ()>::with_key().insert(()));
        assert!(!instance.is_expected());
        assert!(!Instance::introduced(None, None, None).is_launched());
    }

    #[test]
    fn an_endpoint_is_closed_until_the_program_listens_there_again() {
        let endpoint = Endpoint::tcp([127, 97, 0, 1].into(), 80);
        let mut instance = Instance::launched(1);
        instance.listen_unretained(endpoint);
        instance.listen_unretained(endpoint);
        assert_eq!(instance.unretained(), [endpoint]);
        instance.close(endpoint);
        assert!(instance.has_closed(endpoint) && instance.unretained().is_empty());
        instance.listen_retained(endpoint);
        assert!(!instance.has_closed(endpoint));
    }
}
