//! The daemon on the database host, as a runner on another machine sees it: requests to its HTTP
//! interface, asked again where that helps.
//!
//! Comes in: an address, a token, what is to be said. Goes out: what the daemon answers. The token
//! never crosses a network in the open, is followed to no other server, and is in no error.

mod address;
mod events;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::rules::api::{BeatGate, ClaimGo, CloseGate, GateStanding, Go, OpenGate, OpenedGate, RunTold};

pub use address::{Address, BadAddress};
pub use events::EventLines;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the answer to an opening may take: an abandoned run may have to be ended first.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two tries: at first, and at the most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why the daemon is not reached, or does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address is none.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// A file of certificates cannot be read.
    #[error("read certificates of {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// No client can be made.
    #[error("prepare TLS")]
    Tls(#[source] rustls::Error),
    /// No request can be made.
    #[error("prepare requests to {server}")]
    Prepare {
        /// The address.
        server: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// There was no answer, or not all of it.
    #[error("ask {server}")]
    Unreachable {
        /// The address.
        server: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The daemon says no.
    #[error("{server} answers {status}: {error}")]
    Refused {
        /// The address.
        server: String,
        /// The status of HTTP.
        status: u16,
        /// What is wrong.
        error: String,
        /// What to do about it.
        hint: Option<String>,
        /// The exit status that goes with it.
        exit_code: Option<u8>,
        /// After which time it is worth asking again.
        retry_after: Option<Duration>,
    },
}

impl RemoteError {
    /// Whether the same request may be answered later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => !source.is_builder(),
            Self::Refused { status, .. } => *status == 429 || *status == 408 || *status >= 500,
            _ => false,
        }
    }

    /// What is wrong with the connection, where that does not pass unless the server is started anew.
    pub fn fault(&self) -> Option<Fault> {
        let Self::Unreachable { source, .. } = self else { return None };
        std::iter::successors(Some(source as &(dyn std::error::Error + 'static)), |error| error.source())
            .find_map(fault_of)
    }

    /// The status of HTTP, where the daemon answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Why a connection does not come about, and will not soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server's certificate is not trusted, or it is not the one of this name.
    Certificate,
    /// The server speaks no TLS, or none that we do.
    NoTls,
    /// What answers does not speak HTTP: it may want TLS.
    NoHttp,
    /// There is no such socket.
    NoSocket,
}

fn fault_of(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        let is_of_certificate = matches!(error, rustls::Error::InvalidCertificate(_));
        return Some(if is_of_certificate { Fault::Certificate } else { Fault::NoTls });
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        if let Some(inner) = error.get_ref() {
            return fault_of(inner);
        }
        return (error.kind() == std::io::ErrorKind::NotFound).then_some(Fault::NoSocket);
    }
    let is_no_http = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
    is_no_http.then_some(Fault::NoHttp)
}

/// The daemon.
#[derive(Clone)]
pub struct Server {
    client: Client,
    address: Address,
    token: Option<SecretString>,
}

/// What the daemon says when it says no.
#[derive(Deserialize)]
struct Problem {
    error: String,
    #[serde(default)]
    hint: Option<String>,
    #[serde(default)]
    exit_code: Option<u8>,
}

impl Server {
    /// The daemon at `address`, who trusts whoever has `token`; `ca_file` has certificates (PEM) that
    /// are trusted beside those of the system.
    ///
    /// # Errors
    /// [`RemoteError`]; nothing is asked yet.
    pub fn new(
        address: Address,
        token: Option<SecretString>,
        ca_file: Option<&Path>,
    ) -> Result<Self, RemoteError> {
        let builder = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("belay/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls(ca_file)?);
        let builder = match &address {
            Address::Socket(path) => builder.unix_socket(path.clone()).no_proxy(),
            Address::Url(_) if address.is_loopback() => builder.no_proxy(),
            Address::Url(_) => builder,
        };
        let prepare = |source| RemoteError::Prepare { server: address.to_string(), source };
        let client = builder.build().map_err(prepare)?;
        Ok(Self { client, address, token })
    }

    /// Opens a gate.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub async fn open(&self, request: &OpenGate) -> Result<OpenedGate, RemoteError> {
        let posted = self.request(Method::POST, "/v1/gates").json(request).timeout(OPEN_TIMEOUT);
        self.answer(posted).await
    }

    /// Claims the go of `run`.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub async fn claim(&self, run: &str, holder: &str) -> Result<Go, RemoteError> {
        self.post(run, "claim", &ClaimGo { holder: holder.to_owned() }).await
    }

    /// Says that the runner of `run` is there.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub async fn beat(&self, run: &str, holder: Option<&str>) -> Result<GateStanding, RemoteError> {
        self.post(run, "beat", &BeatGate { holder: holder.map(str::to_owned) }).await
    }

    /// Tells a piece of the output of the command of `run`.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub async fn output(
        &self,
        run: &str,
        holder: &str,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<GateStanding, RemoteError> {
        let request = self
            .request(Method::POST, &format!("/v1/gates/{run}/output"))
            .query(&[("holder", holder), ("offset", &offset.to_string())])
            .header(reqwest::header::CONTENT_TYPE, "application/octet-stream")
            .body(bytes)
            .timeout(ANSWER_TIMEOUT);
        self.answer(request).await
    }

    /// Tells how the command of `run` ended, or that it will not begin.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub async fn close(&self, run: &str, told: &CloseGate) -> Result<GateStanding, RemoteError> {
        self.post(run, "close", told).await
    }

    /// Everything that is known of `run`.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub async fn told(&self, run: &str) -> Result<RunTold, RemoteError> {
        let request = self.request(Method::GET, &format!("/v1/gates/{run}"));
        self.answer(request.timeout(ANSWER_TIMEOUT)).await
    }

    /// The events of `run` after number `after`.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub async fn events(&self, run: &str, after: u64) -> Result<EventLines, RemoteError> {
        let request = self.request(Method::GET, &format!("/v1/gates/{run}/events"));
        let response = self.send(request.query(&[("after", after)])).await?;
        Ok(EventLines::new(response, self.address.to_string()))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        run: &str,
        what: &str,
        body: &impl Serialize,
    ) -> Result<T, RemoteError> {
        let request = self.request(Method::POST, &format!("/v1/gates/{run}/{what}")).json(body);
        self.answer(request.timeout(ANSWER_TIMEOUT)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.address.base()));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, RemoteError> {
        self.send(request).await?.json().await.map_err(|source| self.unreachable(source))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, RemoteError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let unsaid = |status: StatusCode| Problem {
            error: status.canonical_reason().unwrap_or("nothing that is known").to_owned(),
            hint: None,
            exit_code: None,
        };
        let said: Problem = response.json().await.unwrap_or_else(|_| unsaid(status));
        Err(RemoteError::Refused {
            server: self.address.to_string(),
            status: status.as_u16(),
            error: said.error,
            hint: said.hint,
            exit_code: said.exit_code,
            retry_after: seconds.map(Duration::from_secs),
        })
    }

    fn unreachable(&self, source: reqwest::Error) -> RemoteError {
        // What the URL has is the address again, and more than anybody wants to read.
        RemoteError::Unreachable { server: self.address.to_string(), source: source.without_url() }
    }
}

/// Asks until there is an answer that does not pass, or until `deadline`.
///
/// # Errors
/// The last one.
pub async fn until_answered<T>(
    deadline: Instant,
    mut ask: impl AsyncFnMut() -> Result<T, RemoteError>,
) -> Result<T, RemoteError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = tokio::time::timeout_at(deadline, ask()).await;
        let error = match asked {
            Ok(Err(error)) if error.is_passing() => error,
            Ok(done) => return done,
            // The deadline cut it short: what is wrong is known only by asking once more.
            Err(_) => {
                return tokio::time::timeout(FIRST_PAUSE, ask()).await.unwrap_or_else(|_| Err(overdue()));
            }
        };
        let wait = pause_before_next(pause, error.retry_after());
        if Instant::now() + wait >= deadline {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Half of it at least, so that many who were cut off do not come back at once.
pub fn pause_before_next(pause: Duration, asked_for: Option<Duration>) -> Duration {
    let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
    asked_for.map_or(jittered, |asked_for| asked_for.min(LONGEST_PAUSE).max(jittered))
}

fn overdue() -> RemoteError {
    RemoteError::Refused {
        server: "the server".into(),
        status: StatusCode::REQUEST_TIMEOUT.as_u16(),
        error: "there was no answer in time".into(),
        hint: None,
        exit_code: None,
        retry_after: None,
    }
}

fn tls(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, RemoteError> {
    let mut roots = rustls::RootCertStore::empty();
    // A system without certificates may still have a file of them, or a socket.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let failed = |source| RemoteError::Certificates { path: path.to_owned(), source };
        let own: Vec<_> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(failed)?;
        if own.is_empty() {
            return Err(failed(rustls::pki_types::pem::Error::NoItemsFound));
        }
        roots.add_parsable_certificates(own);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(RemoteError::Tls)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
