//! Clients outside imsup.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use super::LIMIT;

/// Connects.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Connects, sends a line, and gives the line that is answered.
pub fn ask_line(address: SocketAddr, line: &str) -> io::Result<String> {
    let mut stream = connect(address)?;
    talk(&mut stream, line)
}

/// Sends a line over a connection, and gives the line that is answered. An early end is
/// `UnexpectedEof`.
pub fn talk(stream: &mut TcpStream, line: &str) -> io::Result<String> {
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if !answer.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.trim_end().to_owned())
}

/// A connection that stays open while its host sleeps.
pub struct PersistentConnection {
    reader: BufReader<TcpStream>,
}

impl PersistentConnection {
    /// Connects.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = connect(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
        stream.set_nodelay(true).unwrap();
        Self {
            reader: BufReader::new(stream),
        }
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes())
    }

    /// The next line that was answered. An early end is `UnexpectedEof`.
    pub fn hear(&mut self) -> io::Result<String> {
        let mut answer = String::new();
        self.reader.read_line(&mut answer)?;
        if !answer.ends_with('\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.pop();
        Ok(answer)
    }

    /// The next `count` bytes that were answered.
    pub fn exactly(&mut self, count: usize) -> io::Result<String> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a line; the answer must begin with the same line.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> Answer {
        let answered = self.say(line).and_then(|()| self.hear());
        let answer = answered.unwrap_or_else(|error| panic!("asking '{line}' of {}: {error}", self.peer()));
        assert!(answer.starts_with(line), "asked '{line}', answered '{answer}'");
        Answer(answer)
    }

    /// The client's own address, as events name it.
    pub fn local(&self) -> String {
        self.reader.get_ref().local_addr().unwrap().to_string()
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The host's next line.
    pub fn into_reader(self) -> impl Read {
        self.reader
    }

    /// Reads to the end of the connection, which must come.
    #[track_caller]
    pub fn expect_end(mut self) {
        let mut rest = Vec::new();
        let peer = self.peer();
        let end = self.reader.read_to_end(&mut rest);
        end.unwrap_or_else(|error| panic!("the end of a connection to {peer}: {error}"));
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }

    fn peer(&self) -> String {
        let address = self.reader.get_ref().peer_addr();
        address.map_or_else(|error| error.to_string(), |address| address.to_string())
    }
}

/// The answer of a guest to "hello".
#[track_caller]
pub fn ask(address: SocketAddr) -> Answer {
    match ask_line(address, "hello") {
        Ok(line) => Answer(line),
        Err(error) => panic!("asking {address}: {error}"),
    }
}

/// The body of an HTTP/1.0 answer.
#[track_caller]
pub fn get(address: SocketAddr) -> String {
    let mut stream = connect(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
    write!(stream, "GET / HTTP/1.0\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    assert!(head.contains(" 200"), "{answer}");
    body.trim().to_owned()
}

/// Sends a datagram, and gives the datagram that is answered.
#[track_caller]
pub fn ask_datagram(address: SocketAddr) -> Answer {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.send_to(b"hello\n", address).unwrap();
    let mut buffer = [0; 4096];
    let (count, from) = socket
        .recv_from(&mut buffer)
        .unwrap_or_else(|error| panic!("no datagram back: {error}"));
    assert_eq!(from, address, "the answer must come from where the question went");
    Answer(String::from_utf8_lossy(&buffer[..count]).trim_end().to_owned())
}

/// A line of a guest: `host=NAME pid=N peer=ADDRESS own=ADDRESS [upstream=<LINE>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(pub String);

impl Answer {
    /// The value of a key; panics if the key is missing.
    #[track_caller]
    pub fn value(&self, key: &str) -> &str {
        let mark = format!("{key}=");
        let start = self.0.find(&mark).unwrap_or_else(|| panic!("no {key} in '{}'", self.0)) + mark.len();
        self.0[start..].split(' ').next().unwrap()
    }

    /// The process that answered.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.value("pid").parse().unwrap()
    }

    /// The caller's address as the program saw it, without the port, mapped addresses as plain
    /// IPv4.
    #[track_caller]
    pub fn peer(&self) -> String {
        let (address, _) = self.value("peer").rsplit_once(':').unwrap();
        address
            .trim_matches(['[', ']'])
            .trim_start_matches("::ffff:")
            .to_owned()
    }
}
