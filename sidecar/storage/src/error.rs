//! Clean failures: what went wrong, in words a user can act on. None of them has had an effect.

/// A read that gave no answer, or a write that certainly had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request itself can't be served: the field, and what is wrong with it.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// `increment` on a value that is no number.
    #[error("the value of key {key:?} is not a number: increment needs a JSON number, or no value")]
    NotANumber {
        /// The key.
        key: String,
    },
    /// What is stored can't be read back.
    #[error("the stored value of {key:?} is damaged: {problem}")]
    Corrupt {
        /// The key.
        key: String,
        /// What did not fit.
        problem: String,
    },
    /// The store refused or could not be reached. Trying again later may help.
    #[error("storage is unavailable: {cause}")]
    Unavailable {
        /// A short, stable word for the cause (`NoSuchBucket`, `AccessDenied`, `Unreachable`, `DiskFull`, ...).
        cause: String,
        /// The store's own words.
        detail: String,
    },
    /// Other writers won too many times in a row.
    #[error("key {key:?} is contended: gave up after {attempts} attempts")]
    Contended {
        /// The key.
        key: String,
        /// How many conditional writes lost.
        attempts: u32,
    },
}

/// Causes of an unavailable store that are known to pass: it was busy or restarting, or an answer was lost on its way.
const PASSING: [&str; 14] = [
    "BadAnswer",
    "Http429",
    "Http500",
    "Http502",
    "Http503",
    "Http504",
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "TimedOut",
    "TooManyRequests",
    "TornRead",
    "Unreachable",
];

impl Error {
    /// Whether the same read may well succeed a moment later. What a person has to mend (a bucket that is not there, wrong
    /// keys, a full disk) is not among it. It says nothing about writes: a write that failed has its own outcome.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable { cause, .. } if PASSING.contains(&cause.as_str()))
    }

    /// An invalid field.
    pub fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid { field, problem: problem.into() }
    }

    /// An unavailable store.
    pub fn unavailable(cause: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Unavailable { cause: cause.into(), detail: detail.into() }
    }
}

/// An error with its causes, in one line: of a connection's the outermost alone says only "client error (Connect)".
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
