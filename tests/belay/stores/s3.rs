//! What only a bucket does: parts, retries, faults of the network, and refusals in words.

mod faults;
mod refusals;

use std::sync::Arc;
use std::time::Duration;

use belay::settings::{
    Addressing, Checksum, LockMode, ObjectLock, RepositorySettings, RepositoryUrl, S3Credentials, S3Settings,
};
use belay::store::s3::{ConditionalPut, Conditions, S3Store};
use belay::store::{Parts, Store, StoreError};
use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;

use super::{get, key, listed, put};
use crate::world::bucket::{ACCESS_KEY, BUCKET, SECRET_KEY};
use crate::world::proxy::{answer, refusal};
use crate::world::{Bucket, Fault, Proxy};

pub const MIB: usize = 1 << 20;

/// How a test speaks to a server: small parts, and no long waits.
pub fn s3_settings(endpoint: &str) -> S3Settings {
    let none = std::iter::empty::<(&str, &str)>().collect();
    let url: RepositoryUrl = format!("s3://{BUCKET}").parse().unwrap();
    let usual = RepositorySettings::by_environment(url, &none).unwrap().s3;
    S3Settings {
        endpoint: Some(endpoint.into()),
        region: Some("us-east-1".into()),
        addressing: Addressing::Path,
        credentials: Some(S3Credentials {
            access_key: ACCESS_KEY.into(),
            secret_key: SECRET_KEY.into(),
            session_token: None,
        }),
        part_bytes: 5 * MIB,
        timeout: Duration::from_secs(20),
        first_retry_after: Duration::from_millis(10),
        ..usual
    }
}

/// The store below `belay/` in the test's bucket, of which nothing is known.
pub async fn open_bucket(settings: &S3Settings) -> S3Store {
    S3Store::open(BUCKET, "belay", settings, Conditions::Unknown).await.unwrap()
}

/// Bytes that are alike nowhere.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "waited for a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[rstest]
#[tokio::test]
async fn an_object_goes_in_as_many_parts_as_it_needs(
    #[values(Checksum::Crc32, Checksum::WhenRequired)] checksum: Checksum,
) {
    let bucket = Bucket::start();
    let proxy = Proxy::start(bucket.address(), |_, _| Fault::None);
    let store = open_bucket(&S3Settings { checksum, ..s3_settings(&proxy.endpoint()) }).await;
    let sizes = [(0, 0), (1, 0), (5 * MIB, 0), (5 * MIB + 1, 2), (10 * MIB, 2), (11 * MIB, 3)];
    let mut parts_before = 0;
    for (length, parts) in sizes {
        let bytes = noise(length);
        let name = format!("a/{length}");
        assert_eq!(put(&store, &name, &bytes).await.unwrap(), length as u64);
        assert!(get(&store, &name).await.unwrap() == bytes, "{length}");
        assert!(std::fs::read(bucket.file(&format!("belay/{name}"))).unwrap() == bytes, "{length}");
        assert_eq!(proxy.count("partNumber="), parts_before + parts, "{length}");
        parts_before += parts;
    }
    assert_eq!(bucket.uploads(), 0);
    let whole = proxy.asked().iter().filter(|line| line.contains("x-id=PutObject")).count();
    assert_eq!(whole, 3);
}

#[tokio::test]
async fn a_listing_has_every_page() {
    let bucket = Bucket::start();
    let store = open_bucket(&s3_settings(&bucket.endpoint())).await;
    let folder = bucket.file("belay/many");
    std::fs::create_dir_all(&folder).unwrap();
    for n in 0..2_100 {
        std::fs::write(folder.join(format!("{n:04}")), "x").unwrap();
    }
    std::fs::write(bucket.file("other"), "not ours").unwrap();
    let names = listed(&store, "").await;
    assert_eq!(names.len(), 2_100);
    assert_eq!((names[0].as_str(), names[2_099].as_str()), ("many/0000", "many/2099"));
}

#[tokio::test]
async fn a_bucket_without_a_prefix_is_a_store_too() {
    let bucket = Bucket::start();
    let store =
        S3Store::open(BUCKET, "", &s3_settings(&bucket.endpoint()), Conditions::Honoured).await.unwrap();
    assert_eq!(store.address(), "s3://backups");
    put(&store, "a/b", "x").await.unwrap();
    assert_eq!(listed(&store, "").await, ["a/b"]);
    assert!(matches!(put(&store, "a/b", "y").await, Err(StoreError::Exists { .. })));
}

#[tokio::test]
async fn a_dropped_put_aborts_its_upload() {
    let bucket = Bucket::start();
    let store: Arc<dyn Store> = Arc::new(open_bucket(&s3_settings(&bucket.endpoint())).await);
    let (sender, parts) = Parts::stream();
    let putting = {
        let (store, key) = (Arc::clone(&store), key("a"));
        tokio::spawn(async move { store.put(&key, parts).await })
    };
    let sender = tokio::task::spawn_blocking(move || {
        sender.blocking_send(noise(6 * MIB).into()).unwrap();
        sender
    });
    let sender = sender.await.unwrap();
    wait_until("an upload is begun", || bucket.uploads() == 1).await;
    putting.abort();
    wait_until("it is aborted", || bucket.uploads() == 0).await;
    drop(sender);
    assert_eq!(listed(&*store, "").await, Vec::<String>::new());
}

#[tokio::test]
async fn uploads_keep_to_the_limit_together() {
    let bucket = Bucket::start();
    let limit = Some(8 * MIB as u64);
    let settings = S3Settings { upload_bytes_per_second: limit, ..s3_settings(&bucket.endpoint()) };
    let store = open_bucket(&settings).await;
    let start = std::time::Instant::now();
    let (one, other) = (noise(4 * MIB), noise(4 * MIB));
    let (one, other) = tokio::join!(put(&store, "a", one), put(&store, "b", other));
    one.unwrap();
    other.unwrap();
    put(&store, "c", "last").await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

/// An answer to a list of multipart uploads: one long ago, one far ahead.
fn two_uploads() -> Fault {
    let upload = |key: &str, at: &str| {
        format!(
            "<Upload><Key>belay/{key}</Key><UploadId>id-{key}</UploadId><Initiated>{at}</Initiated></Upload>"
        )
    };
    answer(
        "200 OK",
        &format!(
            "<?xml version=\"1.0\"?><ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{}{}</ListMultipartUploadsResult>",
            upload("old", "2026-01-01T00:00:00.000Z"),
            upload("new", "2026-03-01T00:00:00.000Z"),
        ),
    )
}

/// The server that tests have does not list uploads, so the answers are the proxy's.
#[tokio::test]
async fn a_sweep_aborts_uploads_that_are_old_enough() {
    let bucket = Bucket::start();
    let proxy = Proxy::start(bucket.address(), |_, line| match line {
        line if line.contains("?uploads") => two_uploads(),
        line if line.starts_with("DELETE") => answer("204 No Content", ""),
        _ => Fault::None,
    });
    let store = open_bucket(&s3_settings(&proxy.endpoint())).await;
    let between: DateTime<Utc> = "2026-02-01T00:00:00Z".parse().unwrap();
    assert_eq!(store.sweep_unfinished(between).await.unwrap(), 1);
    let aborted: Vec<_> = proxy.asked().into_iter().filter(|line| line.starts_with("DELETE")).collect();
    assert_eq!(aborted.len(), 1, "{aborted:?}");
    assert!(
        aborted[0].contains("/backups/belay/old?") && aborted[0].contains("uploadId=id-old"),
        "{aborted:?}"
    );
    assert!(proxy.asked()[0].contains("prefix=belay%2F"), "{:?}", proxy.asked());
}

#[tokio::test]
async fn a_store_that_lists_no_uploads_is_no_failed_sweep() {
    let bucket = Bucket::start();
    let store = open_bucket(&s3_settings(&bucket.endpoint())).await;
    assert_eq!(store.sweep_unfinished(DateTime::<Utc>::MAX_UTC).await.unwrap(), 0);
}

#[tokio::test]
async fn a_probe_tells_what_the_store_does_and_leaves_nothing() {
    let bucket = Bucket::start();
    let store = open_bucket(&s3_settings(&bucket.endpoint())).await;
    let profile = store.probe(&key("prod/probe/x")).await.unwrap();
    assert_eq!(profile.conditional_put, ConditionalPut::Honoured);
    assert!(profile.lists_at_once && !profile.lists_unfinished);
    assert_eq!(profile.locks, None);
    assert_eq!(listed(&store, "").await, Vec::<String>::new());
    assert!(store.time().await.unwrap().is_some());
}

#[tokio::test]
async fn a_lock_that_the_store_passes_over_is_seen() {
    let bucket = Bucket::start();
    let lock = ObjectLock { mode: LockMode::Governance, keeps: TimeDelta::days(30) };
    let settings = S3Settings { object_lock: Some(lock), ..s3_settings(&bucket.endpoint()) };
    let profile = open_bucket(&settings).await.probe(&key("prod/probe/x")).await.unwrap();
    assert_eq!(profile.locks, Some(false));
}

#[tokio::test]
async fn a_store_that_knows_no_condition_is_asked_first() {
    let bucket = Bucket::start();
    // The condition is in a header; the proxy refuses the first write, which has it.
    let refused = std::sync::atomic::AtomicBool::new(false);
    let proxy = Proxy::start(bucket.address(), move |_, line| {
        let is_first =
            line.contains("x-id=PutObject") && !refused.swap(true, std::sync::atomic::Ordering::Relaxed);
        if is_first { refusal("501 Not Implemented", "NotImplemented") } else { Fault::None }
    });
    let store =
        S3Store::open(BUCKET, "belay", &s3_settings(&proxy.endpoint()), Conditions::Honoured).await.unwrap();
    put(&store, "a", "first").await.unwrap();
    let before = proxy.count("HEAD");
    assert!(matches!(put(&store, "a", "second").await, Err(StoreError::Exists { .. })));
    assert_eq!(proxy.count("HEAD"), before + 1);
    assert_eq!(get(&store, "a").await.unwrap(), b"first");
}

#[tokio::test]
async fn a_store_that_is_known_to_look_is_not_asked_first() {
    let bucket = Bucket::start();
    let proxy = Proxy::start(bucket.address(), |_, _| Fault::None);
    let store =
        S3Store::open(BUCKET, "belay", &s3_settings(&proxy.endpoint()), Conditions::Honoured).await.unwrap();
    put(&store, "a", "first").await.unwrap();
    assert_eq!(proxy.count("HEAD"), 0);
    assert!(matches!(put(&store, "a", "second").await, Err(StoreError::Exists { .. })));
}
