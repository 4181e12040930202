//! The doubles do what they say.

use std::sync::Arc;
use std::time::Duration;

use belay::store::{Store as _, StoreError};
use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;
use tokio::sync::Semaphore;

use super::faulty::{Fault, FaultyStore, Operation};
use super::memory::MemoryStore;
use super::{get, key, listed, put};

fn noon() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

fn faulty() -> FaultyStore {
    FaultyStore::new(Arc::new(MemoryStore::at(noon())))
}

#[tokio::test]
async fn memory_objects_bear_the_time_that_the_test_set() {
    let store = MemoryStore::at(noon());
    put(&store, "a", "1").await.unwrap();
    store.set_time(noon() + TimeDelta::days(1));
    put(&store, "b", "2").await.unwrap();
    let times: Vec<_> = store.list("").await.unwrap().into_iter().map(|object| object.modified_at).collect();
    assert_eq!(times, [noon(), noon() + TimeDelta::days(1)]);
}

#[tokio::test]
async fn memory_objects_can_be_damaged() {
    let store = MemoryStore::at(noon());
    put(&store, "a", "good").await.unwrap();
    store.tamper(&key("a"), |bytes| bytes[0] = b'w');
    assert_eq!(get(&store, "a").await.unwrap(), b"wood");
}

#[tokio::test]
async fn only_the_nth_operation_on_the_named_key_fails() {
    let store = faulty().on_key(Operation::Put, "manifest", 2, Fault::Full);
    for name in ["1/manifest", "2/data"] {
        put(&store, name, "x").await.unwrap();
    }
    assert!(matches!(put(&store, "2/manifest", "x").await, Err(StoreError::Full { .. })));
    put(&store, "2/manifest", "x").await.unwrap();
    assert_eq!(listed(&store, "").await, ["1/manifest", "2/data", "2/manifest"]);
    assert_eq!(store.record().last(), Some(&(Operation::List, String::new())));
    assert_eq!(store.record().len(), 5);
}

#[rstest]
#[case::refused(Fault::Fail, None)]
#[case::denied(Fault::Denied, None)]
#[case::broken_midway(Fault::FailAt(3), None)]
#[case::answer_lost(Fault::FailAfter, Some("0123456789"))]
#[tokio::test]
async fn a_failing_put_leaves_what_the_fault_says(#[case] fault: Fault, #[case] left: Option<&str>) {
    let store = faulty().on(Operation::Put, 1, fault);
    put(&store, "a", "0123456789").await.unwrap_err();
    assert_eq!(get(&store, "a").await.ok(), left.map(|text| text.as_bytes().to_vec()));
}

#[rstest]
#[case::cut(Fault::CutAt(4), "0123")]
#[case::flipped(Fault::FlipAt(2), "0133456789")]
#[tokio::test]
async fn damage_passes_for_success(
    #[case] fault: Fault,
    #[case] seen: &str,
    #[values(Operation::Put, Operation::Get)] operation: Operation,
) {
    let store = faulty().on(operation, 1, fault);
    assert_eq!(put(&store, "a", "0123456789").await.unwrap(), 10);
    assert_eq!(get(&store, "a").await.unwrap(), seen.as_bytes());
}

#[tokio::test]
async fn a_get_breaks_within_the_stream() {
    use futures::StreamExt as _;
    let store = faulty().on(Operation::Get, 1, Fault::FailAt(2_500));
    put(&store, "a", [7; 5_000]).await.unwrap();
    let pieces: Vec<_> = store.get(&key("a")).await.unwrap().collect().await;
    assert_eq!(pieces.iter().flatten().map(|piece| piece.len()).sum::<usize>(), 2_500);
    assert!(matches!(pieces.last(), Some(Err(StoreError::Io { .. }))));
}

#[tokio::test]
async fn every_other_operation_can_fail_too() {
    use Operation::{Delete, Head, List, Sweep};
    let store = [Head, List, Sweep].into_iter().fold(faulty(), |store, each| store.on(each, 1, Fault::Fail));
    let store = store.on(Delete, 1, Fault::FailAfter);
    put(&store, "a", "x").await.unwrap();
    assert!(store.head(&key("a")).await.is_err());
    assert!(store.list("").await.is_err());
    assert!(store.sweep_unfinished(noon()).await.is_err());
    assert!(store.delete(&key("a")).await.is_err());
    assert_eq!(listed(&store, "").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_held_operation_waits_for_the_test() {
    let permits = Arc::new(Semaphore::new(0));
    let delay = Fault::Delay(Duration::from_millis(1));
    let store =
        faulty().on(Operation::Put, 1, Fault::Hold(Arc::clone(&permits))).on(Operation::Head, 1, delay);
    let (stored, ()) = tokio::join!(put(&store, "a", "x"), async {
        while store.record().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(store.head(&key("a")).await.unwrap().is_none());
        permits.add_permits(1);
    });
    stored.unwrap();
    assert!(store.head(&key("a")).await.unwrap().is_some());
}
