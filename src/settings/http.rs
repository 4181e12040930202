//! `[http]`: where the daemon listens, and with which certificate.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use super::SettingsError;
use super::table::{Given, Table};
use super::units;

/// What fits into the address of a socket, with the zero at its end.
const LONGEST_SOCKET_PATH: usize = 107;

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// The Unix socket; absolute. `None` for none.
    pub socket: Option<PathBuf>,
    /// Where TCP is listened to; `None` for nowhere.
    pub listen: Option<SocketAddr>,
    /// TLS for [`Self::listen`]; never `None` off loopback.
    pub tls: Option<TlsFiles>,
    /// How long a client may take to send the head of a request, and to shake hands for TLS.
    pub header_timeout: Duration,
}

/// What TLS is served with; PEM, absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl HttpSettings {
    pub(super) fn read(mut table: Table) -> Result<Self, SettingsError> {
        let socket = table.parsed("socket", socket_path)?;
        let (given_listen, given_cert, given_key) =
            (table.peek("listen"), table.peek("tls_cert"), table.peek("tls_key"));
        let listen = table.parsed("listen", address)?;
        let certificate = table.absolute_path("tls_cert")?;
        let key = table.absolute_path("tls_key")?;
        let header_timeout =
            table.parsed("header_timeout", |text| units::timeout_within(text, "1s", "5m"))?;
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => return Err(table.missing("tls_key")),
            (None, Some(_)) => return Err(table.missing("tls_cert")),
        };
        table.finish()?;
        if let (Some(files), Some(given)) = (&tls, &given_key) {
            refuse_exposed_key(files, given)?;
        }
        match (listen, &tls, given_listen, given_cert) {
            (Some(address), None, Some(given), _) if !address.ip().is_loopback() => {
                return Err(given.invalid(format!(
                    "{address} is not loopback, and tokens must not cross a network in the open: it needs tls_cert and tls_key"
                )));
            }
            (None, Some(_), _, Some(given)) => return Err(given.invalid("means nothing without listen")),
            _ => {}
        }
        let header_timeout = header_timeout.unwrap_or(Duration::from_secs(10));
        Ok(Self { socket, listen, tls, header_timeout })
    }

    /// Whether anything is listened to.
    pub fn is_served(&self) -> bool {
        self.socket.is_some() || self.listen.is_some()
    }
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        Err(format!("must be an absolute path, not {text:?}"))
    } else if text.len() > LONGEST_SOCKET_PATH {
        Err(format!("must have at most {LONGEST_SOCKET_PATH} bytes, and has {}", text.len()))
    } else {
        Ok(path)
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("must be an IP address and a port such as \"127.0.0.1:8432\" or \"[::]:8432\", not {text:?}")
    })
}

/// A key that is not there yet, or that we may not see, is told of when it is used.
fn refuse_exposed_key(files: &TlsFiles, given: &Given<()>) -> Result<(), SettingsError> {
    match std::fs::metadata(&files.key) {
        Ok(metadata) if metadata.mode() & 0o006 != 0 => Err(given.invalid(format!(
            "must name a file that only its owner and group can read; {} is open to every user of this host",
            files.key.display()
        ))),
        _ => Ok(()),
    }
}
