//! What makes a reconcile run: changes of BrainyClusters and of what belongs to them. All watches but the one on
//! BrainyClusters select by label, and keep marks, not objects: memory does not grow with what else a cluster holds.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use brainy_crds::BrainyCluster;
use brainy_kubernetes::names;
use futures::stream::{BoxStream, select_all};
use futures::{FutureExt, StreamExt, TryStreamExt, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{
    Action, Config, Error as ControllerError, ReconcileReason, ReconcileRequest, trigger_owners, trigger_self,
    trigger_with,
};
use kube::runtime::reflector::{ObjectRef, reflector, store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{Predicate, WatchStreamExt, applier, predicates};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::busy::busy;
use crate::context::Context;
use crate::machines::{self, ClusterName};
use crate::reconcile::{Error, reconcile};
use crate::shards::significant_hash;

/// A resource that can't be read stops nobody else's.
type Guarded = DeserializeGuard<BrainyCluster>;
type Triggers = BoxStream<'static, Result<ReconcileRequest<Guarded>, watcher::Error>>;

/// Objects that a watch lists at once when it begins: more would only take memory that is kept for nothing.
const PAGE: u32 = 100;
/// Clusters reconciled at once, per watched scope.
const AT_ONCE: u16 = 16;
/// Longest that one reconcile may take.
const LIMIT: Duration = Duration::from_secs(120);
/// First pause after a failed reconcile; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest wait for the first look at the machines.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// Time between looks at a resource that can't be read.
const UNREADABLE: Duration = Duration::from_secs(300);

/// Reconciles until it is dropped. Everything runs inside this one future: when it is dropped, nothing of it goes on.
/// `namespaces`: where; none: everywhere.
pub async fn run(context: Arc<Context>, client: Client, namespaces: Vec<String>) {
    let scopes: Vec<Option<String>> = match namespaces.is_empty() {
        true => vec![None],
        false => namespaces.into_iter().map(Some).collect(),
    };
    let machines = context.machines.clone();
    let watched = machines.watch(client.clone(), context.metrics.clone());
    let reconciled = async {
        machines.known(FIRST_LOOK).await;
        future::join_all(scopes.into_iter().map(|scope| run_scope(Arc::clone(&context), client.clone(), scope))).await
    };
    future::join(watched, reconciled).await;
}

async fn run_scope(context: Arc<Context>, client: Client, scope: Option<String>) {
    let (reader, writer) = store();
    let all = watcher::Config::default().page_size(PAGE);
    let clusters = watcher::watcher(api::<Guarded>(&client, scope.as_deref()), all);
    let forgetter = Arc::clone(&context);
    let clusters =
        reflector(writer, clusters).inspect_ok(move |event| forget_deleted(&forgetter, event)).default_backoff();
    // The status is ours: a change of it alone is no news.
    let changed = clusters.touched_objects().predicate_filter(
        predicates::generation.combine(predicates::finalizers).combine(predicates::annotations),
        kube::runtime::PredicateConfig::default(),
    );
    let watched = Scope { context: Arc::clone(&context), client, namespace: scope };
    let triggers: Vec<Triggers> = vec![
        trigger_self::<Guarded, _>(changed, ()).boxed(),
        watched.owned::<StatefulSet>(),
        watched.owned::<ConfigMap>(),
        watched.owned::<Service>(),
        watched.owned::<ServiceAccount>(),
        watched.owned::<Role>(),
        watched.owned::<RoleBinding>(),
        watched.owned::<PodDisruptionBudget>(),
        watched.owned::<NetworkPolicy>(),
        watched.labelled(pod_hash),
        watched.labelled(significant_hash),
        watched.machines(),
    ];
    let metrics = context.metrics.clone();
    applier(
        |cluster, context| reconcile_one(cluster, context).boxed(),
        // Never asked: a failure is dealt with where the cluster's memory is at hand.
        |_, never: &Infallible, _| match *never {},
        context,
        reader,
        select_all(triggers),
        Config::default().concurrency(AT_ONCE),
    )
    .for_each(|result| {
        match result {
            Ok(_) | Err(ControllerError::ObjectNotFound(_)) => {}
            Err(ControllerError::QueueError(error)) => {
                metrics.api_error("Watch");
                tracing::warn!(%error, "a watch failed; it goes on");
            }
            Err(error) => tracing::error!(%error, "the reconcile loop failed"),
        }
        future::ready(())
    })
    .await;
}

/// Where to watch.
struct Scope {
    context: Arc<Context>,
    client: Client,
    namespace: Option<String>,
}

impl Scope {
    /// Reconciles the owner of an object that changed, and notes the object's mark.
    fn owned<K>(&self) -> Triggers
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        let (seen, scope) = (self.context.seen.clone(), self.namespace.clone());
        let changed = watcher::watcher(api::<PartialObjectMeta<K>>(&self.client, scope.as_deref()), ours())
            .inspect_ok(move |event| seen.note(event, scope.as_deref()))
            .default_backoff()
            .touched_objects();
        trigger_owners::<Guarded, _>(changed, (), ()).boxed()
    }

    /// Reconciles the clusters with pods on a machine that is being emptied, or is no more.
    fn machines(&self) -> Triggers {
        let news = machines::within(self.context.machines.news(), self.namespace.clone());
        let request = |(namespace, name): ClusterName| {
            Ok(ReconcileRequest {
                obj_ref: ObjectRef::new(&name).within(&namespace),
                reason: ReconcileReason::Custom { reason: "a machine changed".into() },
            })
        };
        news.map(request).boxed()
    }

    /// Reconciles the cluster that an object's label names, when `hash` of the object changes.
    fn labelled<K>(&self, hash: impl Fn(&K) -> Option<u64> + Send + 'static) -> Triggers
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let changed = watcher::watcher(api::<K>(&self.client, self.namespace.as_deref()), ours())
            .default_backoff()
            .touched_objects()
            .predicate_filter(hash, kube::runtime::PredicateConfig::default());
        trigger_with(changed, |object: K| named_by_label(&object)).boxed()
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn ours() -> watcher::Config {
    let ours = format!("{}={}", names::MANAGED_BY_LABEL, names::MANAGED_BY);
    watcher::Config::default().labels(&ours).page_size(PAGE)
}

fn named_by_label<K: Resource>(object: &K) -> Option<ReconcileRequest<Guarded>> {
    let cluster = object.labels().get(names::CLUSTER_LABEL)?;
    Some(ReconcileRequest {
        obj_ref: ObjectRef::new(cluster).within(&object.namespace()?),
        reason: ReconcileReason::Custom { reason: "a node changed".into() },
    })
}

/// Changes when a pod becomes ready or unready, is replaced, restarts, or is about to go.
fn pod_hash(pod: &Pod) -> Option<u64> {
    let status = pod.status.as_ref();
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    let containers = status.into_iter().flat_map(|status| {
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
    });
    let restarts: i32 = containers.map(|container| container.restart_count).sum();
    let mut hasher = DefaultHasher::new();
    (pod.uid(), ready, restarts, pod.metadata.deletion_timestamp.is_some()).hash(&mut hasher);
    Some(hasher.finish())
}

fn forget_deleted(context: &Context, event: &Event<Guarded>) {
    if let Event::Delete(cluster) = event {
        context.forget(&cluster.uid().unwrap_or_default());
        let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
        context.metrics.forget(&namespace, &name);
        context.machines.forget(&(namespace, name));
    }
}

/// One reconcile, bounded, counted, with growing pauses after failures.
async fn reconcile_one(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Infallible> {
    if context.must_lead().is_err() {
        return Ok(Action::await_change());
    }
    let cluster = match &guarded.0 {
        Ok(cluster) => cluster,
        Err(invalid) => {
            tracing::warn!(name = guarded.name_any(), error = invalid.error, "a BrainyCluster can't be read");
            context.events.publish_invalid(&guarded.object_ref(&()), invalid.error.clone()).await;
            context.metrics.reconciled("InvalidSpec", Duration::ZERO, Duration::ZERO);
            return Ok(Action::requeue(UNREADABLE));
        }
    };
    let memory = context.memory(&cluster.uid().unwrap_or_default());
    let mut memory = memory.lock().await;
    let _running = context.metrics.reconciling();
    let began = context.clock.now();
    let bounded = tokio::time::timeout(LIMIT, reconcile(&context, cluster, &mut memory).boxed());
    let (outcome, worked) = busy(&*context.clock, bounded).await;
    let outcome = outcome.unwrap_or(Err(Error::TimedOut(LIMIT)));
    let took = context.clock.now().saturating_sub(began);
    context.metrics.reconciled(outcome.as_ref().map_or_else(Error::reason, |_| "success"), took, worked);
    Ok(Action::requeue(match outcome {
        Ok(again) => {
            memory.failures = 0;
            again
        }
        Err(error) => {
            if let Error::KubernetesApi(_) = &error {
                context.metrics.api_error("Call");
            }
            let pause = pause_after(memory.failures);
            memory.failures = memory.failures.saturating_add(1);
            tracing::warn!(name = cluster.name_any(), namespace = cluster.namespace(), reason = error.reason(), %error, ?pause, "reconcile failed");
            pause
        }
    }))
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, ready: &str, restarts: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "demo-0", "namespace": "team", "uid": uid, "labels": {"brainy.io/cluster": "demo"}},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"name": "sidecar", "image": "", "imageID": "", "ready": true, "restartCount": restarts}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_is_news_when_it_is_replaced_restarts_or_changes_its_readiness() {
        let first = pod_hash(&pod("a", "True", 0));
        assert_eq!(first, pod_hash(&pod("a", "True", 0)));
        for other in [pod("b", "True", 0), pod("a", "False", 0), pod("a", "True", 1)] {
            assert_ne!(first, pod_hash(&other));
        }
    }

    #[test]
    fn a_node_s_news_reconciles_the_cluster_that_its_label_names() {
        let request = named_by_label(&pod("a", "True", 0)).unwrap();
        assert_eq!((request.obj_ref.name.as_str(), request.obj_ref.namespace.as_deref()), ("demo", Some("team")));
        assert!(named_by_label(&Pod::default()).is_none());
    }

    #[test]
    fn a_resource_that_can_t_be_read_is_told_apart_and_stops_nobody() {
        let text = r#"{"apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster", "metadata": {"name": "bad"}, "spec": {"storage": 7}}"#;
        let guarded: Guarded = serde_json::from_str(text).unwrap();
        assert!(guarded.0.is_err());
        assert_eq!(guarded.name_any(), "bad");
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let pauses: Vec<u64> = (0..8).map(|failures| pause_after(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
