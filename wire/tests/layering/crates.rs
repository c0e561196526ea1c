//! Dependencies between the crates of the workspace follow a table.

use crate::workspace::{Dependency, Workspace};

/// A crate of the workspace, with the crates of ours that the crate may depend on.
pub struct Row {
    pub name: &'static str,
    pub may_use: &'static [&'static str],
    /// What the crate's tests may depend on besides.
    pub tests_may_use: &'static [&'static str],
}

/// Dependencies that the table does not allow, and crates that only one of table and workspace has.
pub fn violations(workspace: &Workspace, table: &[Row]) -> Vec<String> {
    let mut found = Vec::new();
    let packages = &workspace.packages;
    let is_ours = |name: &str| packages.iter().any(|package| package.name == name);
    for package in packages {
        let name = &package.name;
        let Some(row) = table.iter().find(|row| row.name == name) else {
            found.push(format!("{name} is missing in the table of crates"));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|found| is_ours(&found.name)) {
            let Dependency {
                name: used,
                is_for_tests,
            } = dependency;
            let in_tests = *is_for_tests && row.tests_may_use.contains(&used.as_str());
            if !in_tests && !row.may_use.contains(&used.as_str()) {
                let whose = if *is_for_tests { "'s tests" } else { "" };
                found.push(format!("{name}{whose} may not depend on {used}"));
            }
        }
    }
    for row in table.iter().filter(|row| !is_ours(row.name)) {
        found.push(format!("the table names {}, which does not exist", row.name));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    /// Packages with their dependencies; those of tests begin with `dev:`.
    fn workspace(packages: &[(&str, &[&str])]) -> Workspace {
        let dependency = |text: &&str| Dependency {
            name: text.trim_start_matches("dev:").to_owned(),
            is_for_tests: text.starts_with("dev:"),
        };
        let packages = packages.iter().map(|(name, dependencies)| Package {
            name: (*name).to_owned(),
            dependencies: dependencies.iter().map(dependency).collect(),
            roots: Vec::new(),
        });
        Workspace {
            packages: packages.collect(),
            files: Vec::new(),
        }
    }

    const TABLE: &[Row] = &[
        Row {
            name: "low",
            may_use: &[],
            tests_may_use: &["middle"],
        },
        Row {
            name: "middle",
            may_use: &["low"],
            tests_may_use: &[],
        },
        Row {
            name: "high",
            may_use: &["low", "middle"],
            tests_may_use: &[],
        },
    ];

    #[test]
    fn the_table_and_foreign_crates_are_allowed() {
        let workspace = workspace(&[
            ("low", &["libc", "dev:middle"]),
            ("middle", &["low"]),
            ("high", &["middle", "libc", "dev:low"]),
        ]);
        assert_eq!(violations(&workspace, TABLE), Vec::<String>::new());
    }

    #[test]
    fn an_edge_that_points_up_is_found() {
        let workspace = workspace(&[
            ("low", &["middle", "dev:high"]),
            ("middle", &["dev:high"]),
            ("high", &[]),
        ]);
        assert_eq!(
            violations(&workspace, TABLE),
            [
                "low may not depend on middle",
                "low's tests may not depend on high",
                "middle's tests may not depend on high"
            ]
        );
    }

    #[test]
    fn a_crate_beside_the_table_and_a_row_without_a_crate_are_found() {
        let workspace = workspace(&[("low", &[]), ("middle", &[]), ("new", &["low"])]);
        assert_eq!(
            violations(&workspace, TABLE),
            [
                "new is missing in the table of crates",
                "the table names high, which does not exist"
            ]
        );
    }
}
