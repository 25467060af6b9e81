//! The headless Service that names the nodes.

use brainy_kubernetes::names;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector_labels};
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
