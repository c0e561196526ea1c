//! `environment` and `env_file`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;

use super::dotenv::{self, Variables};
use super::error::Fault;
use super::problem::Problem;
use super::read::{Path, boolean, pairs, text, wrong_type};
use super::tree::{Node, Value};

/// Largest environment file read, in bytes.
const MAX_ENV_FILE_BYTES: u64 = 1 << 20;

/// Looks a variable up, in imsup's own environment and then in `.env`.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Option<Cow<'a, str>> + 'a;

/// Environment files that were read, so that a file shared by many services is read once.
#[derive(Default)]
pub(super) struct EnvFiles {
    read: HashMap<(PathBuf, bool), Rc<Variables>>,
}

impl EnvFiles {
    /// The variables of a service: from the files, overridden by `environment`. A variable without
    /// a value is taken from `lookup`, and left out if `lookup` has none.
    pub fn environment(
        &mut self,
        service: &Node,
        path: &Path<'_>,
        directory: &FilePath,
        lookup: &Lookup<'_>,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let mut variables = BTreeMap::new();
        let mut put = |name: &str, value: Option<&str>| {
            match value {
                Some(value) => variables.insert(name.to_owned(), value.to_owned()),
                None => lookup(name).and_then(|value| variables.insert(name.to_owned(), value.into_owned())),
            };
        };
        if let Some(node) = service.get("env_file") {
            for (name, value) in self
                .files(node, &path.key("env_file"), directory, lookup)?
                .iter()
                .flat_map(|f| f.iter())
            {
                put(name, value.as_deref());
            }
        }
        if let Some(node) = service.get("environment") {
            let path = path.key("environment");
            for (name, value, item) in pairs(node, &path)? {
                let bad = name.is_empty()
                    || name.contains(|c: char| c.is_whitespace() || c == '=' || c == '\0')
                    || value.is_some_and(|value| value.contains('\0'));
                if bad {
                    return Err(Fault::new(item.at, path, Problem::BadVariable(name.to_owned())));
                }
                put(name, value);
            }
        }
        Ok(variables)
    }

    fn files(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        directory: &FilePath,
        lookup: &Lookup<'_>,
    ) -> Result<Vec<Rc<Variables>>, Fault> {
        match &node.value {
            Value::List(items) => {
                let files = items.iter().enumerate();
                let files = files.map(|(index, item)| self.file(item, &path.item(index), directory, lookup));
                Ok(files.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
            }
            _ => Ok(self.file(node, path, directory, lookup)?.into_iter().collect()),
        }
    }

    /// One file; `None` if an optional file is missing.
    fn file(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        directory: &FilePath,
        lookup: &Lookup<'_>,
    ) -> Result<Option<Rc<Variables>>, Fault> {
        let (name, required, raw) = match &node.value {
            Value::Text(name) => (&**name, true, false),
            Value::Map(_) => {
                let name = node
                    .get("path")
                    .ok_or_else(|| Fault::new(node.at, path, Problem::Missing("path")))?;
                let required = match node.get("required") {
                    Some(value) => boolean(value, &path.key("required"))?,
                    None => true,
                };
                let raw = match node.get("format") {
                    Some(value) => format(value, &path.key("format"))?,
                    None => false,
                };
                (text(name, &path.key("path"))?, required, raw)
            }
            _ => return Err(wrong_type(node, path, "the name of a file")),
        };
        let file = directory.join(name);
        let key = (file.clone(), raw);
        if let Some(known) = self.read.get(&key) {
            return Ok(Some(known.clone()));
        }
        let fail = |message: String| Fault::new(node.at, path, Problem::EnvFile(message));
        let content = match read_text(&file) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(fail(format!(
                    "there is no file '{}'; where it need not be there, write {{path: {name}, required: false}}",
                    file.display()
                )));
            }
            Err(error) => return Err(fail(format!("'{}' cannot be read: {error}", file.display()))),
        };
        let parsed = if raw {
            dotenv::parse_raw(&content)
        } else {
            dotenv::parse(&content, &|name| lookup(name).map(Cow::into_owned))
        };
        let variables = parsed.map_err(|error| fail(format!("{}:{}: {error}", file.display(), error.line)))?;
        let variables = Rc::new(variables);
        self.read.insert(key, variables.clone());
        Ok(Some(variables))
    }
}

fn format(node: &Node, path: &Path<'_>) -> Result<bool, Fault> {
    match text(node, path)? {
        "raw" => Ok(true),
        other => Err(Fault::new(
            node.at,
            path,
            Problem::Word {
                expected: "'raw', or no format at all",
                found: other.to_owned(),
            },
        )),
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
