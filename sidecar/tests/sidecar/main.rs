//! Tests of the sidecar as a whole. One binary: each further one would link all dependencies again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should say where")]

mod api;
mod api_batches;
mod api_errors;
mod bad_input;
mod certificates;
mod connections;
mod forwarding;
mod handoff;
mod large_answers;
mod listing;
mod locks;
mod mutual_tls;
mod nudge;
mod once;
mod openapi;
mod process;
mod regions;
mod requests;
mod s3;
mod support;
mod tiering;
