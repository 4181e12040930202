//! Streams what a program writes into an object of the store, sealed on the way.
//!
//! The object of a program's standard output becomes visible only after the program has exited with status
//! 0. Of a program that writes several ([`Sealing::stream_from`]), each does when its own bytes have ended:
//! how the program ends has to be known before they are listed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;

use super::{JobError, Progress, blocking};
use crate::postgres::PostgresError;
use crate::postgres::pipes::pump;
use crate::postgres::tools::RunningTool;
use crate::rules::layout::ObjectKey;
use crate::rules::manifest::ObjectRecord;
use crate::seal::{SealWriter, Sealer};
use crate::store::{PartSender, Parts, Store, StoreError};

/// Bytes per part on the way to the store; S3 wants no less than 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// To whom, and where.
pub(super) struct Sealing<'a> {
    pub(super) sealer: &'a Sealer,
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) progress: &'a Arc<Progress>,
    /// What the progress hears of bytes that pass.
    pub(super) on_bytes: fn(&Progress, usize),
}

/// What was streamed.
pub(super) struct Streamed<W> {
    pub(super) record: ObjectRecord,
    /// What it was copied to.
    pub(super) also: W,
    /// The end of what the program wrote to standard error.
    pub(super) messages: String,
}

impl Sealing<'_> {
    /// Seals what `tool` writes into the object `key`, and copies it to `also`.
    pub(super) async fn stream<W: Write + Send + 'static>(
        &self,
        mut tool: RunningTool,
        key: &ObjectKey,
        also: W,
    ) -> Result<Streamed<W>, JobError> {
        let stdout = tool.stdout()?;
        let name = tool.name().to_owned();
        let (sender, parts) = Parts::stream();
        let sealing = async {
            let pumped = self.sealed(stdout, name, sender, also).await;
            // A child that died explains more than the pipe that it left.
            let reaped = tool.reap().await;
            match (pumped, reaped) {
                (Ok(sealed), Ok(messages)) => sealed.publish(messages).await,
                (Err(error @ JobError::Postgres(PostgresError::Pump { .. })), Ok(_)) => Err(error),
                (_, Err(error)) => Err(error.into()),
                (Err(error), Ok(_)) => Err(error),
            }
        };
        let (stored, sealed) = tokio::join!(self.store.put(key, parts), sealing);
        settled(stored, sealed)
    }

    /// Seals everything that comes `from` one of the pipes of the program `name` into the object `key`, and
    /// copies it to `also`.
    pub(super) async fn stream_from<W: Write + Send + 'static>(
        &self,
        from: File,
        name: &str,
        key: &ObjectKey,
        also: W,
    ) -> Result<Streamed<W>, JobError> {
        let (sender, parts) = Parts::stream();
        let sealing =
            async { self.sealed(from, name.to_owned(), sender, also).await?.publish(String::new()).await };
        let (stored, sealed) = tokio::join!(self.store.put(key, parts), sealing);
        settled(stored, sealed)
    }

    async fn sealed<W: Write + Send + 'static>(
        &self,
        from: File,
        name: String,
        sender: PartSender,
        also: W,
    ) -> Result<Sealed<W>, JobError> {
        let (sealer, progress, on_bytes) = (self.sealer.clone(), Arc::clone(self.progress), self.on_bytes);
        let heard = move |bytes| on_bytes(&progress, bytes);
        let failed = move |source| PostgresError::Pump { tool: name.clone(), source }.into();
        blocking(move || seal_stream(from, &sealer, sender, also, heard, failed)).await
    }
}

/// The store's own error explains why the pump was cut off, an abandoned put does not.
fn settled<T>(stored: Result<u64, StoreError>, sealed: Result<T, JobError>) -> Result<T, JobError> {
    match (stored, sealed) {
        (Ok(_), sealed) => sealed,
        (Err(StoreError::Abandoned { .. }), Err(error)) => Err(error),
        (Err(error), _) => Err(error.into()),
    }
}

/// Seals what `from` has into the object `key`, and copies it to `also`; `failed` is what an error of the
/// reader becomes.
pub(super) async fn seal_into_store<R: Read + Send + 'static, W: Write + Send + 'static>(
    sealer: &Sealer,
    store: &Arc<dyn Store>,
    key: &ObjectKey,
    from: R,
    also: W,
    failed: impl Fn(io::Error) -> JobError + Send + 'static,
) -> Result<(ObjectRecord, W), JobError> {
    let (sender, parts) = Parts::stream();
    let sealer = sealer.clone();
    let sealing = blocking(move || {
        let Sealed { record, last, sender, also } = seal_stream(from, &sealer, sender, also, |_| {}, failed)?;
        // The store's own error is in the result of its put.
        let _ = sender.blocking_send(last).and_then(|()| sender.blocking_finish());
        Ok::<_, JobError>((record, also))
    });
    let (stored, sealed) = tokio::join!(store.put(key, parts), sealing);
    settled(stored, sealed)
}

/// A sealed object whose last part is held back until its program is known to have ended well.
struct Sealed<W> {
    record: ObjectRecord,
    last: Bytes,
    sender: PartSender,
    also: W,
}

impl<W: Send + 'static> Sealed<W> {
    async fn publish(self, messages: String) -> Result<Streamed<W>, JobError> {
        let Self { record, last, sender, also } = self;
        blocking(move || {
            // The store's own error is in the result of its put.
            let _ = sender.blocking_send(last).and_then(|()| sender.blocking_finish());
            Ok::<_, JobError>(Streamed { record, also, messages })
        })
        .await
    }
}

fn seal_stream<W: Write>(
    from: impl Read,
    sealer: &Sealer,
    sender: PartSender,
    also: W,
    on_bytes: impl Fn(usize),
    failed: impl Fn(io::Error) -> JobError,
) -> Result<Sealed<W>, JobError> {
    let mut tee = Tee { seal: sealer.seal_into(PartWriter { sender, pending: Vec::new() })?, also };
    pump(from, &mut tee, on_bytes).map_err(failed)?;
    let (writer, record) = tee.seal.finish()?;
    Ok(Sealed { record, last: writer.pending.into(), sender: writer.sender, also: tee.also })
}

struct Tee<W: Write> {
    seal: SealWriter<PartWriter>,
    also: W,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.seal.write_all(bytes)?;
        self.also.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts sealed bytes into parts.
struct PartWriter {
    sender: PartSender,
    pending: Vec<u8>,
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PART_BYTES {
            let part = std::mem::take(&mut self.pending);
            self.sender.blocking_send(part.into()).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
