//! All that does nothing to the operator, the machines or Kubernetes: clusters in namespaces of their own, several at once.

mod bad_days;
mod bad_input;
mod cold_tier;
mod full_disks;
mod lifecycle;
mod lost_kubernetes;
mod main_job;
mod rollouts;
mod s3_on_loopback;
mod storage_trouble;
