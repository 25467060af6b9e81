//! Many keys at once.

use super::{Store, Verdict, applied, ensure, holds, is_absent, key, number, rejected};
use crate::{Condition, Entry, Key};

/// More than any adapter writes at once.
const ITEMS: usize = 100;

pub(super) async fn a_batch_answers_for_each_item_in_order(store: Store) -> Verdict {
    // In no order of keys, so that an answer in key order would be noticed.
    let keys: Result<Vec<Key>, String> = (0..ITEMS).map(|n| key(&format!("k/{}", n * 37 % ITEMS))).collect();
    let keys = keys?;
    let items = keys.iter().enumerate().map(|(n, key)| (key.clone(), number(n as i64))).collect();
    let outcomes = store.set_batch(items).await;
    ensure!(outcomes.len() == ITEMS, "{ITEMS} items gave {} outcomes", outcomes.len());
    let versions = outcomes.into_iter().map(applied).collect::<Result<Vec<_>, _>>()?;

    let mut asked = keys.clone();
    asked.insert(1, key("missing")?);
    asked.push(keys[0].clone());
    let found = store.get_batch(&asked).await;
    ensure!(found.len() == asked.len(), "{} keys gave {} answers", asked.len(), found.len());
    for (n, (asked, found)) in asked.iter().zip(found).enumerate() {
        let found = found.map_err(|why| why.to_string())?;
        let expected = keys
            .iter()
            .position(|key| key == asked)
            .map(|position| Entry { value: number(position as i64), version: versions[position].clone() });
        ensure!(found == expected, "answer {n}, for {asked:?}, is {found:?} instead of {expected:?}");
    }
    Ok(())
}

pub(super) async fn the_last_of_two_items_with_one_key_stands(store: Store) -> Verdict {
    let (a, b) = (key("a")?, key("b")?);
    let mut items = vec![(a.clone(), number(1)), (b.clone(), number(2))];
    items.extend((3..10).map(|n| (a.clone(), number(n))));
    let versions = store.set_batch(items).await.into_iter().map(applied).collect::<Result<Vec<_>, _>>()?;
    holds(&store, &a, &number(9)).await?;
    holds(&store, &b, &number(2)).await?;
    let stands = super::read(&store, &a).await?.map(|entry| entry.version);
    ensure!(stands.as_ref() == versions.last(), "the last item reported {:?}, but {stands:?} stands", versions.last());
    Ok(())
}

pub(super) async fn an_empty_batch_is_one(store: Store) -> Verdict {
    ensure!(store.set_batch(Vec::new()).await.is_empty(), "a batch of nothing gave outcomes");
    ensure!(store.get_batch(&[]).await.is_empty(), "a batch of nothing gave answers");
    Ok(())
}

pub(super) async fn each_item_of_a_batch_has_its_own_condition(store: Store) -> Verdict {
    let [a, b, c, d] = [key("a")?, key("b")?, key("c")?, key("d")?];
    let stale = super::set(&store, &a, &number(1)).await?;
    let at_a = super::set(&store, &a, &number(2)).await?;
    let at_b = super::set(&store, &b, &number(2)).await?;
    let items = vec![
        (a.clone(), number(3), Condition::Version(stale.clone())),
        (b.clone(), number(3), Condition::Version(at_b)),
        (c.clone(), number(3), Condition::Absent),
        (a.clone(), number(4), Condition::Absent),
        (d.clone(), number(3), Condition::Version(stale)),
        (a.clone(), number(5), Condition::Version(at_a.clone())),
    ];
    let mut outcomes = store.put_batch(items).await.into_iter();
    let mut next = || outcomes.next().ok_or("an outcome is missing");
    let standing = Some(Entry { value: number(2), version: at_a });
    ensure!(rejected(next()?)? == standing, "a stale version was not answered with what stands");
    applied(next()?)?;
    applied(next()?)?;
    ensure!(rejected(next()?)? == standing, "a key that exists was not answered with what stands");
    ensure!(rejected(next()?)?.is_none(), "a key that does not exist was answered with a value");
    applied(next()?)?;
    holds(&store, &a, &number(5)).await?;
    holds(&store, &b, &number(3)).await?;
    holds(&store, &c, &number(3)).await?;
    is_absent(&store, &d).await
}
