//! Contenders in turns: each has a short round, then the next one, and again. What disturbs the machine for a while disturbs all.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::load::{self, Laps};
use crate::process;

/// Before the first round, so that none of them begins cold.
const WARM_UP: Duration = Duration::from_millis(500);

/// What one round came to.
#[derive(Debug)]
pub struct Round {
    /// What the clients saw.
    pub laps: Laps,
    /// What the server used.
    pub cpu: Duration,
}

/// Has one round of the given length.
pub type Turn = Box<dyn Fn(Duration) -> LocalBoxFuture<'static, anyhow::Result<Round>>>;

/// Who is measured.
pub struct Contender {
    /// Has a round.
    pub turn: Turn,
    /// Memory of the server in bytes, where there is one.
    pub resident: Box<dyn Fn() -> anyhow::Result<Option<u64>>>,
}

impl Contender {
    /// Clients that call something in this process. The CPU is that of the process, and so of the clients.
    pub fn in_process<C>(clients: usize, call: impl Fn() -> C + Send + Sync + 'static) -> Self
    where
        C: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let call = Arc::new(call);
        let turn = Box::new(move |duration: Duration| {
            let call = Arc::clone(&call);
            async move {
                let before = process::cpu(std::process::id())?;
                let laps = load::calls(clients, duration, call).await?;
                Ok(Round { laps, cpu: process::cpu(std::process::id())?.saturating_sub(before) })
            }
            .boxed_local()
        });
        Self { turn, resident: Box::new(|| Ok(None)) }
    }
}

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many rounds each contender has.
    pub rounds: usize,
    /// How long each is.
    pub duration: Duration,
}

/// What all rounds of a contender came to.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Requests a second, of each round.
    pub rates: Vec<f64>,
    /// Of all requests, in nanoseconds, sorted.
    pub latencies: Vec<u64>,
    /// What the server used for each request.
    pub cpu: Duration,
    /// Memory of the server at the end.
    pub resident: Option<u64>,
}

/// Least, middle and most of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The least.
    pub least: f64,
    /// As many are above it as below.
    pub median: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of numbers in any order; of none, zeros.
    pub fn of(numbers: &[f64]) -> Self {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        Self { least: at(0), median: f64::midpoint(at(low), at(high)), most: at(sorted.len().saturating_sub(1)) }
    }
}

impl Series {
    /// Spread of the rates.
    pub fn rate(&self) -> Spread {
        Spread::of(&self.rates)
    }

    /// Rates of this one by those of another, round by round.
    pub fn ratio(&self, to: &Self) -> Spread {
        let ratios: Vec<f64> = self.rates.iter().zip(&to.rates).map(|(ours, theirs)| ours / theirs).collect();
        Spread::of(&ratios)
    }

    /// The latency that so many of a thousand requests stay within, in nanoseconds.
    pub fn latency(&self, per_mille: usize) -> u64 {
        let rank = (self.latencies.len() * per_mille).div_ceil(1000);
        self.latencies.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }
}

/// Lets the contenders have their rounds. The series are in their order.
pub async fn run(contenders: &[Contender], plan: Plan) -> anyhow::Result<Vec<Series>> {
    let mut series = vec![Series::default(); contenders.len()];
    let mut cpu = vec![Duration::ZERO; contenders.len()];
    for contender in contenders {
        (contender.turn)(WARM_UP).await?;
    }
    for _ in 0..plan.rounds {
        for ((contender, series), cpu) in contenders.iter().zip(&mut series).zip(&mut cpu) {
            let round = (contender.turn)(plan.duration).await?;
            series.rates.push(round.laps.latencies.len() as f64 / round.laps.took.as_secs_f64());
            series.latencies.extend(round.laps.latencies);
            *cpu += round.cpu;
        }
    }
    for ((contender, series), cpu) in contenders.iter().zip(&mut series).zip(cpu) {
        series.latencies.sort_unstable();
        series.cpu = cpu.div_f64(series.latencies.len().max(1) as f64);
        series.resident = (contender.resident)()?;
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_middle_in_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { least: 1.0, median: 2.0, most: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0]), Spread { least: 1.0, median: 2.5, most: 4.0 });
        assert_eq!(Spread::of(&[]), Spread { least: 0.0, median: 0.0, most: 0.0 });
    }

    #[test]
    fn percentiles_are_latencies_that_were_seen() {
        let series = Series { latencies: (1..=1000).collect(), ..Series::default() };
        assert_eq!((series.latency(500), series.latency(990), series.latency(999)), (500, 990, 999));
        let few = Series { latencies: vec![7, 9], ..Series::default() };
        assert_eq!((few.latency(500), few.latency(999)), (7, 9));
        assert_eq!(Series::default().latency(500), 0);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let series = |rates: &[f64]| Series { rates: rates.to_vec(), ..Series::default() };
        let ratio = series(&[10.0, 30.0]).ratio(&series(&[10.0, 10.0]));
        assert_eq!((ratio.least, ratio.median, ratio.most), (1.0, 2.0, 3.0));
    }

    #[tokio::test]
    async fn contenders_take_turns() {
        let order = std::rc::Rc::new(std::cell::RefCell::new(String::new()));
        let contender = |name: char| {
            let order = std::rc::Rc::clone(&order);
            let turn: Turn = Box::new(move |_| {
                order.borrow_mut().push(name);
                let laps = Laps { latencies: vec![1; 10], took: Duration::from_secs(1) };
                Box::pin(std::future::ready(Ok(Round { laps, cpu: Duration::from_secs(1) })))
            });
            Contender { turn, resident: Box::new(|| Ok(Some(5))) }
        };
        let plan = Plan { rounds: 2, duration: Duration::ZERO };
        let series = run(&[contender('a'), contender('b')], plan).await.unwrap();
        assert_eq!(*order.borrow(), "ababab", "a warm-up and two rounds");
        assert_eq!(
            (series[1].rates.len(), series[1].cpu, series[1].resident),
            (2, Duration::from_millis(100), Some(5))
        );
    }
}
