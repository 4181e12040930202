//! The daemon's HTTP interface: what the command line reports, for those who may see it, and
//! orders to the daemon from those who may give them.
//!
//! Comes in: connections over a Unix socket and TCP, bounded in number, size and time. Goes out:
//! JSON reports as the command line has them, the numbers of one as metrics, and [`Order`]s for the daemon's loop, which takes
//! the locks and does the work. Nothing here restores, removes, or sees a key; what goes wrong
//! with a connection ends that connection.

mod caller;
mod connection;
mod document;
mod events;
mod gates;
mod listen;
mod office;
mod orders;
mod problem;
mod reports;
mod tls;
mod tries;

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::connection::Limits;
use self::listen::{SocketFile, bind_socket, bind_tcp};
use self::tls::Acceptor;
use crate::settings::{HttpSettings, TlsFiles};

pub use document::api_document;
pub use office::Office;
pub use orders::{Answer, Order, Task};

/// Connections at the same time on each of socket and TCP; more wait until one ends.
const CONNECTIONS: usize = 256;

/// Why the interface is not served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The socket cannot be listened to.
    #[error("listen to socket {}", path.display())]
    Socket {
        /// The socket.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process listens to the socket.
    #[error("listen to socket {}: another process listens to it", path.display())]
    SocketInUse {
        /// The socket.
        path: std::path::PathBuf,
    },
    /// What lies where the socket belongs is none.
    #[error("listen to socket {}: a file that is no socket lies there", path.display())]
    NoSocket {
        /// The path.
        path: std::path::PathBuf,
    },
    /// The address cannot be listened to.
    #[error("listen to {address}")]
    Address {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Certificate or key cannot be read.
    #[error("read {} for TLS", path.display())]
    Pem {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it; never what it holds.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not go together, or are of a kind that is not known.
    #[error("use {} for TLS", path.display())]
    Tls {
        /// The certificate.
        path: std::path::PathBuf,
        /// What is wrong with them.
        #[source]
        source: rustls::Error,
    },
}

/// The interface while it is served.
#[derive(Debug)]
pub struct Server {
    settings: HttpSettings,
    certificate: watch::Sender<Option<Acceptor>>,
    stop: CancellationToken,
    listeners: JoinSet<()>,
    /// The socket's file goes with the server.
    _socket: Option<SocketFile>,
}

impl Server {
    /// Listens to what the settings name, and serves each connection in a task of its own.
    ///
    /// # Errors
    /// [`HttpError`]; then nothing is listened to.
    pub async fn start(settings: &HttpSettings, office: Arc<Office>) -> Result<Self, HttpError> {
        let acceptor = settings.tls.as_ref().map(acceptor_of).transpose()?;
        let (certificate, certificates) = watch::channel(acceptor);
        let stop = CancellationToken::new();
        let limits = Limits { header_timeout: settings.header_timeout };
        let (router, _) = document::router_and_document();
        let router = router.with_state(office);
        let mut listeners = JoinSet::new();
        let mut socket = None;
        if let Some(path) = &settings.socket {
            let (listener, file) = bind_socket(path).await?;
            let permits = Arc::new(Semaphore::new(CONNECTIONS));
            listeners.spawn(connection::serve_socket(
                listener,
                router.clone(),
                limits,
                permits,
                stop.clone(),
            ));
            socket = Some(file);
        }
        if let Some(address) = settings.listen {
            let listener = bind_tcp(address).await?;
            let permits = Arc::new(Semaphore::new(CONNECTIONS));
            let accepting = connection::Tcp { listener, certificates };
            listeners.spawn(connection::serve_tcp(accepting, router, limits, permits, stop.clone()));
        }
        Ok(Self { settings: settings.clone(), certificate, stop, listeners, _socket: socket })
    }

    /// Reads the certificate anew, as `settings` name it; where is listened stays as it was.
    ///
    /// # Errors
    /// [`HttpError`]; then the old certificate stays.
    pub fn reload(&mut self, settings: &HttpSettings) -> Result<(), HttpError> {
        let is_listened_to = |settings: &HttpSettings| {
            (settings.socket.clone(), settings.listen, settings.tls.is_some(), settings.header_timeout)
        };
        if is_listened_to(settings) != is_listened_to(&self.settings) {
            tracing::error!(
                "[http] has changed: restart the service to use it; until then the old one holds"
            );
            return Ok(());
        }
        let acceptor = settings.tls.as_ref().map(acceptor_of).transpose()?;
        self.certificate.send_replace(acceptor);
        self.settings = settings.clone();
        Ok(())
    }

    /// Takes no more connections, lets those that are answered end, and returns when all have.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.listeners.join_next().await.is_some() {}
    }
}

fn acceptor_of(files: &TlsFiles) -> Result<Acceptor, HttpError> {
    tls::acceptor(&files.certificate, &files.key)
}
