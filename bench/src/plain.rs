//! The least that a durable write of a single file costs: a new file, fsync, rename, fsync of the folder; one after the other.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::FutureExt;

use crate::contest::{Contender, Round};
use crate::load::{Dice, Laps, nanoseconds};
use crate::process;

/// A contender that writes files of one size under any of so many names.
pub fn contender(folder: PathBuf, names: usize, value: Vec<u8>) -> anyhow::Result<Contender> {
    fs::create_dir_all(&folder)?;
    let turn = Box::new(move |duration: Duration| {
        let (folder, value) = (folder.clone(), value.clone());
        async move {
            let before = process::cpu(std::process::id())?;
            let laps = tokio::task::spawn_blocking(move || writes(&folder, names, &value, duration)).await??;
            Ok(Round { laps, cpu: process::cpu(std::process::id())?.saturating_sub(before) })
        }
        .boxed_local()
    });
    Ok(Contender { turn, resident: Box::new(|| Ok(None)) })
}

fn writes(folder: &Path, names: usize, value: &[u8], duration: Duration) -> anyhow::Result<Laps> {
    let (mut dice, mut laps, began) = (Dice::new(0), Laps::default(), Instant::now());
    while began.elapsed() < duration {
        let (place, lap) = (folder.join(dice.below(names).to_string()), Instant::now());
        write(folder, &place, value)?;
        laps.latencies.push(nanoseconds(lap.elapsed()));
    }
    laps.took = began.elapsed();
    Ok(laps)
}

fn write(folder: &Path, place: &Path, value: &[u8]) -> std::io::Result<()> {
    let temporary = place.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(value)?;
    file.sync_all()?;
    fs::rename(temporary, place)?;
    File::open(folder)?.sync_all()
}
