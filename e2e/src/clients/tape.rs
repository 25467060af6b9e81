//! What the clients of a run were told, in the order in which they were told it, and what can be read from that.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// It was done.
    Acknowledged,
    /// A condition of it did not hold.
    Refused,
    /// It was certainly not done.
    Failed,
    /// Nobody can say.
    Unknown,
    /// The client's own sidecar was not there, or is gone with the client.
    NotAsked,
}

/// One operation. Times are milliseconds on the driver's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Which client.
    pub client: usize,
    /// On which key.
    pub key: String,
    /// Before the client asked.
    pub began: u64,
    /// After it was told.
    pub ended: u64,
    /// What it was told.
    pub how: Ended,
}

/// What the clients of one cluster were told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tape {
    /// The node beside which each client is.
    pub clients: Vec<String>,
    /// By the time at which they ended.
    pub entries: Vec<Entry>,
    /// Why the last operation that failed did.
    pub last_problem: String,
}

/// A run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// What happened when.
    pub marks: Vec<(String, u64)>,
    /// The tape of each cluster.
    pub clusters: BTreeMap<String, Tape>,
    /// What the checker says of each cluster, in words: present once it was asked.
    pub judged: BTreeMap<String, Result<String, String>>,
}

/// What clients saw of an interruption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Operations acknowledged.
    pub acknowledged: usize,
    /// Operations that failed cleanly.
    pub failed: usize,
    /// Operations with an unknown outcome.
    pub unknown: usize,
    /// For how long a client asked and asked until it was answered: half of the times were at most this.
    pub stall_p50: Duration,
    /// The same: 99 in a hundred.
    pub stall_p99: Duration,
    /// The longest of them, or the longest that was never answered.
    pub longest_stall: Duration,
}

/// The smallest of some times, in order, that so many in a hundred are at most.
fn percentile(sorted: &[u64], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    Duration::from_millis(sorted.get(at).copied().unwrap_or(0))
}

impl Tape {
    /// Operations that began and ended in a span of time.
    pub fn within(&self, span: Range<u64>) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| span.contains(&entry.began) && entry.ended < span.end)
    }

    /// Operations of the clients beside a node.
    pub fn is_of(&self, entry: &Entry, node: &str) -> bool {
        self.clients.get(entry.client).is_some_and(|beside| beside == node)
    }

    /// What the clients saw in a span of time: of what ended in it.
    pub fn figures(&self, span: Range<u64>) -> Figures {
        let mut figures = Figures::default();
        let mut waiting: BTreeMap<usize, u64> = BTreeMap::new();
        let mut answered = Vec::new();
        for entry in self.entries.iter().filter(|entry| span.contains(&entry.ended)) {
            if entry.how == Ended::NotAsked {
                // It waits for nobody but its own sidecar.
                waiting.remove(&entry.client);
                continue;
            }
            let since = *waiting.entry(entry.client).or_insert(entry.began.max(span.start));
            match entry.how {
                Ended::Failed => figures.failed += 1,
                Ended::Unknown => figures.unknown += 1,
                Ended::Acknowledged | Ended::Refused | Ended::NotAsked => {
                    figures.acknowledged += usize::from(entry.how == Ended::Acknowledged);
                    waiting.remove(&entry.client);
                    answered.push(entry.ended - since);
                }
            }
            figures.longest_stall = figures.longest_stall.max(Duration::from_millis(entry.ended - since));
        }
        answered.sort_unstable();
        figures.stall_p50 = percentile(&answered, 50);
        figures.stall_p99 = percentile(&answered, 99);
        figures
    }
}

impl Report {
    /// The time from when the one last happened until the other first did after that.
    pub fn between(&self, from: &str, to: &str) -> anyhow::Result<Range<u64>> {
        let never = |mark: &str| format!("{mark:?} did not happen, only {:?}", self.marks);
        let first = self.marks.iter().rposition(|(name, _)| name == from).with_context(|| never(from))?;
        let mut after = self.marks[first..].iter();
        let last = after.find(|(name, _)| name == to).with_context(|| never(to))?;
        Ok(self.marks[first].1..last.1)
    }

    /// When something happened last.
    pub fn at(&self, mark: &str) -> anyhow::Result<u64> {
        let found = self.marks.iter().rev().find(|(name, _)| name == mark);
        found.map(|(_, at)| *at).with_context(|| format!("{mark:?} did not happen"))
    }

    /// What the clients of a cluster were told.
    pub fn of(&self, cluster: &str) -> anyhow::Result<&Tape> {
        self.clusters.get(cluster).with_context(|| format!("no client of {cluster} ever came"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tape(entries: &[(usize, u64, u64, Ended)]) -> Tape {
        let entry = |&(client, began, ended, how): &(usize, u64, u64, Ended)| Entry {
            client,
            key: "k".into(),
            began,
            ended,
            how,
        };
        Tape {
            clients: vec!["c-0".into(), "c-1".into()],
            entries: entries.iter().map(entry).collect(),
            ..Tape::default()
        }
    }

    #[test]
    fn a_stall_lasts_from_the_first_attempt_until_one_is_answered() {
        let seen = tape(&[
            (0, 0, 10, Ended::Acknowledged),
            (1, 5, 15, Ended::Acknowledged),
            (0, 100, 1100, Ended::Failed),
            (1, 1000, 1200, Ended::Refused),
            (0, 1200, 2100, Ended::Unknown),
            (0, 2200, 2300, Ended::Acknowledged),
            (0, 2400, 2450, Ended::Acknowledged),
        ]);
        let figures = seen.figures(0..u64::MAX);
        assert_eq!(figures.longest_stall, Duration::from_millis(2200));
        assert_eq!((figures.acknowledged, figures.failed, figures.unknown), (4, 1, 1));
        assert_eq!((figures.stall_p50, figures.stall_p99), (Duration::from_millis(50), Duration::from_millis(2200)));
        assert_eq!(seen.figures(2000..2400).longest_stall, Duration::from_millis(300));
    }

    #[test]
    fn one_that_is_never_answered_stalls_too_and_one_without_a_sidecar_does_not() {
        let seen = tape(&[
            (0, 100, 600, Ended::Failed),
            (1, 100, 5000, Ended::NotAsked),
            (1, 5000, 5100, Ended::Acknowledged),
        ]);
        assert_eq!(seen.figures(0..u64::MAX).longest_stall, Duration::from_millis(500));
    }

    #[test]
    fn of_a_hundred_the_second_worst_is_the_99th() {
        let times: Vec<u64> = (1..=100).collect();
        let at = |percent| percentile(&times, percent).as_millis();
        assert_eq!((at(50), at(99), at(100), percentile(&[], 99).as_millis()), (50, 99, 100, 0));
    }

    #[test]
    fn what_reaches_over_the_edge_of_a_span_is_not_within_it() {
        let seen = tape(&[(0, 10, 20, Ended::Failed), (0, 20, 31, Ended::Failed), (1, 15, 30, Ended::Failed)]);
        assert_eq!(seen.within(12..31).count(), 1);
    }

    #[test]
    fn a_span_reaches_from_the_last_beginning_to_the_first_end_after_it() {
        let marks = [("end", 1), ("begin", 2), ("begin", 3), ("end", 5), ("end", 6)];
        let marks = marks.map(|(name, at)| (name.to_owned(), at)).to_vec();
        let report = Report { marks, ..Report::default() };
        assert_eq!(report.between("begin", "end").ok(), Some(3..5));
        assert!(report.between("end", "begin").is_err() && report.between("begin", "never").is_err());
    }
}
