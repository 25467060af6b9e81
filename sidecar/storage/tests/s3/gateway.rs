//! A real S3 server of a test's own: versitygw on a temporary folder.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use brainy_storage::backends::s3::{Credentials, Limits, S3Settings, S3Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const BUCKET: &str = "brainy-test";
pub(crate) const ACCESS_KEY_ID: &str = "test-key";
pub(crate) const SECRET_ACCESS_KEY: &str = "test-secret";

/// Stops with the test.
pub(crate) struct Gateway {
    process: Child,
    folder: tempfile::TempDir,
    pub(crate) address: String,
}

fn binary() -> PathBuf {
    let path = std::env::var_os("BRAINY_VERSITYGW").expect(
        "BRAINY_VERSITYGW is not set: it must be the path of a versitygw binary; `e2e/cluster/tools.sh versitygw` makes one",
    );
    let path = PathBuf::from(path);
    assert!(path.is_file(), "BRAINY_VERSITYGW: there is no file {}", path.display());
    path
}

impl Gateway {
    /// With one empty bucket.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let address = free_address();
        let process = Command::new(binary())
            .args(["--access", ACCESS_KEY_ID, "--secret", SECRET_ACCESS_KEY, "--port", &address])
            .args(["--quiet", "--keep-alive", "posix"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let gateway = Self { process, folder, address };
        for _ in 0..200 {
            if answers(&gateway.address).await {
                return gateway;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("versitygw does not listen on {}", gateway.address);
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn store(&self) -> S3Store {
        S3Store::open(&settings(&self.endpoint())).await.unwrap()
    }

    /// Names of all objects in the bucket, as files.
    pub(crate) fn files(&self) -> Vec<String> {
        let bucket = self.folder.path().join(BUCKET);
        let mut files = Vec::new();
        let mut folders = vec![bucket.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&bucket).unwrap().to_str().unwrap().to_owned();
                match path.is_dir() {
                    true if !name.starts_with(".sgwtmp") => folders.push(path),
                    true => {}
                    false => files.push(name),
                }
            }
        }
        files.sort();
        files
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a server speaks there. That a connection opens says less: while nobody listens, one can be opened to itself.
async fn answers(address: &str) -> bool {
    let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else { return false };
    let mut word = [0; 4];
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: s3\r\nconnection: close\r\n\r\n").await;
    asked.is_ok() && stream.read_exact(&mut word).await.is_ok() && word == *b"HTTP"
}

/// An address where nobody listens. On a loopback address of its own: until a server has started there, another test
/// could be given the same port.
pub(crate) fn free_address() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high, low, COUNT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().to_string()
}

pub(crate) fn keys(access_key_id: &str, secret_access_key: &str) -> Credentials {
    Credentials::Keys { access_key_id: access_key_id.into(), secret_access_key: secret_access_key.into() }
}

pub(crate) fn settings(endpoint: &str) -> S3Settings {
    S3Settings {
        prefix: "some/prefix".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        credentials: keys(ACCESS_KEY_ID, SECRET_ACCESS_KEY),
        ..S3Settings::new(BUCKET)
    }
}

/// For tests in which a server does not answer.
pub(crate) fn impatient(endpoint: &str) -> S3Settings {
    let limits = Limits { connect: Duration::from_millis(500), request: Duration::from_millis(500) };
    S3Settings { limits, ..settings(endpoint) }
}
