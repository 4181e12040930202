//! Deployments of Kubernetes, scaled to no pod by kubectl and back to as many as there were.
//!
//! kubectl needs the rights to get deployments, to patch their scale, and to list pods.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::program;
use super::{Context, Deadline, FenceError, Undo};
use crate::settings::Deployment;

/// Between two looks at pods that are going.
const PAUSE: Duration = Duration::from_millis(500);

/// A deployment and what it was like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many pods it asked for.
    pub replicas: u32,
    /// kubectl's selector of its pods.
    pub pods: String,
}

/// What we read of a deployment (API `apps/v1`).
#[derive(Deserialize)]
struct Live {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    generation: i64,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default = "one")]
    replicas: u32,
    selector: Selector,
}

/// Kubernetes' own default.
fn one() -> u32 {
    1
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    replicas: u32,
    observed_generation: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Requirement>,
}

#[derive(Deserialize)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

impl Selector {
    /// As kubectl takes it; `None` when there is an operator that we do not know.
    fn for_kubectl(&self) -> Option<String> {
        let labels = self.match_labels.iter().map(|(key, value)| Some(format!("{key}={value}")));
        let expressions = self.match_expressions.iter().map(|Requirement { key, operator, values }| {
            let values = values.join(",");
            match operator.as_str() {
                "In" => Some(format!("{key} in ({values})")),
                "NotIn" => Some(format!("{key} notin ({values})")),
                "Exists" => Some(key.clone()),
                "DoesNotExist" => Some(format!("!{key}")),
                _ => None,
            }
        });
        let all = labels.chain(expressions).collect::<Option<Vec<_>>>()?;
        // An empty selector would mean every pod of the namespace.
        if all.is_empty() { None } else { Some(all.join(",")) }
    }
}

/// kubectl, for one cluster.
struct Kubectl<'a> {
    program: &'a str,
    cluster: Option<&'a str>,
    context: &'a Context<'a>,
    deadline: Deadline,
}

impl Kubectl<'_> {
    fn command(&self, namespace: &str, args: &[&str]) -> Result<Command, FenceError> {
        let mut command = program::command(self.program, self.context)?;
        if let Some(cluster) = self.cluster {
            command.args(["--context", cluster]);
        }
        command.args(["--namespace", namespace]).args(args);
        Ok(command)
    }

    async fn live(&self, namespace: &str, name: &str) -> Result<Live, FenceError> {
        let action = format!("read deployment {namespace}/{name}");
        let command = self.command(namespace, &["get", "deployment", name, "--output=json"])?;
        let text = program::answer(command, &action, self.deadline).await?;
        serde_json::from_str(&text).map_err(|_| unreadable(action, &text))
    }

    async fn scale(&self, to: &Scaled, replicas: u32) -> Result<(), FenceError> {
        let action = format!("scale deployment {}/{} to {replicas}", to.namespace, to.name);
        let replicas = format!("--replicas={replicas}");
        let command = self.command(&to.namespace, &["scale", "deployment", &to.name, &replicas])?;
        program::run(command, &action, self.deadline).await
    }

    /// How many pods are there, those that are being ended among them: they still write.
    async fn pods(&self, of: &Scaled) -> Result<usize, FenceError> {
        let action = format!("list the pods of deployment {}/{}", of.namespace, of.name);
        let selector = format!("--selector={}", of.pods);
        // Pods that have ended may be kept for ever.
        let running = "--field-selector=status.phase!=Succeeded,status.phase!=Failed";
        let command = self.command(&of.namespace, &["get", "pods", &selector, running, "--output=name"])?;
        Ok(program::answer(command, &action, self.deadline).await?.split_whitespace().count())
    }

    /// Waits until the controller has seen the new scale and no pod is left.
    async fn wait_until_gone(&self, deployment: &Scaled) -> Result<(), FenceError> {
        loop {
            let Live { metadata, status, .. } = self.live(&deployment.namespace, &deployment.name).await?;
            let pods = self.pods(deployment).await?;
            if status.observed_generation >= metadata.generation && status.replicas == 0 && pods == 0 {
                return Ok(());
            }
            if tokio::time::timeout_at(self.deadline.at, tokio::time::sleep(PAUSE)).await.is_err() {
                let left = if pods == 1 { "1 pod is".into() } else { format!("{pods} pods are") };
                let Scaled { namespace, name, .. } = deployment;
                let action =
                    format!("wait for the pods of deployment {namespace}/{name} to end, {left} left");
                return Err(self.deadline.timed_out(action));
            }
        }
    }
}

fn unreadable(action: String, answer: &str) -> FenceError {
    FenceError::Answer { action, answer: answer.chars().take(200).collect() }
}

/// Reads how many pods each deployment asks for.
pub(super) async fn look(
    program: &str,
    cluster: Option<&str>,
    deployments: &[Deployment],
    context: &Context<'_>,
) -> Result<Undo, FenceError> {
    let kubectl = Kubectl { program, cluster, context, deadline: context.deadline() };
    let mut found = Vec::new();
    for Deployment { namespace, name } in deployments {
        let live = kubectl.live(namespace, name).await?;
        let pods =
            live.spec.selector.for_kubectl().ok_or_else(|| {
                unreadable(format!("read the selector of deployment {namespace}/{name}"), "")
            })?;
        let (namespace, name) = (namespace.clone(), name.clone());
        found.push(Scaled { namespace, name, replicas: live.spec.replicas, pods });
    }
    let (kubectl, context) = (program.to_owned(), cluster.map(str::to_owned));
    Ok(Undo::KubectlScale { kubectl, context, deployments: found })
}

/// Scales all to none, then waits for each: their pods end at the same time.
pub(super) async fn raise(
    program: &str,
    cluster: Option<&str>,
    deployments: &[Scaled],
    context: &Context<'_>,
) -> Result<(), FenceError> {
    let kubectl = Kubectl { program, cluster, context, deadline: context.deadline() };
    for deployment in deployments.iter().filter(|deployment| deployment.replicas > 0) {
        kubectl.scale(deployment, 0).await?;
    }
    for deployment in deployments {
        kubectl.wait_until_gone(deployment).await?;
    }
    Ok(())
}

/// Scales back those that ask for another number of pods than they did.
pub(super) async fn release(
    program: &str,
    cluster: Option<&str>,
    deployments: &[Scaled],
    context: &Context<'_>,
) -> Result<(), FenceError> {
    let mut outcome = Ok(());
    for deployment in deployments {
        // One that cannot be put back must not keep the others down, so each has its own time.
        let kubectl = Kubectl { program, cluster, context, deadline: context.deadline() };
        let put_back = async {
            let live = kubectl.live(&deployment.namespace, &deployment.name).await?;
            match live.spec.replicas == deployment.replicas {
                true => Ok(()),
                false => kubectl.scale(deployment, deployment.replicas).await,
            }
        };
        outcome = outcome.and(put_back.await);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployment_is_read_as_the_api_writes_it() {
        let live: Live = serde_json::from_str(
            r#"{"kind": "Deployment", "metadata": {"generation": 3, "name": "api"},
                "spec": {"replicas": 2, "selector": {
                    "matchLabels": {"app": "api", "tier": "web"},
                    "matchExpressions": [
                        {"key": "a", "operator": "In", "values": ["x", "y"]},
                        {"key": "b", "operator": "NotIn", "values": ["z"]},
                        {"key": "c", "operator": "Exists"}, {"key": "d", "operator": "DoesNotExist"}]}},
                "status": {"replicas": 2, "observedGeneration": 3, "readyReplicas": 1}}"#,
        )
        .unwrap();
        assert_eq!((live.metadata.generation, live.spec.replicas), (3, 2));
        assert_eq!((live.status.observed_generation, live.status.replicas), (3, 2));
        let selector = live.spec.selector.for_kubectl();
        assert_eq!(selector.as_deref(), Some("app=api,tier=web,a in (x,y),b notin (z),c,!d"));
    }

    #[test]
    fn selector_that_means_every_pod_or_nothing_we_know_is_refused() {
        for selector in ["{}", r#"{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}"#] {
            assert!(
                serde_json::from_str::<Selector>(selector).unwrap().for_kubectl().is_none(),
                "{selector}"
            );
        }
    }
}
