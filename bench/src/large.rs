//! Something large, up and down: to a file, and over HTTP as one body. Each end takes it in pieces, as it comes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fs::{Advice, fadvise};

/// In bytes.
pub const MEGABYTE: u64 = 1 << 20;
/// For anything to move.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes without a pattern, that are told from those of another place by their first eight.
fn piece(place: u64) -> Vec<u8> {
    let words =
        (0..MEGABYTE / 8).map(|at| (at ^ 0x5851_f42d_4c95_7f2d).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let mut piece: Vec<u8> = words.flatten().collect();
    piece[..8].copy_from_slice(&place.to_le_bytes());
    piece
}

/// Gives so many bytes to whoever takes them, piece by piece.
fn each_piece(size: u64, mut take: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut piece = piece(0);
    for place in 0..size / MEGABYTE {
        piece[..8].copy_from_slice(&place.to_le_bytes());
        take(&piece)?;
    }
    Ok(())
}

/// Writes a file, and flushes it.
pub fn write_file(path: &Path, size: u64) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut file = File::create(path)?;
    each_piece(size, |piece| file.write_all(piece))?;
    file.sync_all()?;
    Ok(began.elapsed())
}

/// Reads a file to its end.
pub fn read_file(path: &Path) -> anyhow::Result<Duration> {
    let (began, mut buffer) = (Instant::now(), piece(0));
    let mut file = File::open(path)?;
    while file.read(&mut buffer)? > 0 {}
    Ok(began.elapsed())
}

/// Lets the kernel forget what it keeps in memory of a file, or of all in a folder.
pub fn forget(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            forget(&entry?.path())?;
        }
        return Ok(());
    }
    // One that is gone by now is forgotten.
    let Ok(file) = File::open(path) else { return Ok(()) };
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed).with_context(|| format!("can't let go of {}", path.display()))
}

fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Takes the head of an answer, which must be a success. The bytes that came with it.
fn answered(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let (mut received, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "the server hung up: {}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&buffer[..count]);
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = received.split_off(end + 4);
            let words = [&received, &rest].map(|bytes| String::from_utf8_lossy(bytes));
            ensure!(received.starts_with(b"HTTP/1.1 200"), "{}{}", words[0], words[1]);
            return Ok(rest);
        }
    }
}

/// Sends a request with a body of so many bytes. How long until its answer.
pub fn send(address: SocketAddr, head: &[u8], size: u64) -> anyhow::Result<Duration> {
    let (began, mut stream) = (Instant::now(), connect(address)?);
    stream.write_all(head)?;
    each_piece(size, |piece| stream.write_all(piece))?;
    answered(&mut stream)?;
    Ok(began.elapsed())
}

/// Sends a request, and takes its answer of so many bytes, which must be those that were [sent](send).
pub fn receive(address: SocketAddr, request: &[u8], size: u64) -> anyhow::Result<Duration> {
    let (began, mut stream) = (Instant::now(), connect(address)?);
    stream.write_all(request)?;
    let mut rest = answered(&mut stream)?;
    let mut piece = piece(0);
    each_piece(size, |expected| {
        let here = rest.len().min(piece.len());
        piece[..here].copy_from_slice(&rest[..here]);
        rest.drain(..here);
        stream.read_exact(&mut piece[here..])?;
        match piece == expected {
            true => Ok(()),
            false => Err(std::io::Error::other("other bytes than were sent")),
        }
    })?;
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_was_sent_is_what_must_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for (turn, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let head = |stream: &mut TcpStream| stream.read_exact(&mut [0; 4]).unwrap();
                head(&mut stream);
                if turn == 0 {
                    kept = vec![0; 2 * MEGABYTE as usize];
                    stream.read_exact(&mut kept).unwrap();
                }
                if turn == 2 {
                    kept[MEGABYTE as usize] ^= 1;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                if turn > 0 {
                    // Who notices another byte hangs up.
                    let _ = stream.write_all(&kept);
                }
            }
        });
        send(address, b"PUT.", 2 * MEGABYTE).unwrap();
        receive(address, b"GET.", 2 * MEGABYTE).unwrap();
        assert!(receive(address, b"GET.", 2 * MEGABYTE).is_err());
    }

    #[test]
    fn a_file_is_written_read_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        write_file(&path, 2 * MEGABYTE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * MEGABYTE);
        forget(folder.path()).unwrap();
        read_file(&path).unwrap();
    }
}
