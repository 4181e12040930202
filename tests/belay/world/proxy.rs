//! A TCP proxy before an S3 server that does to each request what a test says.
//!
//! Each request has a connection of its own, so that a fault hits one request.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It passes, and so does its answer.
    None,
    /// The connection is cut when so many bytes of it have passed.
    CutRequest(usize),
    /// The connection is cut when so many bytes of its answer have passed.
    CutAnswer(usize),
    /// The byte at this place of the answer's body is another.
    WrongByte(usize),
    /// The answer begins after this time.
    Slow(Duration),
    /// The server never hears of it; this is its answer.
    Answer(String),
}

/// An answer of S3 with an XML body.
pub fn answer(status: &str, body: &str) -> Fault {
    let length = body.len();
    Fault::Answer(format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ))
}

/// An error of S3.
pub fn refusal(status: &str, code: &str) -> Fault {
    answer(
        status,
        &format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said by a test</Message></Error>"
        ),
    )
}

type Plan = Box<dyn Fn(usize, &str) -> Fault + Send + Sync>;

struct Shared {
    server: SocketAddr,
    plan: Plan,
    asked: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts one before `server`; `plan` says what happens to each request, by its number (from 0)
    /// and its first line.
    pub fn start(server: SocketAddr, plan: impl Fn(usize, &str) -> Fault + Send + Sync + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on the loopback address");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Shared { server, plan: Box::new(plan), asked: Mutex::default(), is_over: false.into() };
        let shared = Arc::new(shared);
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let serving = Arc::clone(&serving);
                // A side that goes away in the middle is what this is for.
                std::thread::spawn(move || drop(serving.serve(client)));
            }
        });
        Proxy { address, shared }
    }

    /// Where it listens, as an endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first lines of all requests until now.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many requests began with `words`.
    pub fn count(&self, words: &str) -> usize {
        self.asked().iter().filter(|line| line.contains(words)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let (head, rest) = read_head(&mut client)?;
        let line = head.lines().next().unwrap_or_default().to_owned();
        if line.is_empty() {
            return Ok(());
        }
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(line.clone());
            asked.len() - 1
        };
        let fault = (self.plan)(number, &line);
        if let Fault::Answer(answer) = &fault {
            let mut left = length(&head).saturating_sub(rest.len());
            let mut sink = [0; 65_536];
            while left > 0 {
                let read = client.read(&mut sink)?;
                if read == 0 {
                    return Ok(());
                }
                left = left.saturating_sub(read);
            }
            client.write_all(answer.as_bytes())?;
            return client.shutdown(Shutdown::Write);
        }
        let mut server = TcpStream::connect(self.server)?;
        server.set_nodelay(true)?;
        // One request, one connection.
        let request = head.replacen("\r\n", "\r\nConnection: close\r\n", 1).into_bytes();
        let request = [request, rest].concat();
        let cut = if let Fault::CutRequest(bytes) = fault { bytes } else { usize::MAX };
        let answering = {
            let (server, client, fault) = (server.try_clone()?, client.try_clone()?, fault.clone());
            std::thread::spawn(move || {
                let _ = pass_answer(&server, &client, &fault);
                let _ = (server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
            })
        };
        let passed = pass(std::io::Cursor::new(request).chain(client.try_clone()?), &mut server, cut);
        if cut != usize::MAX {
            let _ = (server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
        }
        answering.join().expect("passing an answer does not panic");
        passed
    }
}

fn pass_answer(mut server: &TcpStream, mut client: &TcpStream, fault: &Fault) -> std::io::Result<()> {
    let (head, rest) = read_head(&mut server)?;
    if let Fault::Slow(time) = fault {
        std::thread::sleep(*time);
    }
    let cut = if let Fault::CutAnswer(bytes) = fault { *bytes } else { usize::MAX };
    let mut rest = rest;
    if let Fault::WrongByte(at) = fault {
        let mut more = vec![0; (at + 1).saturating_sub(rest.len())];
        server.read_exact(&mut more)?;
        rest.extend(more);
        rest[*at] ^= 1;
    }
    let begun = [head.into_bytes(), rest].concat();
    pass(std::io::Cursor::new(begun).chain(server), &mut client, cut)
}

fn pass(mut from: impl Read, to: &mut impl Write, cut: usize) -> std::io::Result<()> {
    let mut left = cut;
    let mut bytes = [0; 16_384];
    loop {
        let read = from.read(&mut bytes)?;
        let passing = read.min(left);
        to.write_all(&bytes[..passing])?;
        left -= passing;
        if read == 0 || left == 0 {
            return Ok(());
        }
    }
}

/// Reads to the end of a head; what came after it is returned beside it.
fn read_head(from: &mut impl Read) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut more = [0; 16_384];
    loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        let read = from.read(&mut more)?;
        if read == 0 {
            return Ok((String::new(), bytes));
        }
        bytes.extend_from_slice(&more[..read]);
    }
}

fn length(head: &str) -> usize {
    let value = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    head.lines().find_map(value).unwrap_or(0)
}
