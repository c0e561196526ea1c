//! `examples/images`: a stack of images as their users wrote it, with ordinary clients.

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use common::command::{self, LIMIT};
use common::{Project, imsup, need};

/// The images that scripts/images/make.py has made.
const IMAGES: [&str; 4] = ["nginx", "redis", "postgres", "python"];

/// The stack, with its published port.
struct Stack {
    project: Project,
    port: String,
}

impl Stack {
    /// The images are in the project's store; the project is not up.
    fn new() -> Self {
        let project = Project::new("stack", "services: {}");
        for image in IMAGES {
            let name = format!("../images/{image}.tar");
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            assert!(file.exists(), "{} is missing: run 'make images'", file.display());
            let load = project.command(imsup(), &["load", file.to_str().unwrap()]);
            command::run(load, LIMIT).expect_success("imsup load");
        }
        // Free as long as nobody else is given the port in between.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        Self { project, port }
    }

    #[track_caller]
    fn up(&self) {
        self.project.up_example("images", &[("SHOP_PORT", &self.port)]);
    }

    /// What curl is answered at the published port.
    #[track_caller]
    fn curl(&self, arguments: &[&str], path: &str) -> String {
        let url = format!("http://127.0.0.1:{}/{path}", self.port);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--max-time", "60"])
            .args(arguments)
            .arg(url);
        command::run(curl, LIMIT).expect_success("curl")
    }

    #[track_caller]
    fn visit(&self) -> String {
        self.curl(&[], "")
    }

    /// The worker's part of an order: redis wakes the worker, which stores the order in postgres.
    #[track_caller]
    fn order(&self) -> String {
        self.curl(&["-X", "POST"], "tea")
    }

    #[track_caller]
    fn exec(&self, host: &str, command: &[&str]) -> String {
        self.project.ok(&[&["exec", host, "--"], command].concat())
    }
}

#[test]
fn a_stack_of_images_boots_sleeps_wakes_and_keeps_its_data() {
    need(&["curl"]);
    let stack = Stack::new();
    let project = &stack.project;
    stack.up();
    assert_eq!(project.host("web").state, "imaginary");
    assert_eq!(stack.visit(), "Welcome, visit 1. Tea is 3.20 today.\n");
    assert_eq!(stack.order(), "Order 1: tea.\n");
    project.wait_state("migrate", "completed");
    for host in ["web", "app", "worker", "cache", "db"] {
        project.wait_state(host, "suspended");
    }
    assert_eq!(stack.order(), "Order 2: tea.\n");
    assert_eq!(stack.visit(), "Welcome, visit 2. Tea is 3.20 today.\n");
    for host in ["web", "app", "worker", "cache", "db"] {
        assert_eq!(project.host(host).boots, 1, "{host}");
    }
    assert_eq!(stack.exec("cache", &["redis-cli", "get", "visits"]), "2\n");
    // Entrypoints have become other users, who own what is in the volumes.
    assert_eq!(
        stack.exec("cache", &["stat", "-c", "%U", "/data/appendonlydir", "/proc/1"]),
        "redis\nredis\n"
    );
    let count = ["psql", "-U", "shop", "-At", "-c", "SELECT count(*) FROM orders"];
    assert_eq!(stack.exec("db", &count), "2\n");
    // A killed server is booted by who needs it, and has lost nothing.
    project.ok(&["kill", "db"]);
    // Its numbers go on behind those that it had reserved (PostgreSQL: CREATE SEQUENCE, Notes).
    assert!(stack.order().ends_with(": tea.\n"));
    assert_eq!(stack.exec("db", &count), "3\n");

    project.ok(&["down"]);
    stack.up();
    assert_eq!(stack.visit(), "Welcome, visit 3. Tea is 3.20 today.\n");
    assert!(stack.order().ends_with(": tea.\n"));
    assert_eq!(stack.exec("db", &count), "4\n");
    let file = common::example("images").join("compose.yaml");
    project.ok(&["down", "-v", "-f", file.to_str().unwrap()]);
    project.expect_nothing_left();
}
