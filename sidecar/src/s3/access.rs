//! Who may ask: whoever has the keys, or whoever reaches the listener.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3ErrorCode, S3Result, s3_error};
use tokio::time::Instant;

/// The file of a folder of keys that has the access key's id.
const ACCESS_KEY_ID: &str = "accessKeyId";
/// The file that has the secret access key.
const SECRET_ACCESS_KEY: &str = "secretAccessKey";
/// Keys in files are read anew after this time: a Secret that is mounted may change.
const REREAD_AFTER: Duration = Duration::from_secs(30);

/// Who may ask.
#[derive(Clone, Debug)]
pub enum Access {
    /// Whoever reaches the listener. Signatures are not looked at.
    Anyone,
    /// Whoever signs with these keys.
    Keys(Keys),
}

/// An access key. Cheap to clone; it shows its secret nowhere.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    /// Where they are read anew; `None`: they stay what they are.
    folder: Option<PathBuf>,
    last: Mutex<Read>,
}

#[derive(Clone)]
struct Read {
    id: String,
    secret: SecretKey,
    at: Instant,
}

impl Keys {
    /// A key with its secret.
    pub fn new(id: &str, secret: &str) -> Self {
        let last = Read { id: id.to_owned(), secret: secret.into(), at: Instant::now() };
        Self(Arc::new(Inner { folder: None, last: Mutex::new(last) }))
    }

    /// Those in a folder as a Secret is mounted: `accessKeyId` and `secretAccessKey`. They are read anew every half minute.
    pub fn load(folder: &Path) -> io::Result<Self> {
        let last = Mutex::new(read(folder)?);
        Ok(Self(Arc::new(Inner { folder: Some(folder.to_owned()), last })))
    }

    fn current(&self) -> Read {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &self.0.folder
            && last.at.elapsed() >= REREAD_AFTER
        {
            // Two small files of a mounted Secret, in memory: not worth a thread of their own.
            match read(folder) {
                Ok(read) => *last = read,
                Err(error) => {
                    tracing::warn!(%error, "the keys of S3 could not be read anew: those read before stay in force");
                    last.at = Instant::now();
                }
            }
        }
        last.clone()
    }
}

fn read(folder: &Path) -> io::Result<Read> {
    let file = |name| {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("can't read {}: {error}", path.display())))?;
        match text.trim() {
            "" => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is empty", path.display()))),
            text => Ok(text.to_owned()),
        }
    };
    // The two files may change between two reads; take only a pair that belongs together.
    let mut id = file(ACCESS_KEY_ID)?;
    loop {
        let secret = file(SECRET_ACCESS_KEY)?.into();
        let now = file(ACCESS_KEY_ID)?;
        if now == id {
            return Ok(Read { id, secret, at: Instant::now() });
        }
        id = now;
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Keys").field("id", &last.id).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let Read { id, secret, .. } = self.current();
        if access_key == id {
            Ok(secret)
        } else {
            Err(s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records."))
        }
    }
}

/// The error of a request that may not be made.
pub(super) fn denied(message: &'static str) -> s3s::S3Error {
    s3s::S3Error::with_message(S3ErrorCode::AccessDenied, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_folder_of_keys_is_read_anew_and_its_secret_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Keys::load(folder.path()).unwrap_err();
        assert!(missing.to_string().contains(ACCESS_KEY_ID), "{missing}");
        let write = |id: &str, secret: &str| {
            std::fs::write(folder.path().join(ACCESS_KEY_ID), id).unwrap();
            std::fs::write(folder.path().join(SECRET_ACCESS_KEY), secret).unwrap();
        };
        write("me\n", "hush-hush\n");
        let keys = Keys::load(folder.path()).unwrap();
        let secret = async |id: &str| keys.get_secret_key(id).await.ok().map(|secret| secret.expose().to_owned());
        assert_eq!(secret("me").await.as_deref(), Some("hush-hush"));
        assert_eq!(secret("you").await, None);
        let shown = format!("{:?}", Access::Keys(keys.clone()));
        assert!(shown.contains("me") && !shown.contains("hush"), "{shown}");
        write("you", "quiet");
        assert_eq!(secret("you").await, None, "each request would read files");
        tokio::time::advance(REREAD_AFTER).await;
        assert_eq!((secret("you").await.as_deref(), secret("me").await), (Some("quiet"), None));
        std::fs::remove_file(folder.path().join(ACCESS_KEY_ID)).unwrap();
        tokio::time::advance(REREAD_AFTER).await;
        assert_eq!(secret("you").await.as_deref(), Some("quiet"), "while there are no others");
    }
}
