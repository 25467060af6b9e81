//! `examples/s3`: a program on Node that knows S3 and nothing else, beside each of three nodes, of which one is killed together with
//! its program. What S3 has acknowledged is there in the end, through each node.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::cluster::{Cluster, LEASE, Node, Setup};
use super::support::{say, wait_for};

/// The program, where its packages are found; `None`: on this machine nowhere.
fn program() -> Option<PathBuf> {
    let Some(clients) = std::env::var_os("BRAINY_S3_CLIENTS") else {
        say("ledger", "LEFT OUT: BRAINY_S3_CLIENTS is not set; `scripts/s3-clients.sh` makes and prints the folder");
        return None;
    };
    let program = PathBuf::from(clients).join("node/ledger.mjs");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/s3/ledger.mjs");
    std::fs::copy(source, &program).unwrap();
    Some(program)
}

fn node_of(program: &Path, node: &Node) -> Command {
    let mut command = Command::new("node");
    command.arg(program).env("AWS_ENDPOINT_URL_S3", format!("http://{}", node.s3)).env("AWS_REGION", "us-east-1");
    command
        .env("AWS_ACCESS_KEY_ID", "any")
        .env("AWS_SECRET_ACCESS_KEY", "any")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// A writer, and where it tells what was acknowledged.
struct Writer {
    child: Child,
    told: PathBuf,
}

impl Writer {
    fn start(program: &Path, node: &Node, who: &str, folder: &Path) -> Self {
        let told = folder.join(who);
        let mut command = node_of(program, node);
        command.args(["write", who]).stdin(Stdio::piped()).stdout(File::create(&told).unwrap());
        Self { child: command.spawn().unwrap(), told }
    }

    /// The whole lines that it has told.
    fn lines(&self) -> String {
        let text = std::fs::read_to_string(&self.told).unwrap();
        text.rsplit_once('\n').map_or_else(String::new, |(lines, _)| format!("{lines}\n"))
    }

    /// Waits until it has told so many lines more.
    fn goes_on(&mut self, more: usize) {
        let before = self.lines().lines().count();
        wait_for("the ledger goes on", || {
            assert_eq!(self.child.try_wait().unwrap(), None, "the program ended: {}", self.lines());
            let now = self.lines().lines().count();
            if now >= before + more { Ok(()) } else { Err(format!("{now} lines after {before}")) }
        });
    }

    /// Lets it come to its end.
    fn end(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success(), "{}", self.lines());
    }

    /// kill -9.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_program_that_knows_s3_alone_loses_nothing_when_its_node_is_killed() {
    let Some(program) = program() else { return };
    let Some(mut cluster) = Cluster::start(Setup { nodes: 3, s3: true, ..Setup::default() }) else { return };
    cluster.settled();
    let folder = tempfile::tempdir().unwrap();
    let start = |node: &Node, who: &str| Writer::start(&program, node, who, folder.path());
    let mut writers: Vec<Writer> =
        cluster.nodes.iter().zip(["a", "b", "c"]).map(|(node, who)| start(node, who)).collect();
    writers.iter_mut().for_each(|writer| writer.goes_on(10));
    // At the same moment, as far as two processes can.
    cluster.nodes[2].kill();
    writers[2].kill();
    writers[..2].iter_mut().for_each(|writer| writer.goes_on(10));
    std::thread::sleep(LEASE);
    cluster.nodes[2].start();
    writers.push(start(&cluster.nodes[2], "c-again"));
    cluster.settled();
    for (at, writer) in writers.iter_mut().enumerate().filter(|(at, _)| *at != 2) {
        writer.goes_on(10);
        say("ledger", &format!("writer {at} goes on"));
    }
    writers.iter_mut().enumerate().filter(|(at, _)| *at != 2).for_each(|(_, writer)| writer.end());
    let told: String = writers.iter().map(Writer::lines).collect();
    for node in &cluster.nodes {
        let all = folder.path().join("all");
        std::fs::write(&all, &told).unwrap();
        let checked = node_of(&program, node).arg("check").stdin(File::open(&all).unwrap()).output().unwrap();
        let (said, wrong) = (String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
        assert!(checked.status.success(), "{said}{wrong}");
        say("ledger", said.trim());
    }
}
