//! Timers that runtimes keep for themselves, other than their periods, do not keep a host from
//! being ended: Ruby's POSIX timer, the loop of Java's HTTP client.

mod common;

use common::client::get;
use common::{LIMIT, Project, need};

/// A server with a thread that waits for `MILLIS` before it works; without `MILLIS` there is no
/// such thread.
const RUBY: &str = "
require 'socket'
server = TCPServer.new(8000)
Thread.new { sleep(ENV['MILLIS'].to_i / 1000.0); puts 'work' } if ENV['MILLIS']
loop do
  Thread.new(server.accept) do |client|
    client.readpartial(1000)
    client.write(\"HTTP/1.0 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nhere\")
    client.close
  end
end
";

#[test]
fn timers_that_runtimes_keep_for_themselves_do_not_keep_their_hosts() {
    need(&["ruby", "java", "python3"]);
    let project = Project::new(
        "own-timers",
        "
x-imsup: { idle_after: 200ms, terminate_after: 300ms }
services:
  ruby: { command: [ruby, server.rb], expose: [\"8000\"] }
  ruby-timer: { command: [ruby, server.rb], expose: [\"8000\"], environment: { MILLIS: \"600000\" } }
  jvm-client:
    command: [java, -XX:TieredStopAtLevel=1, -cp, \"@guests@/java\", Server, \"8000\", \"http://upstream:8000/\"]
    expose: [\"8000\"]
  upstream: { command: [python3, -m, http.server, \"8000\"], expose: [\"8000\"] }
",
    );
    std::fs::write(project.path("server.rb"), RUBY).unwrap();
    project.ok(&["up", "-d"]);
    // The client's workers wait for 60 s for more to do, and end.
    let watch = project.watch().patient(3 * LIMIT);
    let timer = get(project.at("ruby-timer", 8000));
    assert!(timer.contains("here"), "{timer}");
    watch.wait("ruby-timer", "suspend", 1);
    for (name, says) in [("ruby", "here"), ("jvm-client", "upstream=<")] {
        let answer = get(project.at(name, 8000));
        assert!(answer.contains(says), "{name}: {answer}");
    }
    watch.wait("jvm-client", "tick", 10);
    for name in ["ruby", "jvm-client"] {
        assert_eq!(watch.wait(name, "terminate", 1).cause.as_deref(), Some("idle"));
    }
    assert_eq!(watch.count("ruby-timer", "terminate"), 0);
    project.wait_kept("ruby-timer", "a timer is pending");
}
