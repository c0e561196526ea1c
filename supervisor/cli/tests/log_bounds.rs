//! Programs' output takes no more room than `logging` allows, and a follower neither misses nor
//! repeats a line.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write, pipe};
use std::os::unix::fs::MetadataExt;

use common::{Background, LIMIT, Project, need, wait_until};
use rustix::fs::{CWD, Mode, mkfifoat};

/// Prints as many numbered lines as requested over a FIFO.
const COMPOSE: &str = r#"
services:
  talker:
    command:
      - sh
      - -c
      - |
        n=0
        while read -r count < @dir@/more
        do
          last=$$((n + count))
          while [ $$n -lt $$last ]; do echo "line $$n"; n=$$((n + 1)); done
        done
    logging: { driver: local, options: { max-size: 64k, max-file: "2" } }
    x-imsup: { keep_awake: true, idle_after: never }
"#;

/// The bound of the log.
const BOUND: u64 = 2 * 64 * 1024;

/// Lines printed at once, far less than the bound.
const LINES: usize = 2_000;

/// Rounds, which print several times the bound.
const ROUNDS: usize = 30;

fn number(line: &str) -> usize {
    let number = line
        .strip_prefix("line ")
        .and_then(|number| number.trim_end().parse().ok());
    number.unwrap_or_else(|| panic!("no whole line: {line:?}"))
}

#[test]
fn a_log_is_bounded_and_followed_without_loss_or_repetition() {
    need(&["sh"]);
    let project = Project::new("bounded", COMPOSE);
    mkfifoat(CWD, project.path("more"), Mode::RUSR | Mode::WUSR).unwrap();
    project.ok(&["up", "-d"]);
    let (reader, writer) = pipe().unwrap();
    let follower = Background::spawn(project.imsup_command(&["logs", "-f", "talker"]), writer.into());
    let mut followed = BufReader::new(reader).lines();
    for round in 0..ROUNDS {
        let mut more = OpenOptions::new().write(true).open(project.path("more")).unwrap();
        writeln!(more, "{LINES}").unwrap();
        drop(more);
        for line in round * LINES..(round + 1) * LINES {
            assert_eq!(number(&followed.next().unwrap().unwrap()), line);
        }
    }
    let path = project.state().join("logs/talker.log");
    let printed: u64 = (0..ROUNDS * LINES)
        .map(|line| format!("line {line}\n").len() as u64)
        .sum();
    assert!(printed > 3 * BOUND);
    assert_eq!(File::open(&path).unwrap().metadata().unwrap().len(), printed);
    wait_until("the log to be within its bound", || {
        std::fs::metadata(&path).unwrap().blocks() * 512 <= BOUND
    });

    let kept = project.ok(&["logs", "talker"]);
    let kept: Vec<usize> = kept.lines().map(number).collect();
    let first = kept[0];
    assert!(
        first > 0 && kept.len() as u64 * 11 > BOUND / 4,
        "{} lines are kept",
        kept.len()
    );
    assert!(
        kept.iter().copied().eq(first..ROUNDS * LINES),
        "from {first} on, to the last"
    );
    let tail = project.ok(&["logs", "--tail", "3", "talker"]);
    assert!(
        tail.lines().map(number).eq(ROUNDS * LINES - 3..ROUNDS * LINES),
        "{tail}"
    );

    project.down();
    assert!(follower.finish(LIMIT).success());
    assert!(followed.next().is_none());
}
