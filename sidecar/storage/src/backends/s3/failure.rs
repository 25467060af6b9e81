//! What a failed request of the SDK means.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::Error;
use crate::backends::objects::{Failure, NO_CREDENTIALS, TIMED_OUT, UNREACHABLE, find, judge_answer, never_sent};

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

/// Judges a request that got no answer: clean only if it was never sent.
fn judge_transport(error: &(dyn StdError + 'static), server: &str) -> Failure {
    let detail = format!("{server}: {}", chain(error));
    if find::<CredentialsError>(error).is_some() {
        return Failure::Clean(Error::unavailable(NO_CREDENTIALS, chain(error)));
    }
    let never_sent = never_sent(error);
    let error = Error::unavailable(UNREACHABLE, detail);
    if never_sent { Failure::Clean(error) } else { Failure::Unknown(error) }
}

/// An error with its sources, in one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    DisplayErrorContext(error).to_string().lines().next().unwrap_or_default().to_owned()
}
