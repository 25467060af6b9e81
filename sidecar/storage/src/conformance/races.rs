//! Many writers at once, each in a task of its own.

use futures::future::join_all;
use serde_json::Number;

use super::{Store, Verdict, applied, ensure, holds, key, number, read, set};
use crate::{Condition, Error, Key, Outcome, Version, WriteResult};

const WRITERS: usize = 8;
/// Rounds of a race. One round could end well by chance.
const ROUNDS: usize = 10;

/// Runs one task per writer, and returns their results.
async fn at_once<T, F>(act: impl Fn(usize) -> F) -> Result<Vec<T>, String>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let tasks: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(act(writer))).collect();
    join_all(tasks).await.into_iter().map(|done| done.map_err(|why| why.to_string())).collect()
}

/// The versions of the writes that won; every other must have been rejected.
fn winners(outcomes: Vec<WriteResult<Version>>) -> Result<Vec<Version>, String> {
    let mut versions = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(Outcome::Applied(version)) => versions.push(version),
            Ok(Outcome::Rejected(_)) => {}
            other => return Err(format!("a racing write gave {other:?}")),
        }
    }
    Ok(versions)
}

async fn one_stands(store: &Store, key: &Key, outcomes: Vec<WriteResult<Version>>) -> Verdict {
    let winners = winners(outcomes)?;
    ensure!(winners.len() == 1, "{} of {WRITERS} racing writers won, exactly one may", winners.len());
    let stands = read(store, key).await?.map(|entry| entry.version);
    ensure!(stands.as_ref() == winners.first(), "{winners:?} won the race, but {stands:?} stands there");
    Ok(())
}

pub(super) async fn increments_at_once_lose_nothing(store: Store) -> Verdict {
    let key = key("n")?;
    let counts = at_once(|_| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            let mut applied_here = 0;
            for _ in 0..5 {
                match store.increment(&key, Number::from(1)).await {
                    Ok(Outcome::Applied(_)) => applied_here += 1,
                    // A clean failure: it counts for nothing, and the sum must say so too.
                    Err(Error::Contended { .. }) => {}
                    other => return Err(format!("a racing increment gave {other:?}")),
                }
            }
            Ok(applied_here)
        }
    });
    let total: i64 = counts.await?.into_iter().sum::<Result<i64, String>>()?;
    ensure!(total > 0, "no increment succeeded");
    holds(&store, &key, &number(total)).await
}

pub(super) async fn of_swaps_at_once_one_wins(store: Store) -> Verdict {
    for round in 0..ROUNDS {
        let key = key(&format!("k{round}"))?;
        set(&store, &key, &number(-1)).await?;
        let outcomes = at_once(|writer| {
            let (store, key) = (store.clone(), key.clone());
            async move {
                let swapped = store.compare_and_swap(&key, Some(number(-1)), Some(number(writer as i64))).await?;
                Ok(match swapped {
                    Outcome::Applied(Some(version)) => Outcome::Applied(version),
                    Outcome::Applied(None) => Outcome::Unknown(crate::Unknown("a swap gave no version".to_owned())),
                    Outcome::Rejected(current) => Outcome::Rejected(current),
                    Outcome::Unknown(why) => Outcome::Unknown(why),
                })
            }
        });
        one_stands(&store, &key, outcomes.await?).await?;
    }
    Ok(())
}

pub(super) async fn of_creators_at_once_one_wins(store: Store) -> Verdict {
    for round in 0..ROUNDS {
        let key = key(&format!("k{round}"))?;
        let outcomes = at_once(|writer| {
            let (store, key) = (store.clone(), key.clone());
            async move { store.put(&key, number(writer as i64), &Condition::Absent).await }
        });
        one_stands(&store, &key, outcomes.await?).await?;
    }
    Ok(())
}

pub(super) async fn writers_and_removers_agree_on_what_stands(store: Store) -> Verdict {
    for round in 0..ROUNDS {
        let key = key(&format!("k{round}"))?;
        let start = Condition::Version(set(&store, &key, &number(-1)).await?);
        let outcomes = at_once(|writer| {
            let (store, key, start) = (store.clone(), key.clone(), start.clone());
            async move {
                if writer % 2 == 0 {
                    store.put(&key, number(writer as i64), &start).await.map(|outcome| outcome.map(Some))
                } else {
                    store.remove(&key, &start).await.map(|outcome| outcome.map(|_| None))
                }
            }
        });
        let mut won = Vec::new();
        for outcome in outcomes.await? {
            match outcome {
                Ok(Outcome::Applied(left)) => won.push(left),
                Ok(Outcome::Rejected(_)) => {}
                other => return Err(format!("a racing write gave {other:?}")),
            }
        }
        ensure!(won.len() == 1, "{} of {WRITERS} racing writers and removers won, exactly one may", won.len());
        let stands = read(&store, &key).await?.map(|entry| entry.version);
        ensure!(won.first() == Some(&stands), "{won:?} won the race, but {stands:?} stands there");
        applied(store.set(&key, number(0)).await)?;
    }
    Ok(())
}
