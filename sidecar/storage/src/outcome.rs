//! Three outcomes of a write: applied, rejected, unknown. A fourth, `Err`, is a clean failure: nothing was written.

use crate::{Entry, Error};

/// What became of a write whose request was well-formed and reached the store.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a write that was rejected or is unknown must not be taken for success"]
pub enum Outcome<T> {
    /// It took effect, durably.
    Applied(T),
    /// Its condition did not hold; nothing was written. Carries what stands there now (`None`: nothing).
    Rejected(Option<Entry>),
    /// It may or may not have taken effect, or may yet.
    Unknown(Unknown),
}

/// Why an outcome can't be known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("outcome unknown: {0}")]
pub struct Unknown(pub String);

/// `Err` is a clean failure: it is certain that nothing was written.
pub type WriteResult<T> = Result<Outcome<T>, Error>;

/// Who was to write broke off, and nobody knows how far it came.
pub(crate) fn interrupted<T>() -> WriteResult<T> {
    Ok(Outcome::Unknown(Unknown("the write was interrupted".to_owned())))
}

impl<T> Outcome<T> {
    /// Changes the value of an applied outcome.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Applied(value) => Outcome::Applied(f(value)),
            Self::Rejected(current) => Outcome::Rejected(current),
            Self::Unknown(why) => Outcome::Unknown(why),
        }
    }

    /// The value, if the write was applied.
    pub fn applied(self) -> Option<T> {
        match self {
            Self::Applied(value) => Some(value),
            Self::Rejected(_) | Self::Unknown(_) => None,
        }
    }
}
