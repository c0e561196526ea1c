//! The result of each test, from the output of suites.

use std::collections::BTreeMap;

/// Outcomes by test: `ok`, `fail`, `skip`, `todo`. A fault of the run as a whole is a test of its
/// own, [`WHOLE`].
pub type Results = BTreeMap<String, String>;

/// The run as a whole.
pub const WHOLE: &str = "(whole)";

/// The format in which a suite reports results.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    /// A JUnit XML file `results.xml` in the working directory.
    JUnit,
    /// The Test Anything Protocol. Tests go by their numbers, since descriptions carry ports.
    Tap,
    /// The same, for tests whose descriptions are their names.
    NamedTap,
    /// libevent's tinytest.
    Tinytest,
    /// Redis's Tcl suite.
    Redis,
    /// GoogleTest.
    GoogleTest,
    /// Ruby's own test-unit, verbose.
    Ruby,
    /// PHP's run-tests.
    Php,
    /// The exit status is all; a skipped test prints a TAP plan of none.
    Exit,
}

impl Format {
    /// True if a unit without a named test is in order: a unit that is skipped as a whole, or is
    /// one test itself.
    pub fn may_be_empty(self) -> bool {
        matches!(self, Self::Tap | Self::Exit)
    }

    /// The results in the standard output `text` (for JUnit: the text of its file).
    pub fn parse(self, text: &str) -> Results {
        match self {
            Self::JUnit => junit(text),
            Self::Tap => tap(text, false),
            Self::NamedTap => tap(text, true),
            Self::Tinytest => tinytest(text),
            Self::Redis => redis(text),
            Self::GoogleTest => google_test(text),
            Self::Ruby => ruby(text),
            Self::Php => php(text),
            Self::Exit => Results::new(),
        }
    }
}

fn junit(text: &str) -> Results {
    let Ok(document) = roxmltree::Document::parse(text) else {
        return whole("no XML");
    };
    let mut results = Results::new();
    for case in document.descendants().filter(|node| node.has_tag_name("testcase")) {
        let is = |names: &[&str]| case.children().any(|child| names.contains(&child.tag_name().name()));
        let outcome = match () {
            () if is(&["failure", "error"]) => "fail",
            () if is(&["skipped"]) => "skip",
            () => "ok",
        };
        // A test with subtests, or a test that fails in its clean-up too, has several entries.
        let all = results
            .entry(case.attribute("name").unwrap_or_default().to_owned())
            .or_insert_with(|| outcome.to_owned());
        if outcome == "fail" {
            *all = outcome.to_owned();
        }
    }
    results
}

fn tap(text: &str, named: bool) -> Results {
    let mut results = Results::new();
    let (mut plan, mut count) = (None, 0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("1..") {
            plan = rest.split_whitespace().next().and_then(|number| number.parse().ok());
            if plan == Some(0) {
                return whole("skip");
            }
            continue;
        }
        let (passed, rest) = match (line.strip_prefix("ok"), line.strip_prefix("not ok")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => continue,
        };
        if !rest.is_empty() && !rest.starts_with(' ') {
            continue;
        }
        count += 1;
        let directive = rest
            .split_once('#')
            .map_or("", |(_, after)| after.trim_start())
            .to_lowercase();
        let outcome = match () {
            () if directive.starts_with("skip") => "skip",
            () if directive.starts_with("todo") => "todo",
            () if passed => "ok",
            () => "fail",
        };
        let name = rest
            .split_once(" - ")
            .map(|(_, name)| name.split(" #").next().unwrap_or(name).trim());
        let name = name
            .filter(|_| named)
            .map_or_else(|| format!("{count:03}"), str::to_owned);
        results.insert(name, outcome.to_owned());
    }
    if plan != Some(count) {
        results.insert(WHOLE.to_owned(), format!("{count} tests of {plan:?}"));
    }
    results
}

fn tinytest(text: &str) -> Results {
    let mut results = Results::new();
    let mut current = None;
    for line in text.lines() {
        // "group/name: [forking] OK", the result on a line of its own if the test printed output.
        let mut rest = line;
        if let Some((name, after)) = line.split_once(": ")
            && name.contains('/')
            && !name.contains(' ')
        {
            current = Some(name);
            rest = after;
        }
        let outcome = match rest.trim_start_matches("[forking] ").trim() {
            "OK" => "ok",
            "SKIPPED" | "DISABLED" => "skip",
            failed if failed.ends_with("FAILED]") => "fail",
            _ => continue,
        };
        if let Some(name) = current {
            results.insert(name.to_owned(), outcome.to_owned());
        }
    }
    results
}

fn redis(text: &str) -> Results {
    let mut results = Results::new();
    let text = without_colours(text);
    for line in text.lines() {
        let Some((status, rest)) = line.strip_prefix('[').and_then(|line| line.split_once("]: ")) else {
            continue;
        };
        let (name, outcome) = match status {
            "ok" => (rest.rsplit_once(" (").map_or(rest, |(name, _)| name), "ok"),
            "err" | "exception" => (rest.split_once(" in tests/").map_or(rest, |(name, _)| name), "fail"),
            "skip" | "ignore" => (rest, "skip"),
            _ => continue,
        };
        results.insert(name.to_owned(), outcome.to_owned());
    }
    results
}

fn google_test(text: &str) -> Results {
    let mut results = Results::new();
    for line in text.lines() {
        let Some((status, rest)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else {
            continue;
        };
        let outcome = match status.trim() {
            "OK" => "ok",
            "FAILED" => "fail",
            "SKIPPED" => "skip",
            _ => continue,
        };
        // "Suite.Test/3, where GetParam() = ... (12 ms)"; the list at the end has no time.
        if rest.ends_with(" ms)")
            && let Some(name) = rest.split([',', ' ']).next()
        {
            results.insert(name.to_owned(), outcome.to_owned());
        }
    }
    results
}

fn ruby(text: &str) -> Results {
    let mut results = Results::new();
    let mut outcome = None;
    for line in text.lines() {
        // "[ 1/37] TestSocket#test_tcp = 0.01 s", with possible output of the test before the time;
        // at the end "  1) Failure:", and in the next line "TestSocket#test_tcp [FILE:LINE]:".
        let (head, rest) = line.split_once(['=', '[', ':']).unwrap_or((line, ""));
        if let Some(outcome) = outcome.take() {
            results.insert(head.trim().to_owned(), outcome);
            continue;
        }
        let is_number = |text: &str| text.trim().parse::<u32>().is_ok();
        match line.split_once(") ") {
            Some((number, "Failure:" | "Error:" | "Timeout:")) if is_number(number) => {
                outcome = Some("fail".to_owned())
            }
            Some((number, "Skipped:")) if is_number(number) => outcome = Some("skip".to_owned()),
            _ => {}
        }
        if let Some((count, test)) = rest.split_once("] ")
            && count.contains('/')
            && let Some((name, _)) = test.split_once(" = ")
            && name.contains('#')
        {
            results.entry(name.to_owned()).or_insert_with(|| "ok".to_owned());
        }
    }
    results
}

fn php(text: &str) -> Results {
    let mut results = Results::new();
    let text = without_colours(text);
    for line in text.lines() {
        // After "TEST 5/619 [FILE]\r", if that was printed.
        let line = line.rsplit('\r').next().unwrap_or_default();
        let Some((status, rest)) = line.split_once(' ') else {
            continue;
        };
        let outcome = match status {
            "PASS" | "WARN" | "LEAK" => "ok",
            "FAIL" | "BORK" => "fail",
            "SKIP" => "skip",
            "XFAIL" => "todo",
            _ => continue,
        };
        let file = rest
            .split('[')
            .rev()
            .find_map(|piece| Some(piece.split_once(".phpt]")?.0));
        if let Some(file) = file {
            results.insert(file.to_owned(), outcome.to_owned());
        }
    }
    results
}

/// Without the escape sequences that colour words (ECMA-48, SGR).
fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain += piece.split_once('m').map_or(piece, |(_, rest)| rest);
    }
    plain
}

fn whole(outcome: &str) -> Results {
    Results::from([(WHOLE.to_owned(), outcome.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(format: Format, text: &str) -> Vec<(String, String)> {
        format.parse(text).into_iter().collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(name, outcome)| ((*name).into(), (*outcome).into()))
            .collect()
    }

    #[test]
    fn tap_is_read() {
        let text = "1..4\nok 1 - a\nnot ok 2 - b\n# not ok\nok 3 # SKIP no\nnot ok 4 - d # TODO later\nokay\n";
        let expected = [("001", "ok"), ("002", "fail"), ("003", "skip"), ("004", "todo")];
        assert_eq!(parsed(Format::Tap, text), pairs(&expected));
        assert_eq!(parsed(Format::Tap, "1..0 # skip no ssl\n"), pairs(&[(WHOLE, "skip")]));
        let named = [("a", "ok"), ("b", "fail"), ("003", "skip"), ("d", "todo")];
        let mut named = pairs(&named);
        named.sort();
        assert_eq!(parsed(Format::NamedTap, text), named);
        let cut = parsed(Format::Tap, "1..2\nok 1\n");
        assert_eq!(cut, pairs(&[(WHOLE, "1 tests of Some(2)"), ("001", "ok")]));
    }

    #[test]
    fn junit_is_read() {
        let text = "<suites><testcase name='a' /><testcase name='b'><error>x</error></testcase>\
            <testcase name='b'></testcase><testcase name='c'><skipped>y</skipped></testcase></suites>";
        assert_eq!(
            parsed(Format::JUnit, text),
            pairs(&[("a", "ok"), ("b", "fail"), ("c", "skip")])
        );
        assert_eq!(parsed(Format::JUnit, ""), pairs(&[(WHOLE, "no XML")]));
    }

    #[test]
    fn tinytest_is_read() {
        let text =
            "main/a: [forking] OK\nmain/b: [forking] \n  FAIL x.c:1: no\n  [b FAILED]\nmain/c: SKIPPED\n1 tests ok.\n";
        let expected = [("main/a", "ok"), ("main/b", "fail"), ("main/c", "skip")];
        assert_eq!(parsed(Format::Tinytest, text), pairs(&expected));
    }

    #[test]
    fn google_test_is_read() {
        let text = "[ RUN      ] A.b\n[       OK ] A.b (0 ms)\n[  FAILED  ] P/A.c/3, where GetParam() = (10, true) (1503 ms)\n\
                    [  SKIPPED ] A.d (0 ms)\n[  PASSED  ] 1 test.\n[  FAILED  ] 1 test, listed below:\n[  FAILED  ] P/A.c/3, where GetParam() = (10, true)\n";
        let expected = [("A.b", "ok"), ("A.d", "skip"), ("P/A.c/3", "fail")];
        assert_eq!(parsed(Format::GoogleTest, text), pairs(&expected));
    }

    #[test]
    fn ruby_is_read() {
        let text = "# Running tests:\n\n[ 1/10] A#test_a = 0.00 s\n[ 2/10] A#test_b = oops\n = 0.10 s\n[10/10] A#test_c = 0.00 s\n\n  \
            1) Failure:\nA#test_b [a.rb:1]:\nno = yes\n\n  2) Skipped:\nA#test_c [a.rb:9]:\nno [1/2] x = 1\n";
        let expected = [("A#test_a", "ok"), ("A#test_b", "fail"), ("A#test_c", "skip")];
        assert_eq!(parsed(Format::Ruby, text), pairs(&expected));
    }

    #[test]
    fn php_is_read() {
        let text = "TEST 1/3 [a.phpt]\r\x1b[1;32mPASS\x1b[0m one [tests/a.phpt] \nFAIL two [x] [tests/b.phpt] \nSKIP c [tests/c.phpt] reason: [no]\nTests failed : 1\n";
        let expected = [("tests/a", "ok"), ("tests/b", "fail"), ("tests/c", "skip")];
        assert_eq!(parsed(Format::Php, text), pairs(&expected));
    }

    #[test]
    fn redis_is_read() {
        let text =
            "[ok]: PING (x) (3 ms)\n[err]: SET in tests/unit/a.tcl\n[ignore]: big\n[1/2 done]: unit/a (1 seconds)\n";
        assert_eq!(
            parsed(Format::Redis, text),
            pairs(&[("PING (x)", "ok"), ("SET", "fail"), ("big", "skip")])
        );
    }
}
