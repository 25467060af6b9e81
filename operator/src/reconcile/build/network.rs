//! The headless Service that names the nodes, and the NetworkPolicy that says who reaches them.

use brainy_kubernetes::names;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector, selector_labels};
use crate::reconcile::validate::ValidatedCluster;

/// Nodes find each other before they are ready: a node hands shards over while it starts or stops.
pub(super) fn nodes_service(cluster: &ValidatedCluster) -> Service {
    Service {
        metadata: metadata(cluster, names::nodes_service(&cluster.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector_labels(&cluster.name)),
            ports: Some(vec![ServicePort {
                name: Some("peers".into()),
                port: i32::from(names::PEER_PORT),
                target_port: Some(IntOrString::String("peers".into())),
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Label of every namespace: its name.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Only the cluster's own pods and the operator (in `operator_namespace`) reach the port between nodes. All other ports stay as
/// they were: they are the application's, and metrics.
pub fn policy(cluster: &ValidatedCluster, operator_namespace: &str) -> NetworkPolicy {
    let labelled = |label: &str, value: &str| LabelSelector {
        match_labels: Some([(label.to_owned(), value.to_owned())].into()),
        ..LabelSelector::default()
    };
    let nodes = NetworkPolicyPeer { pod_selector: Some(selector(cluster)), ..NetworkPolicyPeer::default() };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labelled(NAMESPACE_LABEL, operator_namespace)),
        pod_selector: Some(labelled("app.kubernetes.io/name", names::MANAGED_BY)),
        ..NetworkPolicyPeer::default()
    };
    let peers = i32::from(names::PEER_PORT);
    let rest = [("TCP", 1, peers - 1), ("TCP", peers + 1, 65535), ("UDP", 1, 65535), ("SCTP", 1, 65535)];
    NetworkPolicy {
        metadata: metadata(cluster, cluster.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(cluster)),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: Some(vec![nodes, operator]),
                    ports: Some(vec![ports("TCP", peers, peers)]),
                },
                NetworkPolicyIngressRule {
                    from: None,
                    ports: Some(rest.map(|(protocol, first, last)| ports(protocol, first, last)).to_vec()),
                },
            ]),
            egress: None,
        }),
    }
}

fn ports(protocol: &str, first: i32, last: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.into()),
        port: Some(IntOrString::Int(first)),
        end_port: (last > first).then_some(last),
    }
}
