//! In which zone each node is: the label of its pod, where Kubernetes copies it there (1.35 and newer), or else that of the
//! machine it runs on. Nodes with no zone that is known count as one more zone.

use std::collections::BTreeMap;

use brainy_coordination::NodeId;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt};

use super::PodFacts;

/// The label that pods and machines carry.
pub const LABEL: &str = "topology.kubernetes.io/zone";

/// The zones of the machines that were looked up. A machine does not change its zone.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<String, Option<String>>);

impl Memory {
    /// The zones of nodes, of those that run somewhere. One call for each machine that is new, and only of its metadata.
    pub(super) async fn of_nodes(&mut self, client: &Client, pods: &[PodFacts]) -> BTreeMap<NodeId, String> {
        let mut zones = BTreeMap::new();
        for pod in pods {
            let zone = match &pod.zone {
                Some(zone) => Some(zone.clone()),
                None if pod.host.is_empty() => None,
                None => self.of_machine(client, &pod.host).await,
            };
            if let Some(zone) = zone {
                zones.insert(pod.node.clone(), zone);
            }
        }
        self.0.retain(|host, _| pods.iter().any(|pod| pod.host == *host));
        zones
    }

    async fn of_machine(&mut self, client: &Client, host: &str) -> Option<String> {
        if let Some(known) = self.0.get(host) {
            return known.clone();
        }
        let machines: Api<Node> = Api::all(client.clone());
        match machines.get_metadata_opt(host).await {
            Ok(found) => {
                let zone = found.and_then(|machine| machine.labels().get(LABEL).cloned());
                self.0.insert(host.to_owned(), zone.clone());
                zone
            }
            // By choice: an operator of some namespaces only. Known not to be known.
            Err(kube::Error::Api(status)) if status.code == 403 => {
                tracing::info!(
                    host,
                    "the zone of a machine may not be read: shards are not spread by zones that pods do not carry"
                );
                self.0.insert(host.to_owned(), None);
                None
            }
            // Placement can do without; the next look asks again.
            Err(error) => {
                tracing::warn!(host, %error, "the zone of a machine can't be read");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::fake_api::{FakeApi, forbidding};

    #[tokio::test]
    async fn a_machine_that_may_not_be_read_is_asked_for_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (client, mut memory) = (forbidding(&asked), Memory::default());
        for _ in 0..3 {
            assert!(memory.of_nodes(&client, &[pod("a", "m1", None)]).await.is_empty());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    fn pod(node: &str, host: &str, zone: Option<&str>) -> PodFacts {
        PodFacts { node: NodeId(node.into()), host: host.into(), zone: zone.map(Into::into), ready: true }
    }

    #[tokio::test]
    async fn a_zone_is_the_pods_or_else_its_machines_and_is_looked_up_once() {
        let (api, mut memory) = (FakeApi::default(), Memory::default());
        api.insert("/api/v1/nodes/m1", &json!({"metadata": {"name": "m1", "labels": {LABEL: "west"}}}));
        api.insert("/api/v1/nodes/m2", &json!({"metadata": {"name": "m2"}}));
        let pods = [pod("a", "m1", None), pod("b", "m2", None), pod("c", "m2", Some("east")), pod("d", "", None)];
        let zones = memory.of_nodes(&api.client(), &pods).await;
        let expected = [("a", "west"), ("c", "east")].map(|(node, zone)| (NodeId(node.into()), zone.to_owned()));
        assert_eq!(zones, expected.into());
        api.remove("/api/v1/nodes/m1");
        assert_eq!(memory.of_nodes(&api.client(), &pods).await, zones);
    }
}
