//! What a directory must do beyond the suite: permissions, leftovers, a medium that fails, a
//! writer that is killed.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use belay::store::local::{LocalStore, LocalStoreError};
use belay::store::{Parts, Store as _, StoreError};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tempfile::{TempDir, tempdir};

use super::{get, key, listed, put};

fn a_store() -> (LocalStore, TempDir) {
    let directory = tempdir().unwrap();
    (LocalStore::create(directory.path()).unwrap(), directory)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn unfinished(root: &Path) -> Vec<fs::DirEntry> {
    fs::read_dir(root.join(".unfinished")).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn only_the_owner_may_look() {
    let directory = tempdir().unwrap();
    let root = directory.path().join("var/store");
    let store = LocalStore::create(&root).unwrap();
    put(&store, "a/b/c", "x").await.unwrap();
    put(&store, "top", "x").await.unwrap();
    for folder in ["", "a", "a/b", ".unfinished"] {
        assert_eq!(mode(&root.join(folder)), 0o700, "{folder:?}");
    }
    assert_eq!((mode(&root.join("a/b/c")), mode(&root.join("top"))), (0o600, 0o600));
    assert_eq!(store.address(), format!("file://{}", root.display()));
}

#[tokio::test]
async fn creating_takes_an_empty_directory_and_leaves_a_full_one() {
    let directory = tempdir().unwrap();
    let root = directory.path();
    fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
    let store = LocalStore::create(root).unwrap();
    assert_eq!(mode(root), 0o700);
    put(&store, "a", "x").await.unwrap();
    fs::set_permissions(root, Permissions::from_mode(0o750)).unwrap();
    let again = LocalStore::create(root).unwrap();
    assert_eq!(mode(root), 0o750);
    assert_eq!(get(&again, "a").await.unwrap(), b"x");
}

#[test]
fn what_cannot_be_a_store_is_named() {
    let directory = tempdir().unwrap();
    let (file, missing) = (directory.path().join("file"), directory.path().join("missing"));
    File::create(&file).unwrap();
    let text = |result: Result<LocalStore, LocalStoreError>| result.unwrap_err().to_string();
    assert_eq!(
        text(LocalStore::open(&missing)),
        format!("open store {}: no such directory", missing.display())
    );
    assert_eq!(text(LocalStore::open(&file)), format!("open store {}: not a directory", file.display()));
    assert_eq!(text(LocalStore::create(&file)), format!("open store {}: not a directory", file.display()));
    let below = file.join("below");
    assert_eq!(text(LocalStore::create(&below)), format!("create store {}", below.display()));
}

#[tokio::test]
async fn a_sweep_goes_by_age_only() {
    let (store, directory) = a_store();
    let now = SystemTime::now();
    for (name, hours_old) in [("put-old", 5), ("put-older", 6), ("put-young", 1)] {
        let file = File::create(directory.path().join(".unfinished").join(name)).unwrap();
        file.set_modified(now - Duration::from_secs(hours_old * 3_600)).unwrap();
    }
    symlink("put-young", directory.path().join(".unfinished/link")).unwrap();
    let before = DateTime::<Utc>::from(now) - TimeDelta::hours(2);
    assert_eq!(store.sweep_unfinished(before).await.unwrap(), 2);
    let mut left: Vec<_> = unfinished(directory.path()).iter().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["link", "put-young"]);
    assert_eq!(store.sweep_unfinished(before).await.unwrap(), 0);
}

#[tokio::test]
async fn a_writer_whose_file_was_swept_says_so() {
    let (store, directory) = a_store();
    let (sender, parts) = Parts::stream();
    let (writer, wanted) = (store.clone(), key("a/b"));
    let stored = tokio::spawn(async move { writer.put(&wanted, parts).await });
    wait_until(|| unfinished(directory.path()).len() == 1).await;
    assert_eq!(store.sweep_unfinished(DateTime::<Utc>::MAX_UTC).await.unwrap(), 1);
    tokio::task::spawn_blocking(move || sender.blocking_finish()).await.unwrap().unwrap();
    let Err(StoreError::Io { source, .. }) = stored.await.unwrap() else { panic!("there is no file") };
    assert!(source.to_string().contains("swept away"), "{source}");
    assert_eq!(listed(&store, "").await, Vec::<String>::new());
}

#[tokio::test]
async fn delete_removes_empty_folders_but_never_the_root() {
    let (store, directory) = a_store();
    for name in ["a/b/c/d", "a/x", "top"] {
        put(&store, name, "x").await.unwrap();
    }
    store.delete(&key("a/b/c/d")).await.unwrap();
    assert!(!directory.path().join("a/b").exists());
    assert_eq!(listed(&store, "").await, ["a/x", "top"]);
    // An earlier delete may have died after it removed the object.
    fs::create_dir_all(directory.path().join("left/over")).unwrap();
    for name in ["a/x", "top", "left/over/x"] {
        store.delete(&key(name)).await.unwrap();
    }
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".unfinished"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_another_process_removes_is_made_again() {
    let (_, directory) = a_store();
    let neighbours = (0..4).map(|n| {
        // Each with its own idea of which folders there are, as processes have.
        let store = LocalStore::open(directory.path()).unwrap();
        tokio::spawn(async move {
            for _ in 0..100 {
                put(&store, &format!("a/b/{n}"), "x").await.unwrap();
                store.delete(&key(&format!("a/b/{n}"))).await.unwrap();
            }
        })
    });
    futures::future::try_join_all(neighbours).await.unwrap();
    assert_eq!(unfinished(directory.path()).len(), 0);
}

#[tokio::test]
async fn foreign_files_are_neither_listed_nor_touched() {
    let (store, directory) = a_store();
    let root = directory.path();
    put(&store, "a/object", "x").await.unwrap();
    let outside = tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    symlink(outside.path(), root.join("folder")).unwrap();
    symlink(outside.path().join("secret"), root.join("a/link")).unwrap();
    fs::write(root.join("a/back\\slash"), "x").unwrap();
    fs::write(root.join("a/new\nline"), "x").unwrap();
    nix::unistd::mkfifo(&root.join("a/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(listed(&store, "").await, ["a/object"]);
    assert_eq!(listed(&store, "folder/").await, Vec::<String>::new());
    assert_eq!(listed(&store, ".unfinished/").await, Vec::<String>::new());
    for name in ["folder/secret", "a/link", "a/pipe"] {
        assert!(matches!(get(&store, name).await, Err(StoreError::Missing { .. })), "{name}");
        assert_eq!(store.head(&key(name)).await.unwrap(), None);
        assert!(matches!(put(&store, name, "x").await, Err(StoreError::Io { .. })), "{name}");
        store.delete(&key(name)).await.unwrap();
    }
    assert!(outside.path().join("secret").exists() && root.join("a/link").exists());
}

#[tokio::test]
async fn an_object_and_a_folder_of_one_name_exclude_each_other() {
    let (store, directory) = a_store();
    put(&store, "a/b", "x").await.unwrap();
    for name in ["a", "a/b/c", ".unfinished/x"] {
        let refused = put(&store, name, "x").await;
        assert!(matches!(refused, Err(StoreError::Io { action: "write", .. })), "{name}: {refused:?}");
    }
    assert_eq!(listed(&store, "").await, ["a/b"]);
    assert_eq!(unfinished(directory.path()).len(), 0);
}

#[tokio::test]
async fn a_store_that_went_away_does_not_pass_for_an_empty_one() {
    let (store, directory) = a_store();
    put(&store, "a/b", "x").await.unwrap();
    directory.close().unwrap();
    assert!(matches!(store.list("").await, Err(StoreError::Io { .. })));
    assert!(matches!(store.list("a/").await, Err(StoreError::Io { .. })));
    assert!(matches!(store.head(&key("a/b")).await, Err(StoreError::Io { .. })));
    assert!(matches!(get(&store, "a/b").await, Err(StoreError::Io { .. })));
    assert!(matches!(store.delete(&key("a/b")).await, Err(StoreError::Io { .. })));
    assert!(matches!(put(&store, "a/c", "x").await, Err(StoreError::Io { .. })));
    assert!(matches!(store.sweep_unfinished(DateTime::UNIX_EPOCH).await, Err(StoreError::Io { .. })));
}

const STORE_VARIABLE: &str = "BELAY_TEST_STORE";

/// This test binary, told to run the ignored test `name` of this file on the store in `root`.
fn this_binary(name: &str) -> Vec<String> {
    let binary = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let test = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
    [binary, test, "--exact".into(), "--ignored".into(), "--nocapture".into()].into()
}

/// The store of a test that [`this_binary`] runs, and its directory; `None` when no other test runs
/// it, as when all ignored tests are run.
fn given_store() -> Option<(LocalStore, std::path::PathBuf)> {
    let root = std::env::var_os(STORE_VARIABLE)?;
    Some((LocalStore::create(root.as_ref()).unwrap(), root.into()))
}

/// Runs the ignored test `name` with a file system of 4 MiB, which goes away with the process.
fn on_a_small_file_system(name: &str) {
    let directory = tempdir().unwrap();
    let namespace = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
    let script = format!("mount -t tmpfs -o size=4m,mode=700 tmpfs \"${STORE_VARIABLE}\"; exec \"$@\"");
    let output = Command::new("unshare")
        .args([namespace, "sh", "-ec", &script, "sh"])
        .args(this_binary(name))
        .env(STORE_VARIABLE, directory.path())
        .output()
        .expect("unshare, of util-linux, is needed to mount a small file system");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    // No such test would be a success too.
    let is_run = stdout.contains("1 passed");
    assert!(output.status.success() && is_run, "needs the right to mount a tmpfs\n{stdout}\n{stderr}");
}

#[test]
fn a_full_medium_is_named_and_keeps_nothing() {
    on_a_small_file_system("full_child");
}

#[tokio::test]
#[ignore = "run by a_full_medium_is_named_and_keeps_nothing"]
async fn full_child() {
    let Some((store, root)) = given_store() else { return };
    put(&store, "before", vec![1; 1 << 20]).await.unwrap();
    let (sender, parts) = Parts::stream();
    let feeder = thread::spawn(move || while sender.blocking_send(vec![2; 1 << 20].into()).is_ok() {});
    assert!(matches!(store.put(&key("a/b"), parts).await, Err(StoreError::Full { .. })));
    feeder.join().unwrap();
    assert_eq!(unfinished(&root).len(), 0);
    assert_eq!(listed(&store, "").await, ["before"]);
    put(&store, "after", vec![3; 1 << 20]).await.unwrap();
}

#[test]
fn a_read_only_medium_is_named_and_can_be_read() {
    on_a_small_file_system("read_only_child");
}

#[tokio::test]
#[ignore = "run by a_read_only_medium_is_named_and_can_be_read"]
async fn read_only_child() {
    let Some((store, root)) = given_store() else { return };
    put(&store, "a/b", "x").await.unwrap();
    let mounted = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&root).status().unwrap();
    assert!(mounted.success());
    let store_again = LocalStore::open(&root).unwrap();
    assert!(matches!(put(&store, "a/c", "x").await, Err(StoreError::Denied { action: "write", .. })));
    assert!(matches!(put(&store, "a/b", "x").await, Err(StoreError::Exists { .. })));
    assert!(matches!(store.delete(&key("a/b")).await, Err(StoreError::Denied { action: "delete", .. })));
    assert_eq!(get(&store_again, "a/b").await.unwrap(), b"x");
    assert_eq!(listed(&store_again, "").await, ["a/b"]);
}

#[tokio::test]
async fn a_writer_killed_midway_leaves_nothing_visible() {
    let (store, directory) = a_store();
    let root = directory.path();
    let writer = a_writer("halting_child", root);
    let has_some = |entry: &fs::DirEntry| entry.metadata().unwrap().len() >= 3 << 20;
    wait_until(|| unfinished(root).iter().any(has_some)).await;
    drop(writer);
    assert_eq!(listed(&store, "").await, Vec::<String>::new());
    assert_eq!(store.head(&key("a/half")).await.unwrap(), None);
    assert!(!root.join("a").exists());
    assert_eq!(store.sweep_unfinished(DateTime::<Utc>::MAX_UTC).await.unwrap(), 1);
    put(&store, "a/half", "whole").await.unwrap();
}

#[tokio::test]
async fn a_writer_killed_at_any_moment_leaves_only_whole_objects() {
    let (store, directory) = a_store();
    for round in 1..=12usize {
        let mut writer = a_writer("busy_child", directory.path());
        let before = listed(&store, "").await.len();
        // A different share of the next object is written in each round.
        while listed(&store, "").await.len() < before + 2 {
            assert!(writer.0.try_wait().unwrap().is_none(), "the writer writes until it is killed");
        }
        let moment = Instant::now() + Duration::from_micros(400) * u32::try_from(round).unwrap();
        while Instant::now() < moment {
            thread::yield_now();
        }
        drop(writer);
        for name in listed(&store, "").await {
            let bytes = get(&store, &name).await.unwrap();
            assert_eq!((bytes.len(), blake3::hash(&bytes)), (OBJECT_BYTES, blake3::hash(&object(&name))));
        }
    }
    store.sweep_unfinished(DateTime::<Utc>::MAX_UTC).await.unwrap();
    assert_eq!(unfinished(directory.path()).len(), 0);
}

/// A process that is killed when this goes, also when a test fails.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Starts the ignored test `name` in a process of its own.
fn a_writer(name: &str, root: &Path) -> Writer {
    let line = this_binary(name);
    let mut command = Command::new(&line[0]);
    Writer(command.args(&line[1..]).env(STORE_VARIABLE, root).stdout(Stdio::null()).spawn().unwrap())
}

async fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for a minute");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
#[ignore = "killed by a_writer_killed_midway_leaves_nothing_visible"]
async fn halting_child() {
    let Some((store, _)) = given_store() else { return };
    let (sender, parts) = Parts::stream();
    thread::spawn(move || {
        for _ in 0..3 {
            sender.blocking_send(vec![1; 1 << 20].into()).unwrap();
        }
        loop {
            thread::park();
        }
    });
    store.put(&key("a/half"), parts).await.unwrap();
}

const OBJECT_BYTES: usize = 1 << 20;

/// The bytes of the object `name`, unlike those of any other.
fn object(name: &str) -> Vec<u8> {
    let mut bytes = vec![0; OBJECT_BYTES];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test]
#[ignore = "killed by a_writer_killed_at_any_moment_leaves_only_whole_objects"]
async fn busy_child() {
    let Some((store, _)) = given_store() else { return };
    for n in 0.. {
        let name = format!("{}/{n}", std::process::id());
        let bytes = Bytes::from(object(&name));
        let (sender, parts) = Parts::stream();
        let feeder = thread::spawn(move || {
            for part in bytes.chunks(OBJECT_BYTES / 8) {
                sender.blocking_send(bytes.slice_ref(part)).unwrap();
            }
            sender.blocking_finish().unwrap();
        });
        store.put(&key(&name), parts).await.unwrap();
        feeder.join().unwrap();
    }
}
