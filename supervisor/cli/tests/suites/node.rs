//! node's own tests of its networking modules: one program each, from the source of Debian's node,
//! run by the installed node.
//!
//! With a later node some of them fail natively; they must fail under imsup too.

use std::path::Path;

use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

/// Modules, and whether root runs them too.
const MODULES: &[(&str, bool)] = &[
    ("net", true),
    ("dgram", true),
    ("dns", false),
    ("cluster", false),
    ("http", false),
    ("https", false),
];
/// Left out, since with node 20 they never end, natively as well: their server is closed after a
/// number of requests that do not come. Six send requests without a Host header, which a later node
/// answers with 400 (`requireHostHeader`); `response-splitting` a URL that its parser refuses;
/// `should-keep-alive` counts on an agent that does not keep connections.
const ENDLESS: &[&str] = &[
    "test-http-keep-alive-drop-requests",
    "test-http-malformed-request",
    "test-http-pipeline-assertionerror-finish",
    "test-http-pipeline-requests-connection-leak",
    "test-http-pipeline-socket-parser-typeerror",
    "test-http-response-splitting",
    "test-http-should-keep-alive",
    "test-https-keep-alive-drop-requests",
];

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
    assert!(units.len() > 650, "{} tests in {}", units.len(), tests.display());
    suite("node", units);
}

fn unit(path: &Path) -> Option<Unit> {
    let name = path.file_stem()?.to_str()?;
    let module = name.strip_prefix("test-")?.split('-').next()?;
    let (_, as_root) = MODULES.iter().find(|(of, _)| *of == module)?;
    if path.extension()? != "js" || ENDLESS.contains(&name) {
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
