//! The keyword `unsafe` stands in one crate only, and the compiler forbids it elsewhere.

use crate::workspace::{SourceFile, Workspace};
use proc_macro2::{TokenStream, TokenTree};
use syn::{AttrStyle, Attribute};

/// The word `unsafe` outside of `unsafe_crate`, and crate roots that do not forbid it. The roots of
/// integration tests need not say so: the word is looked for in tests too.
pub fn violations(workspace: &Workspace, unsafe_crate: &str) -> Vec<String> {
    let mut found = Vec::new();
    let is_safe = |file: &&SourceFile| file.package.as_deref() != Some(unsafe_crate);
    for file in workspace.files.iter().filter(is_safe) {
        let path = file.path.display();
        if file.text.contains("unsafe") {
            for line in lines_with_unsafe(file.tokens()) {
                found.push(format!("{path}:{line}: unsafe outside of {unsafe_crate}"));
            }
        }
        let roots = workspace.packages.iter().flat_map(|package| &package.roots);
        if roots.into_iter().any(|root| *root == file.path) && !file.syntax().attrs.iter().any(forbids_unsafe) {
            found.push(format!("{path}: a crate root without #![forbid(unsafe_code)]"));
        }
    }
    found
}

fn lines_with_unsafe(tokens: TokenStream) -> Vec<usize> {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Group(group) => lines_with_unsafe(group.stream()),
            TokenTree::Ident(word) if word == "unsafe" => vec![word.span().start().line],
            _ => Vec::new(),
        })
        .collect()
}

fn forbids_unsafe(attribute: &Attribute) -> bool {
    matches!(attribute.style, AttrStyle::Inner(_))
        && attribute.path().is_ident("forbid")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|lint| lint.is_ident("unsafe_code"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    /// A workspace of the crates `linux` and `other`, each with its root.
    fn found(linux: &str, other: &str) -> Vec<String> {
        let directories = ["linux", "other"].map(|name| (name.into(), name.to_owned()));
        let file = |path: &str, text: &str| SourceFile::new(path.into(), text.into(), &directories);
        let package = |name: &str| Package {
            name: name.to_owned(),
            dependencies: Vec::new(),
            roots: vec![format!("{name}/src/lib.rs").into()],
        };
        let workspace = Workspace {
            packages: vec![package("linux"), package("other")],
            files: vec![file("linux/src/lib.rs", linux), file("other/src/lib.rs", other)],
        };
        violations(&workspace, "linux")
    }

    #[test]
    fn the_word_is_allowed_in_its_crate_and_in_comments_and_strings() {
        let linux = "pub fn f() { unsafe { g() } }";
        let other = "#![forbid(unsafe_code)]\n// unsafe\nconst S: &str = \"unsafe\";";
        assert_eq!(found(linux, other), Vec::<String>::new());
    }

    #[test]
    fn the_word_is_found_elsewhere_in_macros_too() {
        let other = "#![forbid(unsafe_code)]\nmacro_rules! m {\n() => { unsafe {} } }";
        assert_eq!(found("", other), ["other/src/lib.rs:3: unsafe outside of linux"]);
    }

    #[test]
    fn a_root_that_does_not_forbid_it_is_found() {
        let expected = ["other/src/lib.rs: a crate root without #![forbid(unsafe_code)]"];
        assert_eq!(found("", ""), expected);
        assert_eq!(found("", "#![deny(unsafe_code)]"), expected);
        assert_eq!(found("", "#![forbid(missing_docs)]"), expected);
        assert_eq!(found("", "#[forbid(unsafe_code)]\nmod m {}"), expected);
    }
}
