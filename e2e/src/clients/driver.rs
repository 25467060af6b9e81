//! The driver: one process that decides what every client does next, notes what it was told, and judges all of it in the end.
//! The clients' hands come to it, over the pods' network alone: it needs neither names nor an API server. Since one process
//! notes the beginning before a hand is told, and the end after the hand has said it, no two clocks have to agree on
//! what was before what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brainy_storage::Version;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::history::{Begun, Histories};
use super::operations::{Dice, Operation, Outcome, pick, sum_key};
use super::spec::{Answer, Done};
use super::tape::{Ended, Entry, Report, Tape};
use super::wire::{Hello, Lines, Told};

/// Between two operations of a client, on average.
const THINK: Duration = Duration::from_millis(80);
/// Keys in use at a time, in each cluster.
const KEYS: usize = 24;
/// Most operations of a key, and most of which nobody knows: then another key takes its place. What may have happened at
/// any time since makes a history hard to judge.
const MOST: (usize, usize) = (40, 4);
/// Keys that are only ever added to, by one.
const SUMS: usize = 4;
/// How long a hand may be silent: a host can stand still for a while.
const SILENCE: Duration = Duration::from_secs(400);
/// How long the last look at every key may take.
const LAST_LOOK: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(100);

/// What is known of one cluster.
#[derive(Default)]
struct Notes {
    histories: Histories,
    /// Additions to a sum: acknowledged, and unknown.
    sums: BTreeMap<usize, (i64, i64)>,
    /// What the sums were in the end.
    read: BTreeMap<usize, i64>,
    tape: Tape,
    /// An answer that no sidecar may give.
    broken: Option<String>,
    /// Once the clients have ended: what is still to be read.
    left: Option<VecDeque<Operation>>,
    under_way: usize,
}

struct Driver {
    began: Instant,
    seed: u64,
    clusters: Mutex<BTreeMap<String, Arc<Mutex<Notes>>>>,
    marks: Mutex<Vec<(String, u64)>>,
}

/// A task that panicked has been reported; what it held is still what was noted.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves for ever.
pub async fn drive(listener: TcpListener, seed: u64) -> anyhow::Result<()> {
    let driver = Arc::new(Driver { began: Instant::now(), seed, clusters: Mutex::default(), marks: Mutex::default() });
    loop {
        let (stream, peer) = listener.accept().await?;
        let driver = Arc::clone(&driver);
        tokio::spawn(async move {
            if let Err(error) = driver.serve(Lines::over(stream)).await {
                println!("{peer}: {error:#}");
            }
        });
    }
}

impl Driver {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn cluster(&self, name: &str) -> Arc<Mutex<Notes>> {
        Arc::clone(locked(&self.clusters).entry(name.to_owned()).or_default())
    }

    async fn serve(&self, mut lines: Lines<TcpStream>) -> anyhow::Result<()> {
        // Probes connect and say nothing.
        let Ok(hello) = lines.hear().await else { return Ok(()) };
        match hello {
            Hello::Hand { cluster, node } => self.client(&self.cluster(&cluster), node, lines).await,
            Hello::Mark(name) => {
                locked(&self.marks).push((name, self.now()));
                lines.say(&()).await
            }
            Hello::Look => lines.say(&self.report(BTreeMap::new())).await,
            Hello::Judge => {
                let clusters = locked(&self.clusters).clone();
                let judged = clusters.into_iter().map(|(name, notes)| async move { (name, judge(&notes).await) });
                let judged = futures::future::join_all(judged).await.into_iter().collect();
                lines.say(&self.report(judged)).await
            }
        }
    }

    fn report(&self, judged: BTreeMap<String, Result<String, String>>) -> Report {
        let clusters = locked(&self.clusters).clone();
        let clusters = clusters.into_iter().map(|(name, notes)| (name, locked(&notes).tape.clone()));
        Report { marks: locked(&self.marks).clone(), clusters: clusters.collect(), judged }
    }

    /// One client: for as long as its hand is there.
    async fn client(&self, notes: &Mutex<Notes>, node: String, mut lines: Lines<TcpStream>) -> anyhow::Result<()> {
        let number = {
            let mut notes = locked(notes);
            notes.tape.clients.push(node);
            notes.tape.clients.len() - 1
        };
        let mut client = Client {
            dice: Dice(self.seed.wrapping_mul(1_000_003).wrapping_add(number as u64)),
            seen: BTreeMap::new(),
            value: 1_000_000 * (number as i64 + 1),
        };
        loop {
            sleep(client.dice.about(THINK)).await;
            let Some((operation, begun)) = client.next(&mut locked(notes)) else { continue };
            let began = self.now();
            let told = exchange(&mut lines, &operation).await;
            let gone = told.is_err();
            let told = told.unwrap_or_else(|error| Told::NoAnswer(format!("{error:#}")));
            let entry = Entry { client: number, key: operation.key(), began, ended: self.now(), how: Ended::NotAsked };
            client.note(&mut locked(notes), operation, &begun, entry, &told, gone);
            if gone {
                return Ok(());
            }
        }
    }
}

async fn exchange(lines: &mut Lines<TcpStream>, operation: &Operation) -> anyhow::Result<Told> {
    lines.say(&operation.request()).await?;
    timeout(SILENCE, lines.hear()).await?
}

struct Client {
    dice: Dice,
    /// The version of each key that it saw last.
    seen: BTreeMap<String, Version>,
    value: i64,
}

impl Client {
    /// What it does next, and where that begins in the history of its key; `None`: nothing for now.
    fn next(&mut self, notes: &mut Notes) -> Option<(Operation, Option<Begun>)> {
        let operation = match &mut notes.left {
            // The load is over: at most a last look is left.
            Some(left) => left.pop_front()?,
            None if self.dice.below(8) == 0 => Operation::Add(self.dice.below(SUMS)),
            None => {
                let key = self.pick_key(&notes.histories);
                self.value += 1;
                let last = notes.histories.last_number(&key);
                let write = pick(&mut self.dice, self.value, self.seen.get(&key).cloned(), last);
                Operation::OnKey(key, write)
            }
        };
        notes.under_way += 1;
        let begun = match &operation {
            Operation::OnKey(key, write) => Some(notes.histories.begin(key, write.clone())),
            Operation::Add(_) | Operation::ReadSum(_) => None,
        };
        Some((operation, begun))
    }

    fn pick_key(&mut self, histories: &Histories) -> String {
        let at = self.dice.below(KEYS);
        let fits = |key: &String| {
            let (operations, unknown) = histories.of(key);
            operations < MOST.0 && unknown < MOST.1
        };
        let mut generation = 0;
        loop {
            let key = format!("k{at}-{generation}");
            if fits(&key) {
                return key;
            }
            generation += 1;
        }
    }

    fn note(
        &mut self,
        notes: &mut Notes,
        operation: Operation,
        begun: &Option<Begun>,
        mut entry: Entry,
        told: &Told,
        gone: bool,
    ) {
        notes.under_way -= 1;
        let outcome = operation.outcome(told).unwrap_or_else(|error| {
            let broken = format!("{error:#}");
            notes.broken.get_or_insert_with(|| broken.clone());
            Outcome::Unknown(broken)
        });
        entry.how = match &outcome {
            Outcome::Acknowledged(_) | Outcome::Sum(_) => Ended::Acknowledged,
            Outcome::Refused => Ended::Refused,
            // Nobody is there any more who waits for an answer.
            Outcome::NotAsked => Ended::NotAsked,
            Outcome::Failed(_) | Outcome::Unknown(_) if gone => Ended::NotAsked,
            Outcome::Failed(why) => {
                notes.tape.last_problem.clone_from(why);
                Ended::Failed
            }
            Outcome::Unknown(why) => {
                notes.tape.last_problem.clone_from(why);
                Ended::Unknown
            }
        };
        match (&operation, &outcome) {
            (Operation::Add(number), Outcome::Acknowledged(_)) => notes.sums.entry(*number).or_default().0 += 1,
            (Operation::Add(number), Outcome::Unknown(_)) => notes.sums.entry(*number).or_default().1 += 1,
            (Operation::ReadSum(number), Outcome::Sum(sum)) => drop(notes.read.insert(*number, *sum)),
            _ => {}
        }
        if let Some(begun) = begun {
            let done = done(&operation, outcome);
            if let Some(shown) = done.as_ref().and_then(Done::shows) {
                match shown {
                    Some((_, version)) => drop(self.seen.insert(operation.key(), version.clone())),
                    None => drop(self.seen.remove(&operation.key())),
                }
            }
            notes.histories.end(begun, done);
        }
        if let Some(left) = &mut notes.left
            && operation.reads()
            && entry.how != Ended::Acknowledged
        {
            // A last look is tried until it is answered.
            left.push_back(operation);
        }
        notes.tape.entries.push(entry);
    }
}

/// What goes into the history; `None`: that it certainly had no effect.
fn done(operation: &Operation, outcome: Outcome) -> Option<Done> {
    match (operation, outcome) {
        (_, Outcome::Acknowledged(done)) => done,
        (Operation::OnKey(_, Some(write)), Outcome::Unknown(_)) => Some(Done::Write(write.clone(), Answer::Unknown)),
        _ => None,
    }
}

/// Ends the load, has every key read, and looks whether all that was told fits together.
async fn judge(notes: &Mutex<Notes>) -> Result<String, String> {
    // From now on nothing begins.
    locked(notes).left.get_or_insert_default();
    until_idle(notes).await?;
    {
        let mut notes = locked(notes);
        let mut left: VecDeque<Operation> =
            notes.histories.keys().into_iter().map(|key| Operation::OnKey(key, None)).collect();
        left.extend(notes.sums.keys().copied().map(Operation::ReadSum));
        notes.left = Some(left);
    }
    until_idle(notes).await?;
    verdict(&locked(notes))
}

async fn until_idle(notes: &Mutex<Notes>) -> Result<(), String> {
    let began = Instant::now();
    loop {
        {
            let notes = locked(notes);
            let left = notes.left.as_ref().map_or(0, VecDeque::len);
            if left == 0 && notes.under_way == 0 {
                return Ok(());
            }
            if began.elapsed() > LAST_LOOK {
                let under_way = notes.under_way;
                return Err(format!(
                    "{left} keys could not be read, {under_way} are being read: {}",
                    notes.tape.last_problem
                ));
            }
        }
        sleep(PAUSE).await;
    }
}

fn verdict(notes: &Notes) -> Result<String, String> {
    if let Some(broken) = &notes.broken {
        return Err(format!("an answer that breaks the API: {broken}"));
    }
    notes.histories.judge()?;
    for (number, (acknowledged, unknown)) in &notes.sums {
        let key = sum_key(*number);
        let sum = notes.read.get(number).ok_or_else(|| format!("{key} was not read"))?;
        if !(*acknowledged..=acknowledged + unknown).contains(sum) {
            return Err(format!("{key} is {sum}, of {acknowledged} acknowledged and {unknown} unknown additions"));
        }
    }
    let (all, acknowledged, unknown) = notes.histories.counts();
    let additions: i64 = notes.sums.values().map(|(acknowledged, _)| acknowledged).sum();
    Ok(format!(
        "{all} operations, {acknowledged} acknowledged, {unknown} unknown, each key's history linearizable; {additions} \
         additions acknowledged, each in its sum"
    ))
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
