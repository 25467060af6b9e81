//! A node's pod: the sidecar, and the application beside it.

use brainy_coordination::bucket::spec::Pattern;
use brainy_crds::{ApplicationSpec, DEFAULT_REGION, S3Access};
use brainy_kubernetes::names;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMap, ConfigMapProjection, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretKeySelector,
    SecretProjection, SecurityContext, Volume, VolumeMount, VolumeProjection, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use xxhash_rust::xxh3::xxh3_64;

use super::config::DATA;
use super::statefulset::DATA_VOLUME;
use super::{SidecarImage, labels, selector, zone_labels};
use crate::reconcile::validate::{ValidatedCluster, ValidatedRegions};
use crate::shards::ZONE_LABEL;

/// Annotation of the pod template: changes with the configuration, so that a change is rolled out.
pub const CONFIG_HASH_ANNOTATION: &str = "brainy.io/config-hash";
/// The user and group of both containers.
const USER: i64 = 65532;
/// Time for a drain before the kubelet kills, in seconds.
const GRACE_SECONDS: i64 = 60;
/// Files are readable by the owner and the pod's group alone.
const FILE_MODE: i32 = 0o440;

pub(super) fn template(
    cluster: &ValidatedCluster,
    sidecar: &SidecarImage,
    config: &ConfigMap,
    zone: Option<&str>,
) -> PodTemplateSpec {
    let mut all_labels = cluster.pod.labels.clone();
    all_labels.extend(labels(&cluster.name));
    all_labels.extend(zone_labels(zone));
    let mut annotations = cluster.pod.annotations.clone();
    annotations.insert(CONFIG_HASH_ANNOTATION.to_owned(), hash_of(config));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(all_labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(spec(cluster, sidecar, zone)),
    }
}

fn hash_of(config: &ConfigMap) -> String {
    // What else is in it reaches the nodes while they run.
    let own = |(key, _): &(&String, &String)| *key == names::NODE_CONFIG_KEY;
    let own = config.data.iter().flatten().filter(own);
    let text: String = own.map(|(key, value)| format!("{key}\n{value}\n")).collect();
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

fn spec(cluster: &ValidatedCluster, sidecar: &SidecarImage, zone: Option<&str>) -> PodSpec {
    // It holds beside whatever affinity the user wants: of the terms of an affinity one is enough.
    let mut node_selector = cluster.pod.node_selector.clone();
    node_selector.extend(zone.map(|zone| (ZONE_LABEL.to_owned(), zone.to_owned())));
    let own = sidecar_container(cluster, sidecar);
    let (init_containers, containers) = match &cluster.application {
        // A native sidecar: it is up before the application starts, and stops after it.
        Some(application) => {
            let own = Container { restart_policy: Some("Always".into()), ..own };
            (Some(vec![own]), vec![application_container(cluster, application)])
        }
        None => (None, vec![own]),
    };
    PodSpec {
        service_account_name: Some(names::node_account(&cluster.name)),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        init_containers,
        containers,
        volumes: Some(volumes(cluster)),
        affinity: Some(cluster.pod.affinity.clone().unwrap_or_else(|| spread_over_hosts(cluster))),
        tolerations: some(cluster.pod.tolerations.clone()),
        node_selector: (!node_selector.is_empty()).then_some(node_selector),
        priority_class_name: cluster.pod.priority_class_name.clone(),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // A volume of many files is not walked at every start.
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

fn sidecar_container(cluster: &ValidatedCluster, sidecar: &SidecarImage) -> Container {
    let mut mounts = vec![mount("config", "/etc/brainy", true), mount("run", "/run/brainy", false)];
    if cluster.volume.is_some() {
        mounts.push(mount(DATA_VOLUME, DATA, false));
    }
    Container {
        name: names::SIDECAR_CONTAINER.into(),
        image: Some(sidecar.image.clone()),
        image_pull_policy: Some(sidecar.pull_policy.clone()),
        command: Some(["/brainy-sidecar", "node", "--config", "/etc/brainy/node.yaml"].map(String::from).to_vec()),
        env: Some(sidecar_environment(cluster)),
        ports: Some(vec![ContainerPort {
            name: Some("peers".into()),
            container_port: i32::from(names::PEER_PORT),
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        volume_mounts: Some(mounts),
        startup_probe: Some(probe("/healthz", 1, 300)),
        readiness_probe: Some(probe("/readyz", 5, 2)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        resources: Some(cluster.pod.resources.clone().unwrap_or_else(modest_requests)),
        security_context: Some(SecurityContext { read_only_root_filesystem: Some(true), ..unprivileged() }),
        ..Container::default()
    }
}

fn sidecar_environment(cluster: &ValidatedCluster) -> Vec<EnvVar> {
    let mut variables = vec![
        downward("BRAINY_NODE_ID", "metadata.name"),
        downward("BRAINY_NAMESPACE", "metadata.namespace"),
        downward("BRAINY_POD_UID", "metadata.uid"),
        downward("BRAINY_POD_IP", "status.podIP"),
    ];
    if let Some(tracing) = &cluster.pod.tracing {
        let ratio = f64::from(tracing.sample_percent) / 100.0;
        let which = "service.namespace=$(BRAINY_NAMESPACE),service.instance.id=$(BRAINY_NODE_ID),\
            k8s.namespace.name=$(BRAINY_NAMESPACE),k8s.pod.name=$(BRAINY_NODE_ID)";
        variables.extend([
            plain("OTEL_EXPORTER_OTLP_ENDPOINT", tracing.endpoint.trim_end_matches('/')),
            plain("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            plain("OTEL_TRACES_SAMPLER_ARG", &ratio.to_string()),
            plain("OTEL_RESOURCE_ATTRIBUTES", which),
        ]);
    }
    variables
}

/// How an SDK of S3 finds it and its keys. What the user says of these variables is the user's.
fn s3_environment(cluster: &ValidatedCluster, application: &ApplicationSpec) -> Vec<EnvVar> {
    let Some(s3) = cluster.s3 else { return Vec::new() };
    let [id, secret] = match s3.access {
        S3Access::Keys => [
            from_secret("AWS_ACCESS_KEY_ID", names::s3_secret(&cluster.name), "accessKeyId"),
            from_secret("AWS_SECRET_ACCESS_KEY", names::s3_secret(&cluster.name), "secretAccessKey"),
        ],
        // They are not looked at, but an SDK wants some.
        S3Access::Anyone => [plain("AWS_ACCESS_KEY_ID", "anyone"), plain("AWS_SECRET_ACCESS_KEY", "anyone")],
    };
    let endpoint = format!("http://127.0.0.1:{}", names::S3_PORT);
    let ours = [plain("AWS_ENDPOINT_URL_S3", &endpoint), id, secret, plain("AWS_REGION", DEFAULT_REGION)];
    let is_theirs = |variable: &EnvVar| application.env.iter().any(|theirs| theirs.name == variable.name);
    ours.into_iter().filter(|variable| !is_theirs(variable)).collect()
}

fn application_container(cluster: &ValidatedCluster, application: &ApplicationSpec) -> Container {
    let theirs = application.env.iter().filter(|variable| !variable.name.starts_with("BRAINY_")).cloned();
    let ours = [
        plain("BRAINY_STORAGE_URL", &format!("http://127.0.0.1:{}", names::API_PORT)),
        plain("BRAINY_STORAGE_SOCKET", "/run/brainy/storage.sock"),
        downward("BRAINY_NODE_ID", "metadata.name"),
    ];
    Container {
        name: names::APPLICATION_CONTAINER.into(),
        image: Some(application.image.clone()),
        command: some(application.command.clone()),
        args: some(application.args.clone()),
        // Ours come first: `$(BRAINY_NODE_ID)` in a later value is expanded.
        env: Some(ours.into_iter().chain(s3_environment(cluster, application)).chain(theirs).collect()),
        resources: application.resources.clone(),
        volume_mounts: Some(vec![mount("run", "/run/brainy", false)]),
        security_context: Some(unprivileged()),
        ..Container::default()
    }
}

fn unprivileged() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}

fn modest_requests() -> ResourceRequirements {
    let amounts = [("cpu", "50m"), ("memory", "64Mi")];
    ResourceRequirements {
        requests: Some(amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.into()))).into()),
        ..ResourceRequirements::default()
    }
}

/// A command in the container would cost its machine a hundred times as much as a request.
fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(names::METRICS_PORT.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

fn downward(name: &str, field: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: field.into(), api_version: Some("v1".into()) }),
            ..EnvVarSource::default()
        }),
    }
}

fn from_secret(name: &str, secret: String, key: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: secret, key: key.into(), optional: None }),
            ..EnvVarSource::default()
        }),
    }
}

/// One volume for everything under `/etc/brainy`: what a node reads at one moment was written at one moment.
fn volumes(cluster: &ValidatedCluster) -> Vec<Volume> {
    let mut configured = vec![path(names::NODE_CONFIG_KEY, names::NODE_CONFIG_KEY)];
    if cluster.pattern == Pattern::Consensus {
        configured.push(path(names::CLUSTER_SPEC_KEY, names::CLUSTER_SPEC_KEY));
    }
    let mut sources = vec![
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: names::config(&cluster.name),
                items: Some(configured),
                optional: None,
            }),
            ..VolumeProjection::default()
        },
        secret(names::tls_secret(&cluster.name), "tls", &["ca.crt", "tls.crt", "tls.key"]),
    ];
    if let Some(bucket) = cluster.any_bucket()
        && let Some(name) = &bucket.credentials_secret
    {
        sources.push(secret(name.clone(), "credentials", &["accessKeyId", "secretAccessKey"]));
    }
    for region in cluster.regions.iter().flat_map(ValidatedRegions::others) {
        if let Some(name) = &region.bucket.credentials_secret {
            // A region whose keys are missing is away; that keeps no node from starting.
            sources.push(optional(secret(
                name.clone(),
                &format!("regions/{}", region.name),
                &["accessKeyId", "secretAccessKey"],
            )));
        }
    }
    if cluster.s3.is_some_and(|s3| s3.access == S3Access::Keys) {
        sources.push(secret(names::s3_secret(&cluster.name), "s3", &["accessKeyId", "secretAccessKey"]));
    }
    vec![
        Volume {
            name: "config".into(),
            projected: Some(ProjectedVolumeSource { default_mode: Some(FILE_MODE), sources: Some(sources) }),
            ..Volume::default()
        },
        Volume { name: "run".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
    ]
}

fn secret(name: String, folder: &str, keys: &[&str]) -> VolumeProjection {
    let items = keys.iter().map(|key| path(key, &format!("{folder}/{key}"))).collect();
    VolumeProjection {
        secret: Some(SecretProjection { name, items: Some(items), optional: None }),
        ..VolumeProjection::default()
    }
}

fn optional(source: VolumeProjection) -> VolumeProjection {
    VolumeProjection {
        secret: source.secret.map(|secret| SecretProjection { optional: Some(true), ..secret }),
        ..source
    }
}

fn path(key: &str, path: &str) -> KeyToPath {
    KeyToPath { key: key.into(), path: path.into(), mode: None }
}

/// Nodes of one cluster prefer different hosts.
fn spread_over_hosts(cluster: &ValidatedCluster) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(selector(cluster)),
        topology_key: "kubernetes.io/hostname".into(),
        ..PodAffinityTerm::default()
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: term,
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}
