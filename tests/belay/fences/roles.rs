//! Roles that may not log in for a while.

use belay::fence::{FenceError, Undo, look, raise, release};
use belay::settings::{FenceKind, FenceSettings};

use super::{Post, fence, idle_client, journalled, reconnecting_client, sleepers, texts, wait_until};
use crate::world::{Cluster, a_cluster};

fn a_cluster_with_roles() -> Cluster {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.create_database("other");
    cluster.psql(
        "postgres",
        "CREATE ROLE app LOGIN PASSWORD 'secret' CONNECTION LIMIT 7 VALID UNTIL '2099-01-01';
         CREATE ROLE \"Odd \"\"role\"\"\" LOGIN; CREATE ROLE resting NOLOGIN; ALTER ROLE app SET work_mem = '8MB'",
    );
    cluster
}

fn role_fence<const N: usize>(roles: [&str; N]) -> FenceSettings {
    fence(FenceKind::Role { roles: texts(roles) })
}

fn globals(cluster: &Cluster) -> String {
    let dump = cluster.run(cluster.client("pg_dumpall").arg("--globals-only"));
    // pg_dumpall's own key is another one at every run.
    dump.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
}

fn can_log_in(cluster: &Cluster, role: &str) -> bool {
    let mut psql = cluster.client("psql");
    psql.env("PGUSER", role).args(["-Xq", "-d", "app", "-c", "SELECT 1"]);
    psql.output().expect("run psql").status.success()
}

#[tokio::test]
async fn roles_are_kept_out_and_come_back_exactly_as_they_were() {
    let cluster = a_cluster_with_roles();
    let post = Post::at(&cluster).await;
    let before = globals(&cluster);
    let mut writer = idle_client(&cluster, "app", "app");
    let mut elsewhere = idle_client(&cluster, "app", "other");
    let fence = role_fence(["app", "Odd \"role\"", "resting"]);

    let undo = look(&fence, &post.context()).await.unwrap();
    let Undo::Role { roles } = &undo else { panic!("{undo:?}") };
    assert!(roles.len() == 2 && !roles.contains(&"resting".to_owned()), "{roles:?}");
    assert!(can_log_in(&cluster, "app") && !writer.has_ended(), "a look changes nothing");

    raise(&fence, &undo, &post.context()).await.unwrap();
    assert!(!can_log_in(&cluster, "app") && !can_log_in(&cluster, "Odd \"role\""));
    assert_eq!(sleepers(&cluster, "app", "app"), 0);
    assert!(sleepers(&cluster, "app", "other") == 1 && !elsewhere.has_ended());

    for _ in 0..2 {
        release(&journalled(&undo), &post.context()).await.unwrap();
        assert_eq!(globals(&cluster), before);
    }
    assert!(can_log_in(&cluster, "app"));
}

#[tokio::test]
async fn clients_that_reconnect_at_once_are_kept_out() {
    let cluster = a_cluster_with_roles();
    let post = Post::at(&cluster).await;
    let fence = role_fence(["app"]);
    let undo = look(&fence, &post.context()).await.unwrap();
    let _clients = [(); 4].map(|()| reconnecting_client(&cluster, "app", "app"));
    wait_until("all are there", || sleepers(&cluster, "app", "app") == 4);
    raise(&fence, &undo, &post.context()).await.unwrap();
    assert_eq!(sleepers(&cluster, "app", "app"), 0);
    release(&undo, &post.context()).await.unwrap();
    wait_until("all are back", || sleepers(&cluster, "app", "app") == 4);
}

#[tokio::test]
async fn a_role_dropped_meanwhile_does_not_keep_the_others_out() {
    let cluster = a_cluster_with_roles();
    let post = Post::at(&cluster).await;
    let fence = role_fence(["app", "Odd \"role\""]);
    let undo = look(&fence, &post.context()).await.unwrap();
    raise(&fence, &undo, &post.context()).await.unwrap();
    cluster.psql("postgres", "DROP ROLE \"Odd \"\"role\"\"\"");
    release(&undo, &post.context()).await.unwrap();
    assert!(can_log_in(&cluster, "app"));
}

#[tokio::test]
async fn neither_a_missing_role_nor_our_own_is_kept_out() {
    let cluster = a_cluster_with_roles();
    let post = Post::at(&cluster).await;
    let missing = look(&role_fence(["app", "nobody"]), &post.context()).await.unwrap_err();
    assert!(matches!(&missing, FenceError::RoleMissing { role } if role == "nobody"), "{missing}");
    let own = look(&role_fence(["postgres"]), &post.context()).await.unwrap_err();
    assert!(matches!(&own, FenceError::OwnRole { role } if role == "postgres"), "{own}");
}

#[tokio::test]
async fn an_undo_list_of_another_fence_is_refused() {
    let cluster = a_cluster_with_roles();
    let post = Post::at(&cluster).await;
    let undo = Undo::Command { release: texts(["true"]) };
    let refused = raise(&role_fence(["app"]), &undo, &post.context()).await.unwrap_err();
    assert!(matches!(refused, FenceError::OtherUndo { .. }), "{refused}");
    assert!(can_log_in(&cluster, "app"));
}
