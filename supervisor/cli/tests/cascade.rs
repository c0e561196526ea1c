//! Chains boot as cascades: one request boots every host on its way.

mod common;

use common::client::ask;
use common::{Project, need};

#[test]
fn a_chain_of_hosts_boots_from_one_request() {
    for mode in ["--who", "--non-blocking"] {
        let project = Project::up(
            "chain",
            &format!(
                r#"
services:
  a: {{ command: ["@guest@", {mode}, --tcp, "8080", --upstream, "b:8080"], expose: ["8080"] }}
  b: {{ command: ["@guest@", {mode}, --tcp, "8080", --upstream, "c:8080"] }}
  c: {{ command: ["@guest@", {mode}, --bind, any6, --tcp, "8080", --upstream, "d:8080"] }}
  d: {{ command: ["@guest@", {mode}, --start-delay, "50", --tcp, "8080"] }}
"#
            ),
        );
        let line = ask(project.at("a", 8080)).0;
        for host in ["a", "b", "c", "d"] {
            assert!(line.contains(&format!("host={host} ")), "{line}");
            project.wait_event(host, "ready", 1);
            assert_eq!(project.host(host).boots, 1, "{host}");
        }
        let callers: Vec<_> = project
            .events()
            .into_iter()
            .filter(|event| event.event == "allocate")
            .map(|event| (event.host, event.by.unwrap_or_default()))
            .collect();
        for (host, by) in [("b", "a"), ("c", "b"), ("d", "c")] {
            assert!(
                callers.contains(&(host.to_owned(), by.to_owned())),
                "{host} by {by} in {callers:?}"
            );
        }
    }
}

/// The shop of the README, from its own directory: curl, nginx, Python, redis and node.
#[test]
fn the_shop_answers_one_curl_with_four_hosts() {
    need(&["nginx", "python3", "redis-server", "node", "curl"]);
    let shop = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let project = Project::new("shop", "");
    for entry in std::fs::read_dir(shop).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let scratch = project.path("scratch");
        let text = text.replace("/tmp/imsup-shop", scratch.to_str().unwrap());
        std::fs::write(project.path(entry.file_name().to_str().unwrap()), text).unwrap();
    }
    project.ok(&["up", "-d"]);
    let url = format!("http://{}/", project.at("web", 8080));
    let first = project.outside("curl", &["-sS", "--fail", "--max-time", "60", &url]);
    assert!(first.contains("visit 1"), "{first}");
    for host in ["web", "app", "cache", "prices"] {
        project.wait_event(host, "ready", 1);
        // The host may sleep by now: the shop's idle_after is 1 s.
        assert_eq!(project.host(host).boots, 1, "{host}");
    }
    let second = project.outside("curl", &["-sS", "--fail", "--max-time", "60", &url]);
    assert!(second.contains("visit 2"), "{second}");
    let by = |host: &str| project.wait_event(host, "allocate", 1).by.unwrap_or_default();
    assert_eq!(
        (by("app"), by("cache"), by("prices")),
        ("web".into(), "app".into(), "app".into())
    );
}
