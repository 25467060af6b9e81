//! S3 on loopback, as a client that is not ours sees it: the AWS SDK.

mod buckets;
mod conditions;
mod forwarding;
mod fuzz;
mod large;
mod listing;
mod objects;
mod refusals;
mod signatures;
mod site;
mod suite;
