//! A control plane without machines: etcd, kube-apiserver, kube-controller-manager and kwok as they are, on loopback, in a folder of
//! their own. What else a cluster has is [played](crate::nodes).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brainy_kubernetes::client::bounded;
use brainy_operator::identity::cert_manager::Certificate;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Config, Resource};
use rcgen::KeyPair;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::groups::Groups;
use crate::nodes::Nodes;
use crate::processes::{Process, free_port};
use crate::proxy::Guard;
use crate::store::{ACCESS_KEY_ID, SECRET_ACCESS_KEY, Store};

/// Where the operators' election Leases are.
pub(crate) const OPERATORS: &str = "operators";
/// Whoever has this may do everything.
pub(crate) const TOKEN: &str = "a-test";
/// In a spec: the bucket of its namespace.
pub(crate) const BUCKET: &str = "of-the-namespace";
/// In a spec: where that is, by one name or the other.
pub(crate) const ENDPOINTS: [&str; 2] = ["http://the-store", "http://the-same-store"];
/// Secrets of each namespace that has a bucket.
pub(crate) const KEYS: [&str; 2] = ["keys", "the-same-keys"];
/// Machines that kwok plays.
const MACHINES: usize = 4;
/// Of all controllers of Kubernetes those without which no pod, volume or namespace comes or goes.
const CONTROLLERS: &str = "statefulset-controller,garbage-collector-controller,namespace-controller,serviceaccount-controller,persistentvolumeclaim-protection-controller";
const LONGEST_START: Duration = Duration::from_secs(60);

/// One control plane. It ends when this is dropped.
pub(crate) struct ControlPlane {
    /// May do everything.
    pub(crate) client: Client,
    /// How it is reached.
    pub(crate) config: Config,
    /// What is played.
    pub(crate) nodes: Nodes,
    /// The buckets.
    pub(crate) store: Arc<Store>,
    /// What nodes keep among them.
    pub(crate) groups: Arc<Groups>,
    /// Before the folder, so that they have ended when it goes.
    processes: Vec<Process>,
    folder: TempDir,
}

impl ControlPlane {
    /// Starts one, with the CustomResourceDefinition of this workspace.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("brainy-control-plane-").tempdir().unwrap();
        let at = folder.path().to_owned();
        let port = free_port();
        let config = config(port);
        let mut processes = vec![etcd_and_api_server(&at, port)].into_iter().flatten().collect::<Vec<_>>();
        let client = bounded(&config).unwrap();
        until_it_answers(&client, &mut processes).await;
        create(&client, &custom_resource()).await;
        for name in [OPERATORS, "default"] {
            create(&client, &Namespace { metadata: named(name), ..Namespace::default() }).await;
        }
        create(&client, &storage_class()).await;
        for machine in machines() {
            create(&client, &Node { metadata: named(&machine), ..Node::default() }).await;
        }
        let kubeconfig = write_kubeconfig(&at, "admin", &format!("https://127.0.0.1:{port}"), Some(TOKEN));
        processes.push(controller_manager(&at, &kubeconfig));
        processes.push(kubelets(&at, &kubeconfig));
        let clusters: Api<brainy_crds::BrainyCluster> = Api::all(client.clone());
        until(async || clusters.list(&ListParams::default()).await.is_ok(), "serve BrainyClusters").await;
        let store = Arc::new(Store::start().await);
        let groups = Arc::new(Groups::start(client.clone(), &at).await);
        let nodes = Nodes::start(client.clone(), &config, machines(), Arc::clone(&store), Arc::clone(&groups));
        Self { client, config, nodes, store, groups, processes, folder }
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Has cert-manager run in it.
    pub(crate) async fn add_cert_manager(&mut self) {
        let printed = std::process::Command::new("cert-manager").arg("crds").output().unwrap_or_else(|error| {
            panic!("can't start cert-manager ({error}): e2e/cluster/tools.sh control-plane brings it")
        });
        for document in serde_yaml::Deserializer::from_slice(&printed.stdout) {
            if let Some(definition) = Option::<CustomResourceDefinition>::deserialize(document).unwrap() {
                create(&self.client, &definition).await;
            }
        }
        let args = [format!("--kubeconfig={}", self.folder().join("admin.kubeconfig").display())];
        let certificates: Api<Certificate> = Api::all(self.client.clone());
        until(async || certificates.list(&ListParams::default()).await.is_ok(), "serve cert-manager's kinds").await;
        self.processes.push(Process::start("cert-manager", self.folder.path(), "cert-manager", &args, &[]));
    }

    /// What the API server answers, which a machine with much to do may let wait for longer than the client does.
    pub(crate) async fn patiently<T>(&self, ask: impl AsyncFn() -> Result<T, kube::Error>) -> T {
        let began = Instant::now();
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => assert!(began.elapsed() < LONGEST_START, "the API server does not answer: {error}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Fails with its last words if any of it has ended.
    pub(crate) fn must_live(&mut self) {
        for process in &mut self.processes {
            assert!(!process.has_ended(), "a part of the control plane has ended:\n{}", process.last_words());
        }
    }

    /// A namespace of its own for a test.
    pub(crate) async fn namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = Namespace { metadata: named(name), ..Namespace::default() };
        self.patiently(async || there(namespaces.create(&PostParams::default(), &namespace).await)).await;
    }

    /// A bucket of the namespace's name, and two Secrets with its keys. `guard`: by whom what is asked of it passes.
    pub(crate) async fn bucket(&self, namespace: &str, guard: Guard) {
        self.store.add(namespace, guard);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let keys = BTreeMap::from([
            ("accessKeyId".to_owned(), ACCESS_KEY_ID.to_owned()),
            ("secretAccessKey".to_owned(), SECRET_ACCESS_KEY.to_owned()),
        ]);
        for name in KEYS {
            let secret = Secret { metadata: named(name), string_data: Some(keys.clone()), ..Secret::default() };
            self.patiently(async || there(secrets.create(&PostParams::default(), &secret).await)).await;
        }
    }

    /// A spec as it is asked for in this namespace: [`BUCKET`] and [`ENDPOINTS`] stand for its bucket.
    pub(crate) fn in_namespace(&self, spec: &Value, namespace: &str) -> Value {
        let [one, other] = self.store.endpoints();
        let words = [(BUCKET, namespace), (ENDPOINTS[0], &one), (ENDPOINTS[1], &other)];
        let text = words.iter().fold(spec.to_string(), |text, (word, meant)| {
            text.replace(&format!("\"{word}\""), &format!("\"{meant}\""))
        });
        serde_json::from_str(&text).unwrap()
    }
}

/// A kubeconfig `<folder>/<name>.kubeconfig`.
pub(crate) fn write_kubeconfig(folder: &Path, name: &str, server: &str, token: Option<&str>) -> PathBuf {
    let mut text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: it\ncontexts: [{{name: it, context: {{cluster: it, user: it}}}}]\n\
         clusters: [{{name: it, cluster: {{server: \"{server}\", insecure-skip-tls-verify: {}}}}}]\n",
        server.starts_with("https")
    );
    let user = token.map_or_else(|| "{}".to_owned(), |token| format!("{{token: {token}}}"));
    writeln!(text, "users: [{{name: it, user: {user}}}]").unwrap();
    let path = folder.join(format!("{name}.kubeconfig"));
    std::fs::write(&path, text).unwrap();
    path
}

fn config(port: u16) -> Config {
    let mut config = Config::new(format!("https://127.0.0.1:{port}").parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(TOKEN.to_owned().into());
    config
}

fn etcd_and_api_server(folder: &Path, port: u16) -> [Process; 2] {
    let (clients, peers) = (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
    let keys = KeyPair::generate().unwrap();
    std::fs::write(folder.join("accounts.key"), keys.serialize_pem()).unwrap();
    std::fs::write(folder.join("accounts.pub"), keys.public_key_pem()).unwrap();
    std::fs::write(folder.join("tokens.csv"), format!("{TOKEN},admin,admin,\"system:masters\"\n")).unwrap();
    let etcd = [
        "--data-dir=etcd".to_owned(),
        // What is in it is of no use after the test.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
        "--quota-backend-bytes=8589934592".into(),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
    ];
    let api_server = [
        format!("--etcd-servers={clients}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".into(),
        "--cert-dir=certificates".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--service-account-key-file=accounts.pub".into(),
        "--service-account-signing-key-file=accounts.key".into(),
        "--service-cluster-ip-range=10.0.0.0/16".into(),
        "--authorization-mode=RBAC".into(),
        "--token-auth-file=tokens.csv".into(),
        // Nobody here is to wait for another's turn.
        "--enable-priority-and-fairness=false".into(),
        "--max-requests-inflight=0".into(),
        "--max-mutating-requests-inflight=0".into(),
    ];
    let start = |name: &str, args: &[String]| Process::start(name, folder, name, args, &[]);
    [start("etcd", &etcd), start("kube-apiserver", &api_server)]
}

fn controller_manager(folder: &Path, kubeconfig: &Path) -> Process {
    let args = [
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--controllers={CONTROLLERS}"),
        "--leader-elect=false".into(),
        "--secure-port=0".into(),
        "--kube-api-qps=1000".into(),
        "--kube-api-burst=2000".into(),
        "--concurrent-statefulset-syncs=20".into(),
    ];
    Process::start("kube-controller-manager", folder, "kube-controller-manager", &args, &[])
}

fn kubelets(folder: &Path, kubeconfig: &Path) -> Process {
    let stages = folder.join("kubelet.yaml");
    std::fs::write(&stages, include_str!("kubelet.yaml")).unwrap();
    let args = [
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--config={}", stages.display()),
        "--manage-all-nodes".into(),
    ];
    Process::start("kwok", folder, "kwok", &args, &[])
}

async fn until_it_answers(client: &Client, processes: &mut [Process]) {
    let began = Instant::now();
    let ready = || hyper::Request::get("/readyz").body(Vec::new()).unwrap();
    while client.request_text(ready()).await.is_err() {
        for process in processes.iter_mut() {
            assert!(!process.has_ended(), "a part of the control plane has ended:\n{}", process.last_words());
        }
        assert!(began.elapsed() < LONGEST_START, "the API server does not start:\n{}", processes[1].last_words());
        sleep(Duration::from_millis(100)).await;
    }
}

/// Until the API server does this.
async fn until(does: impl AsyncFn() -> bool, what: &str) {
    let began = Instant::now();
    while !does().await {
        assert!(began.elapsed() < LONGEST_START, "the API server does not {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Creates an object without namespace, unless it is there.
async fn create<K>(client: &Client, object: &K)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
    K: Resource<Scope = k8s_openapi::ClusterResourceScope>,
{
    let created = Api::<K>::all(client.clone()).create(&PostParams::default(), object).await;
    there(created).unwrap_or_else(|error| panic!("can't create {object:?}: {error}"));
}

/// Created just now, or by an attempt whose answer was lost.
fn there<K>(created: Result<K, kube::Error>) -> Result<(), kube::Error> {
    match created {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

fn custom_resource() -> CustomResourceDefinition {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crds/brainyclusters.brainy.io.yaml");
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn storage_class() -> StorageClass {
    serde_json::from_value(json!({
        "metadata": {"name": "played", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "brainy.io/played",
        "allowVolumeExpansion": true,
    }))
    .unwrap()
}

fn machines() -> Vec<String> {
    (0..MACHINES).map(|machine| format!("machine-{machine}")).collect()
}

fn named(name: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta { name: Some(name.to_owned()), ..Default::default() }
}
