//! A file of frames that only grows at its end: what was appended is on the disk when the call returns. All of it blocks.
//!
//! A frame is written in one piece, after the one before it is on the disk. So what a crash leaves behind is whole frames and
//! at most one that is torn, the last: it was never acknowledged, and is cut off. A torn one with whole ones behind it is
//! damage to what was acknowledged: the file is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// How a frame begins.
const MAGIC: [u8; 4] = *b"brj1";
/// Magic, length and checksum of the content.
const HEADER: usize = 16;

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    /// Why nothing more may be appended: after a write that failed, nobody knows what is on the disk.
    broken: Option<String>,
}

impl Journal {
    /// Opens or makes the file, and gives the contents of its frames.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (frames, whole) = parse(&bytes);
        if let Some(behind) = (whole + 1..bytes.len()).find(|at| frame_at(&bytes, *at).is_some()) {
            let problem = format!(
                "{} is damaged at byte {whole}: there is more behind it, at byte {behind}, so this is no write that was \
                 torn by a crash",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let length = whole as u64;
        file.set_len(length)?;
        // Also what was read: a process before this one may have died between writing and flushing it.
        file.sync_all()?;
        sync_parent(path)?;
        Ok((Self { path: path.to_owned(), file, length, broken: None }, frames))
    }

    /// How many bytes there are.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Appends one frame. `durable`: it is on the disk when this returns; otherwise with the next one that is.
    pub(super) fn append(&mut self, content: &[u8], durable: bool) -> io::Result<()> {
        if let Some(why) = &self.broken {
            return Err(io::Error::other(why.clone()));
        }
        let frame = frame(content)?;
        let written = self.file.write_all(&frame).and_then(|()| if durable { self.file.sync_data() } else { Ok(()) });
        match written {
            Ok(()) => {
                self.length += frame.len() as u64;
                Ok(())
            }
            Err(error) => Err(self.give_up(&error)),
        }
    }

    /// Puts other frames in the place of all there are: all of them, or nothing is changed.
    pub(super) fn replace(&mut self, contents: &[Vec<u8>]) -> io::Result<()> {
        if let Some(why) = &self.broken {
            return Err(io::Error::other(why.clone()));
        }
        let mut bytes = Vec::new();
        for content in contents {
            bytes.extend(frame(content)?);
        }
        match write_whole(&self.path, &bytes).and_then(|()| OpenOptions::new().append(true).open(&self.path)) {
            Ok(file) => {
                self.file = file;
                self.length = bytes.len() as u64;
                Ok(())
            }
            Err(error) => Err(self.give_up(&error)),
        }
    }

    fn give_up(&mut self, error: &io::Error) -> io::Error {
        let why = format!("{} could not be written: {error}", self.path.display());
        self.broken = Some(why.clone());
        io::Error::new(error.kind(), why)
    }
}

/// All of the file or nothing of it, also after a power failure.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}

/// What was made, renamed or removed in a folder is durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn frame(content: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(content.len()).map_err(|_| io::Error::other("more than 4 GiB in one write"))?;
    let mut frame = Vec::with_capacity(HEADER + content.len());
    frame.extend(MAGIC);
    frame.extend(length.to_le_bytes());
    frame.extend(xxh3_64(content).to_le_bytes());
    frame.extend(content);
    Ok(frame)
}

/// The frames from the start on, and where they end.
fn parse(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(content) = frame_at(bytes, at) {
        at += HEADER + content.len();
        frames.push(content.to_vec());
    }
    (frames, at)
}

/// The content of the whole frame that begins at `at`, if one does.
fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let bytes = bytes.get(at..)?;
    let (header, rest) = (bytes.get(..HEADER)?, bytes.get(HEADER..)?);
    if header[..4] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(header[4..8].try_into().ok()?) as usize;
    let checksum = u64::from_le_bytes(header[8..].try_into().ok()?);
    rest.get(..length).filter(|content| xxh3_64(content) == checksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (Journal, Vec<String>) {
        let (journal, frames) = Journal::open(path).unwrap();
        (journal, frames.into_iter().map(|frame| String::from_utf8(frame).unwrap()).collect())
    }

    fn written(path: &Path, contents: &[&str]) -> Vec<u8> {
        let (mut journal, _) = open(path);
        for content in contents {
            journal.append(content.as_bytes(), true).unwrap();
        }
        fs::read(path).unwrap()
    }

    #[test]
    fn what_was_appended_is_read_back_in_order_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        written(&path, &["one", "", "three"]);
        let (mut journal, frames) = open(&path);
        assert_eq!(frames, ["one", "", "three"]);
        journal.append(b"four", false).unwrap();
        assert_eq!(journal.length(), fs::metadata(&path).unwrap().len());
        assert_eq!(open(&path).1, ["one", "", "three", "four"]);
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_was_torn_and_what_follows_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let whole = written(&path, &["one", "two"]);
        let first = HEADER + 3;
        for torn in first..whole.len() {
            fs::write(&path, &whole[..torn]).unwrap();
            let (mut journal, frames) = open(&path);
            assert_eq!(frames, ["one"], "torn at {torn}");
            journal.append(b"after", true).unwrap();
            assert_eq!(open(&path).1, ["one", "after"]);
        }
        // Blocks of one write reach the disk in any order.
        let mut holes = whole.clone();
        holes[first..first + HEADER].fill(0);
        fs::write(&path, &holes).unwrap();
        assert_eq!(open(&path).1, ["one"]);
    }

    #[test]
    fn damage_to_what_was_acknowledged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let whole = written(&path, &["one", "two", "three"]);
        for at in 0..2 * (HEADER + 3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let error = Journal::open(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "at {at}: {error}");
            assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is cut off");
        }
    }

    #[test]
    fn all_frames_are_replaced_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        written(&path, &["one", "two"]);
        let (mut journal, _) = open(&path);
        journal.replace(&[b"three".to_vec()]).unwrap();
        journal.append(b"four", true).unwrap();
        assert_eq!(open(&path).1, ["three", "four"]);
    }

    #[test]
    fn after_a_write_that_failed_nothing_more_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut journal, _) = open(&path);
        journal.append(b"one", true).unwrap();
        // A file that can't be written to.
        journal.file = File::open(&path).unwrap();
        assert!(journal.append(b"two", true).is_err());
        journal.file = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(journal.append(b"three", true).is_err(), "who knows what is before it");
        assert!(journal.replace(&[]).is_err());
        assert_eq!(open(&path).1, ["one"]);
    }
}
