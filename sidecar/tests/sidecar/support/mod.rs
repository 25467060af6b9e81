//! What the tests build their sidecars from.

pub(crate) mod answer;
pub(crate) mod app;
pub(crate) mod cluster;
pub(crate) mod contract;
pub(crate) mod faulty;
pub(crate) mod program;
pub(crate) mod tls;
pub(crate) mod wire;
