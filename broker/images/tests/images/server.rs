//! Registries for tests: Debian's `docker-registry`, and one that does as it is told.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use crate::image::{Blob, Image};

/// The login that [`Registry::with_login`] wants, and its bcrypt hash (htpasswd(1)).
pub const LOGIN: (&str, &str) = ("ann", "s3cret");
const HTPASSWD: &str = "ann:$2b$05$1gN9Y7hGHXb372CnQTrj1e6m2pxcZ3i75ZlkPlQy9JAQy1Obyt3xC\n";

/// A registry of docker-registry(1) on 127.0.0.1, which ends with the test.
pub struct Registry {
    process: Child,
    pub address: String,
    login: bool,
    _directory: TempDir,
}

impl Registry {
    pub fn open() -> Self {
        Self::start(false)
    }

    pub fn with_login() -> Self {
        Self::start(true)
    }

    fn start(login: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::write(path("htpasswd"), HTPASSWD).unwrap();
        let auth = match login {
            true => format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path("htpasswd")),
            false => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog: {{level: info, formatter: json}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{auth}",
            path("data")
        );
        fs::write(path("config.yml"), config).unwrap();
        // The test may be killed.
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve", &path("config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is not installed: run 'make setup'");
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = log.by_ref().find_map(|line| {
            let entry: Value = serde_json::from_str(&line.unwrap()).ok()?;
            entry["msg"].as_str()?.strip_prefix("listening on ").map(str::to_owned)
        });
        // Whoever writes to a pipe that nobody reads waits in the end.
        std::thread::spawn(move || log.for_each(drop));
        Self {
            process,
            address: address.expect("docker-registry ended: is it installed ('make setup')?"),
            login,
            _directory: directory,
        }
    }

    /// The full name of a repository with a tag or digest here.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    fn authorization(&self) -> Option<String> {
        use base64::Engine;
        let encoded = base64::prelude::BASE64_STANDARD.encode(format!("{}:{}", LOGIN.0, LOGIN.1));
        self.login.then(|| format!("Basic {encoded}"))
    }

    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        let (manifest, blobs) = image.blobs.split_last().unwrap();
        for blob in blobs {
            self.push_blob(repository, blob);
        }
        self.push_manifest(repository, &manifest.digest().to_string(), manifest);
        self.push_manifest(repository, tag, manifest);
    }

    fn push_blob(&self, repository: &str, blob: &Blob) {
        let begin = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let mut request = ureq::post(&begin);
        if let Some(authorization) = self.authorization() {
            request = request.header("Authorization", authorization);
        }
        let begun = request.send_empty().unwrap();
        let place = begun.headers()["Location"].to_str().unwrap().to_owned();
        self.put(
            &format!("{place}&digest={}", blob.digest()),
            "application/octet-stream",
            &blob.content,
        );
    }

    pub fn push_manifest(&self, repository: &str, tag: &str, manifest: &Blob) {
        let kind = manifest.descriptor["mediaType"].as_str().unwrap();
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address);
        self.put(&url, kind, &manifest.content);
    }

    fn put(&self, url: &str, kind: &str, content: &[u8]) {
        let mut request = ureq::put(url).header("Content-Type", kind);
        if let Some(authorization) = self.authorization() {
            request = request.header("Authorization", authorization);
        }
        request.send(content).unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a faulty registry is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The path, with the query.
    pub path: String,
    /// Headers by their names in lower case.
    pub headers: HashMap<String, String>,
}

/// What it answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// After so many bytes of the body the connection ends.
    pub cut: Option<usize>,
}

impl Answer {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }
}

/// A registry whose answers are a function's.
pub struct Faulty {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Faulty {
    pub fn new(answer: impl Fn(&Asked, SocketAddr) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, answer) = (Arc::clone(&asked), Arc::new(answer));
        // Ends with the process: the threads wait for connections.
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                std::thread::spawn(move || serve(connection, &noted, |asked| answer(asked, address)));
            }
        });
        Self { address, asked }
    }

    /// The paths and headers of all questions so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(connection: TcpStream, noted: &Mutex<Vec<Asked>>, answer: impl Fn(&Asked) -> Answer) {
    let mut reader = BufReader::new(&connection);
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        match reader.read_line(&mut header) {
            Ok(length) if length > 2 => (),
            _ => break,
        }
        if let Some((name, value)) = header.trim_end().split_once(": ") {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
    }
    if let Some(length) = headers.get("content-length").and_then(|length| length.parse().ok()) {
        let _ = std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink());
    }
    let asked = Asked { path, headers };
    let answer = answer(&asked);
    noted.lock().unwrap().push(asked);
    let mut head = format!(
        "HTTP/1.1 {} Status\r\nContent-Length: {}\r\nConnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let sent = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
    let mut connection = &connection;
    let _ = connection.write_all(&[head.as_bytes(), b"\r\n", sent].concat());
}
