//! Writes an object: in one request when it is small, in parts that go side by side when it is not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use aws_sdk_s3::config::Builder;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::create_multipart_upload::CreateMultipartUploadError;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::{ByteStream, DateTime as S3Time};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ObjectLockMode, StorageClass,
};
use bytes::Bytes;
use chrono::TimeDelta;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::cutter::{Cutter, Piece};
use super::failure::is_not_implemented;
use super::part_size::part_bytes;
use super::{Bucket, ROOM_BYTES, client, memory_bytes};
use crate::rules::layout::ObjectKey;
use crate::settings::{Checksum, LockMode, ObjectLock};
use crate::store::{Parts, StoreError};

/// The name under which an object bears the mark of its writer.
const MARK: &str = "belay-write";
/// Any object that exists.
const ANY: &str = "*";

/// Stores an object.
pub(super) async fn put(bucket: &Arc<Bucket>, key: &ObjectKey, parts: Parts) -> Result<u64, StoreError> {
    let write = Write::new(bucket, key, bucket.settings.object_lock);
    let mut cutter = Cutter::new(parts);
    match cutter.next(bucket.settings.part_bytes).await {
        Piece::Abandoned => Err(write.abandoned()),
        Piece::Last(bytes) => Box::pin(write.whole(bytes)).await,
        Piece::Full(first) => Box::pin(write.in_parts(first, cutter)).await,
    }
}

/// One object on its way.
pub(super) struct Write<'a> {
    bucket: &'a Arc<Bucket>,
    key: &'a ObjectKey,
    lock: Option<ObjectLock>,
    /// Tells our object from another's: an answer may get lost, and the next try meets our own.
    mark: String,
}

impl<'a> Write<'a> {
    fn new(bucket: &'a Arc<Bucket>, key: &'a ObjectKey, lock: Option<ObjectLock>) -> Self {
        Self { bucket, key, lock, mark: format!("{:032x}", rand::random::<u128>()) }
    }

    /// A write that only tries the store: its object is locked for a minute at most.
    pub(super) fn to_try(bucket: &'a Arc<Bucket>, key: &'a ObjectKey) -> Self {
        let keeps = TimeDelta::minutes(1);
        Self::new(bucket, key, bucket.settings.object_lock.map(|lock| ObjectLock { keeps, ..lock }))
    }
}

impl Write<'_> {
    pub(super) fn failed<E>(&self, error: SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.bucket.act("write", self.key.as_str()).failed(error)
    }

    fn abandoned(&self) -> StoreError {
        self.bucket.act("write", self.key.as_str()).abandoned()
    }

    async fn whole(&self, bytes: Bytes) -> Result<u64, StoreError> {
        let stored_bytes = bytes.len() as u64;
        let _room = self.bucket.room_for(bytes.len()).await;
        self.bucket.pace.wait_for(bytes.len()).await;
        let _alone = self.bucket.writing.alone(self.key).await;
        self.refuse_existing().await?;
        let mut answer = self.put_object(bytes.clone()).await;
        if self.refuses_conditions(&answer) {
            self.refuse_existing().await?;
            answer = self.put_object(bytes).await;
        }
        match answer {
            Ok(()) => Ok(stored_bytes),
            Err(error) => {
                let failed = self.failed(error);
                self.settle(failed).await.map(|()| stored_bytes)
            }
        }
    }

    /// Looks first where the store is not known to look itself.
    async fn refuse_existing(&self) -> Result<(), StoreError> {
        if self.bucket.asks_first() && self.bucket.head(self.key, "write").await?.is_some() {
            return Err(self.bucket.act("write", self.key.as_str()).exists());
        }
        Ok(())
    }

    /// Whether the store refused the condition and not the object; no other request has one then.
    fn refuses_conditions<E: ProvideErrorMetadata>(&self, answer: &Result<(), SdkError<E>>) -> bool {
        let is_refused = answer.as_ref().is_err_and(is_not_implemented);
        is_refused && self.bucket.takes_conditions.swap(false, Ordering::Relaxed)
    }

    pub(super) async fn put_object(&self, bytes: Bytes) -> Result<(), SdkError<PutObjectError>> {
        let bucket = self.bucket;
        let length = bytes.len();
        let asked = bucket
            .client
            .put_object()
            .bucket(&bucket.name)
            .key(bucket.full_key(self.key))
            .metadata(MARK, &self.mark)
            .set_if_none_match(bucket.condition())
            .set_checksum_algorithm(bucket.checksum())
            .set_storage_class(bucket.storage_class())
            .set_object_lock_mode(self.lock_mode())
            .set_object_lock_retain_until_date(self.locked_until())
            .body(ByteStream::from(bytes));
        Box::pin(asked.customize().config_override(bucket.limits(length)).send()).await.map(drop)
    }

    /// Finds out whether our object is there though the store did not say so.
    ///
    /// An object that stays unseen because the store is away now may be there: whole, and listed by
    /// nobody.
    async fn settle(&self, failed: StoreError) -> Result<(), StoreError> {
        if !matches!(failed, StoreError::Exists { .. } | StoreError::Io { .. } | StoreError::Denied { .. }) {
            return Err(failed);
        }
        let Ok(found) = self.bucket.head(self.key, "write").await else { return Err(failed) };
        let mark = found.as_ref().and_then(|found| found.metadata()?.get(MARK));
        match (found.is_some(), mark) {
            (true, Some(mark)) if *mark == self.mark => Ok(()),
            (true, Some(_)) => Err(self.bucket.act("write", self.key.as_str()).exists()),
            _ => Err(failed),
        }
    }

    pub(super) async fn in_parts(&self, first: Bytes, cutter: Cutter) -> Result<u64, StoreError> {
        self.refuse_existing().await?;
        let upload = self.begin().await?;
        match Box::pin(self.send(&upload, first, cutter)).await {
            Ok(stored_bytes) => {
                upload.done();
                Ok(stored_bytes)
            }
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    async fn begin(&self) -> Result<Upload, StoreError> {
        let bucket = self.bucket;
        let asked = bucket
            .client
            .create_multipart_upload()
            .bucket(&bucket.name)
            .key(bucket.full_key(self.key))
            .metadata(MARK, &self.mark)
            .set_checksum_algorithm(bucket.checksum())
            .set_storage_class(bucket.storage_class())
            .set_object_lock_mode(self.lock_mode())
            .set_object_lock_retain_until_date(self.locked_until());
        let (bucket, key) = (Arc::clone(bucket), bucket.full_key(self.key));
        // On its own, so that an upload whose put is dropped meanwhile becomes known, and is aborted.
        let beginning = tokio::spawn(async move {
            let begun = Box::pin(asked.send()).await?;
            let id = begun.upload_id().unwrap_or_default().to_owned();
            Ok::<_, SdkError<CreateMultipartUploadError>>(Upload { bucket, key, id, is_open: true })
        });
        let act = self.bucket.act("write", self.key.as_str());
        let begun = beginning.await.map_err(|error| act.io(std::io::Error::other(error)))?;
        begun.map_err(|error| self.failed(error))
    }

    /// Sends every part and completes the upload.
    async fn send(&self, upload: &Upload, first: Bytes, mut cutter: Cutter) -> Result<u64, StoreError> {
        let settings = &self.bucket.settings;
        let mut sending = Sending::default();
        let mut piece = Piece::Full(first);
        for number in 1.. {
            let (bytes, is_last) = match piece {
                Piece::Full(bytes) => (bytes, false),
                Piece::Last(bytes) => (bytes, true),
                Piece::Abandoned => return Err(self.abandoned()),
            };
            sending.take_ended(self)?;
            let room = self.bucket.room_for(bytes.len()).await;
            self.bucket.pace.wait_for(bytes.len()).await;
            sending.begin(upload, number, bytes, room);
            if is_last {
                break;
            }
            let next = usize::try_from(number).unwrap_or(usize::MAX).saturating_add(1);
            piece = cutter.next(part_bytes(next, settings.part_bytes, memory_bytes(settings))).await;
        }
        sending.take_all(self).await?;
        let stored_bytes = sending.stored_bytes;
        self.complete(upload, sending.parts()).await?;
        Ok(stored_bytes)
    }

    fn lock_mode(&self) -> Option<ObjectLockMode> {
        self.lock.map(|lock| match lock.mode {
            LockMode::Governance => ObjectLockMode::Governance,
            LockMode::Compliance => ObjectLockMode::Compliance,
        })
    }

    fn locked_until(&self) -> Option<S3Time> {
        let keeps = self.lock?.keeps.to_std().ok()?;
        Some(S3Time::from(SystemTime::now() + keeps))
    }

    async fn complete(&self, upload: &Upload, parts: Vec<CompletedPart>) -> Result<(), StoreError> {
        let bucket = self.bucket;
        let _alone = bucket.writing.alone(self.key).await;
        self.refuse_existing().await?;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = || {
            let asked = bucket
                .client
                .complete_multipart_upload()
                .bucket(&bucket.name)
                .key(&upload.key)
                .upload_id(&upload.id)
                .set_if_none_match(bucket.condition())
                .multipart_upload(parts.clone());
            // The store copies the parts together, which takes a while for many.
            Box::pin(asked.customize().config_override(bucket.limits(memory_bytes(&bucket.settings))).send())
        };
        let mut answer = complete().await.map(drop);
        if self.refuses_conditions(&answer) {
            self.refuse_existing().await?;
            answer = complete().await.map(drop);
        }
        match answer {
            Ok(()) => Ok(()),
            Err(error) => self.settle(self.failed(error)).await,
        }
    }
}

/// A multipart upload that was begun; unless it is done, it is aborted, at the latest when dropped.
struct Upload {
    bucket: Arc<Bucket>,
    key: String,
    id: String,
    is_open: bool,
}

impl Upload {
    fn done(mut self) {
        self.is_open = false;
    }

    /// What cannot be aborted now is swept later.
    async fn abort(mut self) {
        self.is_open = false;
        let _ = Box::pin(self.bucket.abort(&self.key, &self.id)).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_open {
            let (bucket, key, id) = (Arc::clone(&self.bucket), self.key.clone(), self.id.clone());
            runtime.spawn(async move {
                let _ = Box::pin(bucket.abort(&key, &id)).await;
            });
        }
    }
}

type Sent = Result<CompletedPart, SdkError<aws_sdk_s3::operation::upload_part::UploadPartError>>;

/// Parts on their way, and those that arrived; dropped, it calls back those on their way.
#[derive(Default)]
struct Sending {
    on_their_way: JoinSet<Sent>,
    arrived: Vec<CompletedPart>,
    stored_bytes: u64,
}

impl Sending {
    fn begin(&mut self, upload: &Upload, number: i32, bytes: Bytes, room: OwnedSemaphorePermit) {
        self.stored_bytes += bytes.len() as u64;
        let (bucket, key, id) = (Arc::clone(&upload.bucket), upload.key.clone(), upload.id.clone());
        self.on_their_way.spawn(async move {
            let _room = room;
            Box::pin(bucket.upload_part(&key, &id, number, bytes)).await
        });
    }

    /// Takes what has ended until now.
    fn take_ended(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        while let Some(ended) = self.on_their_way.try_join_next() {
            self.take(ended, write)?;
        }
        Ok(())
    }

    async fn take_all(&mut self, write: &Write<'_>) -> Result<(), StoreError> {
        while let Some(ended) = self.on_their_way.join_next().await {
            self.take(ended, write)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        ended: Result<Sent, tokio::task::JoinError>,
        write: &Write<'_>,
    ) -> Result<(), StoreError> {
        let act = write.bucket.act("write", write.key.as_str());
        let sent = ended.map_err(|error| act.io(std::io::Error::other(error)))?;
        self.arrived.push(sent.map_err(|error| write.failed(error))?);
        Ok(())
    }

    fn parts(mut self) -> Vec<CompletedPart> {
        self.arrived.sort_by_key(|part| part.part_number());
        self.arrived
    }
}

impl Bucket {
    async fn upload_part(&self, key: &str, id: &str, number: i32, bytes: Bytes) -> Sent {
        let length = bytes.len();
        let asked = self
            .client
            .upload_part()
            .bucket(&self.name)
            .key(key)
            .upload_id(id)
            .part_number(number)
            .set_checksum_algorithm(self.checksum())
            .body(ByteStream::from(bytes));
        let sent = asked.customize().config_override(self.limits(length)).send().await?;
        let part = CompletedPart::builder().part_number(number);
        Ok(part.set_e_tag(sent.e_tag).set_checksum_crc32(sent.checksum_crc32).build())
    }

    /// Waits until there is memory for a part; one that is larger than all of it takes all.
    async fn room_for(&self, bytes: usize) -> OwnedSemaphorePermit {
        let all = memory_bytes(&self.settings).div_ceil(ROOM_BYTES);
        let units = bytes.div_ceil(ROOM_BYTES).min(all);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Arc::clone(&self.room).acquire_many_owned(units).await.expect("nobody closes it")
    }

    fn limits(&self, sent_bytes: usize) -> Builder {
        Builder::new().timeout_config(client::time_limits(&self.settings, sent_bytes))
    }

    fn condition(&self) -> Option<String> {
        self.takes_conditions.load(Ordering::Relaxed).then(|| ANY.to_owned())
    }

    /// A locked object needs a checksum, says S3.
    fn checksum(&self) -> Option<ChecksumAlgorithm> {
        let is_wanted = self.settings.checksum == Checksum::Crc32 || self.settings.object_lock.is_some();
        is_wanted.then_some(ChecksumAlgorithm::Crc32)
    }

    fn storage_class(&self) -> Option<StorageClass> {
        self.settings.storage_class.as_deref().map(StorageClass::from)
    }
}
