//! Deployments of Kubernetes that have no pod for a while.

use std::time::{Duration, Instant};

use belay::fence::{FenceError, Undo, look, raise, release};
use belay::settings::{FenceKind, FenceSettings};

use super::{Post, chain, fence, journalled};
use crate::world::FakeKubectl;

fn deployments(names: &[&str], context: Option<&str>) -> FenceSettings {
    fence(FenceKind::KubectlScale {
        deployments: names.iter().map(|name| format!("cronos/{name}").parse().unwrap()).collect(),
        context: context.map(String::from),
        kubectl: "kubectl".into(),
    })
}

async fn a_post_with(kubectl: &FakeKubectl) -> Post {
    let post = Post::without_a_server().await;
    Post { search_path: format!("{}:{}", kubectl.directory().display(), post.search_path), ..post }
}

#[tokio::test]
async fn deployments_are_scaled_to_none_and_back_to_what_they_were() {
    let kubectl = FakeKubectl::with(&[("api", 3), ("worker", 1), ("cron", 0)]);
    kubectl.set("worker", "slow", 2);
    let post = a_post_with(&kubectl).await;
    let fence = deployments(&["api", "worker", "cron"], Some("prod"));

    let undo = look(&fence, &post.context()).await.unwrap();
    assert_eq!((kubectl.get("api", "replicas"), kubectl.calls("scale")), (3, 0));

    raise(&fence, &undo, &post.context()).await.unwrap();
    for name in ["api", "worker", "cron"] {
        assert_eq!((kubectl.get(name, "replicas"), kubectl.get(name, "pods")), (0, 0), "{name}");
    }
    assert_eq!(kubectl.calls("scale"), 2);
    // A pod that is being ended still writes: it was looked for until it was gone.
    assert_eq!(kubectl.calls("get pods --selector=app=worker"), 3);

    release(&journalled(&undo), &post.context()).await.unwrap();
    assert_eq!(["api", "worker", "cron"].map(|name| kubectl.get(name, "replicas")), [3, 1, 0]);
    assert_eq!(kubectl.calls("scale"), 4);
    release(&journalled(&undo), &post.context()).await.unwrap();
    assert_eq!(kubectl.calls("scale"), 4, "what is as it was is left alone");
    assert_eq!(kubectl.calls(""), kubectl.calls("--context prod --namespace cronos"));
}

#[tokio::test]
async fn what_was_scaled_before_a_failure_is_put_back() {
    let kubectl = FakeKubectl::with(&[("api", 3), ("worker", 2)]);
    let post = a_post_with(&kubectl).await;
    let fence = deployments(&["api", "worker"], None);
    let undo = look(&fence, &post.context()).await.unwrap();
    kubectl.refuse("worker", true);
    let failed = raise(&fence, &undo, &post.context()).await.unwrap_err();
    assert_eq!(
        chain(&failed),
        "scale deployment cronos/worker to 0: kubectl exited with status 1: Error from server (Forbidden): \
         deployments.apps \"worker\" is forbidden"
    );
    assert_eq!((kubectl.get("api", "replicas"), kubectl.get("worker", "replicas")), (0, 2));
    release(&undo, &post.context()).await.unwrap();
    assert_eq!((kubectl.get("api", "replicas"), kubectl.get("worker", "replicas")), (3, 2));
}

#[tokio::test]
async fn a_deployment_that_cannot_be_put_back_does_not_keep_the_others_down() {
    let kubectl = FakeKubectl::with(&[("api", 3), ("worker", 2)]);
    let post = a_post_with(&kubectl).await;
    let fence = deployments(&["api", "worker"], None);
    let undo = look(&fence, &post.context()).await.unwrap();
    raise(&fence, &undo, &post.context()).await.unwrap();
    kubectl.refuse("api", true);
    let failed = release(&undo, &post.context()).await.unwrap_err();
    assert!(failed.to_string() == "scale deployment cronos/api to 3", "{failed}");
    assert_eq!((kubectl.get("api", "replicas"), kubectl.get("worker", "replicas")), (0, 2));
    kubectl.refuse("api", false);
    release(&undo, &post.context()).await.unwrap();
    assert_eq!(kubectl.get("api", "replicas"), 3);
}

#[tokio::test]
async fn a_kubectl_that_hangs_is_given_up() {
    let kubectl = FakeKubectl::with(&[("api", 3)]);
    let post = a_post_with(&kubectl).await;
    let fence = deployments(&["api"], None);
    let undo = look(&fence, &post.context()).await.unwrap();
    kubectl.hang(true);
    let post = post.within(Duration::from_millis(500));
    let began = Instant::now();
    let failed = raise(&fence, &undo, &post.context()).await.unwrap_err();
    assert_eq!(failed.to_string(), "scale deployment cronos/api to 0: not done within 500ms");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    kubectl.hang(false);
    let post = post.within(Duration::from_secs(30));
    release(&undo, &post.context()).await.unwrap();
    assert_eq!(kubectl.get("api", "replicas"), 3);
}

#[tokio::test]
async fn pods_that_do_not_end_are_counted() {
    let kubectl = FakeKubectl::with(&[("api", 2)]);
    kubectl.set("api", "slow", 1000);
    let post = a_post_with(&kubectl).await.within(Duration::from_secs(2));
    let fence = deployments(&["api"], None);
    let undo = look(&fence, &post.context()).await.unwrap();
    let failed = raise(&fence, &undo, &post.context()).await.unwrap_err();
    assert!(matches!(failed, FenceError::TimedOut { .. }), "{failed}");
    assert_eq!(
        failed.to_string(),
        "wait for the pods of deployment cronos/api to end, 2 pods are left: not done within 2s"
    );
}

#[tokio::test]
async fn a_missing_deployment_and_a_missing_kubectl_are_found_at_the_look() {
    let kubectl = FakeKubectl::with(&[("api", 2)]);
    let post = a_post_with(&kubectl).await;
    let failed = look(&deployments(&["api", "gone"], None), &post.context()).await.unwrap_err();
    assert!(chain(&failed).contains("deployments.apps \"gone\" not found"), "{}", chain(&failed));
    let elsewhere = Post { search_path: "/no/such".into(), ..post };
    let failed = look(&deployments(&["api"], None), &elsewhere.context()).await.unwrap_err();
    assert_eq!(failed.to_string(), "find kubectl: there is no such program on the path");
}

#[test]
fn the_undo_list_in_a_journal_keeps_its_form() {
    let journal = r#"{"kind":"kubectl-scale","kubectl":"kubectl","context":null,"deployments":[{"namespace":"cronos","name":"api","replicas":3,"pods":"app=api"}]}"#;
    let undo: Undo = serde_json::from_str(journal).unwrap();
    assert_eq!(serde_json::to_string(&undo).unwrap(), journal);
}
