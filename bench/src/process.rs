//! What a process uses, as the kernel counts it.

use std::time::Duration;

use anyhow::Context;

/// Clock ticks in a second, as the kernel shows them to programs on every architecture that we build for.
const TICKS: u64 = 100;

/// User and system time of all threads of a process.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let ticks = ticks(&text).with_context(|| format!("unexpected: {text}"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// The fields 14 and 15. The second one is the program's name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Resident memory in bytes.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmRSS:")
}

/// The most that was ever resident, in bytes.
pub fn peak(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, field: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 120 30 0 0 20 0 1 0 100 1000 200";
        assert_eq!(ticks(stat), Some(150));
    }

    #[test]
    fn this_process_uses_something() {
        let pid = std::process::id();
        assert!(resident(pid).unwrap() > 100_000);
        assert!(peak(pid).unwrap() > 100_000);
        cpu(pid).unwrap();
    }
}
