//! The events of a project as they come.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{Background, Event, LIMIT, Project, parse_event};

/// One `imsup events --follow`, as long as this value lives.
pub struct Watch {
    follower: Background,
    limit: Duration,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    events: Mutex<Vec<Event>>,
    more: Condvar,
}

impl Watch {
    /// Follows a project from its first event on.
    #[track_caller]
    pub fn start(project: &Project) -> Self {
        let command = project.imsup_command(&["events", "--follow", "--format", "json"]);
        let mut follower = Background::spawn(command, Stdio::piped());
        let output = follower.child.stdout.take().unwrap();
        let shared = Arc::new(Shared::default());
        let sink = Arc::clone(&shared);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                sink.events.lock().unwrap().push(parse_event(&line));
                sink.more.notify_all();
            }
        });
        Self {
            follower,
            limit: LIMIT,
            shared,
        }
    }

    /// The same, for programs that take longer than others.
    pub fn patient(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The follower's process, which is none of the project's hosts.
    pub fn pid(&self) -> u32 {
        self.follower.pid()
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.lock().unwrap().clone()
    }

    /// The events of one kind at one host so far.
    pub fn of(&self, host: &str, kind: &str) -> Vec<Event> {
        let events = self.shared.events.lock().unwrap();
        events.iter().filter(|event| event.is(host, kind)).cloned().collect()
    }

    /// The number of events of one kind at one host so far.
    pub fn count(&self, host: &str, kind: &str) -> usize {
        let events = self.shared.events.lock().unwrap();
        events.iter().filter(|event| event.is(host, kind)).count()
    }

    /// Waits until `find` succeeds on the events so far.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&[Event]) -> Option<T>) -> T {
        let deadline = Instant::now() + self.limit;
        let mut events = self.shared.events.lock().unwrap();
        loop {
            if let Some(found) = find(&events) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Not while the lock is held: the project's own report follows.
                drop(events);
                panic!("waited {:?} for {what}", self.limit);
            }
            events = self.shared.more.wait_timeout(events, left).unwrap().0;
        }
    }

    /// Waits for the `count`th event of this kind at this host (counted from `up`), and returns the
    /// event.
    #[track_caller]
    pub fn wait(&self, host: &str, kind: &str, count: usize) -> Event {
        self.wait_for(&format!("'{kind}' number {count} of {host}"), |events| {
            events
                .iter()
                .filter(|event| event.is(host, kind))
                .nth(count - 1)
                .cloned()
        })
    }

    /// Waits until a host has been woken at least `wakes` times since `up` and sleeps, and returns
    /// the number of wakes.
    #[track_caller]
    pub fn slept_again(&self, host: &str, wakes: usize) -> usize {
        self.wait_for(&format!("{host} to sleep after wake {wakes}"), |events| {
            let mut of_host = events.iter().filter(|event| event.host == host);
            let woken = of_host.clone().filter(|event| event.event == "wake").count();
            let last = of_host.rfind(|event| ["suspend", "wake", "terminate", "exit"].contains(&event.event.as_str()));
            (woken >= wakes && last.is_some_and(|event| event.event == "suspend")).then_some(woken)
        })
    }

    /// Waits until a host sleeps that has been woken for every arrival before this call, and
    /// returns the number of wakes until then.
    ///
    /// A client that is delayed between its connect and its request finds a host that has slept in
    /// between, so no test knows the number of wakes by then. The supervisor reports the causes of
    /// its wakes before it answers a question, and the events come in their order.
    #[track_caller]
    pub fn asleep(&self, project: &Project, host: &str) -> usize {
        project.why(host);
        let wakes = project.host(host).json["wakes"].as_u64().expect("wakes");
        self.slept_again(host, usize::try_from(wakes).unwrap())
    }

    /// The causes of a host's wakes after its first `wakes` wakes. On a busy machine a tick may
    /// take long enough to count as a wake, caused by a timer: these are left out.
    pub fn causes_after(&self, host: &str, wakes: usize) -> Vec<String> {
        let causes = self.of(host, "wake").into_iter().skip(wakes);
        let causes = causes.map(|wake| wake.cause.unwrap_or_default());
        causes.filter(|cause| cause != "timer").collect()
    }
}
