//! Sessions that are in the database although every fence is up.

use std::time::Duration;

use belay::fence::{FenceError, Ours, empty, sessions_left};
use belay::postgres::session;
use belay::settings::SessionPolicy;

use super::{Post, idle_client, reconnecting_client, sleepers, wait_until};
use crate::world::{Cluster, a_cluster};

const OURS: Ours<'_> = Ours { applications: &["belay"], roles: &["migrator"] };

fn a_cluster_with_clients() -> Cluster {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.create_database("other");
    cluster.psql("postgres", "CREATE ROLE app_user LOGIN; CREATE ROLE migrator LOGIN");
    cluster
}

#[tokio::test]
async fn sessions_of_others_are_listed_and_ours_are_not() {
    let cluster = a_cluster_with_clients();
    let post = Post::at(&cluster).await;
    let _writer = idle_client(&cluster, "app_user", "app");
    let _elsewhere = idle_client(&cluster, "app_user", "other");
    let _migrator = idle_client(&cluster, "migrator", "app");
    let _ours = session::connect(&post.connection).await.unwrap();
    let mut maintenance = session::connect(&post.connection.with_database("postgres")).await.unwrap();
    let left = sessions_left(&mut maintenance, "app", OURS).await.unwrap();
    let [one] = left.as_slice() else { panic!("{left:?}") };
    let seen = cluster.psql(
        "postgres",
        "SELECT pid || ' ' || backend_start FROM pg_stat_activity WHERE usename = 'app_user' AND datname = 'app'",
    );
    assert_eq!(format!("{} {}", one.pid, one.backend_start), seen);
    assert_eq!((one.user.as_str(), one.application.as_str(), &one.client), ("app_user", "gunicorn", &None));
    let all = Ours { applications: &[], roles: &[] };
    assert_eq!(sessions_left(&mut maintenance, "app", all).await.unwrap().len(), 3);
}

#[tokio::test]
async fn sessions_that_may_not_be_ended_are_named_and_stay() {
    let cluster = a_cluster_with_clients();
    let post = Post::at(&cluster).await;
    empty(&post.context(), SessionPolicy::Refuse, OURS).await.unwrap();
    let _writers = [idle_client(&cluster, "app_user", "app")];
    let refused = empty(&post.context(), SessionPolicy::Refuse, OURS).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "keep sessions out of database app: 1 session of app_user (gunicorn, from a socket) is left"
    );
    assert_eq!(sleepers(&cluster, "app_user", "app"), 1);
}

#[tokio::test]
async fn sessions_that_may_be_ended_are() {
    let cluster = a_cluster_with_clients();
    let post = Post::at(&cluster).await;
    let _writer = idle_client(&cluster, "app_user", "app");
    let _elsewhere = idle_client(&cluster, "app_user", "other");
    let _migrator = idle_client(&cluster, "migrator", "app");
    empty(&post.context(), SessionPolicy::End, OURS).await.unwrap();
    assert_eq!(sleepers(&cluster, "app_user", "app"), 0);
    assert_eq!((sleepers(&cluster, "app_user", "other"), sleepers(&cluster, "migrator", "app")), (1, 1));
}

#[tokio::test]
async fn sessions_that_come_back_again_and_again_are_named_in_the_end() {
    let cluster = a_cluster_with_clients();
    let post = Post::at(&cluster).await.within(Duration::from_secs(2));
    let _client = reconnecting_client(&cluster, "app_user", "app");
    wait_until("it is there", || sleepers(&cluster, "app_user", "app") == 1);
    let error = empty(&post.context(), SessionPolicy::End, OURS).await.unwrap_err();
    assert!(matches!(&error, FenceError::SessionsReturn { .. }), "{error}");
    assert!(error.to_string().ends_with("is left, though sessions were ended for 2s"), "{error}");
}
