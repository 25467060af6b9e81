//! The Worker on Cloudflare's own runtime: workerd, with its R2 and its cache, as miniflare brings them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use brainy_storage::backends::r2::{R2Settings, R2Store};

pub(crate) const TOKEN: &str = "a-token-of-the-tests-0123456789";
/// What `serve.mjs` gives the bucket's S3 API.
pub(crate) const ACCESS_KEY_ID: &str = "test-key";
pub(crate) const SECRET_ACCESS_KEY: &str = "test-secret";
/// The bucket's name in `wrangler.toml`.
pub(crate) const BUCKET: &str = "brainy";

/// The Worker that ships.
const SCRIPT: &str = include_str!("../../src/backends/r2/worker/worker.js");

/// Runs until it is dropped, or this process ends: its input ends with it.
pub(crate) struct Worker {
    process: Child,
    input: Option<ChildStdin>,
    _script: tempfile::TempDir,
    /// `http://127.0.0.1:port`.
    pub(crate) endpoint: String,
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The folder in which miniflare is installed.
fn miniflare() -> PathBuf {
    let folder = std::env::var_os("BRAINY_MINIFLARE").expect(
        "BRAINY_MINIFLARE is not set: it must be the folder with miniflare in its node_modules; `scripts/miniflare.sh` makes one and prints it",
    );
    let folder = PathBuf::from(folder);
    let module = folder.join("node_modules/miniflare");
    assert!(module.is_dir(), "BRAINY_MINIFLARE: there is no folder {}", module.display());
    folder
}

impl Worker {
    /// The Worker as it ships, one for all tests of this process: they keep apart by their prefixes.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Worker> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(SCRIPT, Some(TOKEN)))
    }

    /// As it ships, with this for a secret.
    pub(crate) fn with_secret(token: Option<&str>) -> Self {
        Self::start(SCRIPT, token)
    }

    /// One in which a piece of the script is replaced by another, and something is added at its end.
    pub(crate) fn altered(piece: &str, by: &str, more: &str) -> Self {
        assert_eq!(SCRIPT.matches(piece).count(), 1, "the Worker has not one {piece:?}");
        Self::start(&(SCRIPT.replace(piece, by) + more), Some(TOKEN))
    }

    /// Another program in the Worker's place.
    pub(crate) fn start(script: &str, token: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("worker.js");
        std::fs::write(&file, script).unwrap();
        let mut process = Command::new("node")
            .arg(here("tests/r2/miniflare/serve.mjs"))
            .arg(file)
            .arg(here("src/backends/r2/worker/wrangler.toml"))
            .args(token)
            .env("BRAINY_MINIFLARE", miniflare())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node does not start; scripts/prerequisites.sh says how to get it");
        let input = process.stdin.take();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let endpoint = lines.next().expect("the Worker does not start; what it says is above").unwrap();
        assert!(endpoint.starts_with("http://127.0.0.1:"), "{endpoint}");
        Self { process, input, _script: folder, endpoint }
    }

    /// Settings for a part of its bucket.
    pub(crate) fn settings(&self, prefix: &str) -> R2Settings {
        R2Settings { prefix: prefix.to_owned(), ..R2Settings::new(&self.endpoint, TOKEN) }
    }

    pub(crate) fn store(&self, prefix: &str) -> R2Store {
        R2Store::open(&self.settings(prefix)).unwrap()
    }

    /// The same bucket by another name of this machine. What is kept is kept by name: another data centre's cache.
    pub(crate) fn elsewhere(&self, prefix: &str) -> R2Store {
        let endpoint = self.endpoint.replace("127.0.0.1", "localhost");
        R2Store::open(&R2Settings { endpoint, ..self.settings(prefix) }).unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends by itself when its input does, and takes workerd with it.
        self.input.take();
        let _ = self.process.wait();
    }
}
