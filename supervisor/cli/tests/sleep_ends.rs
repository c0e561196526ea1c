//! An idle host is ended, whatever periods its runtime has, and a host with work ahead is not.

mod common;

use std::time::{Duration, SystemTime};

use common::client::get;
use common::{Event, LIMIT, Project, need};

/// Servers as people write them in each language. `MILLIS` and `FILE` are of a timer that makes a
/// file; without them there is no timer.
const NODE: &str = "
const http = require('http'), fs = require('fs');
http.createServer((request, response) => response.end('here')).listen(8000);
const { MILLIS, FILE } = process.env;
if (MILLIS) setTimeout(() => fs.writeFileSync(FILE, ''), Number(MILLIS));
if (process.env.UNREF) setTimeout(() => {}, 3600000).unref();
";
const PYTHON: &str = "
import http.server, os, sched, select, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '4')
        self.end_headers()
        self.wfile.write(b'here')
def work():
    open(os.environ['FILE'], 'w').close()
seconds = int(os.environ.get('MILLIS', 0)) / 1000
way = sys.argv[1]
if way == 'timer':
    threading.Timer(seconds, work).start()
elif way == 'sched':
    schedule = sched.scheduler()
    schedule.enter(0.9, 1, lambda: None)
    schedule.enter(seconds, 1, work)
    threading.Thread(target=schedule.run).start()
elif way == 'period':
    def housekeeping():
        while True:
            time.sleep(seconds)
    threading.Thread(target=housekeeping, daemon=True).start()
if way == 'select':
    # As gunicorn's workers do.
    server, (wake, _) = http.server.ThreadingHTTPServer(('', 8000), Handler), os.pipe()
    while True:
        if server.socket in select.select([server.socket, wake], [], [], seconds)[0]:
            server.handle_request()
http.server.ThreadingHTTPServer(('', 8000), Handler).serve_forever()
";
const ASYNCIO: &str = "
import asyncio, os, sys
async def serve(reader, writer):
    await reader.readuntil(b'\\r\\n\\r\\n')
    writer.write(b'HTTP/1.0 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nhere')
    await writer.drain()
    writer.close()
    # Something to be done soon hides what is to be done later.
    asyncio.get_running_loop().call_later(0.9, lambda: None)
async def main():
    if 'MILLIS' in os.environ:
        work = lambda: open(os.environ['FILE'], 'w').close()
        asyncio.get_running_loop().call_later(int(os.environ['MILLIS']) / 1000, work)
    async def housekeeping(seconds):
        while True:
            await asyncio.sleep(seconds)
    if sys.argv[1:]:
        period = asyncio.create_task(housekeeping(int(sys.argv[1]) / 1000))
    async with await asyncio.start_server(serve, '', 8000) as server:
        await server.serve_forever()
asyncio.run(main())
";

/// Every host of a project with a timer of `millis`, by name, and its command.
fn with_timer(millis: u64) -> Vec<(&'static str, String)> {
    let go = format!("\"@guests@/guest-go\", -listen, \":8000\", -after, {millis}ms, -file, \"@dir@/go-timer\"");
    let jvm = format!(
        "java, -XX:TieredStopAtLevel=1, -Dafter={millis}, \"-Dfile=@dir@/jvm-timer\", -cp, \"@guests@/java\", Server, \"8000\""
    );
    vec![
        ("node-timer", "node, node.js".to_owned()),
        ("go-timer", go),
        ("jvm-timer", jvm),
        ("python-timer", "python3, server.py, timer".to_owned()),
        ("python-sched", "python3, server.py, sched".to_owned()),
        ("python-asyncio", "python3, loop.py".to_owned()),
    ]
}

fn without_timer() -> Vec<(&'static str, String)> {
    let jvm = "java, -XX:TieredStopAtLevel=1, -cp, \"@guests@/java\", Server, \"8000\"";
    vec![
        ("node", "node, node.js".to_owned()),
        ("go", "\"@guests@/guest-go\", -listen, \":8000\"".to_owned()),
        ("jvm", jvm.to_owned()),
        ("python", "python3, server.py, none".to_owned()),
        ("asyncio", "python3, loop.py".to_owned()),
    ]
}

/// A project of these hosts; those with `millis` have a timer.
fn project(label: &str, timers: &str, hosts: &[(&str, String, Option<u64>)]) -> Project {
    need(&["node", "go", "java", "python3"]);
    let mut compose = format!("x-imsup: {timers}\nservices:\n");
    for (name, command, millis) in hosts {
        let environment = millis.map_or_else(String::new, |millis| {
            format!(", environment: {{ MILLIS: \"{millis}\", FILE: \"@dir@/{name}\" }}")
        });
        compose += &format!("  {name}: {{ command: [{command}], expose: [\"8000\"]{environment} }}\n");
    }
    let project = Project::new(label, &compose);
    for (name, text) in [("node.js", NODE), ("server.py", PYTHON), ("loop.py", ASYNCIO)] {
        std::fs::write(project.path(name), text).unwrap();
    }
    project.ok(&["up", "-d"]);
    project
}

fn named(hosts: Vec<(&'static str, String)>, millis: Option<u64>) -> Vec<(&'static str, String, Option<u64>)> {
    hosts
        .into_iter()
        .map(|(name, command)| (name, command, millis))
        .collect()
}

#[test]
fn servers_of_every_runtime_are_ended_when_idle_and_kept_for_their_timers() {
    let mut hosts = named(without_timer(), None);
    hosts.extend(named(with_timer(600_000), Some(600_000)));
    let project = project("ends", "{ idle_after: 200ms, terminate_after: 300ms }", &hosts);
    let watch = project.watch();
    let ask = |name: &str| assert!(!get(project.at(name, 8000)).is_empty(), "{name}");
    for (name, _) in with_timer(600_000) {
        ask(name);
    }
    for (name, _) in with_timer(600_000) {
        watch.wait(name, "suspend", 1);
    }
    // Hosts without a timer come and go meanwhile, and report their end.
    for round in 1..=2 {
        for (name, _) in without_timer() {
            ask(name);
        }
        for (name, _) in without_timer() {
            assert_eq!(watch.wait(name, "terminate", round).cause.as_deref(), Some("idle"));
            watch.wait(name, "exit", round);
            let host = project.wait_state(name, "imaginary");
            assert_eq!(
                host.json["detail"].as_str(),
                Some("terminated"),
                "{name}: {}",
                host.json
            );
        }
    }
    for (name, _) in with_timer(600_000) {
        assert_eq!(watch.count(name, "terminate"), 0, "{name}");
        project.wait_kept(name, "a timer is pending");
    }
}

#[test]
fn what_a_timer_is_for_is_done_before_its_program_is_ended() {
    let hosts = named(with_timer(4000), Some(4000));
    let project = project("ahead", "{ idle_after: 100ms, terminate_after: 200ms }", &hosts);
    let watch = project.watch();
    for (name, _, _) in &hosts {
        project.ok(&["wake", name]);
    }
    for (name, _, _) in &hosts {
        watch.wait(name, "suspend", 1);
    }
    for (name, _, _) in &hosts {
        watch.wait(name, "terminate", 1);
        assert!(project.path(name).exists(), "{name} had work ahead");
    }
}

/// The time of an event, from the event itself.
fn time_of(event: &Event) -> SystemTime {
    humantime::parse_rfc3339(event.json["time"].as_str().unwrap()).unwrap()
}

/// Five seconds is no known period of a runtime: such periods are learned.
#[test]
fn a_thread_that_only_ever_does_housekeeping_does_not_keep_its_host() {
    let hosts = [
        ("period", "python3, server.py, period".to_owned(), Some(5000)),
        ("timer", "python3, server.py, timer".to_owned(), Some(600_000)),
        ("unref", "node, unref.js".to_owned(), None),
        ("select", "python3, server.py, select".to_owned(), Some(8000)),
        ("hidden", "python3, loop.py, \"8000\"".to_owned(), Some(600_000)),
    ];
    let project = project("housekeeping", "{ idle_after: 100ms, terminate_after: 200ms }", &hosts);
    std::fs::write(project.path("unref.js"), format!("process.env.UNREF = 'yes';{NODE}")).unwrap();
    // They are watched for 30 s, and again after a tick that a busy machine makes last.
    let watch = project.watch().patient(5 * LIMIT);
    let began = SystemTime::now();
    for (name, _, _) in &hosts {
        project.ok(&["wake", name]);
    }
    watch.wait("unref", "terminate", 1);
    for host in ["period", "select"] {
        watch.wait(host, "terminate", 1);
    }
    let watched = time_of(&watch.wait("period", "terminate", 1))
        .duration_since(began)
        .unwrap();
    assert!(watched > Duration::from_secs(30), "it was watched for {watched:?} only");
    // A timer that may hide behind a period of an event loop counts.
    watch.wait("hidden", "tick", 3);
    for host in ["timer", "hidden"] {
        assert_eq!(watch.count(host, "terminate"), 0, "{host}");
    }
}
