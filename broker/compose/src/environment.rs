//! `environment` and `env_file`, `labels` and `label_file`: the variables and labels that a service
//! has in the end.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;

use super::dotenv::{self, Variables};
use super::error::{ComposeError, Fault};
use super::problem::Problem;
use super::read::Path;
use super::tree::{Map, Node, Value};
use super::variables::Environment;

/// Largest environment file read, in bytes.
const MAX_ENV_FILE_BYTES: u64 = 1 << 20;

/// The variables of a `.env` file; none if there is no such file, or a directory.
pub(super) fn read_dotenv(file: &FilePath, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Variables, ComposeError> {
    let content = match read_text(file) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Variables::new()),
        Err(_) if file.is_dir() => return Ok(Variables::new()),
        Err(source) => {
            let file = file.to_owned();
            return Err(ComposeError::Read { file, source });
        }
    };
    dotenv::parse(&content, lookup).map_err(|error| ComposeError::EnvFile {
        file: file.to_owned(),
        line: error.line,
        message: error.message,
    })
}

/// Resolves variables and labels; a file shared by many services is read once.
pub(super) struct Resolver<'a> {
    environment: &'a Environment<'a>,
    read: HashMap<PathBuf, Option<Rc<str>>>,
}

impl<'a> Resolver<'a> {
    pub fn new(environment: &'a Environment<'a>) -> Self {
        Self {
            environment,
            read: HashMap::new(),
        }
    }

    /// Gives a service its variables: those of its files, overridden by its own. A variable without
    /// a value is the caller's, and stays null if the caller has none.
    pub fn service(&mut self, service: &mut Map, path: &Path<'_>) -> Result<(), Fault> {
        let environment = self.environment;
        let mut own = take_map(service, "environment");
        self.fill(own.as_mut());
        if let Some(files) = service.remove("env_file").map(|entry| entry.node) {
            let mut all = Map::default();
            for (index, file) in files.items().iter().enumerate() {
                let files = path.key("env_file");
                let lookup = |name: &str| {
                    let of_service = || own.as_ref()?.get(name)?.node.as_text();
                    environment.get(name).or_else(of_service).map(str::to_owned)
                };
                let (content, name) = match self.content(file, &files.item(index))? {
                    Some(content) => (content, file.get_text("path").unwrap_or_default()),
                    None => continue,
                };
                let fail = |error: dotenv::DotenvError| {
                    let problem = Problem::EnvFile(format!("{name}:{}: {error}", error.line));
                    Fault::new(file.at, files.item(index), problem)
                };
                let variables = match file.get_text("format") {
                    Some("raw") => dotenv::parse_raw(&content),
                    _ => dotenv::parse(&content, &lookup),
                };
                self.put(&mut all, variables.map_err(fail)?, file);
            }
            for (name, entry) in own.unwrap_or_default().into_entries() {
                all.insert(name, entry);
            }
            own = Some(all);
        }
        if let Some(own) = own.filter(|own| !own.is_empty()) {
            let at = own.iter().next().map(|(_, entry)| entry.key_at).unwrap_or_default();
            service.put("environment", Node::new(at, Value::Map(Box::new(own))));
        }
        let args = service
            .get_mut("build")
            .and_then(|build| build.node.as_map_mut()?.get_mut("args"));
        self.fill(args.and_then(|args| args.node.as_map_mut()));
        self.labels(service, path)
    }

    fn labels(&mut self, service: &mut Map, path: &Path<'_>) -> Result<(), Fault> {
        let Some(files) = service.remove("label_file").map(|entry| entry.node) else {
            return Ok(());
        };
        let path = path.key("label_file");
        let mut all = Map::default();
        for (index, file) in files.items().iter().enumerate() {
            let path = path.item(index);
            let named = Node::map(file.at, [("path", file.clone())]);
            let content = self.content(&named, &path)?.unwrap_or_default();
            let labels = dotenv::parse(&content, &|name| self.environment.get(name).map(str::to_owned));
            let labels = labels.map_err(|error| Fault::new(file.at, path, Problem::EnvFile(error.to_string())))?;
            self.put(&mut all, labels, file);
        }
        for (name, entry) in take_map(service, "labels").unwrap_or_default().into_entries() {
            all.insert(name, entry);
        }
        service.put("labels", Node::new(files.at, Value::Map(Box::new(all))));
        Ok(())
    }

    /// Gives names without values the caller's values.
    fn fill(&self, map: Option<&mut Map>) {
        for (name, entry) in map.into_iter().flat_map(Map::iter_mut) {
            if entry.node.is_null()
                && let Some(value) = self.environment.get(name)
            {
                entry.node = Node::text(entry.node.at, value);
            }
        }
    }

    fn put(&self, all: &mut Map, variables: Variables, file: &Node) {
        for (name, value) in variables {
            let value = value.or_else(|| self.environment.get(&name).map(str::to_owned));
            if let Some(value) = value {
                all.put(name, Node::text(file.at, value));
            }
        }
    }

    /// The text of a file; `None` if an optional file is missing.
    fn content(&mut self, file: &Node, path: &Path<'_>) -> Result<Option<Rc<str>>, Fault> {
        let name = file.get_text("path").unwrap_or_default();
        if let Some(format) = file.get_text("format").filter(|format| *format != "raw") {
            let problem = Problem::Word {
                expected: "'raw', or no format at all",
                found: format.to_owned(),
            };
            return Err(Fault::new(file.at, path.key("format"), problem));
        }
        if let Some(known) = self.read.get(FilePath::new(name)) {
            return Ok(known.clone());
        }
        let fail = |message: String| Err(Fault::new(file.at, path, Problem::EnvFile(message)));
        let is_optional = file.get_text("required") == Some("false");
        let content = match read_text(FilePath::new(name)) {
            Ok(content) => Some(Rc::from(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_optional => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return fail(format!(
                    "there is no file '{name}'; if it need not be there, write {{path: {name}, required: false}}"
                ));
            }
            Err(error) => return fail(format!("'{name}' cannot be read: {error}")),
        };
        self.read.insert(PathBuf::from(name), content.clone());
        Ok(content)
    }
}

fn take_map(service: &mut Map, key: &str) -> Option<Map> {
    match service.remove(key)?.node.value {
        Value::Map(map) => Some(*map),
        _ => None,
    }
}

/// Whether this is a pipe that was handed to us, as a shell does for `<(command)`.
fn is_descriptor(file: &FilePath) -> bool {
    ["/dev/fd", "/proc/self/fd", "/dev/stdin"]
        .iter()
        .any(|place| file.starts_with(place))
}

/// The text of an environment file. Reading a FIFO without a writer would wait for ever.
pub(super) fn read_text(file: &FilePath) -> io::Result<String> {
    use std::io::Read;
    if std::fs::metadata(file)?.file_type().is_fifo() && !is_descriptor(file) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a FIFO, not a file"));
    }
    let mut content = String::new();
    let count = std::fs::File::open(file)?
        .take(MAX_ENV_FILE_BYTES + 1)
        .read_to_string(&mut content)?;
    if count as u64 > MAX_ENV_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 1 MiB"));
    }
    Ok(content)
}
