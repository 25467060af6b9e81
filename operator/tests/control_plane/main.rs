//! The operator's own program against a real API server, with simulated nodes: etcd, kube-apiserver and kube-controller-manager as they are,
//! kwok as the kubelets, and [what is played](nodes). Between the two stands a [proxy](proxy) that makes trouble.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should say where")]

mod certificates;
mod cluster;
mod dice;
mod faults;
mod fresh;
mod groups;
mod leaders;
mod lives;
mod nodes;
mod operator;
mod processes;
mod proxy;
mod returns;
mod scale;
mod scenarios;
mod sharing;
mod state;
mod steps;
mod store;
mod walk;
