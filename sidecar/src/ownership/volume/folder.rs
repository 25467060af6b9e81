//! The folder of a node on a volume: whose it is, and in what its data is kept. Also the durable steps on files that the
//! rest needs. All of it blocks.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use brainy_coordination::NodeId;
use brainy_storage::Error;
use serde::{Deserialize, Serialize};

use crate::data_folder::{Engine, Kind, tiers};

/// What `node.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct NodeFile {
    node: NodeId,
    shards: u32,
    /// A volume from before there was a choice has files.
    #[serde(default = "files")]
    engine: Engine,
    /// It is the hot of two tiers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tiered: bool,
}

fn files() -> Engine {
    Engine::Files
}

/// Makes the folder this node's, or finds it so; says in what its data is kept: a new one's as `kind` has it. Refuses a volume
/// that is another node's, whose data is spread over another number of shards, or that has a cold tier and is to be without,
/// or the other way round.
pub(super) fn take(data: &Path, folder: &Path, node: &NodeId, shards: u32, kind: Kind) -> Result<Engine, Error> {
    let Kind { engine, tiered } = kind;
    fs::create_dir_all(folder).map_err(|error| failed("making", folder, &error))?;
    let path = folder.join("node.json");
    let found: NodeFile = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| Error::Corrupt { key: path.display().to_string(), problem: error.to_string() })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_durably(folder, "node.json", &NodeFile { node: node.clone(), shards, engine, tiered })?;
            sync_folder(data)?;
            return Ok(engine);
        }
        Err(error) => return Err(failed("reading", &path, &error)),
    };
    if found.tiered != tiered {
        let detail = format!(
            "the volume holds its data {}, and is to hold it {}: spec.storage.tiering is chosen when a cluster is made",
            tiers(found.tiered),
            tiers(tiered)
        );
        return Err(Error::unavailable("WrongVolume", detail));
    }
    if (&found.node, found.shards) == (node, shards) {
        return Ok(found.engine);
    }
    Err(Error::unavailable(
        "WrongVolume",
        format!(
            "the volume holds data of node {} spread over {} shards, but this is node {node} of a cluster with {shards} \
             shards: give this node its own volume, or an empty one",
            found.node, found.shards
        ),
    ))
}

pub(super) fn failed(doing: &str, path: &Path, error: &io::Error) -> Error {
    Error::unavailable("Volume", format!("{doing} {}: {error}", path.display()))
}

/// What was created, renamed or removed in a folder is durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed("flushing", folder, &error))
}

/// All of the file or nothing of it, also after a power failure.
pub(super) fn write_durably(folder: &Path, name: &str, content: &impl Serialize) -> Result<(), Error> {
    let (path, beside) = (folder.join(name), folder.join(format!("{name}.new")));
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    };
    write().map_err(|error| failed("writing", &path, &error))?;
    sync_folder(folder)
}
