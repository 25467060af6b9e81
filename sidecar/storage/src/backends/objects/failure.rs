//! What a failed request means: was it refused, did it certainly have no effect, or can't that be known?

use std::error::Error as StdError;

use crate::Error;

/// Cause of a failure where there are no keys to sign with.
pub(in crate::backends) const NO_CREDENTIALS: &str = "CredentialsUnavailable";
/// Cause of a failure where the server can't be reached.
pub(in crate::backends) const UNREACHABLE: &str = "Unreachable";
/// Cause of a failure where the server does not answer in time.
pub(in crate::backends) const TIMED_OUT: &str = "TimedOut";
/// Cause of a failure where the store takes only so many writes a second.
pub(super) const TOO_MANY: &str = "TooManyRequests";

/// What a failed request means.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// There is no such object.
    Missing,
    /// The condition did not hold; nothing was written.
    Refused,
    /// Nothing was written, and the same request may succeed at once.
    Again(Error),
    /// Nothing was written, and the same request may succeed after a second or so.
    Later(Error),
    /// Nothing was written.
    Clean(Error),
    /// Something may have been written. A read may treat it as clean.
    Unknown(Error),
}

impl Failure {
    /// The failure of a request that changes nothing.
    pub fn of_read(self) -> Error {
        match self {
            Self::Missing => Error::unavailable("NoSuchKey", "the store has no such object"),
            Self::Refused => {
                Error::unavailable("PreconditionFailed", "the store refused a request without a condition")
            }
            Self::Again(error) | Self::Later(error) | Self::Clean(error) | Self::Unknown(error) => error,
        }
    }
}

/// Judges an answer that says no. Only codes that are known to be given before anything is written are clean.
pub fn judge_answer(status: u16, code: Option<&str>, message: &str, server: &str) -> Failure {
    let cause = match code {
        // versitygw's word for it.
        Some("XAdminUserNotFound") => "InvalidAccessKeyId".to_owned(),
        Some(code) => code.to_owned(),
        None if status == 429 => TOO_MANY.to_owned(),
        None => format!("Http{status}"),
    };
    let error = Error::unavailable(cause, format!("{server}: {message}"));
    match (status, code) {
        (_, Some("NoSuchBucket")) => Failure::Clean(error),
        (_, Some("NoSuchKey" | "NotFound")) => Failure::Missing,
        (412, _) | (_, Some("PreconditionFailed")) => Failure::Refused,
        (_, Some("ConditionalRequestConflict" | "OperationAborted" | "SlowDown")) => Failure::Again(error),
        // With its answer the store has told what time it is, and the next request is signed by that.
        (_, Some("RequestTimeTooSkewed")) => Failure::Again(error),
        (429, _) | (_, Some(TOO_MANY)) => Failure::Later(error),
        (409, None) => Failure::Again(error),
        (400..=499, _) => Failure::Clean(error),
        (501, _) | (_, Some("NotImplemented")) => Failure::Clean(error),
        _ => Failure::Unknown(error),
    }
}

/// Whether a request that got no answer never reached the server.
pub(in crate::backends) fn never_sent(error: &(dyn StdError + 'static)) -> bool {
    find::<hyper_util::client::legacy::Error>(error).is_some_and(|error| error.is_connect())
}

/// The first error of a type among an error and its sources.
pub(in crate::backends) fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
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
    fn what_was_signed_by_a_wrong_clock_may_be_sent_again() {
        assert!(matches!(answer(403, "RequestTimeTooSkewed"), Failure::Again(_)));
    }

    #[test]
    fn a_store_that_takes_one_write_a_second_is_asked_again_later() {
        for code in ["TooManyRequests", ""] {
            let failure = answer(429, code);
            assert!(
                matches!(&failure, Failure::Later(Error::Unavailable { cause, .. }) if cause == TOO_MANY),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn a_server_that_failed_inside_leaves_the_outcome_unknown() {
        assert!(matches!(answer(500, "InternalError"), Failure::Unknown(_)));
        assert!(matches!(answer(503, ""), Failure::Unknown(_)));
        assert!(matches!(answer(504, ""), Failure::Unknown(_)));
    }
}
