//! Which bucket, and as whom.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use tokio::time::Instant;

use crate::Error;
use crate::backends::objects::{Limits, Prefix};

/// File of the access key id in a folder of credentials.
pub const ACCESS_KEY_ID_FILE: &str = "accessKeyId";
/// File of the secret access key in a folder of credentials.
pub const SECRET_ACCESS_KEY_FILE: &str = "secretAccessKey";

/// How long keys read from files are used before the files are read again.
const REREAD_AFTER: Duration = Duration::from_secs(30);

/// Which bucket, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket's name.
    pub bucket: String,
    /// Before every object's name, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Region to sign for.
    pub region: String,
    /// Address of the server (`https://host[:port]`, `http://...`), for everything but AWS. Objects are then addressed
    /// by path (`https://host/bucket/object`), because few servers have a name per bucket.
    pub endpoint: Option<String>,
    /// As whom.
    pub credentials: Credentials,
    /// Time limits.
    pub limits: Limits,
}

/// As whom to speak to the store.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A folder with the files `accessKeyId` and `secretAccessKey`, as a mounted Secret. Read again every half minute,
    /// so that keys can be rotated, or mended, without a restart.
    Folder(PathBuf),
    /// These keys.
    Keys {
        /// Public part.
        access_key_id: String,
        /// Secret part.
        secret_access_key: String,
    },
    /// What the environment offers: variables, a pod's own identity, the machine's.
    Environment,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => f.debug_tuple("Folder").field(folder).finish(),
            Self::Keys { access_key_id, .. } => f.debug_tuple("Keys").field(access_key_id).finish(),
            Self::Environment => f.write_str("Environment"),
        }
    }
}

impl S3Settings {
    /// Settings for a bucket on AWS, region `us-east-1`, with what the environment offers.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            region: "us-east-1".to_owned(),
            endpoint: None,
            credentials: Credentials::Environment,
            limits: Limits::default(),
        }
    }

    /// Refuses what can't work, before anything is sent.
    pub fn check(&self) -> Result<(), Error> {
        if self.bucket.is_empty() {
            return Err(Error::invalid("bucket", "is empty"));
        }
        Prefix::check(&self.prefix)?;
        match &self.endpoint {
            Some(endpoint) if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") => {
                Err(Error::invalid("endpoint", format!("{endpoint:?} does not begin with http:// or https://")))
            }
            _ => Ok(()),
        }
    }

    /// The server in words, for messages.
    pub(super) fn server(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| format!("AWS S3 in {}", self.region))
    }
}

/// Keys in files that may change. How old they are is counted here, by a clock that nobody sets: the SDK's cache goes by the
/// time of day, and after that was set back it would keep keys that were taken away long ago.
#[derive(Debug)]
pub(super) struct KeyFiles {
    folder: PathBuf,
    last: Mutex<Option<(Instant, Keys)>>,
}

impl KeyFiles {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, last: Mutex::new(None) }
    }

    fn keys(&self) -> Result<Keys, String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((read, keys)) if read.elapsed() < REREAD_AFTER => Ok(keys.clone()),
            _ => {
                // Two small files of a mounted Secret, in memory: not worth a thread of their own.
                let keys = read_keys(&self.folder)?;
                *last = Some((Instant::now(), keys.clone()));
                Ok(keys)
            }
        }
    }
}

impl ProvideCredentials for KeyFiles {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.keys().map_err(CredentialsError::provider_error))
    }
}

fn read_keys(folder: &Path) -> Result<Keys, String> {
    let read = |name: &str| {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).map_err(|why| format!("{}: {why}", path.display()))?;
        match text.trim() {
            "" => Err(format!("{} is empty", path.display())),
            text => Ok(text.to_owned()),
        }
    };
    // The two files may change between two reads; take only a pair that belongs together.
    let mut id = read(ACCESS_KEY_ID_FILE)?;
    loop {
        let secret = read(SECRET_ACCESS_KEY_FILE)?;
        let now = read(ACCESS_KEY_ID_FILE)?;
        if now == id {
            return Ok(Keys::new(id, secret, None, None, "files"));
        }
        id = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keys_are_read_anew_after_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let write = |id: &str, secret: &str| {
            std::fs::write(folder.path().join(ACCESS_KEY_ID_FILE), id).unwrap();
            std::fs::write(folder.path().join(SECRET_ACCESS_KEY_FILE), secret).unwrap();
        };
        write("one\n", "secret-one\n");
        let files = KeyFiles::new(folder.path().to_owned());
        let keys = files.keys().unwrap();
        assert_eq!((keys.access_key_id(), keys.secret_access_key()), ("one", "secret-one"));
        write("two", "secret-two");
        assert_eq!(files.keys().unwrap().access_key_id(), "one", "each request would read files");
        tokio::time::advance(REREAD_AFTER).await;
        assert_eq!(files.keys().unwrap().secret_access_key(), "secret-two");
    }

    #[test]
    fn a_missing_or_empty_key_is_named_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_keys(folder.path()).unwrap_err().contains("accessKeyId"));
        std::fs::write(folder.path().join(ACCESS_KEY_ID_FILE), "one").unwrap();
        std::fs::write(folder.path().join(SECRET_ACCESS_KEY_FILE), " ").unwrap();
        assert!(read_keys(folder.path()).unwrap_err().contains("secretAccessKey is empty"));
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let mut settings = S3Settings::new("b");
        settings.credentials = Credentials::Keys { access_key_id: "id".into(), secret_access_key: "hidden".into() };
        assert!(!format!("{settings:?}").contains("hidden"));
    }

    #[test]
    fn settings_that_cant_work_are_refused() {
        let refused = |change: fn(&mut S3Settings)| {
            let mut settings = S3Settings::new("b");
            change(&mut settings);
            settings.check().unwrap_err()
        };
        S3Settings::new("b").check().unwrap();
        assert!(matches!(refused(|s| s.bucket.clear()), Error::Invalid { field: "bucket", .. }));
        assert!(matches!(refused(|s| s.prefix = "a/".into()), Error::Invalid { field: "prefix", .. }));
        assert!(matches!(refused(|s| s.endpoint = Some("host:1".into())), Error::Invalid { field: "endpoint", .. }));
    }
}
