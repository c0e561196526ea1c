//! Two directories of one name are two projects, and one of them may be up.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{Finished, LIMIT, Project, command, imsup};

const COMPOSE: &str = "services: { web: { command: [\"@guest@\", --tcp, \"8080\"], expose: [\"8080\"] } }";

/// A directory of this name below another, with a compose file.
fn directory(project: &Project, above: &str) -> PathBuf {
    let directory = project.path(above).join(&project.name);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("compose.yaml"), project.expand(COMPOSE)).unwrap();
    directory
}

#[test]
fn what_is_said_in_one_is_not_done_to_the_other() {
    let project = Project::new("same", COMPOSE);
    let (first, second) = (directory(&project, "a"), directory(&project, "b"));
    let imsup_in = |place: &PathBuf, words: &[&str]| -> Finished {
        let mut command: Command = project.command(imsup(), words);
        command.current_dir(place);
        command::run(command, LIMIT)
    };
    imsup_in(&first, &["up", "-d"]).expect_success("imsup up");
    let up = imsup_in(&second, &["up", "-d"]);
    assert_eq!(up.code(), Some(1), "{up}");
    assert!(
        up.stderr.contains("that is up is that of") && up.stderr.contains(first.to_str().unwrap()),
        "{up}"
    );
    for words in [
        &["down"][..],
        &["ps"],
        &["stop"],
        &["run", "--", "true"],
        &["exec", "web", "--", "true"],
    ] {
        let said = imsup_in(&second, words);
        assert!(!said.success(), "{words:?}: {said}");
        let told = [
            first.to_str().unwrap(),
            second.to_str().unwrap(),
            &format!("'-p {}'", project.name),
        ];
        assert!(told.iter().all(|text| said.stderr.contains(text)), "{words:?}: {said}");
    }
    imsup_in(&first, &["wake"]).expect_success("imsup wake");
    imsup_in(&second, &["ps", "-p", &project.name]).expect_success("imsup ps -p");
    // By another way to the same directory.
    std::os::unix::fs::symlink(&first, project.path("link")).unwrap();
    imsup_in(&project.path("link"), &["ps", "-f", "compose.yaml"]).expect_success("imsup ps");
    imsup_in(&second, &["down", "-p", &project.name]).expect_success("imsup down -p");
    project.expect_nothing_left();
    imsup_in(&second, &["up", "-d"]).expect_success("imsup up");
    imsup_in(&second, &["down"]).expect_success("imsup down");
}
