//! S3 clients that are not ours, unmodified, against the program: each does what its users do, and says what was not as expected.
//! `scripts/s3-clients.sh` installs them; `BRAINY_S3_CLIENTS` is its folder. `BRAINY_RCLONE` is the program rclone, as
//! `e2e/cluster/tools.sh rclone` builds it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should say where")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const ID: &str = "an-access-key";
const SECRET: &str = "a-secret-that-nobody-knows";

/// The program, and where it serves S3.
struct Site {
    child: Child,
    endpoint: String,
    folder: tempfile::TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("accessKeyId"), ID).unwrap();
        std::fs::write(folder.path().join("secretAccessKey"), SECRET).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_brainy-sidecar"))
            .args(["serve", "--listen", "127.0.0.1:0", "--shards", "16", "--data"])
            .arg(folder.path().join("data"))
            .arg("--s3-keys")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let endpoint = loop {
            let begin = said.len();
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "it ended: {said}");
            if let Some((_, rest)) = said[begin..].split_once("S3 at ") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        // Read on, or it would stand still when the pipe is full.
        std::thread::spawn(move || drop(log.read_to_end(&mut Vec::new())));
        Self { child, endpoint, folder }
    }

    /// Runs a client with the endpoint and the keys in its environment.
    fn run(&self, command: &mut Command) {
        let ran = command
            .env("AWS_ENDPOINT_URL_S3", &self.endpoint)
            .env("AWS_ACCESS_KEY_ID", ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", self.folder.path())
            .output()
            .unwrap();
        let (told, wrong) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        println!("{told}");
        assert!(ran.status.success(), "{told}\n{wrong}");
    }
}

fn clients() -> PathBuf {
    let folder = std::env::var_os("BRAINY_S3_CLIENTS");
    folder.expect("BRAINY_S3_CLIENTS is not set: `scripts/s3-clients.sh` makes and prints the folder").into()
}

fn source() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/s3_clients")
}

fn python(suite: &str) {
    let python = clients().join("python/bin/python");
    Site::start().run(Command::new(python).arg(source().join(suite)));
}

#[test]
fn boto3_finds_what_it_expects() {
    python("boto3_suite.py");
}

#[test]
fn apache_arrow_reads_the_data_set_that_it_has_written() {
    python("pyarrow_suite.py");
}

#[test]
fn the_aws_command_line_finds_what_it_expects() {
    let site = Site::start();
    let work = site.folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let aws = clients().join("python/bin/aws");
    site.run(Command::new("bash").arg(source().join("aws_cli.sh")).arg(aws).arg(work));
}

#[test]
fn the_sdk_for_javascript_finds_what_it_expects() {
    // Its packages are looked for beside the program.
    let site = Site::start();
    let program = clients().join("node/suite.mjs");
    std::fs::copy(source().join("sdk_js/suite.mjs"), &program).unwrap();
    site.run(Command::new("node").arg(program));
}

#[test]
fn rclone_finds_what_it_has_synced() {
    let site = Site::start();
    let work = site.folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let rclone = std::env::var_os("BRAINY_RCLONE");
    let rclone = rclone.expect("BRAINY_RCLONE is not set: `e2e/cluster/tools.sh rclone` builds it");
    site.run(Command::new("bash").arg(source().join("rclone.sh")).arg(rclone).arg(work));
}
