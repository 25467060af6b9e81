//! Pattern Consensus: documents that the played nodes keep among them. What a write comes to decides production's own
//! [`State`]; whoever runs of the members votes at once, and the first of them leads. The operator asks the nodes as it always does, by
//! mutual TLS, by name and at their port: its process sees a hosts file in which each name is this test's own address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use brainy_coordination::consensus::membership::electorate;
use brainy_coordination::consensus::state::{State, Versioned, Write, Written};
use brainy_coordination::consensus::wire::{Answer, Ask, CONSENSUS_PATH, Question};
use brainy_coordination::{NodeId, names as paths};
use brainy_kubernetes::names;
use brainy_sidecar::peers::Certificates;
use brainy_storage::documents::{Document, DocumentVersion, Documents, Swap};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;

/// Nodes that a cluster may have in a test, in each zone and without.
const MOST_NODES: usize = 8;

/// Whether a process may have a hosts file of its own here.
pub(crate) static CAN_BE_PLAYED: LazyLock<bool> = LazyLock::new(|| {
    let tried = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).output();
    let can = tried.is_ok_and(|tried| tried.status.success());
    if !can {
        println!(
            "LEFT OUT: pattern Consensus; this machine does not let its users mount anything (unshare --user --mount)"
        );
    }
    can
});

/// All groups, by [the cluster](Question::cluster) that they are of. Nobody is answered any more when this is dropped.
pub(crate) struct Groups {
    shared: Arc<Shared>,
    address: Ipv4Addr,
    _server: JoinSet<()>,
}

struct Shared {
    client: Client,
    folder: PathBuf,
    groups: Mutex<HashMap<String, Arc<Group>>>,
}

impl Groups {
    /// Begins to answer.
    pub(crate) async fn start(client: Client, folder: &Path) -> Self {
        // Another test on this machine has another.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 102, high, low);
        let listener = TcpListener::bind(SocketAddr::from((address, names::PEER_PORT))).await.unwrap();
        let shared = Arc::new(Shared { client, folder: folder.to_owned(), groups: Mutex::default() });
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&shared)));
        Self { shared, address, _server: server }
    }

    /// The group of this cluster, which is founded by whoever asks first.
    pub(crate) fn of(&self, cluster: &str) -> Arc<Group> {
        Arc::clone(self.shared.groups().entry(cluster.to_owned()).or_default())
    }

    /// The newest group of the cluster with this UID.
    pub(crate) fn newest(&self, uid: &str) -> Option<Arc<Group>> {
        let groups = self.shared.groups();
        let since = |name: &String| name.strip_prefix(uid)?.strip_prefix('/')?.parse::<i64>().ok();
        let newest =
            groups.iter().filter_map(|(name, group)| Some((since(name)?, group))).max_by_key(|(since, _)| *since);
        newest.map(|(_, group)| Arc::clone(group))
    }

    /// A hosts file in which the nodes of `cluster` are found.
    pub(crate) fn hosts(&self, namespace: &str, cluster: &str, zones: &[&str]) -> PathBuf {
        let slots = || 0..MOST_NODES;
        let zoned = zones.iter().flat_map(|zone| slots().map(move |slot| format!("{cluster}-{zone}-{slot}")));
        let nodes = slots().map(|slot| format!("{cluster}-{slot}")).chain(zoned);
        let lines = nodes.map(|node| format!("{} {}\n", self.address, names::node_dns(&node, cluster, namespace)));
        let text = format!("127.0.0.1 localhost\n{}", lines.collect::<String>());
        let path = self.shared.folder.join(format!("{namespace}.hosts"));
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Shared {
    fn groups(&self) -> MutexGuard<'_, HashMap<String, Arc<Group>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the node whose name a caller used.
    async fn answer(&self, stream: TcpStream) -> Option<()> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
        let name = hello.client_hello().server_name()?.to_owned();
        let mut parts = name.split('.');
        let (node, _service, namespace) = (parts.next()?, parts.next()?, parts.next()?);
        let node = NodeId(node.to_owned());
        let config = self.certificates(namespace).await?;
        let stream = hello.into_stream(config).await.ok()?;
        let service = service_fn(|request| self.question(&node, request));
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok()
    }

    /// What the nodes of a namespace show and want to be shown, as its Secret has it now.
    async fn certificates(&self, namespace: &str) -> Option<Arc<tokio_rustls::rustls::ServerConfig>> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = secrets.get_opt(&names::tls_secret(crate::scenarios::NAME)).await.ok()??;
        let folder = tempfile::tempdir_in(&self.folder).ok()?;
        for (name, bytes) in secret.data? {
            std::fs::write(folder.path().join(name), bytes.0).ok()?;
        }
        let (certificates, _follower) = Certificates::load(folder.path()).ok()?;
        Some(certificates.current().server)
    }

    async fn question(&self, node: &NodeId, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let is_asked = request.uri().path() == CONSENSUS_PATH;
        let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let group = |question: &Question| self.groups().get(&question.cluster).cloned();
        let answer = match serde_json::from_slice::<Question>(&body) {
            Ok(question) if is_asked => match group(&question) {
                Some(group) => group.answer(node, question.ask),
                None => Answer::Refused("this node is of no such group".to_owned()),
            },
            _ => Answer::Refused("that is no question".to_owned()),
        };
        Ok(Response::new(Full::new(serde_json::to_vec(&answer).unwrap().into())))
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        connections.spawn(async move { shared.answer(stream).await });
        while connections.try_join_next().is_some() {}
    }
}

/// One group: its documents, and who is in it.
#[derive(Debug, Default)]
pub(crate) struct Group {
    inner: Mutex<Inner>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// Entries of the log so far.
    log: u64,
    running: BTreeSet<NodeId>,
    members: BTreeSet<NodeId>,
}

impl Inner {
    /// Who runs and is wanted is a member, who is not wanted is none as soon as others are; who is wanted and does not run stays one.
    fn settle(&mut self, wanted: &[NodeId]) {
        let wanted = electorate(wanted);
        let running = &self.running;
        self.members.extend(wanted.iter().filter(|node| running.contains(*node)).cloned());
        if self.members.iter().any(|node| wanted.contains(node)) {
            self.members.retain(|node| wanted.contains(node));
        }
    }

    /// Who leads, while a majority runs.
    fn leader(&self) -> Option<&NodeId> {
        let mut running = self.members.iter().filter(|node| self.running.contains(*node));
        let is_majority = running.clone().count() * 2 > self.members.len();
        running.next().filter(|_| is_majority)
    }

    fn swap(&mut self, write: Write) -> Written {
        self.log += 1;
        self.state.apply(write, self.log.to_string())
    }
}

impl Group {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told of each write.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// A node has started: `first` names those that found the group, where nothing says yet who is wanted.
    pub(crate) fn starts(&self, node: &NodeId, first: &[NodeId]) {
        let mut inner = self.inner();
        inner.running.insert(node.clone());
        let wanted = wanted(&inner.state).unwrap_or_else(|| first.to_vec());
        inner.settle(&wanted);
    }

    /// A node has stopped.
    pub(crate) fn stops(&self, node: &NodeId) {
        self.inner().running.remove(node);
    }

    /// As this node answers.
    fn answer(&self, node: &NodeId, ask: Ask) -> Answer {
        let mut inner = self.inner();
        let leader = inner.leader().cloned();
        if leader.as_ref() != Some(node) {
            return Answer::NotLeader { leader };
        }
        match ask {
            Ask::Members => Answer::Members(inner.members.iter().cloned().collect()),
            Ask::Learners => Answer::Members(Vec::new()),
            Ask::Read { name } => Answer::Document(inner.state.read(&name).cloned()),
            Ask::Names { prefix } => Answer::Names(inner.state.names(&prefix)),
            Ask::Swap(write) => {
                let written = inner.swap(write);
                if let Some(wanted) = wanted(&inner.state) {
                    inner.settle(&wanted);
                }
                self.changed.notify_waiters();
                Answer::Written(written)
            }
            _ => Answer::Refused("no operator asks that".to_owned()),
        }
    }

    /// Everything that they have agreed on.
    pub(crate) fn all(&self) -> BTreeMap<String, Bytes> {
        let inner = self.inner();
        let body = |name: &String| Bytes::from(inner.state.read(name).unwrap().body.clone());
        inner.state.names("").iter().map(|name| (name.clone(), body(name))).collect()
    }
}

/// The nodes that the spec wants.
fn wanted(state: &State) -> Option<Vec<NodeId>> {
    let spec: serde_json::Value = serde_json::from_str(&state.read(paths::SPEC)?.body).unwrap();
    Some(serde_json::from_value(spec["nodes"].clone()).unwrap())
}

/// As the group's own nodes have them.
#[async_trait]
impl Documents for Group {
    async fn read(&self, name: &str) -> Result<Option<Document>, brainy_storage::Error> {
        let document = |Versioned { version, body }: &Versioned| Document {
            body: body.clone().into(),
            version: DocumentVersion(version.clone()),
        };
        Ok(self.inner().state.read(name).map(document))
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&DocumentVersion>,
        body: Bytes,
    ) -> Result<Swap, brainy_storage::Error> {
        let body = String::from_utf8(body.to_vec()).unwrap();
        let write = Write { name: name.to_owned(), expected: expected.map(|version| version.0.clone()), body };
        let written = self.inner().swap(write);
        self.changed.notify_waiters();
        Ok(match written {
            Written::Applied(version) => Swap::Applied(DocumentVersion(version)),
            Written::Rejected | Written::Nothing => Swap::Rejected,
        })
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, brainy_storage::Error> {
        Ok(self.inner().state.names(prefix))
    }
}
