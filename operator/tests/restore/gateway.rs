//! A real S3 server of a test's own: versitygw on a temporary folder.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use brainy_storage::backends::s3::{Credentials, S3Settings, S3Store};
use brainy_storage::documents::Documents;

pub(crate) const BUCKET: &str = "brainy-test";
pub(crate) const PREFIX: &str = "some/prefix";
const ACCESS_KEY_ID: &str = "test-key";
const SECRET_ACCESS_KEY: &str = "test-secret";

/// Stops with the test.
pub(crate) struct Gateway {
    process: Child,
    folder: tempfile::TempDir,
    pub(crate) endpoint: String,
}

impl Gateway {
    /// With one empty bucket.
    pub(crate) async fn start() -> Self {
        let program = std::env::var_os("BRAINY_VERSITYGW").expect(
            "BRAINY_VERSITYGW is not set: it must be the path of a versitygw binary; `e2e/cluster/tools.sh versitygw` makes one",
        );
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        std::fs::create_dir_all(files.join(BUCKET)).unwrap();
        let keys = folder.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        std::fs::write(keys.join("accessKeyId"), ACCESS_KEY_ID).unwrap();
        std::fs::write(keys.join("secretAccessKey"), SECRET_ACCESS_KEY).unwrap();
        // On a loopback address of its own: until a server has started there, another test could be given the same port.
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, high, low, COUNT.fetch_add(1, Ordering::Relaxed));
        let address = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        let process = Command::new(program)
            .args(["--access", ACCESS_KEY_ID, "--secret", SECRET_ACCESS_KEY, "--port", &address.to_string()])
            .args(["--quiet", "--keep-alive", "posix"])
            .arg(&files)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let gateway = Self { process, folder, endpoint: format!("http://{address}") };
        for _ in 0..200 {
            if gateway.documents().await.names("").await.is_ok() {
                return gateway;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("versitygw does not answer at {}", gateway.endpoint);
    }

    /// The folder with the keys, as a mounted Secret.
    pub(crate) fn keys(&self) -> std::path::PathBuf {
        self.folder.path().join("keys")
    }

    pub(crate) async fn documents(&self) -> Arc<dyn Documents> {
        let settings = S3Settings {
            prefix: PREFIX.to_owned(),
            endpoint: Some(self.endpoint.clone()),
            credentials: Credentials::Folder(self.keys()),
            ..S3Settings::new(BUCKET)
        };
        Arc::new(S3Store::open(&settings).await.unwrap().documents(""))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
