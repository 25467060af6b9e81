//! The real program, in a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_brainy-sidecar");

/// A running program. Killed when the test ends.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn command(data: &Path, listen: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg("--data").arg(data).args(["--listen", listen]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts the program and waits until it says where it listens.
pub(crate) fn start(data: &Path, socket: &Path) -> Running {
    start_with(data, &["--socket", socket.to_str().unwrap()])
}

/// The same, with other arguments.
pub(crate) fn start_with(data: &Path, arguments: &[&str]) -> Running {
    let mut child = command(data, "127.0.0.1:0").args(arguments).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    let address = loop {
        let begin = said.len();
        assert_ne!(log.read_line(&mut said).unwrap(), 0, "it ended: {said}");
        if let Some((_, rest)) = said[begin..].split_once("http://") {
            break rest.split_whitespace().next().unwrap().parse().unwrap();
        }
    };
    // Read on, or it would stand still when the pipe is full.
    std::thread::spawn(move || drop(log.read_to_end(&mut Vec::new())));
    Running { child, address }
}

impl Running {
    /// Memory in bytes: resident now, and at most so far.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kilobytes = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
        };
        (kilobytes("VmRSS:") * 1024, kilobytes("VmHWM:") * 1024)
    }
}
