//! Memory for large pieces of bytes that come and go one after the other: the next takes what one before has left. The system takes
//! longer to give a megabyte, page by page and each of them cleared, than a disk does to fill it.

use std::collections::TryReserveError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// A smaller piece is on its own: it comes from memory that the process has.
const LEAST: usize = 128 << 10;
/// So many are kept for those who come next, at most.
const MOST_FREE: usize = 4;

/// Memory that pieces of about the same size share. Cheap to clone; clones share it. When the last piece has gone, all of it is given back.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Pieces that are out.
    out: usize,
    free: Vec<Vec<u8>>,
}

/// Memory for one piece, with room for as many bytes as were asked for.
#[derive(Debug)]
pub struct Buffer {
    /// Written by who has taken it.
    pub bytes: Vec<u8>,
    home: Buffers,
}

impl Buffers {
    /// Empty memory for a piece of so many bytes. Fails where the system has none.
    pub fn take(&self, size: usize) -> Result<Buffer, TryReserveError> {
        let mut state = self.state();
        // Not a much larger one: who keeps a small piece would keep all of it.
        let fits = |bytes: &Vec<u8>| (size..=size + size / 4).contains(&bytes.capacity());
        let place = state.free.iter().position(fits);
        let bytes = place.map(|place| state.free.swap_remove(place)).unwrap_or_default();
        state.out += 1;
        drop(state);
        let mut buffer = Buffer { bytes, home: self.clone() };
        buffer.bytes.try_reserve_exact(size)?;
        Ok(buffer)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// The piece, as it is now. Its memory is free once nobody has any of it any more.
    pub fn freeze(mut self) -> Bytes {
        if self.bytes.capacity() < LEAST {
            return std::mem::take(&mut self.bytes).into();
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut state = self.home.state();
        state.out -= 1;
        if state.out == 0 {
            state.free = Vec::new();
        } else if state.free.len() < MOST_FREE && bytes.capacity() >= LEAST {
            state.free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(buffers: &Buffers, size: usize) -> Bytes {
        let mut buffer = buffers.take(size).unwrap();
        assert!(buffer.bytes.is_empty() && buffer.bytes.capacity() >= size);
        buffer.bytes.resize(size, 7);
        buffer.freeze()
    }

    /// Pieces that are out, and free ones.
    fn counted(buffers: &Buffers) -> (usize, usize) {
        let state = buffers.state();
        (state.out, state.free.len())
    }

    #[test]
    fn the_next_piece_takes_the_memory_of_one_that_went_whole() {
        let buffers = Buffers::default();
        let (first, other) = (piece(&buffers, 2 * LEAST), piece(&buffers, 2 * LEAST));
        let (place, part) = (first.as_ptr(), first.slice(10..20));
        drop(first);
        assert_ne!(piece(&buffers, 2 * LEAST).as_ptr(), place, "a part of it is still there");
        drop(part);
        let free: Vec<_> = buffers.state().free.iter().map(Vec::as_ptr).collect();
        assert!(free.contains(&place));
        assert!(!free.contains(&piece(&buffers, LEAST).as_ptr()), "a small piece keeps no large memory");
        assert!(free.contains(&piece(&buffers, 2 * LEAST - 1).as_ptr()));
        drop(other);
    }

    #[test]
    fn nothing_is_kept_when_all_have_gone_and_little_before() {
        let buffers = Buffers::default();
        let pieces: Vec<_> = (0..MOST_FREE + 3).map(|_| piece(&buffers, LEAST)).collect();
        let last = piece(&buffers, LEAST);
        drop(piece(&buffers, 10));
        drop(pieces);
        assert_eq!(counted(&buffers), (1, MOST_FREE));
        assert!(buffers.state().free.iter().all(|bytes| bytes.capacity() >= LEAST));
        drop(last);
        assert_eq!(counted(&buffers), (0, 0));
    }
}
