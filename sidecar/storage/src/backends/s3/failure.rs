//! What a failed request means: was it refused, did it certainly have no effect, or can't that be known?

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::Error;

/// Cause of a failure where there are no keys to sign with.
pub(super) const NO_CREDENTIALS: &str = "CredentialsUnavailable";
/// Cause of a failure where the server can't be reached.
pub(super) const UNREACHABLE: &str = "Unreachable";
/// Cause of a failure where the server does not answer in time.
pub(super) const TIMED_OUT: &str = "TimedOut";

/// What a failed request means.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// There is no such object.
    Missing,
    /// The condition did not hold; nothing was written.
    Refused,
    /// Nothing was written, and the same request may succeed at once.
    Again(Error),
    /// Nothing was written.
    Clean(Error),
    /// Something may have been written. A read may treat it as clean.
    Unknown(Error),
}

impl Failure {
    /// The failure of a request that changes nothing.
    pub(super) fn of_read(self) -> Error {
        match self {
            Self::Missing => Error::unavailable("NoSuchKey", "the store has no such object"),
            Self::Refused => {
                Error::unavailable("PreconditionFailed", "the store refused a request without a condition")
            }
            Self::Again(error) | Self::Clean(error) | Self::Unknown(error) => error,
        }
    }
}

/// Judges a failed request to `server`.
pub(super) fn judge<E>(error: &SdkError<E, HttpResponse>, server: &str) -> Failure
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            judge_answer(status, answer.err().code(), answer.err().message().unwrap_or("no message"), server)
        }
        SdkError::ConstructionFailure(_) => Failure::Clean(Error::unavailable("BadRequest", chain(error))),
        SdkError::TimeoutError(_) => {
            Failure::Unknown(Error::unavailable(TIMED_OUT, format!("{server} did not answer in time")))
        }
        SdkError::DispatchFailure(_) => judge_transport(error, server),
        // Broken off in the middle of the answer, or no answer of an S3 server.
        _ => Failure::Unknown(Error::unavailable("BadAnswer", format!("{server}: {}", chain(error)))),
    }
}

/// Judges an answer that says no. Only codes that are known to be given before anything is written are clean.
fn judge_answer(status: u16, code: Option<&str>, message: &str, server: &str) -> Failure {
    let cause = match code {
        // versitygw's word for it.
        Some("XAdminUserNotFound") => "InvalidAccessKeyId".to_owned(),
        Some(code) => code.to_owned(),
        None => format!("Http{status}"),
    };
    let error = Error::unavailable(cause, format!("{server}: {message}"));
    match (status, code) {
        (_, Some("NoSuchBucket")) => Failure::Clean(error),
        (_, Some("NoSuchKey" | "NotFound")) => Failure::Missing,
        (412, _) | (_, Some("PreconditionFailed")) => Failure::Refused,
        (_, Some("ConditionalRequestConflict" | "OperationAborted" | "SlowDown")) => Failure::Again(error),
        (409, None) => Failure::Again(error),
        (400..=499, _) => Failure::Clean(error),
        (501, _) | (_, Some("NotImplemented")) => Failure::Clean(error),
        _ => Failure::Unknown(error),
    }
}

/// Judges a request that got no answer: clean only if it was never sent.
fn judge_transport(error: &(dyn StdError + 'static), server: &str) -> Failure {
    let detail = format!("{server}: {}", chain(error));
    if find::<CredentialsError>(error).is_some() {
        return Failure::Clean(Error::unavailable(NO_CREDENTIALS, chain(error)));
    }
    let never_sent = find::<hyper_util::client::legacy::Error>(error).is_some_and(|error| error.is_connect());
    let error = Error::unavailable(UNREACHABLE, detail);
    if never_sent { Failure::Clean(error) } else { Failure::Unknown(error) }
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An error with its sources, in one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    DisplayErrorContext(error).to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Failure {
        judge_answer(status, (!code.is_empty()).then_some(code), "m", "http://s")
    }

    fn cause(failure: Failure) -> String {
        match failure {
            Failure::Clean(Error::Unavailable { cause, .. }) => cause,
            other => panic!("not clean: {other:?}"),
        }
    }

    #[test]
    fn a_failed_condition_is_a_refusal_and_a_missing_object_is_missing() {
        assert_eq!(answer(412, "PreconditionFailed"), Failure::Refused);
        assert_eq!(answer(412, ""), Failure::Refused);
        assert_eq!(answer(404, "NoSuchKey"), Failure::Missing);
    }

    #[test]
    fn what_the_user_must_mend_is_clean_and_named() {
        for code in ["NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "PermanentRedirect"]
        {
            assert_eq!(cause(answer(403, code)), code);
        }
        assert_eq!(cause(answer(404, "XAdminUserNotFound")), "InvalidAccessKeyId");
        assert_eq!(cause(answer(404, "")), "Http404", "a server that knows no S3 must not look like an empty bucket");
    }

    #[test]
    fn a_conflict_or_a_throttled_request_may_be_sent_again() {
        assert!(matches!(answer(409, "ConditionalRequestConflict"), Failure::Again(_)));
        assert!(matches!(answer(503, "SlowDown"), Failure::Again(_)));
    }

    #[test]
    fn a_server_that_failed_inside_leaves_the_outcome_unknown() {
        assert!(matches!(answer(500, "InternalError"), Failure::Unknown(_)));
        assert!(matches!(answer(503, ""), Failure::Unknown(_)));
        assert!(matches!(answer(504, ""), Failure::Unknown(_)));
    }
}
