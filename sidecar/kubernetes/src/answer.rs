//! What an answer of the API server means for a conditional write: applied, rejected, unknown, or a clean failure.

use brainy_storage::Error;
use brainy_storage::documents::Swap;

/// A read that gave no answer.
pub(crate) fn read_failure(error: &kube::Error) -> Error {
    match error {
        kube::Error::Api(status) => Error::unavailable(status.reason.clone(), status.message.clone()),
        other => Error::unavailable("KubernetesApi", other.to_string()),
    }
}

/// A conditional write that did not report success. Only an answer that says "not done" is a clean one (R3): 5xx may
/// come after the effect, and without an answer nobody knows.
pub(crate) fn write_failure(error: &kube::Error) -> Result<Swap, Error> {
    match error {
        kube::Error::Api(status) => match status.code {
            404 | 409 => Ok(Swap::Rejected),
            400..500 => Err(read_failure(error)),
            _ => Ok(Swap::Unknown(status.message.clone())),
        },
        other => Ok(Swap::Unknown(other.to_string())),
    }
}
