//! A network that projects share: hosts of one project are found by name from another.

mod common;

use common::{Finished, LIMIT, Project, command, guest, imsup, wait_until};

/// A second project in the directories of the first, ended on drop.
struct Second<'p> {
    first: &'p Project,
    name: String,
    is_up: bool,
}

impl<'p> Second<'p> {
    fn up(first: &'p Project, compose: &str) -> Self {
        std::fs::write(first.path("second.yaml"), first.expand(compose)).unwrap();
        let mut second = Self {
            first,
            name: format!("{}-second", first.name),
            is_up: false,
        };
        second.ok(&["up", "-d", "-f", "second.yaml"]);
        second.is_up = true;
        second
    }

    fn imsup(&self, arguments: &[&str]) -> Finished {
        let (verb, rest) = arguments.split_first().unwrap();
        let all = [&[*verb, "-p", &self.name], rest].concat();
        command::run(self.first.command(imsup(), &all), LIMIT)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        self.imsup(arguments).expect_success(&arguments.join(" "))
    }

    /// What a transient host of the project hears at an address.
    fn call(&self, dial: &str) -> Finished {
        self.imsup(&["run", "--", guest("guest").to_str().unwrap(), "--call", dial])
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        if self.is_up {
            let down = self.imsup(&["down"]);
            assert!(down.success() || std::thread::panicking(), "{down}");
        }
    }
}

/// The broker of one of the two projects.
fn broker_of(project: &str, both: &Project) -> u32 {
    let processes = both.processes();
    let is_it = |words: Vec<&str>| words.contains(&"broker") && words.contains(&project);
    let found = processes
        .iter()
        .find(|process| is_it(process.command.split(' ').collect()));
    found
        .unwrap_or_else(|| panic!("no broker of {project}: {processes:?}"))
        .pid
}

const FIRST: &str = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], networks: [proxy], container_name: front }
  db: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
networks: { proxy: { name: shop-proxy } }
"#;

const SECOND: &str = r#"
services:
  entry: { command: ["@guest@", --tcp, "8080"], expose: ["8080"], networks: [outside] }
  db: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
networks: { outside: { external: true, name: shop-proxy } }
"#;

#[test]
fn hosts_of_another_project_are_found_at_a_common_network() {
    let first = Project::up("shared", FIRST);
    let mut second = Second::up(&first, SECOND);
    for name in ["web", "front"] {
        let heard = second.call(&format!("{name}:8080")).expect_success(name);
        assert!(heard.contains("host=web"), "{heard}");
    }
    assert_eq!(first.host("web").boots, 1, "it was imaginary");
    // Its own db, not that of the first project, which is on no common network either.
    let heard = second.call("db:8080").expect_success("db");
    assert!(heard.contains("host=db"), "{heard}");
    assert_eq!(first.host("db").boots, 0);
    // The first project learns of the second, which came later.
    wait_until("the name of the other project's host", || {
        first.ok(&["hosts"]).contains("\tentry")
    });
    assert!(first.run_guest(&["--call", "entry:8080"]).contains("host=entry"));
    // The next broker knows it as well.
    first.kill(broker_of(&first.name, &first));
    assert!(first.run_guest(&["--call", "entry:8080"]).contains("host=entry"));
    second.ok(&["down"]);
    second.is_up = false;
    wait_until("the name to be gone", || {
        !first
            .run(&[guest("guest").to_str().unwrap(), "--call", "entry:8080"])
            .success()
    });
    first.down();
    assert!(!first.path("run/.networks").exists());
}
