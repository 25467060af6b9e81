//! The S3 server: a process that can be killed and started again, on a disk that can be full.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brainy_storage::backends::s3::{Credentials, S3Settings, S3Store};

use super::clients::request;
use super::support::{free_address, wait_for};

pub(crate) const BUCKET: &str = "brainy-test";
pub(crate) const ACCESS_KEY_ID: &str = "test-key";
pub(crate) const SECRET_ACCESS_KEY: &str = "test-secret";
/// Of a disk that can be full.
const DISK: &str = "48m";
const FILLER: &str = "filler";

pub(crate) struct Store {
    child: Child,
    folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    small: bool,
}

/// In namespaces of its own, where it may mount a disk of a size.
fn in_namespaces() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]);
    command
}

impl Store {
    /// With one empty bucket. `small`: on a disk that can be filled; `None` where this machine lets nobody make one.
    pub(crate) fn start(small: bool) -> Option<Self> {
        if small && !in_namespaces().arg("true").status().is_ok_and(|status| status.success()) {
            println!(
                "LEFT OUT: this machine does not let its users mount a disk of their own (unshare --user --mount)"
            );
            return None;
        }
        let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
        if !small {
            std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        }
        let child = Self::spawn(&folder, address, small);
        let store = Self { child, folder, address, small };
        store.answers();
        Some(store)
    }

    fn spawn(folder: &tempfile::TempDir, address: SocketAddr, small: bool) -> Child {
        let server = std::env::var_os("BRAINY_VERSITYGW").expect(
            "BRAINY_VERSITYGW is not set: it must be the path of a versitygw binary; `e2e/cluster/tools.sh versitygw` makes one",
        );
        let mut command = if small {
            let mut command = in_namespaces();
            let script = format!("mount -t tmpfs -o size={DISK} tmpfs \"$0\" && mkdir \"$0/{BUCKET}\" && exec \"$@\"");
            command.args(["sh", "-c", &script]).arg(folder.path()).arg(server);
            command
        } else {
            Command::new(server)
        };
        command.args(["--access", ACCESS_KEY_ID, "--secret", SECRET_ACCESS_KEY, "--port", &address.to_string()]);
        command.args(["--quiet", "--keep-alive", "posix"]).arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn answers(&self) {
        // That a connection opens says less: while nobody listens, one can be opened to itself.
        wait_for("the S3 server answers", || match request(self.address, "GET /", &[], "") {
            Ok(_) => Ok(()),
            Err(why) => Err(why.to_string()),
        });
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.child = Self::spawn(&self.folder, self.address, self.small);
        self.answers();
    }

    /// How many records of a region it has below a prefix.
    pub(crate) fn records(&self, prefix: &str) -> usize {
        fn files(folder: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
        }
        let shards = std::fs::read_dir(self.folder.path().join(BUCKET).join(prefix).join("shards"));
        shards.into_iter().flatten().flatten().map(|shard| files(&shard.path().join("ns/d/kv"))).sum()
    }

    /// Loses all that it has, and begins anew.
    pub(crate) fn start_empty(&mut self) {
        self.kill();
        let bucket = self.folder.path().join(BUCKET);
        std::fs::remove_dir_all(&bucket).unwrap();
        std::fs::create_dir(&bucket).unwrap();
        self.start_again();
    }

    /// Where a small disk is seen from here.
    fn filler(&self) -> PathBuf {
        let path = self.folder.path().join(FILLER);
        let beyond = path.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.child.id())).join(beyond)
    }

    /// Takes all the room that there is, for so long; also what becomes free meanwhile: with one page, whoever comes first could
    /// write one small object over and over.
    pub(crate) fn is_full_for(&self, lasts: Duration) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let began = Instant::now();
        while began.elapsed() < lasts {
            for size in [1 << 20, 4 << 10] {
                while file.write_all(&vec![7; size]).is_ok() {}
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::remove_file(self.filler()).unwrap();
    }

    /// Directly, with no way between.
    pub(crate) async fn open(&self) -> S3Store {
        self.open_below("").await
    }

    /// The same, below a prefix.
    pub(crate) async fn open_below(&self, prefix: &str) -> S3Store {
        let settings = S3Settings {
            prefix: prefix.to_owned(),
            endpoint: Some(format!("http://{}", self.address)),
            credentials: Credentials::Keys {
                access_key_id: ACCESS_KEY_ID.into(),
                secret_access_key: SECRET_ACCESS_KEY.into(),
            },
            ..S3Settings::new(BUCKET)
        };
        S3Store::open(&settings).await.unwrap()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
