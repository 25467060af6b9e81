//! Chance: marks that never come twice, and pauses that differ. In one place, so that a simulation of many processes in one
//! thread can have the same chance again.

use std::cell::Cell;

thread_local! {
    /// The state of a chance that is repeated; `None`: the system's.
    static REPEATED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's chance follows from a seed; `None`: it is the system's again. For simulations: two processes
/// with one seed would make the same marks.
pub fn repeat(seed: Option<u64>) {
    REPEATED.set(seed);
}

/// The next number of a repeated chance (SplitMix64).
fn repeated() -> Option<u64> {
    let state = REPEATED.get()?.wrapping_add(0x9E37_79B9_7F4A_7C15);
    REPEATED.set(Some(state));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    Some(mixed ^ (mixed >> 31))
}

fn number() -> u128 {
    match repeated().zip(repeated()) {
        Some((high, low)) => u128::from(high) << 64 | u128::from(low),
        None => uuid::Uuid::new_v4().as_u128(),
    }
}

/// A mark for one thing only: 32 hexadecimal digits.
pub fn mark() -> String {
    format!("{:032x}", number())
}

/// A number below `bound`, which is not 0.
pub fn below(bound: u32) -> u32 {
    // The lower bits of a UUID are random; those of its version and variant lie above.
    (number() % u128::from(bound)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_chance_again_and_only_as_long_as_it_is_asked_for() {
        let three = || [mark(), mark(), below(1000).to_string()];
        repeat(Some(7));
        let first = three();
        assert_ne!(first[0], first[1]);
        repeat(Some(7));
        assert_eq!(three(), first);
        repeat(Some(8));
        assert_ne!(three(), first);
        repeat(None);
        assert_ne!(mark(), mark());
    }

    #[test]
    fn a_mark_has_32_digits_whoever_makes_it() {
        for seed in [None, Some(1)] {
            repeat(seed);
            assert!((0..100).all(|_| mark().len() == 32 && below(3) < 3));
        }
        repeat(None);
    }
}
