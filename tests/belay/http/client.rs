//! A client that sends what a test says, to the byte.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No answer takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the daemon answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What is told to be wrong.
    pub fn error(&self) -> String {
        let problem = self.json();
        assert_eq!(problem["schema"], "belay.problem.v1", "{self:?}");
        problem["error"].as_str().unwrap().to_owned()
    }
}

/// A connection to `address`.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection to `address` that comes from the loopback address `from`.
pub fn connect_from(from: IpAddr, address: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The text of a request with these fields, each with its line end.
pub fn request(method: &str, path: &str, fields: &str, body: &str) -> String {
    let length = if method == "GET" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: belay\r\nConnection: close\r\n{length}{fields}\r\n{body}")
}

/// The field of a token.
pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Sends these bytes and reads until the daemon closes.
pub fn exchange(mut stream: impl Read + Write, sent: &[u8]) -> Vec<u8> {
    // One that was refused early may be closed before all is sent.
    let _ = stream.write_all(sent).and_then(|()| stream.flush());
    let mut answer = Vec::new();
    // What a reset cuts off was not to be had.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Sends a request and reads its answer.
pub fn ask(stream: impl Read + Write, request: &str) -> Answer {
    read(&exchange(stream, request.as_bytes()))
}

/// The answer in these bytes.
pub fn read(bytes: &[u8]) -> Answer {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.unwrap(), head: head.to_lowercase(), body: body.to_owned() }
}
