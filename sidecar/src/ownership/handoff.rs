//! A shard on its way between two volumes: the bytes of the stream, and the receiving side.
//!
//! The stream is a row of records, each `length of the header (u32, big endian), header (JSON), content`. A header is a
//! file's `{"path", "length"}`, or at the end `{"files", "checksum"}`. Only a stream that ends with the right count and
//! checksum is a copy: whatever cuts it short voids it.

use brainy_coordination::{FencingToken, ShardId};
use brainy_storage::Error;
use brainy_storage::backends::stored::StoredFile;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::HandoffStream;
use super::volume::{Export, Incoming, Volume};

/// Longest header: a path is a namespace and a key, each encoded.
const MAX_HEADER: usize = 64 * 1024;
/// Longest content: a value and its envelope stay far below.
const MAX_CONTENT: usize = 256 * 1024 * 1024;
/// Files are written in batches of this many bytes, or this many files.
const BATCH: (usize, usize) = (4 * 1024 * 1024, 256);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Header {
    File { path: String, length: usize },
    End { files: u64, checksum: u64 },
}

/// The keys of a shard as a stream.
pub(super) fn send(files: Export) -> HandoffStream {
    let state = (files, Some(Digest::default()));
    futures::stream::unfold(state, |(mut files, digest)| async move {
        let mut digest = digest?;
        match files.recv().await {
            Some(Ok(file)) => {
                digest.add(&file);
                let header = Header::File { path: file.path, length: file.content.len() };
                Some((encode(&header, &file.content), (files, Some(digest))))
            }
            Some(Err(error)) => Some((Err(std::io::Error::other(error)), (files, None))),
            None => {
                let end = Header::End { files: digest.files, checksum: digest.checksum.digest() };
                Some((encode(&end, &Bytes::new()), (files, None)))
            }
        }
    })
    .boxed()
}

fn encode(header: &Header, content: &Bytes) -> Result<Bytes, std::io::Error> {
    let header = serde_json::to_vec(header)?;
    let length = u32::try_from(header.len()).map_err(std::io::Error::other)?;
    let mut record = BytesMut::with_capacity(4 + header.len() + content.len());
    record.put_u32(length);
    record.put_slice(&header);
    record.put_slice(content);
    Ok(record.freeze())
}

/// What both sides count.
#[derive(Default)]
struct Digest {
    files: u64,
    checksum: Xxh3,
}

impl Digest {
    fn add(&mut self, file: &StoredFile) {
        self.files += 1;
        self.checksum.update(&(file.path.len() as u64).to_le_bytes());
        self.checksum.update(file.path.as_bytes());
        self.checksum.update(&(file.content.len() as u64).to_le_bytes());
        self.checksum.update(&file.content);
    }
}

/// Receives a shard that ended its tenure `token` elsewhere: whole and durably, or not at all.
pub(super) async fn receive(
    volume: &Volume,
    shard: ShardId,
    token: FencingToken,
    stream: HandoffStream,
) -> Result<u64, Error> {
    let copy = volume.receive(shard, token).await?;
    match receive_files(&copy, stream).await {
        Ok(files) => {
            copy.finish().await?;
            Ok(files)
        }
        Err(error) => {
            copy.discard().await?;
            Err(error)
        }
    }
}

fn broken(why: &dyn std::fmt::Display) -> Error {
    Error::unavailable("HandOff", format!("the copy did not arrive whole: {why}"))
}

async fn receive_files(copy: &Incoming<'_>, stream: HandoffStream) -> Result<u64, Error> {
    let mut records = Records { stream, buffer: BytesMut::new() };
    let (mut digest, mut batch, mut size) = (Digest::default(), Vec::new(), 0);
    loop {
        match records.next().await? {
            (Header::File { path, .. }, content) => {
                let file = StoredFile { path, content };
                digest.add(&file);
                size += file.content.len();
                batch.push(file);
                if size >= BATCH.0 || batch.len() >= BATCH.1 {
                    copy.write(std::mem::take(&mut batch)).await?;
                    size = 0;
                }
            }
            (Header::End { files, checksum }, _) => {
                if (files, checksum) != (digest.files, digest.checksum.digest()) {
                    return Err(broken(&format!("{} files with another checksum than the {files} sent", digest.files)));
                }
                copy.write(batch).await?;
                return Ok(files);
            }
        }
    }
}

/// Cuts a stream of bytes into records.
struct Records {
    stream: HandoffStream,
    buffer: BytesMut,
}

impl Records {
    async fn next(&mut self) -> Result<(Header, Bytes), Error> {
        self.fill(4).await?;
        let length = self.buffer.get_u32() as usize;
        if length > MAX_HEADER {
            return Err(broken(&format!("a header of {length} bytes")));
        }
        self.fill(length).await?;
        let header: Header = serde_json::from_slice(&self.buffer.split_to(length)).map_err(|error| broken(&error))?;
        let length = match &header {
            Header::File { length, .. } => *length,
            Header::End { .. } => 0,
        };
        if length > MAX_CONTENT {
            return Err(broken(&format!("a file of {length} bytes")));
        }
        self.fill(length).await?;
        Ok((header, self.buffer.split_to(length).freeze()))
    }

    async fn fill(&mut self, length: usize) -> Result<(), Error> {
        while self.buffer.len() < length {
            match self.stream.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(broken(&error)),
                None => return Err(broken(&"it ended early")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use brainy_coordination::NodeId;
    use brainy_storage::{Condition, Key, Namespace, Value};

    use super::*;
    use crate::data_folder::Engine;

    const SHARD: ShardId = ShardId(3);
    const TOKEN: FencingToken = FencingToken(5);

    fn key(index: usize) -> Key {
        Key::new(format!("key/{index}")).unwrap()
    }

    /// A shard with all kinds of keys.
    async fn filled(data: &Path, engine: Engine) -> Volume {
        let volume = Volume::open(data, &NodeId("a".into()), 16, engine).await.unwrap();
        let store = volume.adapter(SHARD, None).await.unwrap();
        for index in 0..300 {
            let value = Value::Bytes(vec![7; index * 10].into());
            assert!(store.set(&key(index), value).await.unwrap().applied().is_some());
        }
        let inner = store.with_namespace(&Namespace::new("inner").unwrap());
        assert!(inner.put(&key(0), Value::Json(1.into()), &Condition::Absent).await.unwrap().applied().is_some());
        volume
    }

    async fn chunks(volume: &Volume) -> Vec<Bytes> {
        send(volume.export(SHARD).await.unwrap()).map(Result::unwrap).collect().await
    }

    fn stream(chunks: impl IntoIterator<Item = Bytes>) -> HandoffStream {
        futures::stream::iter(chunks.into_iter().map(Ok).collect::<Vec<_>>()).boxed()
    }

    async fn volume(data: &Path, engine: Engine) -> Volume {
        Volume::open(data, &NodeId("b".into()), 16, engine).await.unwrap()
    }

    #[tokio::test]
    async fn a_shard_arrives_whole_with_its_versions_whatever_the_two_volumes_are() {
        for (from, to) in [
            (Engine::Embedded, Engine::Embedded),
            (Engine::Files, Engine::Files),
            (Engine::Files, Engine::Embedded),
            (Engine::Embedded, Engine::Files),
        ] {
            let data = tempfile::tempdir().unwrap();
            let source = filled(data.path(), from).await;
            let target = volume(data.path(), to).await;
            // Whatever the network makes of the pieces.
            let bytes: Vec<Bytes> = chunks(&source).await.concat().chunks(1000).map(Bytes::copy_from_slice).collect();
            assert_eq!(receive(&target, SHARD, TOKEN, stream(bytes)).await.unwrap(), 301);
            assert_eq!(target.local(SHARD).incoming, Some(TOKEN));
            drop(target);

            let target = volume(data.path(), to).await;
            assert_eq!(target.local(SHARD).incoming, Some(TOKEN), "also after a restart");
            target.promote(SHARD).await.unwrap();
            let copy = target.adapter(SHARD, None).await.unwrap();
            let source = source.adapter(SHARD, None).await.unwrap();
            for index in 0..300 {
                assert_eq!(copy.get(&key(index)).await.unwrap(), source.get(&key(index)).await.unwrap());
            }
            let inner = Namespace::new("inner").unwrap();
            let there = copy.with_namespace(&inner).get(&key(0)).await.unwrap();
            assert_eq!(there, source.with_namespace(&inner).get(&key(0)).await.unwrap());
        }
    }

    #[tokio::test]
    async fn an_empty_shard_arrives_empty() {
        let data = tempfile::tempdir().unwrap();
        let source = Volume::open(data.path(), &NodeId("a".into()), 16, Engine::Embedded).await.unwrap();
        let target = volume(data.path(), Engine::Embedded).await;
        let empty = send(source.export(SHARD).await.unwrap());
        assert_eq!(receive(&target, SHARD, TOKEN, empty).await.unwrap(), 0);
        assert_eq!(target.local(SHARD).incoming, Some(TOKEN));
    }

    #[tokio::test]
    async fn a_stream_that_is_cut_short_or_changed_leaves_nothing() {
        for engine in [Engine::Embedded, Engine::Files] {
            let data = tempfile::tempdir().unwrap();
            let source = filled(data.path(), engine).await;
            let target = volume(data.path(), engine).await;
            let whole = chunks(&source).await;

            let without_end = whole[..whole.len() - 1].to_vec();
            let without_one = [&whole[..5], &whole[6..]].concat();
            let cut = vec![whole.concat()[..5000].to_vec().into()];
            let twice = [&whole[..1], &whole[..]].concat();
            for (what, chunks) in
                [("no end", without_end), ("one less", without_one), ("cut", cut), ("one twice", twice)]
            {
                let received = receive(&target, SHARD, TOKEN, stream(chunks)).await;
                assert!(received.is_err(), "{what}");
                assert_eq!(target.local(SHARD).incoming, None, "{what}");
            }
            drop(target);
            assert_eq!(volume(data.path(), engine).await.local(SHARD).incoming, None);
        }
    }
}
