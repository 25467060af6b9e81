//! What the nodes may do in Kubernetes: read the shard map of their cluster, and keep their own session. Nothing where both
//! are in a bucket or with the nodes, and a node is the controller.

use brainy_coordination::bucket::spec::Pattern;
use brainy_kubernetes::names;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::metadata;
use crate::reconcile::validate::{ValidatedCluster, ValidatedStorage};

pub(super) fn service_account(cluster: &ValidatedCluster) -> ServiceAccount {
    ServiceAccount { metadata: metadata(cluster, names::node_account(&cluster.name)), ..ServiceAccount::default() }
}

/// Every rule names its objects: a node can reach nothing of another cluster.
pub(super) fn role(cluster: &ValidatedCluster, sessions: i32) -> Role {
    let mut rules = Vec::new();
    if cluster.pattern == Pattern::Leader {
        rules.push(rule("", "configmaps", vec![names::shard_map(&cluster.name)], &["get", "list", "watch"]));
    }
    if matches!(cluster.storage, ValidatedStorage::Isolated) && cluster.pattern != Pattern::Consensus {
        let leases = cluster.layout.nodes(sessions).collect();
        rules.push(rule("coordination.k8s.io", "leases", leases, &["get", "patch"]));
    }
    // An empty list comes back from the API server as none, and would be written again and again.
    let rules = Some(rules).filter(|rules| !rules.is_empty());
    Role { metadata: metadata(cluster, names::node_account(&cluster.name)), rules }
}

pub(super) fn role_binding(cluster: &ValidatedCluster) -> RoleBinding {
    let name = names::node_account(&cluster.name);
    RoleBinding {
        metadata: metadata(cluster, name.clone()),
        role_ref: RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: "Role".into(), name: name.clone() },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name,
            namespace: Some(cluster.namespace.clone()),
            api_group: None,
        }]),
    }
}

fn rule(group: &str, resource: &str, names: Vec<String>, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(names),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        non_resource_urls: None,
    }
}
