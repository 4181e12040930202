//! What every store must do.

use std::any::Any;
use std::sync::Arc;

use belay::rules::layout::{SnapshotHome, SnapshotId};
use belay::store::local::LocalStore;
use belay::store::{PartSender, Parts, Store, StoreError, read_small};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;
use tokio::task::spawn_blocking;

use super::memory::MemoryStore;
use super::s3::{open_bucket, s3_settings};
use super::{get, key, listed, put};
use crate::world::Bucket;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    Local,
    Memory,
    S3,
}

/// An empty store, with the directory or the server that it may lie in.
struct World {
    store: Arc<dyn Store>,
    _home: Option<Box<dyn Any>>,
}

async fn a_store(medium: Medium) -> World {
    match medium {
        Medium::Local => {
            let directory = tempfile::tempdir().unwrap();
            let store = LocalStore::create(&directory.path().join("store")).unwrap();
            World { store: Arc::new(store), _home: Some(Box::new(directory)) }
        }
        Medium::Memory => World { store: Arc::new(MemoryStore::at(DateTime::UNIX_EPOCH)), _home: None },
        Medium::S3 => {
            let bucket = Bucket::start();
            let store = open_bucket(&s3_settings(&bucket.endpoint())).await;
            World { store: Arc::new(store), _home: Some(Box::new(bucket)) }
        }
    }
}

/// Begins a put that the returned sender feeds.
fn begin(
    store: &Arc<dyn Store>,
    text: &str,
) -> (PartSender, tokio::task::JoinHandle<Result<u64, StoreError>>) {
    let (sender, parts) = Parts::stream();
    let (store, key) = (Arc::clone(store), key(text));
    (sender, tokio::spawn(async move { store.put(&key, parts).await }))
}

async fn send(sender: PartSender, part: impl Into<Bytes>) -> PartSender {
    let part = part.into();
    spawn_blocking(move || {
        sender.blocking_send(part).unwrap();
        sender
    })
    .await
    .unwrap()
}

#[rstest]
#[tokio::test]
async fn an_object_comes_back_as_it_was_put(
    #[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium,
) {
    let World { store, _home } = a_store(medium).await;
    assert_eq!(put(&*store, "a/b/c", "some bytes").await.unwrap(), 10);
    assert_eq!(get(&*store, "a/b/c").await.unwrap(), b"some bytes");
    let info = store.head(&key("a/b/c")).await.unwrap().unwrap();
    assert_eq!((info.key, info.stored_bytes), (key("a/b/c"), 10));
    assert_eq!(store.list("").await.unwrap(), [store.head(&key("a/b/c")).await.unwrap().unwrap()]);
}

#[rstest]
#[tokio::test]
async fn an_object_is_never_replaced(#[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium) {
    let World { store, _home } = a_store(medium).await;
    put(&*store, "a/b", "first").await.unwrap();
    for again in ["second", "first", ""] {
        assert!(matches!(put(&*store, "a/b", again).await, Err(StoreError::Exists { .. })));
    }
    assert_eq!(get(&*store, "a/b").await.unwrap(), b"first");
    assert_eq!(listed(&*store, "").await, ["a/b"]);
}

#[rstest]
#[tokio::test]
async fn nothing_is_visible_before_the_end(
    #[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium,
) {
    let World { store, _home } = a_store(medium).await;
    let (mut sender, stored) = begin(&store, "a/b");
    // Two parts wait in between, so that after the fifth the store has taken at least two.
    for part in ["1", "2", "3", "4", "5"] {
        sender = send(sender, part).await;
    }
    assert_eq!(listed(&*store, "").await, Vec::<String>::new());
    assert_eq!(store.head(&key("a/b")).await.unwrap(), None);
    assert!(matches!(get(&*store, "a/b").await, Err(StoreError::Missing { .. })));
    spawn_blocking(move || sender.blocking_finish()).await.unwrap().unwrap();
    assert_eq!(stored.await.unwrap().unwrap(), 5);
    assert_eq!(get(&*store, "a/b").await.unwrap(), b"12345");
}

#[rstest]
#[tokio::test]
async fn an_abandoned_object_is_never_visible(
    #[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium,
    #[values(0, 1, 5)] parts: usize,
) {
    let World { store, _home } = a_store(medium).await;
    let (mut sender, stored) = begin(&store, "a/b");
    for _ in 0..parts {
        sender = send(sender, vec![1; 100_000]).await;
    }
    drop(sender);
    assert!(matches!(stored.await.unwrap(), Err(StoreError::Abandoned { .. })));
    assert_eq!(listed(&*store, "").await, Vec::<String>::new());
    assert_eq!(store.sweep_unfinished(DateTime::<Utc>::MAX_UTC).await.unwrap(), 0);
    put(&*store, "a/b", "again").await.unwrap();
}

#[rstest]
#[tokio::test]
async fn a_put_that_is_no_longer_awaited_leaves_nothing(
    #[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium,
) {
    let World { store, _home } = a_store(medium).await;
    let (sender, stored) = begin(&store, "a/b");
    let sender = send(sender, vec![1; 100_000]).await;
    stored.abort();
    assert!(stored.await.unwrap_err().is_cancelled());
    spawn_blocking(move || while sender.blocking_send(Bytes::new()).is_ok() {}).await.unwrap();
    assert_eq!(listed(&*store, "").await, Vec::<String>::new());
    put(&*store, "a/b", "again").await.unwrap();
}

#[rstest]
#[tokio::test]
async fn the_list_is_sorted_and_cut_by_prefix(
    #[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium,
) {
    let World { store, _home } = a_store(medium).await;
    // `-` and `.` sort before `/`: the order of keys is not the order of a walk through folders.
    let sorted = ["a-b/x", "a.json", "a/b/x", "a/b/y", "a/bc/x", "a/c", "b"];
    for name in ["a/c", "b", "a/b/y", "a-b/x", "a/bc/x", "a.json", "a/b/x"] {
        put(&*store, name, name).await.unwrap();
    }
    assert_eq!(listed(&*store, "").await, sorted);
    assert_eq!(listed(&*store, "a").await, sorted[..6]);
    assert_eq!(listed(&*store, "a/").await, sorted[2..6]);
    assert_eq!(listed(&*store, "a/b").await, sorted[2..5]);
    assert_eq!(listed(&*store, "a/b/").await, sorted[2..4]);
    assert_eq!(listed(&*store, "a/b/x").await, sorted[2..3]);
    for nothing in ["a/b/x/", "c", "a/d/", "/", "../", "a//", "a/../"] {
        assert_eq!(listed(&*store, nothing).await, Vec::<String>::new(), "{nothing:?}");
    }
}

#[rstest]
#[tokio::test]
async fn what_is_missing_is_named(#[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium) {
    let World { store, _home } = a_store(medium).await;
    put(&*store, "a/b", "x").await.unwrap();
    for missing in ["c", "a", "a/c", "a/b/c", "x/y/z"] {
        if medium == Medium::S3 && missing == "a" {
            continue; // The tests' server keeps folders and takes them for objects, as no bucket does.
        }
        let Err(StoreError::Missing { key: named, store: address }) = get(&*store, missing).await else {
            panic!("{missing} is not there");
        };
        assert_eq!((named.as_str(), address.as_str()), (missing, store.address()));
        assert_eq!(store.head(&key(missing)).await.unwrap(), None);
    }
}

#[rstest]
#[tokio::test]
async fn deleting_twice_is_no_error(#[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium) {
    let World { store, _home } = a_store(medium).await;
    for name in ["a/b/c", "a/b/d"] {
        put(&*store, name, "x").await.unwrap();
    }
    for missing in ["a/b/c", "a/b/c", "a", "a/b", "a/b/d/e", "x/y"] {
        if medium == Medium::S3 && ["a", "a/b"].contains(&missing) {
            continue; // The tests' server keeps folders and takes them for objects, as no bucket does.
        }
        store.delete(&key(missing)).await.unwrap();
    }
    assert_eq!(listed(&*store, "").await, ["a/b/d"]);
    store.delete(&key("a/b/d")).await.unwrap();
    put(&*store, "a/b/c", "anew").await.unwrap();
    assert_eq!(get(&*store, "a/b/c").await.unwrap(), b"anew");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_of_many_puts_of_a_key_wins(
    #[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium,
) {
    let World { store, _home } = a_store(medium).await;
    for round in 0..10 {
        let name = format!("r{round}/a/b");
        let puts: Vec<_> = (0..16u8)
            .map(|n| {
                let (store, key) = (Arc::clone(&store), key(&name));
                tokio::spawn(async move { store.put(&key, Parts::whole(vec![n; 10_000])).await })
            })
            .collect();
        let results = futures::future::join_all(puts).await;
        let winners: Vec<_> =
            (0..16u8).filter(|n| results[usize::from(*n)].as_ref().unwrap().is_ok()).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(get(&*store, &name).await.unwrap(), vec![winners[0]; 10_000]);
        let losers = results.into_iter().filter_map(|result| result.unwrap().err());
        losers.for_each(|error| assert!(matches!(error, StoreError::Exists { .. }), "{error}"));
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_and_deletes_of_neighbours_do_not_disturb_each_other(
    #[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium,
) {
    let World { store, _home } = a_store(medium).await;
    let neighbours = (0..4).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let name = format!("deep/er/still/{n}");
            for _ in 0..50 {
                put(&*store, &name, "x").await.unwrap();
                assert_eq!(get(&*store, &name).await.unwrap(), b"x");
                store.delete(&key(&name)).await.unwrap();
            }
        })
    });
    futures::future::try_join_all(neighbours).await.unwrap();
    assert_eq!(listed(&*store, "").await, Vec::<String>::new());
}

#[rstest]
#[tokio::test]
async fn a_large_object_passes_in_parts(#[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium) {
    let World { store, _home } = a_store(medium).await;
    let (mut sender, stored) = begin(&store, "large");
    let mut sent = blake3::Hasher::new();
    // Uneven parts, an empty one among them.
    for length in [16 << 20, 1, 0, 777_777, 16 << 20, 512 << 10] {
        let part: Vec<_> = (0..length).map(|at: usize| (at * 31 + at / 251 + length) as u8).collect();
        sent.update(&part);
        sender = send(sender, part).await;
    }
    spawn_blocking(move || sender.blocking_finish()).await.unwrap().unwrap();
    let stored_bytes = stored.await.unwrap().unwrap();
    assert_eq!(stored_bytes, (32 << 20) + 1 + 777_777 + (512 << 10));
    assert_eq!(blake3::hash(&get(&*store, "large").await.unwrap()), sent.finalize());
    assert_eq!(store.head(&key("large")).await.unwrap().unwrap().stored_bytes, stored_bytes);
}

#[rstest]
#[tokio::test]
async fn an_empty_object_is_an_object(#[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium) {
    let World { store, _home } = a_store(medium).await;
    assert_eq!(put(&*store, "empty", "").await.unwrap(), 0);
    let (sender, stored) = begin(&store, "no parts");
    spawn_blocking(move || sender.blocking_finish()).await.unwrap().unwrap();
    assert_eq!(stored.await.unwrap().unwrap(), 0);
    for name in ["empty", "no parts"] {
        assert_eq!(get(&*store, name).await.unwrap(), b"");
        assert_eq!(store.head(&key(name)).await.unwrap().unwrap().stored_bytes, 0);
    }
    assert!(matches!(put(&*store, "empty", "").await, Err(StoreError::Exists { .. })));
}

#[rstest]
#[tokio::test]
async fn odd_keys_are_kept_apart(#[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium) {
    let World { store, _home } = a_store(medium).await;
    let id = SnapshotId::new(DateTime::UNIX_EPOCH, 1);
    let odd_database = |database: &str| {
        let home = SnapshotHome { cluster: "prod".into(), database: database.into(), id: id.clone() };
        home.key("manifest.json").to_string()
    };
    let mut names = vec![odd_database("a/b"), odd_database("a%2Fb"), odd_database("..\n\u{1F40B} \"x\"")];
    if medium != Medium::S3 {
        // The tests' server keeps what it knows of an object in a file whose name holds the key.
        names.push(odd_database(&"数据".repeat(10)));
    }
    let plain =
        ["a b", " a", "a ", "~", "*", "?", "a:b", "%41", "A", "a", ".hidden", "...", "naïve", "nai\u{308}ve"];
    names.extend(plain.map(str::to_owned));
    names.extend(
        ["-rf", "$(x)", "'\"`", "\t", "\u{7f}", "x.unfinished", "x/.unfinished/y"].map(str::to_owned),
    );
    for name in &names {
        put(&*store, name, name).await.unwrap();
    }
    names.sort();
    assert_eq!(listed(&*store, "").await, names);
    for name in &names {
        assert_eq!(get(&*store, name).await.unwrap(), name.as_bytes());
    }
    assert_eq!(listed(&*store, "%").await, ["%41"]);
}

#[rstest]
#[tokio::test]
async fn a_small_object_is_read_whole_and_a_larger_one_refused(
    #[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium,
) {
    let World { store, _home } = a_store(medium).await;
    put(&*store, "a", [1; 3_000]).await.unwrap();
    assert_eq!(read_small(&*store, &key("a"), 3_000).await.unwrap(), [1; 3_000]);
    assert!(matches!(read_small(&*store, &key("a"), 2_999).await, Err(StoreError::Io { .. })));
}

#[rstest]
#[tokio::test]
async fn a_sweep_spares_objects_and_writers(
    #[values(Medium::Local, Medium::Memory, Medium::S3)] medium: Medium,
) {
    let World { store, _home } = a_store(medium).await;
    put(&*store, "done", "x").await.unwrap();
    let (sender, stored) = begin(&store, "a/b");
    let sender = send(sender, "1").await;
    let long_ago = DateTime::UNIX_EPOCH + TimeDelta::days(1);
    assert_eq!(store.sweep_unfinished(long_ago).await.unwrap(), 0);
    spawn_blocking(move || sender.blocking_finish()).await.unwrap().unwrap();
    stored.await.unwrap().unwrap();
    assert_eq!(listed(&*store, "").await, ["a/b", "done"]);
}
