//! A stream of events, one on each line.

use std::time::Duration;

use reqwest::Response;

use super::RemoteError;
use crate::rules::api::Event;

/// The daemon says something every five seconds: one that is silent for so long is not there.
const SILENCE: Duration = Duration::from_secs(20);
/// No event is longer.
const LINE_BYTES: usize = 64 << 10;

/// Events as they come.
pub struct EventLines {
    response: Response,
    server: String,
    buffer: Vec<u8>,
}

impl EventLines {
    pub(super) fn new(response: Response, server: String) -> Self {
        Self { response, server, buffer: Vec::new() }
    }

    /// The next event; `None` at the end of the stream, or where it breaks off.
    ///
    /// # Errors
    /// [`RemoteError::Unreachable`] when the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Event>, RemoteError> {
        loop {
            while let Some(at) = memchr::memchr(b'\n', &self.buffer) {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                // An empty line is a sign of life; what is not known is for newer clients.
                if let Ok(event) = serde_json::from_slice(&line) {
                    return Ok(Some(event));
                }
            }
            if self.buffer.len() > LINE_BYTES {
                return Ok(None);
            }
            let Ok(read) = tokio::time::timeout(SILENCE, self.response.chunk()).await else {
                return Ok(None);
            };
            let unreachable = |source: reqwest::Error| RemoteError::Unreachable {
                server: self.server.clone(),
                source: source.without_url(),
            };
            match read.map_err(unreachable)? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}
