use serde_json::json;

use super::*;
use crate::fixtures::{cluster, in_regions, isolated, shared, zoned};
use crate::reconcile::dereference::{Dereferenced, Sets};
use crate::reconcile::validate::validate;
use crate::shards::ZONE_LABEL;

fn carried(nodes: i32) -> Carried {
    Carried {
        replicas: nodes,
        sessions: nodes,
        claim_templates: Vec::new(),
        volumes: BTreeSet::new(),
        placement: Policy { max_moves: Some(5), ..Policy::default() },
        consensus_since: None,
        accepted: None,
    }
}

fn since(cluster: &ValidatedCluster) -> Option<i64> {
    (cluster.pattern == brainy_coordination::bucket::spec::Pattern::Consensus).then_some(4)
}

fn built(cluster: &brainy_crds::BrainyCluster) -> KubernetesResources<Prepared> {
    let validated = validate(cluster).unwrap();
    let sidecar = SidecarImage { image: "brainy-sidecar:1".into(), pull_policy: "IfNotPresent".into() };
    build(&validated, &sidecar, &Carried { consensus_since: since(&validated), ..carried(validated.replicas) })
}

fn pod_of(resources: &KubernetesResources<Prepared>) -> k8s_openapi::api::core::v1::PodSpec {
    resources.statefulsets[0].spec.clone().unwrap().template.spec.unwrap()
}

#[test]
fn objects_of_an_isolated_cluster() {
    let resources = built(&isolated());
    insta::assert_yaml_snapshot!("isolated_statefulset", resources.statefulsets[0]);
    insta::assert_yaml_snapshot!("isolated_role", resources.role);
    insta::assert_yaml_snapshot!("isolated_role_binding", resources.role_binding);
    insta::assert_yaml_snapshot!("isolated_service", resources.service);
    insta::assert_yaml_snapshot!("isolated_config_map", resources.config_map);
    insta::assert_yaml_snapshot!("isolated_session", resources.sessions[2]);
    let budget = disruption_budget(&validate(&isolated()).unwrap(), 1);
    insta::assert_yaml_snapshot!("isolated_disruption_budget", budget);
}

#[test]
fn objects_of_a_shared_cluster_with_an_application() {
    let mut wish = shared();
    wish.spec.application = serde_json::from_value(json!({
        "image": "shop:1",
        "args": ["--node", "$(BRAINY_NODE_ID)"],
        "env": [{"name": "MODE", "value": "fast"}, {"name": "BRAINY_NODE_ID", "value": "forged"}],
    }))
    .unwrap();
    let resources = built(&wish);
    insta::assert_yaml_snapshot!("shared_statefulset", resources.statefulsets[0]);
    insta::assert_yaml_snapshot!("shared_role", resources.role);
    insta::assert_yaml_snapshot!("shared_config_map", resources.config_map);
    assert!(resources.sessions.is_empty(), "sessions lie in the bucket");
}

#[test]
fn s3_is_configured_and_its_keys_are_given_to_both_containers() {
    let mut wish = isolated();
    wish.spec.application = serde_json::from_value(json!({
        "image": "shop:1",
        "env": [{"name": "AWS_REGION", "value": "mars"}],
    }))
    .unwrap();
    let environment = |wish: &brainy_crds::BrainyCluster| {
        let pod = built(wish).statefulsets[0].spec.clone().unwrap().template.spec.unwrap();
        let all = pod.containers[0].env.clone().unwrap_or_default();
        all.into_iter().filter(|variable| variable.name.starts_with("AWS_")).collect::<Vec<_>>()
    };
    let config = |wish: &brainy_crds::BrainyCluster| node_config(&validate(wish).unwrap(), None).s3;
    assert_eq!((environment(&wish).len(), config(&wish)), (1, None), "only what is the user's");

    wish.spec.s3 = serde_json::from_value(json!({"enabled": true, "listPageSize": 0})).unwrap();
    let keys = Some("/etc/brainy/s3".into());
    assert_eq!(config(&wish), Some(brainy_kubernetes::config::S3Config { keys, list_page_size: 0 }));
    let given = environment(&wish);
    let names: Vec<&str> = given.iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!(names, ["AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"]);
    assert_eq!(given[0].value.as_deref(), Some("http://127.0.0.1:7780"));
    assert_eq!(given[3].value.as_deref(), Some("mars"), "what is the user's stays");
    let secret = given[2].value_from.clone().unwrap().secret_key_ref.unwrap();
    assert_eq!((secret.name.as_str(), secret.key.as_str()), (names::s3_secret("demo").as_str(), "secretAccessKey"));
    let volumes = built(&wish).statefulsets[0].spec.clone().unwrap().template.spec.unwrap().volumes.unwrap();
    let sources = volumes[0].projected.clone().unwrap().sources.unwrap();
    let mounted = sources.iter().filter_map(|source| source.secret.as_ref()).any(|secret| secret.name == "demo-s3");
    assert!(mounted, "{sources:?}");

    wish.spec.s3 = serde_json::from_value(json!({"enabled": true, "access": "Anyone"})).unwrap();
    assert_eq!(config(&wish), Some(brainy_kubernetes::config::S3Config { keys: None, list_page_size: 1000 }));
    assert!(environment(&wish).iter().all(|variable| variable.value_from.is_none()));
    wish.spec.s3 = serde_json::from_value(json!({"enabled": true, "listPageSize": -1})).unwrap();
    assert_eq!(validate(&wish).unwrap_err().field, "spec.s3.listPageSize");
    wish.spec.s3 = serde_json::from_value(json!({"enabled": false, "listPageSize": -1})).unwrap();
    assert_eq!(config(&wish), None);
}

#[test]
fn nodes_with_a_cold_tier_know_its_bucket_and_have_its_keys() {
    let mut wish = isolated();
    wish.spec.storage.tiering =
        serde_json::from_value(json!({"bucket": {"name": "cold", "prefix": "p", "credentialsSecret": "keys"}}))
            .unwrap();
    let resources = built(&wish);
    let text = &resources.config_map.data.as_ref().unwrap()[names::NODE_CONFIG_KEY];
    let config: brainy_kubernetes::config::NodeConfig = serde_yaml::from_str(text).unwrap();
    let brainy_kubernetes::config::StorageConfig::Isolated { tiering: Some(tiering), .. } = config.storage else {
        panic!("{text}")
    };
    assert_eq!((tiering.bucket.bucket.as_str(), tiering.bucket.prefix.as_str()), ("cold", "p"));
    let mounted = serde_json::to_string(&pod_of(&resources).volumes).unwrap();
    assert!(tiering.bucket.credentials.is_some() && mounted.contains("\"name\":\"keys\""), "{mounted}");
    assert_eq!(resources.role, built(&isolated()).role, "nodes need no more rights");
}

#[test]
fn nodes_in_a_region_know_the_others_and_have_the_keys_of_each() {
    let resources = built(&in_regions());
    let text = &resources.config_map.data.as_ref().unwrap()[names::NODE_CONFIG_KEY];
    let config: brainy_kubernetes::config::NodeConfig = serde_yaml::from_str(text).unwrap();
    let brainy_kubernetes::config::StorageConfig::Shared(own) = &config.storage else { panic!("{text}") };
    assert_eq!(
        (own.bucket.as_str(), own.credentials.as_deref()),
        ("data-us", Some("/etc/brainy/credentials".as_ref()))
    );
    let regions = config.regions.unwrap();
    assert_eq!((regions.own.as_str(), regions.home.as_str(), regions.all.len()), ("us", "eu", 2));
    let [eu, us] = &regions.all[..] else { panic!("{text}") };
    let bucket = eu.bucket.as_ref().unwrap();
    assert_eq!((bucket.bucket.as_str(), us.bucket.as_ref()), ("data-eu", None));
    assert_eq!(bucket.credentials.as_deref(), Some("/etc/brainy/regions/eu".as_ref()));
    let volumes = pod_of(&resources).volumes.unwrap();
    let sources = volumes[0].projected.clone().unwrap().sources.unwrap();
    let secret =
        |name: &str| sources.iter().filter_map(|source| source.secret.clone()).find(|secret| secret.name == name);
    let (own, other) = (secret("keys-us").unwrap(), secret("keys-eu").unwrap());
    assert_eq!((own.optional, other.optional), (None, Some(true)), "no node waits for the keys of another region");
    assert_eq!(other.items.unwrap()[0].path, "regions/eu/accessKeyId");
    assert_eq!(resources.role, built(&shared()).role, "nodes need no more rights");
}

#[test]
fn objects_of_a_cluster_in_zones() {
    let resources = built(&zoned());
    insta::assert_yaml_snapshot!("zoned_statefulsets", resources.statefulsets);
    let sessions: Vec<_> = resources.sessions.iter().map(|session| session.metadata.name.clone().unwrap()).collect();
    let nodes = ["demo-west-1a-0", "demo-west-1b-0", "demo-west-1c-0", "demo-west-1a-1", "demo-west-1b-1"];
    assert_eq!(sessions, nodes);
    assert_eq!(resources.role.rules.unwrap().pop().unwrap().resource_names.unwrap(), nodes);
    let without = built(&isolated());
    assert_eq!(resources.config_map, without.config_map, "a node is not told of zones");
    assert_eq!(resources.service, without.service, "nodes of all zones find each other by one name");
}

#[test]
fn a_node_of_a_zone_runs_nowhere_else_whatever_the_affinity() {
    let mut wish = zoned();
    wish.spec.pod = serde_json::from_value(json!({
        "nodeSelector": {"disk": "fast"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
            {"matchExpressions": [{"key": "b", "operator": "Exists"}]},
        ]}}},
        "labels": {names::ZONE_LABEL: "forged"},
    }))
    .unwrap();
    for (set, zone) in built(&wish).statefulsets.into_iter().zip(["west-1a", "west-1b", "west-1c"]) {
        let template = set.spec.unwrap().template;
        assert_eq!(template.metadata.unwrap().labels.unwrap()[names::ZONE_LABEL], zone);
        let pod = template.spec.unwrap();
        let selector = [("disk", "fast"), (ZONE_LABEL, zone)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(pod.node_selector, Some(selector.into()));
        assert_eq!(pod.affinity, wish.spec.pod.affinity);
    }
}

#[test]
fn members_of_the_nodes_group_are_spread_over_zones() {
    let mut wish = zoned();
    wish.spec.replicas = 9;
    wish.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
    let text = &built(&wish).config_map.data.unwrap()[names::CLUSTER_SPEC_KEY];
    let told: brainy_coordination::bucket::spec::ClusterSpec = serde_json::from_str(text).unwrap();
    let members = brainy_coordination::consensus::membership::electorate(&told.nodes);
    let of = |zone: &str| members.iter().filter(|node| node.0.contains(zone)).count();
    assert_eq!([of("-west-1a-"), of("-west-1b-"), of("-west-1c-")], [3, 2, 2]);
}

#[test]
fn sidecars_are_told_where_to_send_traces_only_where_that_is_asked_for() {
    let variables = |wish: &brainy_crds::BrainyCluster| {
        let sidecar = pod_of(&built(wish)).containers.remove(0);
        let all = sidecar.env.unwrap().into_iter();
        let told = all.filter(|variable| variable.name.starts_with("OTEL_"));
        told.map(|variable| (variable.name, variable.value.unwrap())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let mut wish = shared();
    assert_eq!(variables(&wish), std::collections::BTreeMap::new());
    wish.spec.pod.tracing =
        serde_json::from_value(json!({"endpoint": "http://collector:4318/", "samplePercent": 5})).unwrap();
    insta::assert_yaml_snapshot!("traced_environment", variables(&wish));
}

#[test]
fn another_pattern_restarts_no_pod_and_a_node_that_elects_the_controller_may_do_nothing_in_kubernetes() {
    let mut native = shared();
    native.spec.coordination.pattern = brainy_crds::Pattern::StorageNative;
    let (leader, native) = (built(&shared()), built(&native));
    assert_eq!(native.statefulsets, leader.statefulsets);
    assert_eq!(native.config_map, leader.config_map);
    assert_eq!(
        native.role.rules, None,
        "as the API server has an empty list: else every operator that begins writes it anew"
    );
}

#[test]
fn nodes_that_keep_the_map_among_them_need_nothing_of_kubernetes_and_hear_of_each_other_without_a_restart() {
    let consensus = |replicas| {
        let mut wish = isolated();
        wish.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
        wish.spec.replicas = replicas;
        built(&wish)
    };
    let (three, five) = (consensus(3), consensus(5));
    assert_eq!(three.role.rules, None);
    assert!(three.sessions.is_empty());
    let config = |built: &KubernetesResources<Prepared>| built.config_map.data.clone().unwrap();
    let told = |built| {
        serde_json::from_str::<brainy_coordination::bucket::spec::ClusterSpec>(&config(built)[names::CLUSTER_SPEC_KEY])
    };
    assert_eq!((told(&three).unwrap().nodes.len(), told(&five).unwrap().nodes.len()), (3, 5));
    assert_eq!(told(&three).unwrap().placement, carried(3).placement);
    let template = |built: &KubernetesResources<Prepared>| built.statefulsets[0].spec.clone().unwrap().template;
    assert_eq!(template(&three), template(&five));
    let mounted = serde_json::to_string(&pod_of(&three).volumes).unwrap();
    assert!(mounted.contains(names::CLUSTER_SPEC_KEY), "{mounted}");
    assert!(!config(&built(&isolated())).contains_key(names::CLUSTER_SPEC_KEY));
}

#[test]
fn who_keeps_the_map_shows_in_the_statefulset() {
    let mut wish = isolated();
    let found = |live: Vec<Option<StatefulSet>>| Dereferenced {
        cluster: isolated(),
        sets: Sets { layout: validate(&isolated()).unwrap().layout, live, others: Vec::new(), taken: Vec::new() },
        pods: Vec::new(),
        claims: crate::volumes::Claims::default(),
        credentials: None,
    };
    let live = |wish: &brainy_crds::BrainyCluster| built(wish).statefulsets.into_iter().map(Some).collect();
    assert_eq!(found(vec![None]).consensus_since(), None);
    assert_eq!(found(live(&wish)).consensus_since(), None);
    wish.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
    assert_eq!(found(live(&wish)).consensus_since(), Some(4));
}

#[test]
fn nodes_over_a_bucket_have_a_volume_for_their_log_and_nothing_else() {
    let mut wish = shared();
    assert_eq!(built(&wish).statefulsets.remove(0).spec.unwrap().volume_claim_templates, None);
    wish.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
    let resources = built(&wish);
    let claims = resources.statefulsets[0].spec.clone().unwrap().volume_claim_templates.unwrap();
    assert_eq!(claims.len(), 1);
    let mounts = pod_of(&resources).containers[0].volume_mounts.clone().unwrap();
    assert!(mounts.iter().any(|mount| mount.name == DATA_VOLUME && mount.mount_path == "/data"), "{mounts:?}");
    let config = serde_yaml::from_str::<brainy_kubernetes::NodeConfig>(
        &resources.config_map.data.unwrap()[names::NODE_CONFIG_KEY],
    );
    assert_eq!(config.unwrap().consensus.unwrap().since, 4);
}

#[test]
fn the_node_configuration_reads_back_as_what_the_sidecar_expects() {
    let mut consensus = shared();
    consensus.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
    for wish in [isolated(), shared(), consensus] {
        let validated = validate(&wish).unwrap();
        let config = node_config(&validated, since(&validated));
        let text = &built(&wish).config_map.data.unwrap()[names::NODE_CONFIG_KEY];
        assert_eq!(serde_yaml::from_str::<brainy_kubernetes::NodeConfig>(text).unwrap(), config);
    }
}

#[test]
fn every_object_belongs_to_the_cluster_by_uid_and_is_selected_by_label() {
    let resources = built(&isolated());
    let all = [
        &resources.service_account.metadata,
        &resources.role.metadata,
        &resources.role_binding.metadata,
        &resources.service.metadata,
        &resources.config_map.metadata,
        &resources.statefulsets[0].metadata,
        &disruption_budget(&validate(&isolated()).unwrap(), 1).metadata,
        &resources.sessions[0].metadata,
    ];
    for meta in all {
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.uid.as_str(), owner.controller), ("1111-2222", Some(true)));
        assert_eq!(meta.labels.as_ref().unwrap()[names::CLUSTER_LABEL], "demo");
        assert_eq!(meta.labels.as_ref().unwrap()[names::MANAGED_BY_LABEL], names::MANAGED_BY);
    }
}

#[test]
fn every_container_meets_the_restricted_pod_security_standard() {
    let mut wish = shared();
    wish.spec.application = serde_json::from_value(json!({"image": "shop:1"})).unwrap();
    let pod = pod_of(&built(&wish));
    let context = pod.security_context.clone().unwrap();
    assert_eq!(context.run_as_non_root, Some(true));
    assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let containers: Vec<_> = pod.containers.iter().chain(pod.init_containers.iter().flatten()).collect();
    assert_eq!(containers.len(), 2);
    for container in containers {
        let context = container.security_context.clone().unwrap();
        assert_eq!(context.allow_privilege_escalation, Some(false));
        assert_eq!(context.capabilities.unwrap().drop.unwrap(), ["ALL"]);
    }
}

#[test]
fn with_an_application_the_sidecar_is_a_native_sidecar_and_without_it_the_container() {
    let alone = pod_of(&built(&isolated()));
    assert!(alone.init_containers.is_none());
    assert_eq!(alone.containers[0].name, names::SIDECAR_CONTAINER);
    let mut wish = isolated();
    wish.spec.application = serde_json::from_value(json!({"image": "shop:1"})).unwrap();
    let beside = pod_of(&built(&wish));
    assert_eq!(beside.init_containers.unwrap()[0].restart_policy.as_deref(), Some("Always"));
    assert_eq!(beside.containers[0].name, names::APPLICATION_CONTAINER);
}

#[test]
fn a_changed_configuration_changes_the_template_and_an_equal_one_does_not() {
    let template = |wish: &brainy_crds::BrainyCluster| built(wish).statefulsets.remove(0).spec.unwrap().template;
    assert_eq!(template(&isolated()), template(&isolated()));
    let mut changed = isolated();
    changed.spec.coordination.lease.duration_seconds = 60;
    assert_ne!(template(&isolated()), template(&changed));
}

#[test]
fn a_user_s_labels_never_replace_the_ones_that_select_the_pods() {
    let spec = json!({"storage": {}, "pod": {"labels": {"brainy.io/cluster": "other", "team": "blue"}}});
    let labels =
        built(&cluster("demo", spec)).statefulsets.remove(0).spec.unwrap().template.metadata.unwrap().labels.unwrap();
    assert_eq!((labels[names::CLUSTER_LABEL].as_str(), labels["team"].as_str()), ("demo", "blue"));
}

#[test]
fn deleting_or_scaling_the_statefulset_deletes_no_volume_whatever_the_policy() {
    let mut wish = isolated();
    wish.spec.deletion_policy = brainy_crds::DeletionPolicy::Delete;
    let policy = built(&wish).statefulsets.remove(0).spec.unwrap().persistent_volume_claim_retention_policy.unwrap();
    assert_eq!((policy.when_deleted.as_deref(), policy.when_scaled.as_deref()), (Some("Retain"), Some("Retain")));
}

#[test]
fn the_live_claim_template_is_kept_because_it_can_t_be_changed() {
    let mut wish = isolated();
    wish.spec.storage.volume = serde_json::from_value(json!({"size": "5Gi"})).unwrap();
    let live = built(&isolated()).statefulsets.remove(0).spec.unwrap().volume_claim_templates.unwrap().remove(0);
    let carried = Carried { claim_templates: vec![Some(live.clone())], ..carried(3) };
    let sidecar = SidecarImage { image: "i".into(), pull_policy: "Never".into() };
    let mut again = build(&validate(&wish).unwrap(), &sidecar, &carried);
    assert_eq!(again.statefulsets.remove(0).spec.unwrap().volume_claim_templates.unwrap(), [live]);
}

#[test]
fn a_leaving_node_may_end_its_session_until_its_pod_is_gone() {
    let validated = validate(&isolated()).unwrap();
    let sidecar = SidecarImage { image: "i".into(), pull_policy: "Never".into() };
    let carried = Carried { sessions: 5, ..carried(3) };
    let leases = build(&validated, &sidecar, &carried).role.rules.unwrap().pop().unwrap().resource_names.unwrap();
    assert_eq!(leases, ["demo-0", "demo-1", "demo-2", "demo-3", "demo-4"]);
}

#[test]
fn a_network_policy_closes_the_port_between_nodes_to_others_and_no_other_port() {
    let policy = network_policy(&validate(&isolated()).unwrap(), "brainy-system");
    insta::assert_yaml_snapshot!("isolated_network_policy", policy);
    let ingress = policy.spec.unwrap().ingress.unwrap();
    let number = |port: Option<k8s_openapi::apimachinery::pkg::util::intstr::IntOrString>| match port {
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(number)) => number,
        other => panic!("{other:?}"),
    };
    let open: BTreeSet<i32> = ingress
        .into_iter()
        .filter(|rule| rule.from.is_none())
        .flat_map(|rule| rule.ports.unwrap())
        .filter(|ports| ports.protocol.as_deref() == Some("TCP"))
        .flat_map(|ports| {
            let first = number(ports.port);
            first..=ports.end_port.unwrap_or(first)
        })
        .collect();
    let closed: Vec<i32> = (1..=65535).filter(|port| !open.contains(port)).collect();
    assert_eq!(closed, [i32::from(names::PEER_PORT)]);
}
