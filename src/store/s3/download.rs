//! Reads an object to its last byte, on from where a connection was cut.

use std::sync::Arc;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use super::{Bucket, backoff};
use crate::rules::causes;
use crate::rules::layout::ObjectKey;
use crate::settings::Checksum;
use crate::store::StoreError;

/// An object that is being read.
struct Reading {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    /// Whether what is read on is still the same object.
    etag: Option<String>,
    total_bytes: u64,
    read_bytes: u64,
    body: ByteStream,
    /// Since the last byte came.
    failures: u32,
}

/// Begins to read an object.
pub(super) async fn get(
    bucket: &Arc<Bucket>,
    key: &ObjectKey,
) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
    let answer = bucket.answer(key, 0, None).await?;
    let total_bytes = length(&answer).ok_or_else(|| bucket.act("read", key.as_str()).other(NO_LENGTH))?;
    let reading = Reading {
        bucket: Arc::clone(bucket),
        key: key.clone(),
        etag: answer.e_tag().map(str::to_owned),
        total_bytes,
        read_bytes: 0,
        body: answer.body,
        failures: 0,
    };
    Ok(stream::unfold(Some(reading), next_piece).boxed())
}

const NO_LENGTH: &str = "the store did not say how long it is";

fn length(answer: &GetObjectOutput) -> Option<u64> {
    answer.content_length().and_then(|bytes| u64::try_from(bytes).ok())
}

impl Bucket {
    /// Asks for an object from byte `from` on.
    async fn answer(
        &self,
        key: &ObjectKey,
        from: u64,
        etag: Option<&str>,
    ) -> Result<GetObjectOutput, StoreError> {
        let checks = self.settings.checksum == Checksum::Crc32;
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let asked = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(self.full_key(key))
            .set_range(range)
            .set_if_match(etag.map(str::to_owned))
            .set_checksum_mode(checks.then_some(ChecksumMode::Enabled));
        Box::pin(asked.send()).await.map_err(|error| self.act("read", key.as_str()).failed(error))
    }
}

/// The next piece, until the last byte or the first error.
async fn next_piece(reading: Option<Reading>) -> Option<(Result<Bytes, StoreError>, Option<Reading>)> {
    let mut reading = reading?;
    match Box::pin(reading.next()).await {
        Ok(Some(piece)) => Some((Ok(piece), Some(reading))),
        Ok(None) => None,
        Err(error) => Some((Err(error), None)),
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            let waiting = tokio::time::timeout(self.bucket.settings.timeout, self.body.next());
            let cause = match waiting.await {
                Ok(Some(Ok(piece))) if piece.is_empty() => continue,
                Ok(Some(Ok(piece))) => return self.take(piece).map(Some),
                Ok(None) if self.read_bytes == self.total_bytes => return Ok(None),
                Ok(None) => "the answer ended early".to_owned(),
                Ok(Some(Err(error))) => causes::each_said_once(&error),
                Err(_) => "the store sends nothing more".to_owned(),
            };
            self.resume(cause).await?;
        }
    }

    fn take(&mut self, piece: Bytes) -> Result<Bytes, StoreError> {
        self.failures = 0;
        self.read_bytes += piece.len() as u64;
        if self.read_bytes > self.total_bytes {
            return Err(self.failed(format!("the store sent more than its {} bytes", self.total_bytes)));
        }
        Ok(piece)
    }

    /// Asks for what is missing, unless it was asked for too often or nothing is: then what came is
    /// not what was stored.
    async fn resume(&mut self, cause: String) -> Result<(), StoreError> {
        self.failures += 1;
        if self.read_bytes == self.total_bytes || self.failures >= self.bucket.settings.attempts {
            let (read, total) = (self.read_bytes, self.total_bytes);
            return Err(self.failed(format!("after {read} of {total} bytes: {cause}")));
        }
        tokio::time::sleep(backoff(&self.bucket.settings, self.failures)).await;
        let answer = self.bucket.answer(&self.key, self.read_bytes, self.etag.as_deref()).await?;
        let missing = self.total_bytes - self.read_bytes;
        if length(&answer) != Some(missing) || (self.etag.is_some() && answer.e_tag() != self.etag.as_deref())
        {
            return Err(self.failed("the object changed while it was read".into()));
        }
        self.body = answer.body;
        Ok(())
    }

    fn failed(&self, text: String) -> StoreError {
        self.bucket.act("read", self.key.as_str()).other(text)
    }
}
