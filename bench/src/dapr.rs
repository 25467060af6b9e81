//! daprd with one state store, for comparison: the same kind of sidecar, in Go.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::http;
use crate::server::{Places, Server, free_address, success};

/// Name of the store in its API.
const STORE: &str = "store";

/// What daprd keeps state in.
#[derive(Clone, Copy, Debug)]
pub enum State {
    /// A map in its own memory.
    Memory,
    /// SQLite in WAL mode that flushes the log for each transaction.
    DurableSqlite,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "daprd-memory",
            Self::DurableSqlite => "daprd-sqlite",
        }
    }

    fn component(self, folder: &Path) -> serde_json::Value {
        let spec = match self {
            Self::Memory => json!({"type": "state.in-memory", "version": "v1", "metadata": []}),
            Self::DurableSqlite => {
                let database = format!("file:{}?_pragma=synchronous(FULL)", folder.join("state.db").display());
                // Many clients wait for their turn for longer than its 2 s, and would be told that the database is locked.
                let metadata = json!([
                    {"name": "connectionString", "value": database},
                    {"name": "busyTimeout", "value": "60s"},
                    {"name": "timeout", "value": "60s"},
                ]);
                json!({"type": "state.sqlite", "version": "v1", "metadata": metadata})
            }
        };
        json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": {"name": STORE}, "spec": spec})
    }
}

/// Starts it; `None`: it is not to be measured.
pub async fn start(places: &Places, state: State) -> anyhow::Result<Option<Server>> {
    let Some(program) = &places.daprd else { return Ok(None) };
    let folder = places.data.join(state.name());
    let resources = folder.join("resources");
    std::fs::create_dir_all(&resources)?;
    std::fs::write(resources.join("store.json.yaml"), state.component(&folder).to_string())?;
    let address = free_address()?;
    let mut command = Command::new(program);
    command.args(["--mode", "standalone", "--app-id", "bench", "--log-level", "warn", "--enable-metrics=false"]);
    command.args(["--dapr-listen-addresses", "127.0.0.1"]).arg("--resources-path").arg(resources);
    for (option, port) in [
        ("--dapr-http-port", address.port()),
        ("--dapr-grpc-port", free_address()?.port()),
        ("--dapr-internal-grpc-port", free_address()?.port()),
    ] {
        command.args([option, &port.to_string()]);
    }
    let server = Server::start(command, address, "/v1.0/healthz", success, &places.log(state.name())).await?;
    Ok(Some(server))
}

/// Reads a key.
pub fn get(key: &str) -> Vec<u8> {
    http::get(&format!("/v1.0/state/{STORE}/{key}"))
}

/// Writes a key.
pub fn set(key: &str, value: &str) -> Vec<u8> {
    let body = json!([{"key": key, "value": value}]).to_string();
    http::request("POST", &format!("/v1.0/state/{STORE}"), "application/json", body.as_bytes())
}
