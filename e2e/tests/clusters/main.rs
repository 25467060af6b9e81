//! Clusters side by side, each in namespaces of its own: the operator, the machines and what is installed are left alone.

mod bad_days;
mod bad_input;
mod cold_tier;
mod full_disks;
mod lifecycle;
mod lost_kubernetes;
mod main_job;
mod near_and_far;
mod rollouts;
mod storage_trouble;
mod traces;
