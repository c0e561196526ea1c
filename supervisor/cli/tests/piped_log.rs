//! A file that somebody has replaced by a pipe stalls no process: the broker's loop opens the file
//! without waiting for a reader.

mod common;

use common::Project;
use common::client::ask;
use rustix::fs::{CWD, FileType, Mode};

const HOSTS: &str = r#"
services:
  web: { command: ["@guest@", --tcp, "8080"], expose: ["8080"] }
  db: { command: ["@guest@", --tcp, "5432"], expose: ["5432"] }
"#;

#[test]
fn a_log_that_is_a_pipe_without_a_reader_holds_up_neither_its_host_nor_another() {
    let project = Project::up("piped", HOSTS);
    let log = project.state().join("logs/web.log");
    rustix::fs::mknodat(CWD, &log, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert_eq!(ask(project.at("web", 8080)).value("host"), "web");
    assert_eq!(ask(project.at("db", 5432)).value("host"), "db");
    project.down();
}
