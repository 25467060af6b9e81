//! Which region is how far, pure: the order in which regions are read, from measured round trips. A region takes the place
//! of a nearer one only when it has been clearly nearer for some time, so that two that are about as far don't change places
//! all the time.

/// Of a new measurement so much counts, in percent.
const WEIGHT: u64 = 20;
/// What was measured is clearly nearer if it is so much less, in percent and in microseconds.
const MARGIN: (u64, u64) = (20, 2_000);
/// Measurements in a row in which it must be.
const ROUNDS: u32 = 3;

/// How far each of some regions is, as measured, and their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distances {
    /// Smoothed, in microseconds.
    measured: Vec<Option<u64>>,
    /// Those that did not answer when they were asked last. How far they are is not forgotten: they may be back soon.
    away: Vec<bool>,
    order: Vec<usize>,
    /// For how many rounds each place of the order was to be changed with the next one.
    nearer: Vec<u32>,
}

impl Distances {
    /// Nothing is measured: in the order given, which has each region once.
    pub fn new(order: Vec<usize>) -> Self {
        let places = order.iter().max().map_or(0, |most| most + 1);
        Self { measured: vec![None; places], away: vec![false; places], nearer: vec![0; order.len()], order }
    }

    /// A round trip to a region took so long, in microseconds.
    pub fn measure(&mut self, region: usize, micros: u64) {
        if let Some(measured) = self.measured.get_mut(region) {
            *measured = Some(match *measured {
                Some(before) => {
                    (before.saturating_mul(100 - WEIGHT)).saturating_add(micros.saturating_mul(WEIGHT)) / 100
                }
                None => micros,
            });
            self.away[region] = false;
        }
    }

    /// A region did not answer: it is farther than any that does.
    pub fn fail(&mut self, region: usize) {
        if let Some(away) = self.away.get_mut(region) {
            *away = true;
        }
    }

    /// A round of measurements is over: neighbours in the order change places where the farther one has been clearly nearer
    /// for some rounds. What was never measured stays where it is.
    pub fn round(&mut self) -> &[usize] {
        let mut at = 0;
        while at + 1 < self.order.len() {
            let (first, second) = (self.order[at], self.order[at + 1]);
            if !self.is_clearly_nearer(second, first) {
                self.nearer[at] = 0;
            } else if self.nearer[at] + 1 < ROUNDS {
                self.nearer[at] += 1;
            } else {
                self.order.swap(at, at + 1);
                self.nearer[at] = 0;
                at += 1;
            }
            at += 1;
        }
        &self.order
    }

    /// Nearest first.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    fn is_clearly_nearer(&self, one: usize, other: usize) -> bool {
        let is_away = |region: usize| self.away.get(region).copied().unwrap_or(false);
        let measured = |region: usize| self.measured.get(region).copied().flatten();
        match (measured(one), is_away(one), is_away(other)) {
            (None, ..) | (_, true, _) => return false,
            (_, false, true) => return true,
            (_, false, false) => {}
        }
        let (Some(one), Some(other)) = (measured(one), measured(other)) else { return false };
        let margin = (other / 100).saturating_mul(MARGIN.0).max(MARGIN.1);
        one.saturating_add(margin) < other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(distances: &mut Distances, count: u32, micros: &[u64]) -> Vec<usize> {
        for _ in 0..count {
            for (region, micros) in micros.iter().enumerate() {
                distances.measure(region, *micros);
            }
            distances.round();
        }
        distances.order().to_vec()
    }

    #[test]
    fn the_nearest_comes_first_once_it_has_been_for_some_time() {
        let mut distances = Distances::new(vec![0, 1, 2]);
        assert_eq!(rounds(&mut distances, ROUNDS - 1, &[150_000, 80_000, 5_000]), [0, 1, 2], "too soon");
        assert_eq!(rounds(&mut distances, 4 * ROUNDS, &[150_000, 80_000, 5_000]), [2, 1, 0]);
    }

    #[test]
    fn what_is_about_as_far_does_not_change_places() {
        let mut distances = Distances::new(vec![1, 0]);
        for round in 0..100 {
            let micros = if round % 2 == 0 { [80_000, 90_000] } else { [90_000, 80_000] };
            assert_eq!(rounds(&mut distances, 1, &micros), [1, 0]);
        }
        // A few microseconds are nothing, whatever their share.
        assert_eq!(rounds(&mut distances, 100, &[400, 1_500]), [1, 0]);
    }

    #[test]
    fn one_slow_answer_changes_nothing() {
        let mut distances = Distances::new(vec![0, 1]);
        rounds(&mut distances, 20, &[5_000, 80_000]);
        assert_eq!(rounds(&mut distances, 1, &[2_000_000, 80_000]), [0, 1]);
        assert_eq!(rounds(&mut distances, 100, &[5_000, 80_000]), [0, 1]);
        assert_eq!(rounds(&mut distances, 100, &[300_000, 80_000]), [1, 0], "slow for good");
    }

    #[test]
    fn what_does_not_answer_comes_last_and_is_where_it_was_soon_after_it_does() {
        let mut distances = Distances::new(vec![0, 1, 2]);
        rounds(&mut distances, 20, &[5_000, 80_000, 150_000]);
        for _ in 0..20 {
            distances.fail(0);
            distances.measure(1, 80_000);
            distances.fail(2);
            distances.round();
        }
        assert_eq!(distances.order(), [1, 0, 2], "of two that are away neither is nearer");
        assert_eq!(rounds(&mut distances, ROUNDS - 1, &[5_000, 80_000, 150_000]), [1, 0, 2], "too soon");
        assert_eq!(rounds(&mut distances, 1, &[5_000, 80_000, 150_000]), [0, 1, 2]);
        // One that never answered has no distance, and stays.
        let mut distances = Distances::new(vec![0, 1]);
        for _ in 0..20 {
            distances.fail(0);
            distances.fail(1);
            distances.round();
        }
        assert_eq!(distances.order(), [0, 1]);
    }

    #[test]
    fn what_was_never_measured_stays_where_it_is() {
        let mut distances = Distances::new(vec![0, 1, 2]);
        distances.measure(2, 1);
        for _ in 0..10 {
            distances.round();
        }
        distances.measure(7, 1);
        assert_eq!(distances.order(), [0, 1, 2]);
    }
}
