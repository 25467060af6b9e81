//! What became of a write whose answer was lost, as far as what stands there now tells. Pure.
//!
//! Every envelope carries the mark of its write, and the marks of the writes before it. So one look says that mine has
//! landed, even after others have written over it; or that it never will, because the version that it was to follow is
//! gone. Removed values leave tombstones, so that a revision never comes twice, and a write of a key that must not exist
//! can't land once something was there.

use crate::envelope::{Envelope, short};

/// A conditional write that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent<'a> {
    /// The revision that it writes.
    pub(super) revision: u64,
    pub(super) nonce: &'a str,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// It took effect, and stands.
    Stands,
    /// It took effect, and others have written since.
    Past,
    /// It has had no effect and can have none any more.
    Nothing,
    /// It can't be told; it may even be on its way still.
    Open,
}

/// What became of a write, by what is found.
pub(super) fn became(found: &Envelope, sent: Sent<'_>) -> Became {
    if found.nonce == sent.nonce {
        return Became::Stands;
    }
    match found.revision.checked_sub(sent.revision) {
        None => Became::Open,
        Some(0) => Became::Nothing,
        Some(behind) => {
            let mark = usize::try_from(behind - 1).ok().and_then(|at| found.trail.before.get(at));
            match mark {
                Some(mark) if mark == short(sent.nonce) => Became::Past,
                Some(_) => Became::Nothing,
                None => Became::Open,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Trail, new_nonce};

    const SENT: Sent<'_> = Sent { revision: 3, nonce: "0123456789abcdef0123456789abcdef" };

    /// What stands after writes with these nonces.
    fn after(nonces: &[&str]) -> Envelope {
        let mut trail = Trail::default();
        let mut envelope = None;
        for (revision, nonce) in (1..).zip(nonces) {
            let next = Envelope { revision, nonce: (*nonce).to_owned(), value: None, trail };
            trail = next.next_trail();
            envelope = Some(next);
        }
        envelope.unwrap()
    }

    #[test]
    fn a_write_that_stands_or_was_written_over_has_landed() {
        assert_eq!(became(&after(&["a", "b", SENT.nonce]), SENT), Became::Stands);
        assert_eq!(became(&after(&["a", "b", SENT.nonce, "c", "d"]), SENT), Became::Past);
    }

    #[test]
    fn a_write_that_another_came_before_never_lands() {
        for found in [after(&["a", "b", "c"]), after(&["a", "b", "c", "d"])] {
            assert_eq!(became(&found, SENT), Became::Nothing);
        }
    }

    #[test]
    fn a_write_that_may_be_on_its_way_is_open() {
        assert_eq!(became(&after(&["a", "b"]), SENT), Became::Open);
    }

    #[test]
    fn what_lies_further_back_than_the_marks_go_is_open() {
        let nonces: Vec<String> = (0..12).map(|_| new_nonce()).collect();
        let nonces: Vec<&str> = nonces.iter().map(String::as_str).collect();
        assert_eq!(became(&after(&nonces), SENT), Became::Open);
        let unmarked = Envelope { trail: Trail::default(), ..after(&["a", "b", "c", "d"]) };
        assert_eq!(became(&unmarked, SENT), Became::Open);
    }
}
