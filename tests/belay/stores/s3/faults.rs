//! A network that cuts, damages and delays: an object is whole or not there, and an error is clear.
//!
//! Seeds are printed; BELAY_TEST_SEED repeats one.

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use super::*;
use crate::world::dice;

/// Faults for the first tries of each write or read of an object; every third request passes.
fn cutting(mut random: Xoshiro256PlusPlus, length: usize) -> impl Fn(usize, &str) -> Fault + Send + Sync {
    let draws: Vec<(bool, usize)> =
        (0..1_000).map(|_| (random.random_bool(0.5), random.random_range(0..length))).collect();
    move |number, _| match (number % 3, draws[number % draws.len()]) {
        (2, _) => Fault::None,
        (_, (true, at)) => Fault::CutRequest(at),
        // An answer to a write is short.
        (_, (false, at)) => Fault::CutAnswer(at % 400),
    }
}

#[tokio::test]
async fn writes_that_are_cut_off_are_whole_in_the_end() {
    let bucket = Bucket::start();
    let proxy = Proxy::start(bucket.address(), cutting(dice(), 6 * MIB));
    let store = open_bucket(&S3Settings { attempts: 8, ..s3_settings(&proxy.endpoint()) }).await;
    let direct = open_bucket(&s3_settings(&bucket.endpoint())).await;
    for (n, length) in [100, 3 * MIB, 11 * MIB, 12 * MIB].into_iter().enumerate() {
        let bytes = noise(length);
        let name = format!("a/{n}");
        put(&store, &name, &bytes).await.unwrap();
        assert!(get(&direct, &name).await.unwrap() == bytes, "{name}");
    }
    assert!(proxy.asked().len() > 20, "requests were repeated");
    assert_eq!(listed(&direct, "").await.len(), 4);
}

#[tokio::test]
async fn a_write_that_never_gets_through_leaves_nothing_visible() {
    let bucket = Bucket::start();
    let mut random = dice();
    for length in [100, 6 * MIB] {
        // Every part is longer.
        let at = random.random_range(0..length.min(MIB));
        let proxy = Proxy::start(bucket.address(), move |_, line| match line {
            line if line.starts_with("PUT") => Fault::CutRequest(at),
            _ => Fault::None,
        });
        let store = open_bucket(&S3Settings { attempts: 3, ..s3_settings(&proxy.endpoint()) }).await;
        let failed = put(&store, "a", noise(length)).await.unwrap_err();
        assert!(matches!(failed, StoreError::Io { action: "write", .. }), "{failed:?}");
        let direct = open_bucket(&s3_settings(&bucket.endpoint())).await;
        assert_eq!(listed(&direct, "").await, Vec::<String>::new());
        assert_eq!(bucket.uploads(), 0, "what was begun is aborted");
    }
}

#[rstest]
#[tokio::test]
async fn a_write_whose_answer_is_lost_is_known_for_our_own(
    #[values("PutObject", "uploadId=")] request: &'static str,
) {
    let bucket = Bucket::start();
    let proxy = Proxy::start(bucket.address(), move |_, line| {
        let is_commit = line.contains(request) && !line.contains("partNumber");
        if is_commit { Fault::CutAnswer(10) } else { Fault::None }
    });
    let settings = S3Settings { attempts: 2, ..s3_settings(&proxy.endpoint()) };
    let store = S3Store::open(BUCKET, "belay", &settings, Conditions::Honoured).await.unwrap();
    let bytes = noise(if request == "PutObject" { 1_000 } else { 6 * MIB });
    assert_eq!(put(&store, "a", &bytes).await.unwrap(), bytes.len() as u64);
    assert!(get(&store, "a").await.unwrap() == bytes);
    // Another's object of that name is not taken for ours.
    assert!(matches!(put(&store, "a", &bytes).await, Err(StoreError::Exists { .. })));
}

#[tokio::test]
async fn a_read_goes_on_where_it_was_cut() {
    let bucket = Bucket::start();
    let mut random = dice();
    let bytes = noise(6 * MIB);
    put(&open_bucket(&s3_settings(&bucket.endpoint())).await, "a", &bytes).await.unwrap();
    let cuts: Vec<usize> = (0..20).map(|_| random.random_range(MIB..3 * MIB)).collect();
    let proxy = Proxy::start(bucket.address(), move |number, _| Fault::CutAnswer(cuts[number % cuts.len()]));
    let store = open_bucket(&s3_settings(&proxy.endpoint())).await;
    assert!(get(&store, "a").await.unwrap() == bytes);
    assert!(proxy.asked().len() >= 2, "{:?}", proxy.asked());
}

#[tokio::test]
async fn a_read_that_is_cut_at_the_same_place_for_ever_is_an_error() {
    let bucket = Bucket::start();
    put(&open_bucket(&s3_settings(&bucket.endpoint())).await, "a", noise(MIB)).await.unwrap();
    let proxy = Proxy::start(bucket.address(), |number, _| {
        if number == 0 { Fault::CutAnswer(500_000) } else { Fault::CutAnswer(100) }
    });
    let store = open_bucket(&S3Settings { attempts: 3, ..s3_settings(&proxy.endpoint()) }).await;
    let failed = get(&store, "a").await.unwrap_err();
    assert!(matches!(failed, StoreError::Io { action: "read", .. }), "{failed:?}");
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_an_error() {
    let bucket = Bucket::start();
    put(&open_bucket(&s3_settings(&bucket.endpoint())).await, "a", noise(4 * MIB)).await.unwrap();
    let file = bucket.file("belay/a");
    let proxy = Proxy::start(bucket.address(), move |number, _| {
        if number == 0 {
            return Fault::CutAnswer(MIB);
        }
        std::fs::write(&file, vec![7; 3 * MIB]).unwrap();
        Fault::None
    });
    let store = open_bucket(&s3_settings(&proxy.endpoint())).await;
    let failed = get(&store, "a").await.unwrap_err();
    assert!(matches!(failed, StoreError::Io { action: "read", .. }), "{failed:?}");
}

#[tokio::test]
async fn a_wrong_byte_in_an_answer_is_an_error() {
    let bucket = Bucket::start();
    put(&open_bucket(&s3_settings(&bucket.endpoint())).await, "a", noise(MIB)).await.unwrap();
    let at = dice().random_range(0..MIB);
    let proxy = Proxy::start(bucket.address(), move |_, _| Fault::WrongByte(at));
    let store = open_bucket(&s3_settings(&proxy.endpoint())).await;
    let failed = get(&store, "a").await.unwrap_err();
    let StoreError::Io { source, .. } = &failed else { panic!("{failed:?}") };
    assert!(source.to_string().contains("checksum mismatch"), "{source}");
}

#[tokio::test]
async fn a_list_that_was_damaged_on_its_way_is_asked_for_again() {
    let bucket = Bucket::start();
    put(&open_bucket(&s3_settings(&bucket.endpoint())).await, "a", noise(MIB)).await.unwrap();
    let proxy = Proxy::start(bucket.address(), |number, _| match number {
        0 | 1 => Fault::WrongByte(0),
        _ => Fault::None,
    });
    let store = open_bucket(&s3_settings(&proxy.endpoint())).await;
    assert_eq!(store.list("").await.unwrap().len(), 1);
    assert_eq!(proxy.count("GET"), 3);
}

#[rstest]
#[tokio::test]
async fn busy_servers_are_asked_again(
    #[values(
        ("503 Slow Down", "SlowDown"),
        ("500 Internal Server Error", "InternalError"),
        ("429 Too Many Requests", "TooManyRequests"),
        ("408 Request Timeout", "RequestTimeout"),
        ("400 Bad Request", "BadDigest"),
        ("409 Conflict", "ConditionalRequestConflict")
    )]
    said: (&'static str, &'static str),
) {
    let bucket = Bucket::start();
    let proxy = Proxy::start(bucket.address(), move |number, line| {
        // The error of a HEAD has no body and so no code; only its status counts.
        let is_busy = number % 3 != 2 && !(line.starts_with("HEAD") && said.0.starts_with("40"));
        if is_busy { refusal(said.0, said.1) } else { Fault::None }
    });
    let store =
        S3Store::open(BUCKET, "belay", &s3_settings(&proxy.endpoint()), Conditions::Honoured).await.unwrap();
    put(&store, "a", "x").await.unwrap();
    assert_eq!(get(&store, "a").await.unwrap(), b"x");
    assert_eq!(listed(&store, "").await, ["a"]);
    store.delete(&key("a")).await.unwrap();
    assert!(proxy.asked().len() >= 10, "{:?}", proxy.asked());
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_asked_for_again() {
    let bucket = Bucket::start();
    let proxy = Proxy::start(bucket.address(), |number, _| match number {
        0 => Fault::Slow(Duration::from_secs(4)),
        _ => Fault::None,
    });
    let settings = S3Settings { timeout: Duration::from_secs(1), ..s3_settings(&proxy.endpoint()) };
    let store = open_bucket(&settings).await;
    assert_eq!(listed(&store, "").await, Vec::<String>::new());
    assert_eq!(proxy.asked().len(), 2);
}

#[tokio::test]
async fn a_server_that_never_answers_is_an_error_in_time() {
    let bucket = Bucket::start();
    let proxy = Proxy::start(bucket.address(), |_, _| Fault::Slow(Duration::from_secs(10)));
    let settings =
        S3Settings { timeout: Duration::from_secs(1), attempts: 2, ..s3_settings(&proxy.endpoint()) };
    let start = std::time::Instant::now();
    let failed = open_bucket(&settings).await.list("").await.unwrap_err();
    assert!(matches!(failed, StoreError::Io { action: "list", .. }), "{failed:?}");
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}
