//! This node's certificate and the authority it trusts: `ca.crt`, `tls.crt` and `tls.key` in one folder, read again
//! when they change, so that a renewed certificate needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why certificates can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can't be read.
    #[error("can't read {path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{file} holds no usable {what}: {problem}")]
    Malformed {
        /// Which file.
        file: &'static str,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The parts don't fit together.
    #[error("the certificate can't be used: {0}")]
    Unusable(String),
}

/// The certificates as they are now, for both directions.
#[derive(Clone, Debug)]
pub struct Identity {
    /// For those who call this node.
    pub server: Arc<ServerConfig>,
    /// For calling others.
    pub client: Arc<ClientConfig>,
}

/// The files as read: compared byte by byte, since a mounted Secret is replaced as a whole through a link.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Files {
    authority: Vec<u8>,
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// The certificates in a folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Certificates {
    folder: PathBuf,
    current: watch::Sender<Identity>,
}

impl Certificates {
    /// Reads them for the first time.
    pub fn load(folder: &Path) -> Result<(Self, Follower), CertificateError> {
        let files = Files::read(folder)?;
        let current = watch::Sender::new(files.identity()?);
        let certificates = Self { folder: folder.to_owned(), current };
        Ok((certificates.clone(), Follower { certificates, files }))
    }

    /// As they are now.
    pub fn current(&self) -> Identity {
        self.current.borrow().clone()
    }

    /// Notices every replacement.
    pub fn changes(&self) -> watch::Receiver<Identity> {
        self.current.subscribe()
    }
}

/// Keeps [`Certificates`] up to date.
#[derive(Debug)]
pub struct Follower {
    certificates: Certificates,
    files: Files,
}

impl Follower {
    /// Looks at the files again and again, for as long as it is polled.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.look() {
                Ok(true) => {
                    tracing::info!(folder = %self.certificates.folder.display(), "certificates renewed")
                }
                Ok(false) => {}
                // The files of a Secret may be seen half replaced: the old ones stay in use, the next look decides.
                Err(problem) => {
                    tracing::warn!(%problem, "certificates changed, but can't be used; keeping the old ones")
                }
            }
        }
    }

    /// Looks once. True: they changed. On an error the old ones stay.
    pub fn look(&mut self) -> Result<bool, CertificateError> {
        let files = Files::read(&self.certificates.folder)?;
        if files == self.files {
            return Ok(false);
        }
        self.certificates.current.send_replace(files.identity()?);
        self.files = files;
        Ok(true)
    }
}

impl Files {
    fn read(folder: &Path) -> Result<Self, CertificateError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| CertificateError::Unreadable { path, source })
        };
        Ok(Self { authority: read("ca.crt")?, chain: read("tls.crt")?, key: read("tls.key")? })
    }

    fn identity(&self) -> Result<Identity, CertificateError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates("ca.crt", &self.authority)? {
            roots.add(authority).map_err(unusable)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("tls.crt", &self.chain)?;
        let key = || {
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|problem| CertificateError::Malformed {
                file: "tls.key",
                what: "private key",
                problem: problem.to_string(),
            })
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(unusable)?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(unusable)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(unusable)?;
        Ok(Identity { server: Arc::new(server), client: Arc::new(client) })
    }
}

fn certificates(file: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let malformed = |problem: String| CertificateError::Malformed { file, what: "certificate", problem };
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|problem| malformed(problem.to_string()))?;
    if found.is_empty() { Err(malformed("there is none in it".into())) } else { Ok(found) }
}

fn unusable(problem: impl std::fmt::Display) -> CertificateError {
    CertificateError::Unusable(problem.to_string())
}
