//! Sums of bytes on their way in, taken beside the rest of that way: MD5 alone takes as long as the network and the disk together, and
//! no two threads can share it. So while one piece is summed, the next comes in and the one before is written.

use bytes::Bytes;
use s3s::S3ErrorCode;
use tokio::task::{JoinHandle, spawn_blocking};

use super::checksums::Sums;
use super::failure::{Answer, Failure};

/// So few are summed at once: another thread is not worth it.
const FEW: usize = 64 * 1024;

/// Sums of the bytes so far.
pub(super) struct Summing {
    /// `None` while a thread has them.
    sums: Option<Box<Sums>>,
    thread: Option<JoinHandle<Box<Sums>>>,
}

impl Summing {
    pub(super) fn new(sums: Sums) -> Self {
        Self { sums: Some(Box::new(sums)), thread: None }
    }

    /// Of the bytes there shall be this sum too. None has been added yet.
    pub(super) fn also(&mut self, algorithm: &str) {
        if let Some(sums) = &mut self.sums {
            sums.also(algorithm);
        }
    }

    /// Adds bytes, once those before are summed up: at most one piece of them is kept for it.
    pub(super) async fn add(&mut self, bytes: &Bytes) -> Answer<()> {
        let mut sums = self.summed().await?;
        if bytes.len() <= FEW {
            sums.add(bytes);
            self.sums = Some(sums);
        } else {
            let bytes = bytes.clone();
            self.thread = Some(spawn_blocking(move || {
                sums.add(&bytes);
                sums
            }));
        }
        Ok(())
    }

    /// All bytes have been added.
    pub(super) async fn end(mut self) -> Answer<Sums> {
        Ok(*self.summed().await?)
    }

    async fn summed(&mut self) -> Answer<Box<Sums>> {
        let broken = || Failure::new(S3ErrorCode::InternalError, "The bytes could not be summed up.");
        match self.thread.take() {
            Some(thread) => thread.await.map_err(|_| broken()),
            None => self.sums.take().ok_or_else(broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use brainy_storage::object::hex;
    use md5::{Digest, Md5};

    use super::*;

    #[tokio::test]
    async fn pieces_of_all_sizes_are_summed_in_their_order() {
        let mut sums = Summing::new(Sums::of(&HeaderMap::new()).unwrap());
        sums.also("crc32");
        let mut all = Vec::new();
        for (number, size) in [0, 10, FEW, FEW + 1, 5, 3 * FEW, 2 * FEW].into_iter().enumerate() {
            let piece = Bytes::from(vec![number as u8; size]);
            all.extend_from_slice(&piece);
            sums.add(&piece).await.unwrap();
        }
        let summed = sums.end().await.unwrap().verify(None).unwrap();
        assert_eq!(summed.md5, hex(&Md5::digest(&all)));
        assert!(summed.checksums.contains_key("crc32"));
    }
}
