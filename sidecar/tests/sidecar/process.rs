//! The real program: what survives its death, how it stops, and what it says when it can't start.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output};

use crate::support::program::{PROGRAM, Running, command, start, start_with};
use crate::support::wire::{over_tcp, over_unix};

fn signal(running: &Running, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(running.child.id().to_string()).status().unwrap();
    assert!(sent.success());
}

fn refused(data: &Path, listen: &str, more: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = command(data, listen).args(more).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn an_acknowledged_write_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let (data, socket) = (folder.path().join("data"), folder.path().join("api.sock"));
    let mut running = start(&data, &socket);
    let (status, _) = over_tcp(running.address, "PUT /v1/kv/greeting", "{\"hello\":\"world\"}").unwrap();
    assert_eq!(status, 200);
    let (status, body) = over_unix(&socket, "POST /v1/kv:increment", "{\"key\":\"n\",\"delta\":41}").unwrap();
    assert_eq!(status, 200, "{body}");
    running.child.kill().unwrap();
    running.child.wait().unwrap();

    let running = start(&data, &socket);
    let read = over_unix(&socket, "GET /v1/kv/greeting", "").unwrap();
    assert_eq!(read, (200, "{\"hello\":\"world\"}".into()));
    let (_, body) = over_tcp(running.address, "POST /v1/kv:increment", "{\"key\":\"n\",\"delta\":1}").unwrap();
    assert!(body.contains("\"value\":42"), "{body}");
    let (_, keys) = over_tcp(running.address, "GET /v1/kv", "").unwrap();
    assert_eq!(keys, "{\"keys\":[\"greeting\",\"n\"]}");
    let (_, storage) = over_tcp(running.address, "GET /v1/storage", "").unwrap();
    assert!(storage.contains("\"backend\":\"embedded\""), "{storage}");
    let (code, message) = refused(&folder.path().join("other"), "127.0.0.1:0", &["--engine", "none"]);
    assert_eq!(code, 2, "{message}");
    drop(running);
    let (code, message) = refused(&data, "127.0.0.1:0", &["--engine", "files"]);
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("`embedded`"), "{message}");
}

#[test]
fn data_can_be_kept_as_files_that_people_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let (data, socket) = (folder.path().join("data"), folder.path().join("api.sock"));
    let mut first = command(&data, "127.0.0.1:0").args(["--engine", "files"]).spawn().unwrap();
    let mut log = BufReader::new(first.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("http://") {
        assert_ne!(log.read_line(&mut said).unwrap(), 0, "it ended: {said}");
    }
    first.kill().unwrap();
    first.wait().unwrap();
    // Once made, it stays what it is.
    let running = start(&data, &socket);
    assert_eq!(over_tcp(running.address, "PUT /v1/kv/greeting", "\"hello\"").unwrap().0, 200);
    let shards: Vec<_> = data.join("shards").read_dir().unwrap().map(|shard| shard.unwrap().path()).collect();
    assert!(shards.iter().any(|shard| shard.join("kv/greeting").is_file()), "{shards:?}");
    let (_, storage) = over_tcp(running.address, "GET /v1/storage", "").unwrap();
    assert!(storage.contains("\"backend\":\"filesystem\""), "{storage}");
}

#[test]
fn what_is_acknowledged_at_once_survives_sigterm_and_not_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let delayed = ["--batch-milliseconds", "10000", "--batch-ack", "buffered"];
    let mut running = start_with(folder.path(), &delayed);
    for n in 0..100 {
        assert_eq!(over_tcp(running.address, &format!("PUT /v1/kv/k{n}"), "1").unwrap().0, 200);
    }
    let (_, metrics) = over_tcp(running.address, "GET /metrics", "").unwrap();
    assert!(metrics.contains("\nbrainy_buffered_writes 100\n"), "{metrics}");
    assert!(metrics.contains("\nbrainy_buffered_writes_lost_total 0\n"), "{metrics}");
    signal(&running, "TERM");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));

    let mut running = start_with(folder.path(), &delayed);
    for n in 0..100 {
        assert_eq!(over_tcp(running.address, &format!("GET /v1/kv/k{n}"), "").unwrap(), (200, "1".into()));
    }
    assert_eq!(over_tcp(running.address, "PUT /v1/kv/k0", "2").unwrap().0, 200);
    assert_eq!(over_tcp(running.address, "GET /v1/kv/k0", "").unwrap(), (200, "2".into()));
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let running = start_with(folder.path(), &delayed);
    assert_eq!(over_tcp(running.address, "GET /v1/kv/k0", "").unwrap(), (200, "1".into()), "it was not flushed");
    drop(running);

    let (code, message) = refused(folder.path(), "127.0.0.1:0", &["--batch-ack", "buffered"]);
    assert!(code == 2 && message.contains("--batch-milliseconds"), "{message}");
}

#[test]
fn sigterm_ends_it_with_0_and_frees_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    for name in ["TERM", "INT"] {
        let mut running = start(folder.path(), &socket);
        assert_eq!(over_tcp(running.address, "PUT /v1/kv/k", "1").unwrap().0, 200);
        signal(&running, name);
        assert_eq!(running.child.wait().unwrap().code(), Some(0));
        assert!(!socket.exists());
    }
}

#[test]
fn a_second_process_on_the_same_data_is_refused_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), &folder.path().join("api.sock"));
    let (code, message) = refused(folder.path(), "127.0.0.1:0", &[]);
    assert_eq!(code, 4, "{message}");
    assert!(message.contains(&format!("process {}", running.child.id())), "{message}");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let (code, message) = refused(folder.path(), &address, &[]);
    assert_eq!(code, 3, "{message}");
    assert!(message.contains(&address) && message.contains("--listen"), "{message}");
    let socket = folder.path().join("api.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (code, message) = refused(folder.path(), "127.0.0.1:0", &["--socket", socket.to_str().unwrap()]);
    assert_eq!(code, 3, "{message}");
}

#[test]
fn a_folder_that_can_not_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, message) = refused(&file, "127.0.0.1:0", &[]);
    assert_eq!(code, 5, "{message}");
    assert!(message.contains(file.to_str().unwrap()), "{message}");
}

#[test]
fn the_number_of_shards_can_not_change() {
    let folder = tempfile::tempdir().unwrap();
    drop(start(folder.path(), &folder.path().join("api.sock")));
    let (code, message) = refused(folder.path(), "127.0.0.1:0", &["--shards", "16"]);
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("--shards 256"), "{message}");
}

#[test]
fn a_node_without_its_configuration_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("node.yaml");
    let arguments =
        ["node", "--node-id", "n-0", "--namespace", "d", "--pod-uid", "u", "--pod-ip", "127.0.0.1", "--config"];
    let output = Command::new(PROGRAM).args(arguments).arg(&config).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(config.to_str().unwrap()), "{said}");
}
