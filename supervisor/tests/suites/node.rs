//! node's own tests of its networking modules: one program each, from the source of Debian's node, run by the node that is installed.
//!
//! Not compared yet: http and https, 400 programs more.
//!
//! Where that is a later node, some of them fail natively; they must fail under imsup too.

use std::path::Path;

use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

/// Modules, and whether root runs them too.
const MODULES: &[(&str, bool)] = &[("net", true), ("dgram", true), ("dns", false), ("cluster", false)];

#[test]
fn node_comes_out_the_same() {
    crate::common::need(&["node"]);
    let tests = fetched("nodejs").join("test/parallel");
    let mut files: Vec<_> = std::fs::read_dir(&tests)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let units: Vec<_> = files.iter().filter_map(|path| unit(path)).collect();
    assert!(units.len() > 250, "{} tests in {}", units.len(), tests.display());
    suite("node", units);
}

fn unit(path: &Path) -> Option<Unit> {
    let name = path.file_stem()?.to_str()?;
    let module = name.strip_prefix("test-")?.split('-').next()?;
    let (_, as_root) = MODULES.iter().find(|(of, _)| *of == module)?;
    if path.extension()? != "js" {
        return None;
    }
    let text = std::fs::read_to_string(path).unwrap();
    let flags = text
        .lines()
        .filter_map(|line| line.strip_prefix("// Flags: "))
        .flat_map(str::split_whitespace);
    let mut command = vec!["node"];
    command.extend(flags);
    command.push(path.to_str()?);
    let mut unit = Unit::new(name, &command, Format::Exit);
    unit.environment.push(("NODE_TEST_DIR", "@dir@".to_owned()));
    unit.as_root = *as_root;
    Some(unit)
}
