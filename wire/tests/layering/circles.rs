//! The modules of a crate form no circle: of two modules, at most one uses the other, directly or
//! through further modules.

use crate::length::test_lines;
use crate::workspace::{SourceFile, Workspace};
use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

/// The modules that each module uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// Circles between the top modules of the crates whose sources are in these directories.
pub fn violations(workspace: &Workspace, directories: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for directory in directories {
        let uses = uses(workspace, Path::new(directory));
        for circle in circles(&uses) {
            found.push(format!("{directory}: {} use each other", circle.join(", ")));
        }
    }
    found
}

fn uses(workspace: &Workspace, directory: &Path) -> Uses {
    let mut uses = Uses::new();
    for file in &workspace.files {
        let Some(module) = file.path.strip_prefix(directory).ok().and_then(module) else {
            continue;
        };
        uses.entry(module).or_default().extend(used_by(file));
    }
    let modules: BTreeSet<String> = uses.keys().cloned().collect();
    for (module, used) in &mut uses {
        used.retain(|used| used != module && modules.contains(used));
    }
    uses
}

/// The top module that a file below `src` is of; `None` for the crate's root.
fn module(below_src: &Path) -> Option<String> {
    let first = Path::new(below_src.components().next()?.as_os_str()).with_extension("");
    let name = first.to_str()?.to_owned();
    (name != "lib" && name != "main").then_some(name)
}

fn used_by(file: &SourceFile) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    add_used(file.tokens(), &test_lines(file), &mut used);
    used
}

/// Adds the first name after each `crate::`, and each first name in the braces after one.
fn add_used(tokens: TokenStream, of_tests: &HashSet<usize>, used: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is_word = |tree: &TokenTree, text: &str| matches!(tree, TokenTree::Ident(word) if word == text);
    let is_point = |tree: &TokenTree, text: char| matches!(tree, TokenTree::Punct(point) if point.as_char() == text);
    for (place, tree) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = tree {
            add_used(group.stream(), of_tests, used);
        }
        let is_path = is_word(tree, "crate") && tokens[place + 1..].iter().take(2).all(|next| is_point(next, ':'));
        if !is_path || of_tests.contains(&tree.span().start().line) {
            continue;
        }
        match tokens.get(place + 3) {
            Some(TokenTree::Ident(name)) => drop(used.insert(name.to_string())),
            Some(TokenTree::Group(names)) => {
                let names: Vec<TokenTree> = names.stream().into_iter().collect();
                for names in names.split(|tree| is_point(tree, ',')) {
                    used.extend(names.first().map(TokenTree::to_string));
                }
            }
            _ => {}
        }
    }
}

/// Groups of modules of which each uses each.
fn circles(uses: &Uses) -> Vec<Vec<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        uses.keys().map(|module| (&**module, reached(uses, module))).collect();
    let mut found: Vec<Vec<&str>> = Vec::new();
    for (module, others) in &reached {
        let is_known = found.iter().any(|circle| circle.contains(module));
        if others.contains(module) && !is_known {
            let circle = others.iter().filter(|other| reached[*other].contains(module));
            found.push(circle.copied().collect());
        }
    }
    found
}

/// What a module uses, directly or through others.
fn reached<'a>(uses: &'a Uses, module: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = uses[module].iter().map(String::as_str).collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(uses[next].iter().map(String::as_str));
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let directories = [("a".into(), "a".to_owned())];
        let files = files.iter();
        let files = files.map(|(path, text)| SourceFile::new(path.into(), (*text).to_owned(), &directories));
        let workspace = Workspace {
            packages: Vec::new(),
            files: files.collect(),
        };
        violations(&workspace, &["a/src"])
    }

    #[test]
    fn a_circle_is_found_in_whatever_file_of_a_module_and_way_of_use() {
        let circle = [
            ("a/src/one.rs", "use crate::{two::Two, other};"),
            ("a/src/two/inner.rs", "fn f() { crate::three::g() }"),
            ("a/src/three.rs", "use crate::one::One;"),
            ("a/src/other.rs", ""),
        ];
        assert_eq!(found(&circle), ["a/src: one, three, two use each other"]);
    }

    #[test]
    fn uses_in_tests_in_the_own_module_and_by_the_root_are_no_circle() {
        let files = [
            ("a/src/lib.rs", "mod one; mod two; pub use crate::one::One;"),
            ("a/src/one.rs", "use crate::two::Two; use crate::one::inner;"),
            (
                "a/src/two.rs",
                "#[cfg(test)]\nmod tests {\n    use crate::one::One;\n}\n",
            ),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }
}
