//! A line between a runner and a daemon, which a test cuts and mends.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Passes every connection on to a daemon, until it is cut.
pub struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    is_cut: AtomicBool,
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Line {
    /// A line to the daemon at `port` of the loopback address.
    pub fn to(port: u16) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared { is_cut: false.into(), is_over: false.into(), streams: Mutex::default() };
        let shared = Arc::new(shared);
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.is_over.load(Ordering::SeqCst) {
                    return;
                }
                if !serving.is_cut.load(Ordering::SeqCst) {
                    // A daemon that is away is what a test may want.
                    let _ = serving.pass(client, port);
                }
            }
        });
        Line { address, shared }
    }

    /// The daemon's address for a runner.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A connection through it.
    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    /// Ends all connections, and every one that comes.
    pub fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections pass again.
    pub fn mend(&self) {
        self.shared.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn pass(&self, client: TcpStream, port: u16) -> std::io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", port))?;
        let mut streams = self.streams.lock().unwrap();
        streams.extend([client.try_clone()?, server.try_clone()?]);
        for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            std::thread::spawn(move || copy(from, to));
        }
        Ok(())
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16_384];
    while let Ok(read) = from.read(&mut bytes) {
        if read == 0 || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
