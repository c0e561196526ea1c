//! The variables of a load: the process's own, then those of environment files (`.env`).

use std::collections::BTreeMap;

use super::dotenv::Variables;

/// The variables of a file and of the files that belong to it.
#[derive(Clone, Debug)]
pub(super) struct Environment<'a> {
    /// The variables of the process, which win.
    process: &'a BTreeMap<String, String>,
    /// The variables of environment files.
    files: Variables,
    /// The directory in which imsup runs, if no variable `PWD` says.
    directory: String,
    /// The project's name, once known.
    project: Option<String>,
}

impl<'a> Environment<'a> {
    pub fn new(process: &'a BTreeMap<String, String>, directory: String) -> Self {
        Self {
            process,
            files: Variables::new(),
            directory,
            project: None,
        }
    }

    /// A variable, if set.
    pub fn get(&self, name: &str) -> Option<&str> {
        if name == "COMPOSE_PROJECT_NAME"
            && let Some(project) = &self.project
        {
            return Some(project);
        }
        let own = self.process.get(name).map(String::as_str);
        own.or_else(|| self.files.get(name)?.as_deref())
            .or_else(|| (name == "PWD").then_some(&*self.directory))
    }

    /// Takes the variables of a file that are not set yet.
    pub fn add(&mut self, variables: Variables) {
        for (name, value) in variables {
            self.files.entry(name).or_insert(value);
        }
    }

    pub fn set_project(&mut self, name: &str) {
        self.project = Some(name.to_owned());
    }
}
