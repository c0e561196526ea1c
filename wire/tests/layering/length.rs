//! No file has more lines of code outside tests than a limit.

use crate::workspace::{SourceFile, Workspace};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::{Attribute, ImplItem, Item};

/// Source files of more than `most` lines outside tests, except those that have a limit of their
/// own and keep it; and exceptions that are needed no longer.
pub fn violations(workspace: &Workspace, most: usize, exceptions: &[(&str, usize)]) -> Vec<String> {
    let mut found = Vec::new();
    let sources = || workspace.files.iter().filter(|file| file.is_source);
    let exception = |file: &SourceFile| {
        let mut exceptions = exceptions.iter();
        exceptions.find(|(path, _)| Path::new(path) == file.path)
    };
    let tests: Vec<PathBuf> = sources().flat_map(test_modules).collect();
    let is_test = |file: &&SourceFile| tests.iter().any(|test| is_module(&file.path, test));
    for file in sources().filter(|file| !is_test(file)) {
        let exception = exception(file).map(|(_, limit)| *limit);
        if exception.is_none() && file.text.lines().count() <= most {
            continue;
        }
        let path = file.path.display();
        let lines = lines_outside_tests(file);
        match exception {
            Some(_) if lines <= most => found.push(format!(
                "{path} has only {lines} lines outside tests: it needs no exception any more"
            )),
            Some(limit) if lines > limit => found.push(format!(
                "{path} has {lines} lines outside tests, more than its exception's {limit}"
            )),
            None if lines > most => found.push(format!("{path} has {lines} lines outside tests, more than {most}")),
            _ => (),
        }
    }
    for (path, _) in exceptions {
        if !sources().any(|file| file.path == Path::new(path)) {
            found.push(format!("{path} has an exception, but does not exist"));
        }
    }
    found
}

/// Lines of code, without comments, empty lines and items that only tests compile.
fn lines_outside_tests(file: &SourceFile) -> usize {
    let of_tests = test_lines(file);
    let is_code = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    let numbered = (1..).zip(file.text.lines());
    numbered
        .filter(|(number, line)| is_code(line) && !of_tests.contains(number))
        .count()
}

/// The lines of items that only tests compile.
pub fn test_lines(file: &SourceFile) -> HashSet<usize> {
    let mut of_tests = HashSet::new();
    add_test_lines(&file.syntax().items, &mut of_tests);
    of_tests
}

fn add_test_lines(items: &[Item], of_tests: &mut HashSet<usize>) {
    for item in items {
        if is_for_tests(attributes(item)) {
            of_tests.extend(lines(item));
            continue;
        }
        match item {
            Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    add_test_lines(items, of_tests);
                }
            }
            Item::Impl(block) => {
                for item in &block.items {
                    if matches!(item, ImplItem::Fn(function) if is_for_tests(&function.attrs)) {
                        of_tests.extend(lines(item));
                    }
                }
            }
            _ => (),
        }
    }
}

fn lines(item: &impl Spanned) -> std::ops::RangeInclusive<usize> {
    let span = item.span();
    span.start().line..=span.end().line
}

/// The modules with files of their own that only tests compile, as paths without `.rs`.
fn test_modules(file: &SourceFile) -> Vec<PathBuf> {
    // To parse a file takes longer than to look at its lines.
    let mut lines = file.text.lines();
    if !lines.any(|line| line.contains("mod ") && line.ends_with(';')) {
        return Vec::new();
    }
    let stem = file.path.with_extension("");
    let owns_its_directory = matches!(
        stem.file_name().and_then(|name| name.to_str()),
        Some("lib" | "main" | "mod" | "build")
    );
    let directory = match stem.parent() {
        Some(parent) if owns_its_directory => parent.to_owned(),
        _ => stem,
    };
    let modules = file.syntax().items.into_iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() && is_for_tests(&module.attrs) => {
            Some(directory.join(module.ident.to_string()))
        }
        _ => None,
    });
    modules.collect()
}

/// True for the module's own file and for the files of modules inside the module.
fn is_module(path: &Path, module: &Path) -> bool {
    path.with_extension("") == module || path.starts_with(module)
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|condition| condition.is_ident("test"))
    })
}

/// The attributes of the kinds of items that tests have.
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)], exceptions: &[(&str, usize)]) -> Vec<String> {
        let directories = [(PathBuf::from("a"), "a".to_owned())];
        let files = files
            .iter()
            .map(|(path, text)| SourceFile::new(path.into(), (*text).to_owned(), &directories));
        let workspace = Workspace {
            packages: Vec::new(),
            files: files.collect(),
        };
        violations(&workspace, 3, exceptions)
    }

    /// Four lines of code.
    const LONG: &str = "//! Head.\nfn one() {}\n// Why.\nfn two() {}\n\nfn three() {}\nfn four() {}\n";

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(
            found(&[("a/src/long.rs", LONG)], &[]),
            ["a/src/long.rs has 4 lines outside tests, more than 3"]
        );
    }

    #[test]
    fn tests_do_not_count() {
        let text = "fn one() {}\n#[cfg(test)]\nmod tests {\n\n    fn two() {}\n}\n\
            impl S {\n    #[cfg(test)]\n    fn f() {}\n}\n";
        let module = "#[cfg(test)]\nmod tests;\n";
        assert_eq!(
            found(
                &[
                    ("a/src/inline.rs", text),
                    ("a/src/beside.rs", module),
                    ("a/src/beside/tests.rs", LONG),
                    ("a/src/beside/tests/more.rs", LONG),
                    ("a/tests/long.rs", LONG),
                ],
                &[]
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_module_called_tests_that_users_compile_counts() {
        assert_eq!(
            found(&[("a/src/lib.rs", "mod tests;"), ("a/src/tests.rs", LONG)], &[]),
            ["a/src/tests.rs has 4 lines outside tests, more than 3"]
        );
    }

    #[test]
    fn an_exception_holds_to_its_limit_and_falls_when_the_file_fits() {
        let long = [("a/src/long.rs", LONG)];
        assert_eq!(found(&long, &[("a/src/long.rs", 4)]), Vec::<String>::new());
        let longer = format!("{LONG}fn five() {{}}\n");
        assert_eq!(
            found(&[("a/src/long.rs", &longer)], &[("a/src/long.rs", 4)]),
            ["a/src/long.rs has 5 lines outside tests, more than its exception's 4"]
        );
        assert_eq!(
            found(&[("a/src/long.rs", "fn f() {}")], &[("a/src/long.rs", 4)]),
            ["a/src/long.rs has only 1 lines outside tests: it needs no exception any more"]
        );
        assert_eq!(
            found(&[], &[("a/src/long.rs", 4)]),
            ["a/src/long.rs has an exception, but does not exist"]
        );
    }
}
