//! `imsup run --trace`: a line on standard error for each trapped call, as from strace(1), with the
//! decisions.
//!
//! `[TID] CALL -> WHAT WAS DECIDED: RESULT`. The result is the value or the errno of the answer;
//! `continued` if the kernel carries out the call unchanged; or `held` if a second line ends the
//! call.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use imsup_bpf_filters::table::row_of;
use imsup_bpf_filters::{Handler, handler_of};
use nix::errno::Errno;

use crate::said;
use crate::verdict::Verdict;
use imsup_linux::memory::{TargetMemory, ThreadMemory};
use imsup_linux::message::Header;
use imsup_linux::notify::{Answer, Notification, NotificationId};
use imsup_linux::socket::decode_address;

/// The number of decisions shown for one call: the decisions about the first messages of a
/// sendmmsg(2).
const MAX_DECISIONS: usize = 6;

/// The trace of a program, if requested.
#[derive(Debug)]
pub struct Trace(Option<Box<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    decisions: Vec<String>,
    pending: HashMap<NotificationId, (Instant, String)>,
}

/// A call's text. It is read before the call is answered, since the memory belongs to the program
/// again afterwards.
#[derive(Debug)]
pub struct Traced(String);

impl Trace {
    /// A trace if `on`.
    pub fn new(on: bool) -> Self {
        Self(on.then(Box::default))
    }

    /// A call begins.
    pub fn begin(&mut self, call: &Notification) -> Option<Traced> {
        let lines = self.0.as_mut()?;
        lines.decisions.clear();
        Some(Traced(format!(
            "[{}] {}",
            call.tid,
            describe(call, ThreadMemory::of(call.tid))
        )))
    }

    /// Notes a decision about the call that is being handled.
    pub fn decided(&mut self, decision: &impl fmt::Display) {
        if let Some(lines) = &mut self.0
            && lines.decisions.len() < MAX_DECISIONS
        {
            lines.decisions.push(decision.to_string());
        }
    }

    /// A call was handled.
    pub fn end(&mut self, id: NotificationId, Traced(call): Traced, verdict: &Verdict) {
        let Some(lines) = &mut self.0 else {
            return;
        };
        let decisions = match lines.decisions.as_slice() {
            [] => String::new(),
            decisions => format!(" -> {}", decisions.join(", ")),
        };
        let result = match verdict {
            Verdict::Answer(answer) => shown(*answer),
            Verdict::Pending(_) => "held".to_owned(),
            Verdict::Done if decisions.is_empty() => "its caller is gone".to_owned(),
            Verdict::Done => "given".to_owned(),
        };
        say(format_args!("{call}{decisions}: {result}"));
        if matches!(verdict, Verdict::Pending(_)) {
            lines.pending.insert(id, (Instant::now(), call));
        }
    }

    /// A pending call is answered.
    pub fn resumed(&mut self, id: NotificationId, answer: Answer) {
        if let Some((since, call)) = self.0.as_mut().and_then(|lines| lines.pending.remove(&id)) {
            say(format_args!(
                "{call} -> held for {:.1?}: {}",
                since.elapsed(),
                shown(answer)
            ));
        }
    }

    /// The caller of a pending call is gone.
    pub fn gone(&mut self, id: NotificationId) {
        if let Some((since, call)) = self.0.as_mut().and_then(|lines| lines.pending.remove(&id)) {
            say(format_args!(
                "{call} -> held for {:.1?}: its caller is gone",
                since.elapsed()
            ));
        }
    }
}

fn say(line: fmt::Arguments<'_>) {
    said::say(format!("{line}\n").as_bytes());
}

fn shown(answer: Answer) -> String {
    match answer {
        Answer::Continue => "continued".to_owned(),
        Answer::Value(value) => value.to_string(),
        Answer::Errno(errno) => format!("{:?}", Errno::from_raw(errno)),
        Answer::Interrupted => "interrupted by a signal".to_owned(),
    }
}

fn describe(call: &Notification, memory: impl TargetMemory) -> String {
    let name = row_of(call.number.into()).map_or("?", |row| row.name);
    let [_, first, second, _, fourth, fifth] = call.args;
    let fd = call.fd(0);
    match handler_of(call.number) {
        Some(Handler::Bind | Handler::Connect) => format!("{name}({fd}, {})", address(&memory, first, second)),
        Some(Handler::Listen) => format!("{name}({fd}, {})", call.int(1)),
        Some(Handler::SendTo) => {
            let to = address(&memory, fourth, fifth);
            format!("{name}({fd}, {second} bytes, {}, {to})", flags(call.int(3)))
        }
        Some(Handler::SendMsg) => format!("{name}({fd}, {}, {})", message(&memory, first), flags(call.int(2))),
        Some(Handler::SendMmsg) => {
            let count = call.int(2).cast_unsigned();
            let message = message(&memory, first);
            format!(
                "{name}({fd}, {count} messages, first {message}, {})",
                flags(call.int(3))
            )
        }
        Some(Handler::Accept | Handler::GetSockName | Handler::GetPeerName) => format!("{name}({fd})"),
        Some(Handler::Socket) => format!("{name}({fd}, {}, {})", call.int(1), call.int(2)),
        Some(Handler::AcceptConn) => format!("{name}({fd}, SO_ACCEPTCONN)"),
        Some(Handler::Open) => format!("{name}({})", path(&memory, call.args[0])),
        Some(Handler::IoUringSetup) => format!("{name}({})", call.int(0)),
        Some(Handler::Uname) | None => format!("{name}()"),
    }
}

fn address(memory: &impl TargetMemory, at: u64, length: u64) -> String {
    let mut bytes = [0; 128];
    let length = usize::try_from(length & u64::from(u32::MAX))
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    let Ok(count) = memory.read(at, &mut bytes[..length]) else {
        return format!("{at:#x}");
    };
    let bytes = &bytes[..count];
    match (
        decode_address(bytes),
        bytes.first_chunk().map(|family| u16::from_ne_bytes(*family)),
    ) {
        (Some(address), _) => address.to_string(),
        (None, Some(0)) => "AF_UNSPEC".to_owned(),
        (None, Some(1)) => "AF_UNIX".to_owned(),
        (None, Some(family)) => format!("family {family}, {length} bytes"),
        (None, None) => format!("{length} bytes"),
    }
}

fn message(memory: &impl TargetMemory, at: u64) -> String {
    match Header::read(memory, at) {
        Ok(header) if header.name == 0 => "no address".to_owned(),
        Ok(header) => address(memory, header.name, header.name_bytes.into()),
        Err(_) => format!("{at:#x}"),
    }
}

fn path(memory: &impl TargetMemory, at: u64) -> String {
    let mut bytes = [0; 256];
    let count = memory.read(at, &mut bytes).unwrap_or(0);
    let text = bytes[..count].split(|byte| *byte == 0).next().unwrap_or_default();
    format!("{:?}", String::from_utf8_lossy(text))
}

fn flags(flags: i32) -> String {
    const NAMES: [(i32, &str); 10] = [
        (libc::MSG_OOB, "MSG_OOB"),
        (libc::MSG_DONTROUTE, "MSG_DONTROUTE"),
        (libc::MSG_DONTWAIT, "MSG_DONTWAIT"),
        (libc::MSG_EOR, "MSG_EOR"),
        (libc::MSG_CONFIRM, "MSG_CONFIRM"),
        (libc::MSG_NOSIGNAL, "MSG_NOSIGNAL"),
        (libc::MSG_MORE, "MSG_MORE"),
        (libc::MSG_ZEROCOPY, "MSG_ZEROCOPY"),
        (libc::MSG_FASTOPEN, "MSG_FASTOPEN"),
        (libc::MSG_CMSG_CLOEXEC, "MSG_CMSG_CLOEXEC"),
    ];
    let mut texts: Vec<String> = NAMES
        .iter()
        .filter(|(flag, _)| flags & flag != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let rest = NAMES.iter().fold(flags, |rest, (flag, _)| rest & !flag);
    if rest != 0 || texts.is_empty() {
        texts.push(if rest == 0 {
            "0".to_owned()
        } else {
            format!("{rest:#x}")
        });
    }
    texts.join("|")
}
