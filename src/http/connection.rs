//! Connections: so many at a time, each with limits on what its client may take and send.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::caller::Peer;
use super::tls::Acceptor;

/// Head of a request, all of it.
const HEAD_BYTES: usize = 32 << 10;
/// Fields in a head.
const HEAD_FIELDS: usize = 64;
/// How long a client may take nothing of what is sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer in flight may go on once the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long nothing is accepted when the system has no room.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What a client is allowed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the head of a request, which is also how long a connection may idle, and for the
    /// handshake.
    pub header_timeout: Duration,
}

/// TCP, with the certificate to shake hands with.
pub struct Tcp {
    /// Where is listened.
    pub listener: TcpListener,
    /// The newest certificate; none for plain HTTP.
    pub certificates: watch::Receiver<Option<Acceptor>>,
}

/// Serves a socket until `stop`; returns when its connections have ended.
pub async fn serve_socket(
    listener: UnixListener,
    router: Router,
    limits: Limits,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    while let Some(permit) = permit(&permits, &mut connections, &stop).await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Some((stream, _)) = taken(accepted).await else { continue };
        let peer = match stream.peer_cred() {
            Ok(credentials) => Peer::User(credentials.uid()),
            Err(error) => {
                tracing::debug!(%error, "a peer without credentials is not served");
                continue;
            }
        };
        connections.spawn(serve(Plain::Unix(stream), peer, router.clone(), limits, stop.clone(), permit));
    }
    finish(connections).await;
}

/// Serves TCP until `stop`; returns when its connections have ended.
pub async fn serve_tcp(
    tcp: Tcp,
    router: Router,
    limits: Limits,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    while let Some(permit) = permit(&permits, &mut connections, &stop).await {
        let accepted = tokio::select! {
            accepted = tcp.listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Some((stream, address)) = taken(accepted).await else { continue };
        // Answers are small; a client waits for each.
        let _ = stream.set_nodelay(true);
        let peer = Peer::Address(address.ip().to_canonical());
        let acceptor = tcp.certificates.borrow().clone();
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            let Some(Acceptor(acceptor)) = acceptor else {
                return serve(Plain::Tcp(stream), peer, router, limits, stop, permit).await;
            };
            match tokio::time::timeout(limits.header_timeout, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    serve(Plain::Tls(Box::new(stream)), peer, router, limits, stop, permit).await
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no handshake"),
                Err(_) => tracing::debug!(%peer, "the handshake takes too long"),
            }
        });
    }
    finish(connections).await;
}

/// Waits for room for one more connection, and forgets those that ended; none when it is to stop.
async fn permit(
    permits: &Arc<Semaphore>,
    connections: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Option<OwnedSemaphorePermit> {
    while let Some(ended) = connections.try_join_next() {
        note_panic(ended);
    }
    let permit = stop.run_until_cancelled(Arc::clone(permits).acquire_owned()).await?;
    Some(permit.expect("the semaphore is never closed"))
}

/// The connection that was accepted; an error is waited out, since there may be no room for files.
async fn taken<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "a connection is not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn finish(mut connections: JoinSet<()>) {
    while let Some(ended) = connections.join_next().await {
        note_panic(ended);
    }
}

/// A defect of ours ends its connection, and must be known.
fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a request panicked");
    }
}

enum Plain {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

async fn serve(
    stream: Plain,
    peer: Peer,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    match stream {
        Plain::Unix(stream) => serve_http(stream, peer, router, limits, stop).await,
        Plain::Tcp(stream) => serve_http(stream, peer, router, limits, stop).await,
        Plain::Tls(stream) => serve_http(*stream, peer, router, limits, stop).await,
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite,
    peer: Peer,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let router = router.clone();
        async move { Ok::<_, Infallible>(answered(router, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(STOP_GRACE, connection).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%peer, %error, "a connection ends");
    }
}

async fn answered(router: Router, request: hyper::Request<Incoming>) -> hyper::Response<Body> {
    match router.oneshot(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
