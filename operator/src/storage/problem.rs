//! Why storage can't be used, in a stable word and a sentence.

use brainy_crds::BucketSpec;
use brainy_storage::backends::s3::{ACCESS_KEY_ID_FILE, SECRET_ACCESS_KEY_FILE};

/// Why the storage can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A stable word: the reason of condition and Event.
    pub reason: String,
    /// A sentence, with the way out where there is one.
    pub message: String,
}

impl Problem {
    pub(super) fn new(reason: &str, message: String) -> Self {
        Self { reason: reason.to_owned(), message }
    }

    /// The Secret of the spec does not exist.
    pub fn secret_not_found(namespace: &str, name: &str) -> Self {
        Self::new(
            "SecretNotFound",
            format!(
                "Secret {namespace}/{name} does not exist: create it with the keys {ACCESS_KEY_ID_FILE} and {SECRET_ACCESS_KEY_FILE}"
            ),
        )
    }

    pub(super) fn secret_key_missing(namespace: &str, name: &str, key: &str) -> Self {
        Self::new(
            "SecretKeyMissing",
            format!(
                "Secret {namespace}/{name} has no key {key}: it needs {ACCESS_KEY_ID_FILE} and {SECRET_ACCESS_KEY_FILE}"
            ),
        )
    }

    pub(super) fn of(error: &brainy_storage::Error, bucket: &BucketSpec) -> Self {
        // The detail names the server.
        let name = &bucket.name;
        match error {
            brainy_storage::Error::Unavailable { cause, detail } => {
                Self::new(&word(cause), format!("bucket {name}: {detail}"))
            }
            other => Self::new("InvalidStorage", format!("bucket {name}: {other}")),
        }
    }
}

/// A cause as a condition's reason, which may hold letters and digits only.
pub(super) fn word(cause: &str) -> String {
    let letters: String = cause.chars().filter(char::is_ascii_alphanumeric).collect();
    if letters.starts_with(|c: char| c.is_ascii_alphabetic()) { letters } else { "StorageUnavailable".to_owned() }
}
