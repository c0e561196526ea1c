//! libuv, the event loop of node. A timer in the loop has a reference unless the timer was unref'd:
//! an unref'd timer does not keep the program alive. node waits for all timers of a program with
//! one timer of the loop. node takes the reference from this timer if the program has only unref'd
//! timers, for example the 30 s interval of HTTP servers (lib/_http_server.js,
//! connectionsCheckingInterval; src/env.cc, ToggleTimerRef).
//!
//! The loop is found by the thread that is blocked in epoll_pwait(2): the address of the loop is on
//! the stack (src/unix/linux.c, `uv__io_poll`). A candidate is believed only if all facts agree:
//! the descriptor of the epoll instance, every timer's loop and type, the number of timers, and the
//! time until the first timer. That time may be more than the limit of a call that imsup has made
//! to go on.

use std::collections::HashSet;
use std::time::Duration;

use crate::sleep::deadlines::Call;
use crate::sleep::wait::Deadline;
use imsup_linux::memory::TargetMemory;

/// How much of the stack is searched: `uv__io_poll` has 1,024 events there (12 KiB), and newer
/// versions as many submissions of io_uring.
const STACK_BYTES: usize = 64 << 10;

/// A loop with more timers is not looked into.
const MOST_TIMERS: u32 = 4096;

/// The field offsets of `uv_loop_t` and `uv_timer_t` on x86-64. libuv keeps the offsets throughout
/// version 1, so that programs need not be compiled again (include/uv/unix.h; read from the headers
/// of 1.46 by offsetof).
mod layout {
    pub const LOOP_BACKEND_FD: u64 = 64;
    pub const LOOP_TIMER_HEAP: u64 = 520;
    pub const LOOP_TIMER_COUNT: u64 = 528;
    pub const LOOP_TIME: u64 = 544;
    pub const TIMER_LOOP: u64 = 8;
    pub const TIMER_TYPE: u64 = 16;
    pub const TIMER_FLAGS: u64 = 88;
    pub const TIMER_HEAP_NODE: u64 = 104;
    pub const TIMER_TIMEOUT: u64 = 128;
    /// `UV_TIMER`.
    pub const TYPE: u32 = 13;
    /// `UV_HANDLE_ACTIVE` and `UV_HANDLE_REF` (src/uv-common.h).
    pub const ACTIVE: u32 = 4;
    pub const REFERENCED: u32 = 8;
}

pub(super) fn is_own_affair(call: &Call, memory: &impl TargetMemory) -> bool {
    if !matches!(call.number, libc::SYS_epoll_wait | libc::SYS_epoll_pwait) {
        return false;
    }
    let Deadline::After(limit) = call.wait.deadline else {
        return false;
    };
    has_referenced_timer(call.key.args[0], call.key.stack, limit, memory) == Some(false)
}

/// True if the loop of a thread blocked with this limit has a timer that keeps the program alive;
/// `None` if that is not certain.
fn has_referenced_timer(epoll: u64, stack: u64, limit: Duration, memory: &impl TargetMemory) -> Option<bool> {
    let mut bytes = vec![0; STACK_BYTES];
    let length = memory.read(stack, &mut bytes).ok()?;
    let words = bytes[..length].chunks_exact(8).map(|word| {
        let word: [u8; 8] = std::array::from_fn(|position| word[position]);
        u64::from_ne_bytes(word)
    });
    let mut tried = HashSet::new();
    let mut loops = words
        .filter(|word| word % 8 == 0 && (4096..1 << 47).contains(word) && tried.insert(*word))
        .filter_map(|address| Loop::read(address, epoll, memory))
        .filter(|found| found.first_in(memory).is_some_and(|first| first >= limit));
    let found = loops.next()?;
    // Two loops that agree in all facts are ambiguous.
    loops.next().is_none().then_some(())?;
    found.has_reference(memory)
}

/// A candidate for a loop.
struct Loop {
    address: u64,
    /// The first node of the heap of timers, and the number of nodes.
    heap: u64,
    count: u32,
    /// The time of the loop, in milliseconds.
    time: u64,
}

impl Loop {
    fn read(address: u64, epoll: u64, memory: &impl TargetMemory) -> Option<Self> {
        let descriptor = number(memory, address + layout::LOOP_BACKEND_FD)?;
        (u64::from(descriptor) == epoll & u64::from(u32::MAX)).then_some(())?;
        Some(Self {
            address,
            heap: word(memory, address + layout::LOOP_TIMER_HEAP)?,
            count: number(memory, address + layout::LOOP_TIMER_COUNT)?,
            time: word(memory, address + layout::LOOP_TIME)?,
        })
    }

    /// The timer of a node of the heap; `None` if the node is no timer of this loop.
    fn timer(&self, node: u64, memory: &impl TargetMemory) -> Option<u64> {
        let timer = node.checked_sub(layout::TIMER_HEAP_NODE)?;
        let is_ours = word(memory, timer + layout::TIMER_LOOP)? == self.address;
        let is_timer = number(memory, timer + layout::TIMER_TYPE)? == layout::TYPE;
        let is_active = number(memory, timer + layout::TIMER_FLAGS)? & layout::ACTIVE != 0;
        (is_ours && is_timer && is_active).then_some(timer)
    }

    /// How long the loop was to wait for the first timer.
    fn first_in(&self, memory: &impl TargetMemory) -> Option<Duration> {
        let timer = self.timer(self.heap, memory)?;
        let at = word(memory, timer + layout::TIMER_TIMEOUT)?;
        Some(Duration::from_millis(at.checked_sub(self.time)?))
    }

    /// True if any timer of the loop keeps the program alive.
    fn has_reference(&self, memory: &impl TargetMemory) -> Option<bool> {
        if self.count > MOST_TIMERS {
            return None;
        }
        let mut nodes = vec![self.heap];
        let mut next = 0;
        let mut referenced = false;
        while let Some(&node) = nodes.get(next) {
            let flags = number(memory, self.timer(node, memory)? + layout::TIMER_FLAGS)?;
            referenced |= flags & layout::REFERENCED != 0;
            // struct heap_node: left, right, parent (src/heap-inl.h).
            for side in [0, 8] {
                nodes.extend(Some(word(memory, node + side)?).filter(|below| *below != 0));
            }
            next += 1;
            if nodes.len() > self.count as usize {
                return None;
            }
        }
        (next == self.count as usize).then_some(referenced)
    }
}

fn word(memory: &impl TargetMemory, address: u64) -> Option<u64> {
    memory.read_array(address).ok().map(u64::from_ne_bytes)
}

fn number(memory: &impl TargetMemory, address: u64) -> Option<u32> {
    memory.read_array(address).ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use imsup_linux::memory::array::Array;

    /// Memory from this address on: the stack, then a loop, then timers.
    const BASE: u64 = 0x10000;
    const STACK: u64 = BASE;
    const LOOP: u64 = BASE + 0x100;
    const TIMERS: u64 = BASE + 0x600;
    const TIMER_BYTES: u64 = 0x100;

    struct Memory(Vec<u8>);

    impl Memory {
        fn put(&mut self, address: u64, bytes: &[u8]) {
            let at = usize::try_from(address - BASE).unwrap();
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn put_word(&mut self, address: u64, word: u64) {
            self.put(address, &word.to_ne_bytes());
        }

        /// A loop with epoll instance 14 at 1,000 ms, and timers of these flags, the first in 30 s.
        fn with_timers(flags: &[u32]) -> Self {
            let mut memory = Self(vec![0; 0x2000]);
            memory.put_word(STACK + 0x40, LOOP);
            memory.put(LOOP + layout::LOOP_BACKEND_FD, &14u32.to_ne_bytes());
            let node = |number: usize| TIMERS + number as u64 * TIMER_BYTES + layout::TIMER_HEAP_NODE;
            memory.put_word(LOOP + layout::LOOP_TIMER_HEAP, node(0));
            memory.put_word(LOOP + layout::LOOP_TIMER_COUNT, flags.len() as u64);
            memory.put_word(LOOP + layout::LOOP_TIME, 1000);
            for (number, flags) in flags.iter().enumerate() {
                let timer = TIMERS + number as u64 * TIMER_BYTES;
                memory.put_word(timer + layout::TIMER_LOOP, LOOP);
                memory.put_word(timer + layout::TIMER_TYPE, u64::from(layout::TYPE));
                memory.put_word(timer + layout::TIMER_FLAGS, u64::from(*flags));
                memory.put_word(timer + layout::TIMER_TIMEOUT, 31_000 + number as u64);
            }
            for number in 0..flags.len() {
                for (side, below) in [(0, 2 * number + 1), (8, 2 * number + 2)] {
                    if below < flags.len() {
                        memory.put_word(node(number) + side, node(below));
                    }
                }
            }
            memory
        }

        fn says(&self, epoll: u64, limit: u64) -> Option<bool> {
            let memory = Array::at(BASE, self.0.clone());
            has_referenced_timer(epoll, STACK, Duration::from_millis(limit), &memory)
        }
    }

    const UNREFERENCED: u32 = layout::ACTIVE;
    const REFERENCED: u32 = layout::ACTIVE | layout::REFERENCED;

    #[test]
    fn a_timer_that_keeps_the_program_alive_is_found_wherever_it_is() {
        assert_eq!(Memory::with_timers(&[UNREFERENCED]).says(14, 30_000), Some(false));
        assert_eq!(Memory::with_timers(&[REFERENCED]).says(14, 30_000), Some(true));
        let mut many = [UNREFERENCED; 9];
        assert_eq!(Memory::with_timers(&many).says(14, 30_000), Some(false));
        many[8] = REFERENCED;
        assert_eq!(Memory::with_timers(&many).says(14, 30_000), Some(true));
    }

    #[test]
    fn what_does_not_agree_is_not_believed() {
        let memory = Memory::with_timers(&[UNREFERENCED; 3]);
        assert_eq!(memory.says(15, 30_000), None, "another epoll instance");
        assert_eq!(memory.says(14, 30_001), None, "another limit");
        assert_eq!(memory.says(14, 20_000), Some(false), "a call that went on");
        let changed = |address: u64, word: u64| {
            let mut memory = Memory::with_timers(&[UNREFERENCED; 3]);
            memory.put_word(address, word);
            memory.says(14, 30_000)
        };
        assert_eq!(changed(STACK + 0x48, LOOP), Some(false), "the same twice");
        assert_eq!(changed(LOOP + layout::LOOP_TIMER_COUNT, 4), None, "a timer is missing");
        assert_eq!(changed(LOOP + layout::LOOP_TIMER_COUNT, 2), None, "one is too many");
        assert_eq!(
            changed(TIMERS + TIMER_BYTES + layout::TIMER_LOOP, LOOP + 8),
            None,
            "of another loop"
        );
        assert_eq!(changed(TIMERS + TIMER_BYTES + layout::TIMER_TYPE, 12), None, "no timer");
    }
}
