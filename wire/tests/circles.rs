//! No circle between modules: beside each other in one parent, modules depend in one direction
//! only.
//!
//! Every module file is parsed. A path that leads from one module to another counts as an edge
//! between the two modules below their nearest common ancestor. A child may use what its parent
//! declares, and a parent its children; siblings must form no circle. A name that the parent
//! re-exports counts as an edge to the sibling that declares the name. Code below `#[cfg(test)]`
//! does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// The crates: their names in messages, and their roots below the workspace.
const CRATES: [(&str, &str); 10] = [
    ("wire", "wire/src/lib.rs"),
    ("protocol", "wire/protocol/src/lib.rs"),
    ("bpf-filters", "bpf-filters/src/lib.rs"),
    ("linux", "supervisor/linux/src/lib.rs"),
    ("compose", "broker/compose/src/lib.rs"),
    ("lifecycle", "broker/lifecycle/src/lib.rs"),
    ("broker", "broker/src/lib.rs"),
    ("supervisor", "supervisor/src/lib.rs"),
    ("cli", "supervisor/cli/src/main.rs"),
    ("bench", "bench/src/main.rs"),
];

/// A module's path from the root of its crate: names.
type Module = Vec<String>;

/// What one crate's modules name: paths from the root of the crate.
#[derive(Default)]
struct Crate {
    modules: BTreeSet<Module>,
    /// Who names what.
    uses: BTreeSet<(Module, Module)>,
    /// Names that a module re-exports, and where they are declared.
    exports: BTreeMap<Module, Module>,
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut found = Self::default();
        let folder = root.parent().expect("a root has a folder");
        found.read_file(root, folder, Vec::new());
        found
    }

    /// Reads a module's file; `folder` is where its children are.
    fn read_file(&mut self, path: &Path, folder: &Path, module: Module) {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.read_items(&file.items, folder, module);
    }

    fn read_items(&mut self, items: &[syn::Item], folder: &Path, module: Module) {
        self.modules.insert(module.clone());
        let children: BTreeSet<String> = items
            .iter()
            .filter_map(|item| match item {
                syn::Item::Mod(child) => Some(child.ident.to_string()),
                _ => None,
            })
            .collect();
        for item in items.iter().filter(|item| !is_for_tests(item)) {
            match item {
                syn::Item::Mod(child) => {
                    let name = child.ident.to_string();
                    let module = [module.clone(), vec![name.clone()]].concat();
                    let folder = folder.join(&name);
                    match &child.content {
                        Some((_, items)) => self.read_items(items, &folder, module),
                        None => self.read_file(&file_of(&folder), &folder, module),
                    }
                }
                item => {
                    let mut paths = Paths::default();
                    paths.visit_item(item);
                    for (path, exported_as) in paths.found {
                        let Some(target) = absolute(&module, &children, &path) else {
                            continue;
                        };
                        if let Some(name) = exported_as {
                            let export = [module.clone(), vec![name]].concat();
                            self.exports.insert(export, target.clone());
                        }
                        self.uses.insert((module.clone(), target));
                    }
                }
            }
        }
    }

    /// Where a name is declared, through re-exports.
    fn declared(&self, mut path: Module) -> Module {
        // A circle of re-exports does not compile.
        loop {
            let exported = (1..=path.len())
                .rev()
                .find_map(|length| self.exports.get(&path[..length]).map(|target| (length, target)));
            match exported {
                Some((length, target)) if !self.modules.contains(&path[..length]) => {
                    path = [target.clone(), path[length..].to_vec()].concat();
                }
                _ => return path,
            }
        }
    }

    /// The module that a path leads into.
    fn module_of(&self, path: &Module) -> Module {
        let length = (0..=path.len())
            .rev()
            .find(|length| self.modules.contains(&path[..*length]));
        path[..length.expect("the root is a module")].to_vec()
    }

    /// For each parent, which children use which, and an example of each use.
    fn edges(&self) -> BTreeMap<Module, BTreeMap<String, BTreeMap<String, String>>> {
        let mut edges: BTreeMap<Module, BTreeMap<String, BTreeMap<String, String>>> = BTreeMap::new();
        for (from, path) in &self.uses {
            let declared = self.declared(path.clone());
            let to = self.module_of(&declared);
            let common = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
            if let (Some(user), Some(used)) = (from.get(common), to.get(common)) {
                let example = format!("{} names {}", from.join("::"), declared.join("::"));
                edges
                    .entry(from[..common].to_vec())
                    .or_default()
                    .entry(user.clone())
                    .or_default()
                    .insert(used.clone(), example);
            }
        }
        edges
    }

    /// One circle for each strongly connected set of modules, in words.
    fn circles(&self) -> Vec<String> {
        let mut circles = Vec::new();
        for edges in self.edges().values() {
            let mut seen: BTreeSet<&String> = BTreeSet::new();
            for start in edges.keys() {
                if seen.contains(start) {
                    continue;
                }
                if let Some(circle) = shortest_circle(edges, start) {
                    seen.extend(circle.iter().copied());
                    let steps = circle.iter().zip(circle.iter().cycle().skip(1));
                    let steps: Vec<&str> = steps.map(|(user, used)| edges[*user][*used].as_str()).collect();
                    circles.push(steps.join("; "));
                }
            }
        }
        circles
    }
}

/// The shortest way from a module back to itself.
fn shortest_circle<'a>(
    edges: &'a BTreeMap<String, BTreeMap<String, String>>,
    start: &'a String,
) -> Option<Vec<&'a String>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![start]];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in way
                .last()
                .and_then(|last| edges.get(*last))
                .into_iter()
                .flat_map(BTreeMap::keys)
            {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next) {
                    longer.push([way.clone(), vec![next]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The file of a module whose children are in `folder`.
fn file_of(folder: &Path) -> PathBuf {
    let beside = folder.with_extension("rs");
    if beside.exists() { beside } else { folder.join("mod.rs") }
}

/// Whether an item is compiled for tests only.
fn is_for_tests(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Const(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| {
        let condition = attribute.meta.require_list().map(|list| list.tokens.to_string());
        attribute.path().is_ident("cfg") && condition.is_ok_and(|text| text.contains("test") && !text.contains("not"))
    })
}

/// A path from the root of the crate, if the path leads into the crate.
fn absolute(module: &Module, children: &BTreeSet<String>, path: &[String]) -> Option<Module> {
    let mut at = module.clone();
    let mut names = path.iter().peekable();
    match names.next().map(String::as_str) {
        Some("crate") => at.clear(),
        Some("self") => {}
        Some("super") => {
            at.pop()?;
        }
        Some(child) if children.contains(child) => at.push(child.to_owned()),
        _ => return None,
    }
    while names.next_if(|name| *name == "super").is_some() {
        at.pop()?;
    }
    at.extend(names.cloned());
    Some(at)
}

/// The paths that an item names, and under which name a `pub use` exports one.
#[derive(Default)]
struct Paths {
    found: Vec<(Vec<String>, Option<String>)>,
}

impl Paths {
    fn tree(&mut self, tree: &syn::UseTree, before: &[String], exports: bool) {
        let with = |name: &syn::Ident| [before.to_vec(), vec![name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident), exports),
            syn::UseTree::Name(name) if name.ident == "self" => {
                let exported = before.last().cloned().filter(|_| exports);
                self.found.push((before.to_vec(), exported));
            }
            syn::UseTree::Name(name) => {
                let exported = exports.then(|| name.ident.to_string());
                self.found.push((with(&name.ident), exported));
            }
            syn::UseTree::Rename(rename) => {
                let exported = exports.then(|| rename.rename.to_string());
                self.found.push((with(&rename.ident), exported));
            }
            syn::UseTree::Glob(_) => self.found.push((before.to_vec(), None)),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before, exports);
                }
            }
        }
    }

    /// The paths in a macro's tokens.
    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.found.push((std::mem::take(&mut path), None));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                proc_macro2::TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                proc_macro2::TokenTree::Group(group) => self.tokens(group.stream()),
                _ => colons = 0,
            }
        }
        self.found.push((path, None));
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // What a module imports privately, its children may name as well: `use super::Name`.
        self.tree(&item.tree, &[], true);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string());
        self.found.push((names.collect(), None));
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        syn::visit::visit_macro(self, call);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {
        // `pub(super)` and `pub(in crate::x)` name who may use an item, not what the item uses.
    }
}

#[test]
fn modules_form_no_circle() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let found = CRATES.iter().flat_map(|(name, root)| {
        let circles = Crate::read(&workspace.join(root)).circles();
        circles.into_iter().map(move |circle| format!("{name}: {circle}"))
    });
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "modules that use each other:\n{}", found.join("\n"));
}

#[test]
fn a_circle_is_found_also_through_a_re_export() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("lib.rs", "mod a; mod b; pub use a::A; pub use self::b::B;");
    write(
        "a.rs",
        "pub struct A; impl A { fn f() { println!(\"{}\", crate::B::NAME) } }",
    );
    write("b.rs", "#[cfg(test)] mod tests { use crate::A; }");
    let read = || Crate::read(&folder.path().join("lib.rs")).circles();
    assert!(read().is_empty());
    write("b.rs", "pub struct B(super::a::A);");
    assert_eq!(read(), ["a names b::B::NAME; b names a::A"]);
}
