//! What a request is answered that is not done, in S3's words. Whether it was certainly not done stays apart from what may
//! have been done until the very end (G4).

use std::borrow::Cow;

use axum::http::StatusCode;
use brainy_storage::Error;
use s3s::{S3Error, S3ErrorCode};

use crate::routing::Reply;

/// Why a request was not answered as asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// It certainly had no effect.
    Refused(S3Error),
    /// It may have had one, or may have yet; why that can't be known.
    Unknown(String),
}

pub(super) type Answer<T> = Result<T, Failure>;

impl Failure {
    /// As S3 says it. An outcome that is unknown is an internal error, whose message says so: its clients ask again.
    pub(super) fn into_error(self) -> S3Error {
        match self {
            Self::Refused(error) => error,
            Self::Unknown(why) => S3Error::with_message(
                S3ErrorCode::InternalError,
                format!("The outcome is unknown: the request may or may not have taken effect. {why}"),
            ),
        }
    }

    /// A code with a message.
    pub(super) fn new(code: S3ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused(S3Error::with_message(code, message))
    }

    /// A code of S3's that the library has no name for: the request is at fault.
    pub(super) fn named(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InvalidRequest);
        let mut error = S3Error::with_message(code, message);
        error.set_status_code(StatusCode::BAD_REQUEST);
        Self::Refused(error)
    }

    pub(super) fn no_such_key() -> Self {
        Self::new(S3ErrorCode::NoSuchKey, "The specified key does not exist.")
    }

    pub(super) fn no_such_bucket() -> Self {
        Self::new(S3ErrorCode::NoSuchBucket, "The specified bucket does not exist.")
    }

    pub(super) fn precondition() -> Self {
        Self::new(S3ErrorCode::PreconditionFailed, "At least one of the pre-conditions you specified did not hold.")
    }

    /// There is no room for it at the moment.
    pub(super) fn crowded() -> Self {
        Self::new(S3ErrorCode::SlowDown, "Too many large bodies are on their way at once. Nothing was done, try again.")
    }
}

impl From<S3Error> for Failure {
    fn from(error: S3Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Invalid { field: "key", .. } => S3ErrorCode::KeyTooLongError,
            Error::Invalid { .. } | Error::NotANumber { .. } => S3ErrorCode::InvalidArgument,
            Error::Corrupt { .. } => S3ErrorCode::InternalError,
            Error::Unavailable { .. } => S3ErrorCode::ServiceUnavailable,
            Error::Contended { .. } => S3ErrorCode::ConditionalRequestConflict,
        };
        match &error {
            Error::Unavailable { detail, .. } => Self::new(code, format!("Nothing was done: {error}: {detail}")),
            _ => Self::new(code, format!("Nothing was done: {error}")),
        }
    }
}

/// A reply that is no answer to what was asked.
impl From<Reply> for Failure {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Unknown(why) => Self::Unknown(why),
            Reply::NoServer(why) => {
                Self::new(S3ErrorCode::ServiceUnavailable, format!("Nothing was done, try again: {why}"))
            }
            Reply::Failed(error) => error.into(),
            Reply::Rejected(_) => Self::precondition(),
            other => {
                tracing::error!(reply = ?other, "a reply does not fit its call");
                Self::Unknown("The answer of storage does not fit the request.".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_is_never_told_as_a_condition_that_did_not_hold() {
        let unknown = Failure::from(Reply::Unknown("lost".into())).into_error();
        assert_eq!(unknown.status_code().map(|status| status.as_u16()), Some(500));
        assert!(unknown.message().unwrap_or_default().contains("may or may not"));
        let rejected = Failure::from(Reply::Rejected(None)).into_error();
        assert_eq!(rejected.status_code().map(|status| status.as_u16()), Some(412));
    }

    #[test]
    fn what_had_no_effect_says_so() {
        for reply in [Reply::NoServer("w".into()), Reply::Failed(Error::unavailable("c", "d"))] {
            let error = Failure::from(reply).into_error();
            assert_eq!(error.status_code().map(|status| status.as_u16()), Some(503));
            assert!(error.message().unwrap_or_default().contains("Nothing was done"));
        }
    }
}
