//! What can go wrong in a reconcile. The variant's name is the reason of the condition and of the Event.

use brainy_coordination::bucket;

/// Why a reconcile ended early. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API server failed.
    #[error("the Kubernetes API: {}", words(.0))]
    KubernetesApi(#[source] Box<kube::Error>),
    /// An object of the needed name belongs to someone else.
    #[error("{kind} {name} {}", whose(.owner.as_deref()))]
    NameTaken {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Whose it is, if anybody's.
        owner: Option<String>,
    },
    /// An object of an earlier BrainyCluster of the same name has not been collected yet.
    #[error("{kind} {name} of an earlier BrainyCluster of this name is still there: waiting until it is gone")]
    EarlierRemains {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] crate::certificates::Error),
    /// A Secret of ours lacks what we wrote into it.
    #[error("Secret {name} lacks {key}: delete it, and it will be made anew")]
    DamagedSecret {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// A document of the cluster can't be read.
    #[error("{name} can't be read, and nothing is changed until it can: {source}")]
    DamagedDocument {
        /// Its name.
        name: String,
        /// What did not fit.
        source: serde_json::Error,
    },
    /// The store failed between two looks.
    #[error(transparent)]
    Storage(#[from] brainy_storage::Error),
    /// Someone else wrote a document first.
    #[error("{document} was changed by someone else in the meantime")]
    LostRace {
        /// Which.
        document: String,
    },
    /// Nobody knows whether a document was written.
    #[error("whether {document} was written is not known: {why}")]
    UnknownOutcome {
        /// Which.
        document: String,
        /// Why.
        why: String,
    },
    /// Another controller has taken over this cluster.
    #[error("another controller has taken over (epoch {theirs}, ours is {ours})")]
    Deposed {
        /// Our epoch.
        ours: u64,
        /// The one in the map.
        theirs: u64,
    },
    /// The bucket and prefix were given to another cluster since they were checked: the next check says so.
    #[error("{0}")]
    NotOurs(String),
    /// This process no longer leads.
    #[error("this operator no longer leads")]
    NotLeading,
    /// It took too long as a whole.
    #[error("no end within {0:?}")]
    TimedOut(std::time::Duration),
    /// The resource does not have the form that this version knows.
    #[error("the resource can't be read: {0}")]
    InvalidSpec(String),
}

impl Error {
    /// The stable word for conditions, Events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::KubernetesApi(_) => "KubernetesApi",
            Self::NameTaken { .. } => "NameTaken",
            Self::EarlierRemains { .. } => "EarlierRemains",
            Self::Certificate(_) => "Certificate",
            Self::DamagedSecret { .. } => "DamagedSecret",
            Self::DamagedDocument { .. } => "DamagedDocument",
            Self::Storage(_) => "Storage",
            Self::LostRace { .. } => "LostRace",
            Self::UnknownOutcome { .. } => "UnknownOutcome",
            Self::Deposed { .. } => "Deposed",
            Self::NotOurs(_) => "BucketInUse",
            Self::NotLeading => "NotLeading",
            Self::TimedOut(_) => "TimedOut",
            Self::InvalidSpec(_) => "InvalidSpec",
        }
    }

    /// Whether it is over by itself with the next look, and so no news to anybody.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::EarlierRemains { .. }
            | Self::LostRace { .. }
            | Self::UnknownOutcome { .. }
            | Self::Deposed { .. }
            | Self::NotOurs(_)
            | Self::NotLeading
            | Self::TimedOut(_) => true,
            // A conflict is a lost race; anything but an answer of the API server is a bad connection.
            Self::KubernetesApi(error) => match &**error {
                kube::Error::Api(status) => status.is_conflict() || status.code >= 500 || status.code == 429,
                _ => true,
            },
            _ => false,
        }
    }
}

impl From<bucket::Error> for Error {
    fn from(error: bucket::Error) -> Self {
        match error {
            bucket::Error::Storage(error) => Self::Storage(error),
            bucket::Error::DamagedDocument { name, source } => Self::DamagedDocument { name, source },
            bucket::Error::LostRace { document } => Self::LostRace { document },
            bucket::Error::UnknownOutcome { document, why } => Self::UnknownOutcome { document, why },
            bucket::Error::Deposed { ours, theirs } => Self::Deposed { ours: ours.0, theirs: theirs.0 },
            bucket::Error::NotOurs { .. } => Self::NotOurs(error.to_string()),
            bucket::Error::NotLeading => Self::NotLeading,
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::KubernetesApi(Box::new(error))
    }
}

fn whose(owner: Option<&str>) -> String {
    match owner {
        None => {
            "exists and does not belong to this BrainyCluster: delete it, or choose another name for the BrainyCluster"
                .to_owned()
        }
        Some(owner) => format!(
            "exists and belongs to {owner}: choose another name for this BrainyCluster, whose objects would have the same names"
        ),
    }
}

/// The API server's own words: kube's are a dump of the whole answer.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
