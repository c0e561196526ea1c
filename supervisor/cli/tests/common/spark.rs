//! Apache Spark (examples/spark), for the tests of spark.rs and root.rs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::command::run;
use super::{LIMIT, Project};

/// Five JVMs start on a machine that is busy with other tests.
const TIMEOUT: Duration = Duration::from_secs(300);
const HOSTS: [&str; 3] = ["master", "worker-1", "worker-2"];

/// Brings the example up with the compose files in `over` merged over its own, has its driver count
/// words, and waits until no process runs.
#[track_caller]
pub fn one_query(label: &str, over: &[&str]) {
    super::need(&["java"]);
    let project = Project::new(label, "services: {}");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/spark");
    for file in ["compose.yaml", "compose.prefix.yaml", "count.py"] {
        std::fs::copy(example.join(file), project.path(file)).unwrap();
    }
    let mut arguments = vec!["up", "-d", "-f", "compose.yaml"];
    for file in over {
        arguments.extend(["-f", file]);
    }
    run(with_spark(&project, &arguments), LIMIT).expect_success("up");
    for (name, host) in project.ps() {
        assert_eq!(host.state, "imaginary", "{name}");
    }
    let watch = project.watch().patient(TIMEOUT);
    run(project.imsup_command(&["wake", "driver"]), TIMEOUT).expect_success("wake driver");
    let exit = watch.wait("driver", "exit", 1);
    let said = project.ok(&["logs", "driver"]);
    assert!(said.contains("that 800\n"), "{:?}: {said}", exit.json);
    assert!(said.contains("be 1600\n") && said.contains("to 1600\n"), "{said}");
    assert!(said.contains("counted on worker-1 worker-2"), "{said}");
    let allocated = |host: &str| watch.wait(host, "allocate", 1);
    assert_eq!(allocated("master").by.as_deref(), Some("driver"));
    for worker in ["worker-1", "worker-2"] {
        let allocated = allocated(worker);
        assert_eq!(allocated.by.as_deref(), Some("master"));
        assert_eq!(allocated.cause.as_deref(), Some("dependency"));
    }
    // The three are connected with each other, and send heartbeats.
    for host in HOSTS {
        watch.wait(host, "terminate", 1);
        watch.wait(host, "exit", 1);
        project.wait_state(host, "imaginary");
    }
    let programs: Vec<_> = project.processes();
    let left: Vec<_> = programs
        .iter()
        .filter(|process| process.command.contains("java"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    project.down();
}

/// `imsup VERB` with the variables that the example's compose file asks for.
fn with_spark(project: &Project, arguments: &[&str]) -> Command {
    let spark = spark();
    let mut command = project.imsup_command(arguments);
    command
        .env("SPARK_HOME", spark.join("pyspark"))
        .env("SPARK_WORKER_DIR", project.path("work"))
        .env_remove("SPARK_LOCAL_HOSTNAME")
        .env_remove("SPARK_LOCAL_IP");
    command
}

/// The directory in which scripts/setup.sh puts Spark.
fn spark() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("spark");
    let program = directory.join("pyspark/bin/spark-class");
    assert!(program.exists(), "{} is missing: run 'make setup'", program.display());
    directory
}
