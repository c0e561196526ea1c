//! Ruby's tests of its socket library, a unit for each file, with Debian's ruby.

use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

#[test]
fn ruby_comes_out_the_same() {
    crate::common::need(&["ruby"]);
    let source = fetched("ruby3.1");
    let mut names: Vec<_> = std::fs::read_dir(source.join("test/socket"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("test_"))
        .collect();
    names.sort();
    assert!(names.len() > 8, "{names:?}");
    let units = names.iter().map(|name| {
        let file = format!("test/socket/{name}");
        let run = "require 'test/unit'; exit Test::Unit::AutoRunner.run(true, 'test')";
        let command = ["ruby", "-Itool/lib", "-e", run, "--", "--verbose", "--tty=no", &file];
        let mut unit = Unit::new(name.trim_end_matches(".rb"), &command, Format::Ruby);
        unit.copy = Some(source.clone());
        unit.as_root = true;
        unit
    });
    suite("ruby", units.collect());
}
