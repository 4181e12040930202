//! A line to a server of the loopback address, which a test cuts and mends.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two looks at whether a line is as it was.
const PAUSE: Duration = Duration::from_millis(5);

/// Passes every connection on to a server, until a test wants otherwise.
pub struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// How a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Everything passes.
    Whole,
    /// Connections are taken and ended.
    Cut,
    /// Nobody listens.
    Refusing,
    /// Connections are taken, and nothing of them passes.
    Hanging,
    /// It is not needed any more.
    Over,
}

struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    streams: Mutex<Vec<TcpStream>>,
}

impl Line {
    /// A line to `server`.
    pub fn to(server: SocketAddr) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on the loopback address");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared { server, state: Mutex::new(State::Whole), streams: Mutex::default() });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || serving.serve(listener, address));
        Line { address, shared }
    }

    /// The server's address for a client.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A connection through it.
    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    /// Ends all connections, and every one that comes.
    pub fn cut(&self) {
        self.become_and_end(State::Cut);
    }

    /// Ends all connections, and has every one that is tried refused.
    pub fn refuse(&self) {
        self.become_and_end(State::Refusing);
        // Whoever waits for a connection takes this one, and then no more.
        let _ = TcpStream::connect(self.address);
        while TcpStream::connect(self.address).is_ok() {
            std::thread::sleep(PAUSE);
        }
    }

    /// Lets connections stand and be made, with nothing passing any more, not even their end.
    pub fn hang(&self) {
        self.become_of(State::Hanging);
    }

    /// Lets connections pass again; what was made while it hung stays as it is.
    pub fn mend(&self) {
        self.become_of(State::Whole);
        while TcpStream::connect(self.address).is_err() {
            std::thread::sleep(PAUSE);
        }
    }

    fn become_of(&self, state: State) {
        *self.shared.state.lock().unwrap() = state;
    }

    fn become_and_end(&self, state: State) {
        self.become_of(state);
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.become_and_end(State::Over);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn state(&self) -> State {
        *self.state.lock().unwrap()
    }

    fn serve(self: Arc<Self>, listener: TcpListener, address: SocketAddr) {
        let mut listener = Some(listener);
        loop {
            let client = listener.as_ref().and_then(|listener| listener.accept().ok());
            match (self.state(), client) {
                (State::Over, _) => return,
                (State::Refusing, _) => {
                    listener = None;
                    std::thread::sleep(PAUSE);
                }
                (State::Whole, Some((client, _))) => {
                    // A server that is away is what a test may want.
                    let _ = self.pass(client);
                }
                (State::Hanging, Some((client, _))) => self.streams.lock().unwrap().push(client),
                (State::Cut, Some(_)) => {}
                (_, None) => listener = TcpListener::bind(address).ok(),
            }
        }
    }

    fn pass(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let server = TcpStream::connect(self.server)?;
        let mut streams = self.streams.lock().unwrap();
        streams.extend([client.try_clone()?, server.try_clone()?]);
        for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            let line = Arc::clone(self);
            std::thread::spawn(move || line.copy(from, to));
        }
        Ok(())
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 16_384];
        loop {
            let read = from.read(&mut bytes);
            while self.state() == State::Hanging {
                std::thread::sleep(PAUSE);
            }
            let Ok(read) = read else { break };
            if read == 0 || to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
