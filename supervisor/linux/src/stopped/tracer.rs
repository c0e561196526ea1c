//! The thread that traces: it is told what to do with its tracees, and answers with how they are.

use crossbeam_channel::{Receiver, Sender, unbounded};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Instant;

use nix::unistd::gettid;

use super::tracees::{Order, Tracees};
use super::{StopError, StoppedThread};

/// The stack size of a tracer: small, since without a freezer there is a tracer for each sleeper.
const TRACER_STACK_BYTES: usize = 64 * 1024;

/// The threads that are stopped, and why not all are that should be.
pub(super) type StopResult = (Vec<StoppedThread>, Option<StopError>);

/// The thread that traces.
#[derive(Debug)]
pub(super) struct Tracer {
    thread: Option<JoinHandle<i32>>,
    /// Closed, to let all go.
    orders: Option<Sender<Order>>,
    answers: Receiver<StopResult>,
    /// True if the tracer goes on tracing, longer than any caller waits.
    carries: bool,
}

impl Tracer {
    pub(super) fn start(deadline: Instant) -> Result<Self, StopError> {
        let (orders, received) = unbounded();
        let (answer, answers) = unbounded();
        let thread = std::thread::Builder::new()
            .name("imsup-tracer".to_owned())
            .stack_size(TRACER_STACK_BYTES)
            .spawn(move || {
                let mut tracees = Tracees::new(deadline);
                for order in received {
                    let error = tracees.obey(order).err();
                    if answer.send((tracees.stopped(), error)).is_err() {
                        break;
                    }
                }
                tracees.finish();
                gettid().as_raw()
            })
            .map_err(|_| StopError::NoTracer)?;
        Ok(Self {
            thread: Some(thread),
            orders: Some(orders),
            answers,
            carries: false,
        })
    }

    /// Gives an order and awaits its outcome.
    ///
    /// Blocking: to the tracer's deadline, as the loop cannot answer the calls of a host that is being
    /// stopped.
    pub(super) fn ask(&self, order: Order) -> Result<StopResult, StopError> {
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        sent.then_some(()).ok_or(StopError::NoTracer)?;
        self.answers.recv().map_err(|_| StopError::NoTracer)
    }

    /// Tells the tracer to let all go, and waits for nothing. A tracer that has ended has let go.
    pub(super) fn release_soon(&self) {
        let _ = self.orders.as_ref().map(|orders| orders.send(Order::Release));
    }

    /// Has the tracer go on for longer than anybody waits.
    pub(super) fn leave_carrying(&mut self) {
        self.carries = true;
    }

    /// Lets go, and returns the tracer's thread id.
    fn end(&mut self) -> Option<i32> {
        self.orders = None;
        let thread = self.thread.take().filter(|_| !self.carries)?;
        thread.join().ok()
    }

    /// Waits until the kernel has detached also what could not be stopped, which is a little after
    /// the thread can be joined.
    pub(super) fn end_wholly(&mut self) {
        if let Some(tid) = self.end() {
            let task = format!("/proc/self/task/{tid}");
            while Path::new(&task).exists() {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.end();
    }
}
