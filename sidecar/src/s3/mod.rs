//! S3 inside the pod: whatever speaks S3 gets ownership, fencing and linearizability without changing a line. The protocol is
//! the crate `s3s`'s, what it means is ours: a bucket is a namespace, an object a [value](brainy_storage::object), and every
//! operation goes through the [router](crate::routing), as those of the storage API do.
//!
//! - `door`: each request on its way in and out; [`access`]: who may ask; `guard`: what is refused before anything else;
//!   `chunks`: bodies in chunks, cut so that none has to be kept whole.
//! - `operations`: the table of what is served; all else is not implemented.
//! - `buckets`, `objects`, `listing`: what is asked for most; `writing`: writes under S3's conditions.
//! - `uploads`: objects that are kept in pieces; `multipart`: those that clients bring in parts; `reading`: their bytes;
//!   [`sweeper`]: what is left of them.
//! - `conditions`, `checksums`, `heads`, `names`, `failure`: what they decide by, without asking anybody.
//! - `incoming`, `outgoing`: bytes, within bounds of memory and time.

pub mod access;
mod buckets;
mod checksums;
mod chunks;
mod conditions;
mod door;
mod failure;
mod guard;
mod heads;
mod incoming;
mod listing;
mod multipart;
mod names;
mod objects;
mod operations;
mod outgoing;
mod reading;
mod summing;
pub mod sweeper;
mod uploads;
mod writing;

use std::sync::Arc;

pub use access::Access;
pub use operations::OPERATIONS;

use crate::http::intake::Intake;
use crate::http::outlet::Outlet;
use crate::metrics::Metrics;
use crate::routing::Router;

/// Keys on a page of a listing, unless said otherwise; what S3 itself gives.
pub const DEFAULT_PAGE: u32 = 1_000;
/// The region that clients are told. Any other is taken too.
pub const REGION: &str = "us-east-1";

/// S3's operations on the shards of all nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    router: Arc<Router>,
    metrics: Arc<Metrics>,
    intake: Intake,
    outlet: Outlet,
    /// Most keys on a page of a listing; 0: all there are.
    page: u32,
    known: buckets::Known,
}

impl Gateway {
    /// With the memory for bodies and answers that `intake` and `outlet` share, and so many keys on a page of a listing (0: all
    /// there are).
    pub fn new(router: Arc<Router>, metrics: Arc<Metrics>, intake: Intake, outlet: Outlet, page: u32) -> Self {
        for operation in OPERATIONS {
            // From now on there is a series for it.
            metrics.of_requests(operation);
        }
        Self(Arc::new(Inner { router, metrics, intake, outlet, page, known: buckets::Known::default() }))
    }

    /// The app that a listener serves.
    pub fn app(self, access: Access) -> axum::Router {
        axum::Router::new().fallback_service(door::Door::new(self, access))
    }
}
