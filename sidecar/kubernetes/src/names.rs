//! Names of the objects that belong to a BrainyCluster, and the labels that select them.

/// Label on every object of a cluster: the BrainyCluster's name.
pub const CLUSTER_LABEL: &str = "brainy.io/cluster";
/// Label on every object the operator writes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const MANAGED_BY: &str = "brainy-operator";
/// Annotation of a node's Lease: its session record, as JSON.
pub const SESSION_ANNOTATION: &str = "brainy.io/session";
/// Key of the shard map in its ConfigMap.
pub const SHARD_MAP_KEY: &str = "shard-map.json";
/// Key of the node configuration in its ConfigMap.
pub const NODE_CONFIG_KEY: &str = "node.yaml";
/// Key, beside it, of what is wanted of the cluster (pattern Consensus). It changes without a restart of any node.
pub const CLUSTER_SPEC_KEY: &str = "cluster.json";
/// Annotation of the StatefulSet with pattern Consensus: the generation of the BrainyCluster with which the pattern began.
pub const CONSENSUS_SINCE_ANNOTATION: &str = "brainy.io/consensus-since";
/// Label of the StatefulSet of a zone and of its pods: the zone.
pub const ZONE_LABEL: &str = "brainy.io/zone";
/// Annotation of the StatefulSet of a zone: all zones that the cluster's nodes are dealt out to, in this order.
pub const ZONES_ANNOTATION: &str = "brainy.io/zones";
/// Port of the storage API on the pod's loopback.
pub const API_PORT: u16 = 7700;
/// Port of S3 on the pod's loopback.
pub const S3_PORT: u16 = 7780;
/// Port of the node-to-node listener (mutual TLS only).
pub const PEER_PORT: u16 = 7701;
/// Port of `/metrics`, `/healthz` and `/readyz` (no secrets, no access control).
pub const METRICS_PORT: u16 = 7702;
/// The sidecar's container.
pub const SIDECAR_CONTAINER: &str = "sidecar";
/// The application's container.
pub const APPLICATION_CONTAINER: &str = "application";

/// ConfigMap with the shard map.
pub fn shard_map(cluster: &str) -> String {
    format!("{cluster}-shard-map")
}

/// ConfigMap with the node configuration.
pub fn config(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// Headless Service of the nodes.
pub fn nodes_service(cluster: &str) -> String {
    format!("{cluster}-nodes")
}

/// ServiceAccount, Role and RoleBinding of the nodes.
pub fn node_account(cluster: &str) -> String {
    format!("{cluster}-node")
}

/// Secret with the cluster's certificate authority (read by the operator alone).
pub fn ca_secret(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// Secret with the nodes' certificate: `ca.crt`, `tls.crt`, `tls.key`.
pub fn tls_secret(cluster: &str) -> String {
    format!("{cluster}-node-tls")
}

/// Secret with the keys of S3, by which containers of the pod sign: `accessKeyId`, `secretAccessKey`.
pub fn s3_secret(cluster: &str) -> String {
    format!("{cluster}-s3")
}

/// The Issuer of cert-manager that signs only the cluster's authority, where the operator makes the issuers.
pub fn self_signed_issuer(cluster: &str) -> String {
    format!("{cluster}-self-signed")
}

/// The Issuer of cert-manager that signs the nodes' certificate, and the Certificate of its authority.
pub fn authority_issuer(cluster: &str) -> String {
    format!("{cluster}-authority")
}

/// Secret with that authority, written by cert-manager.
pub fn issued_authority_secret(cluster: &str) -> String {
    format!("{cluster}-authority-issued")
}

/// The Certificate of cert-manager that stands for the nodes' certificate.
pub fn node_certificate(cluster: &str) -> String {
    format!("{cluster}-node")
}

/// Secret that cert-manager writes the nodes' certificate to. Nodes are given it by [`tls_secret`].
pub fn issued_secret(cluster: &str) -> String {
    format!("{cluster}-node-issued")
}

/// A node's pod, and the Lease that is its session: by its StatefulSet, which is named like the cluster where that has no zones.
pub fn node(statefulset: &str, ordinal: i32) -> String {
    format!("{statefulset}-{ordinal}")
}

/// The name that a node's certificate is checked against.
pub fn node_dns(node: &str, cluster: &str, namespace: &str) -> String {
    format!("{node}.{}.{namespace}.svc", nodes_service(cluster))
}
