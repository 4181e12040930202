//! PgBouncer, which holds its clients back while a database is paused.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use belay::fence::{FenceError, Undo, look, raise, release};
use belay::settings::{FenceKind, FenceSettings};

use super::{Post, chain, fence, journalled, texts, wait_until};
use crate::world::pooler::PASSWORD;
use crate::world::{Client, Cluster, Pooler, a_cluster};

fn a_pooled_cluster(databases: &[&str]) -> (Cluster, Pooler) {
    let cluster = a_cluster().start();
    for database in databases {
        cluster.create_database(database);
    }
    let pooler = Pooler::start(&cluster, databases);
    (cluster, pooler)
}

fn password_file(cluster: &Cluster, password: &str) -> PathBuf {
    let path = cluster.host().join("console-password");
    std::fs::write(&path, format!("{password}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn pool_fence(pooler: &Pooler, password_file: PathBuf, databases: Vec<String>) -> FenceSettings {
    fence(FenceKind::Pgbouncer {
        host: pooler.host().display().to_string(),
        port: pooler.port(),
        user: "keeper".into(),
        password_file: Some(password_file),
        databases,
    })
}

/// Whether each database is paused, as the console tells it.
fn paused(pooler: &Pooler) -> Vec<(String, bool)> {
    let answer = pooler.console("SHOW DATABASES");
    let mut databases = Vec::new();
    for line in answer.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [name, .., is_paused, _] = fields[..] else { panic!("{line}") };
        if name != "pgbouncer" {
            databases.push((name.to_owned(), is_paused == "1"));
        }
    }
    databases.sort();
    databases
}

fn servers(cluster: &Cluster) -> String {
    cluster.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app'")
}

#[tokio::test]
async fn pgbouncer_holds_clients_back_and_lets_them_go_on() {
    let (cluster, pooler) = a_pooled_cluster(&["app"]);
    let post = Post::at(&cluster).await;
    let fence = pool_fence(&pooler, password_file(&cluster, PASSWORD), Vec::new());
    assert!(pooler.psql("app", "SELECT 1").output().unwrap().status.success());
    assert_eq!(servers(&cluster), "1");

    let undo = look(&fence, &post.context()).await.unwrap();
    let Undo::Pgbouncer { databases, .. } = &undo else { panic!("{undo:?}") };
    assert_eq!(databases, &["app"]);
    assert!(!serde_json::to_string(&undo).unwrap().contains("secret"));
    assert_eq!(paused(&pooler), [("app".to_owned(), false)]);

    raise(&fence, &undo, &post.context()).await.unwrap();
    assert_eq!(paused(&pooler), [("app".to_owned(), true)]);
    wait_until("the pool has left the server", || servers(&cluster) == "0");
    let held = pooler.psql("app", "SELECT 'went on'").stdout(Stdio::piped()).spawn().unwrap();
    wait_until("the client waits", || pooler.console("SHOW CLIENTS").contains("|app|"));
    assert_eq!(servers(&cluster), "0");

    for _ in 0..2 {
        release(&journalled(&undo), &post.context()).await.unwrap();
        assert_eq!(paused(&pooler), [("app".to_owned(), false)]);
    }
    let output = held.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "went on\n");
}

#[tokio::test]
async fn a_database_that_was_paused_before_stays_paused() {
    let (cluster, pooler) = a_pooled_cluster(&["app", "Odd-name"]);
    let post = Post::at(&cluster).await;
    pooler.console("PAUSE app");
    let names = texts(["app", "Odd-name"]);
    let fence = pool_fence(&pooler, password_file(&cluster, PASSWORD), names);
    let undo = look(&fence, &post.context()).await.unwrap();
    raise(&fence, &undo, &post.context()).await.unwrap();
    assert!(paused(&pooler).iter().all(|(_, is_paused)| *is_paused), "{:?}", paused(&pooler));
    release(&undo, &post.context()).await.unwrap();
    assert_eq!(paused(&pooler), [("Odd-name".to_owned(), false), ("app".to_owned(), true)]);
}

#[tokio::test]
async fn a_transaction_that_does_not_end_times_out_and_is_released() {
    let (cluster, pooler) = a_pooled_cluster(&["app"]);
    let post = Post::at(&cluster).await.within(Duration::from_secs(1));
    let fence = pool_fence(&pooler, password_file(&cluster, PASSWORD), Vec::new());
    let _long = Client::start(&mut pooler.psql("app", "SELECT pg_sleep(600)"));
    wait_until("it has begun", || super::sleepers(&cluster, "postgres", "app") == 1);
    let undo = look(&fence, &post.context()).await.unwrap();
    let failed = raise(&fence, &undo, &post.context()).await.unwrap_err();
    assert!(matches!(&failed, FenceError::TimedOut { .. }), "{failed}");
    assert!(failed.to_string().ends_with("for PAUSE \"app\": not done within 1s"), "{failed}");
    let post = post.within(Duration::from_secs(30));
    release(&undo, &post.context()).await.unwrap();
    assert_eq!(paused(&pooler), [("app".to_owned(), false)]);
    assert!(pooler.psql("app", "SELECT 1").output().unwrap().status.success());
}

#[tokio::test]
async fn a_pgbouncer_that_does_not_know_us_or_the_database_is_found_at_the_look() {
    let (cluster, pooler) = a_pooled_cluster(&["app"]);
    let post = Post::at(&cluster).await;
    let password_file = password_file(&cluster, PASSWORD);
    let absent = pool_fence(&pooler, password_file.clone(), texts(["absent"]));
    let failed = look(&absent, &post.context()).await.unwrap_err();
    assert!(matches!(&failed, FenceError::NotPooled { database, .. } if database == "absent"), "{failed}");
    std::fs::write(&password_file, "wrong-hush\n").unwrap();
    let failed = look(&pool_fence(&pooler, password_file, Vec::new()), &post.context()).await.unwrap_err();
    let told = chain(&failed);
    assert!(told.contains("psql exited with status 2") && told.contains("auth"), "{told}");
    assert!(!told.contains("hush"), "{told}");
}
