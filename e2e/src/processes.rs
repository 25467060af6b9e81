//! The processes of a host, as a helper pod sees them, and how some of them are made to stand still.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// What to hold.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Processes of these names.
    pub named: Vec<String>,
    /// The processes of all containers but those of the pod that asks.
    pub containers: bool,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    name: String,
}

/// What starts containers, and is the parent of their first processes. The kernel keeps 15 letters of a name.
const SHIMS: [&str; 2] = ["containerd-shim", "conmon"];

/// Makes them stand still (SIGSTOP) for a while, and go on, whatever happens in between: also when this program is told to stop.
/// `told` is called when they stand still, and again before they go on. Returns how many there were.
pub async fn stand_still<F: Future<Output = ()>>(
    wanted: &Wanted,
    lasts: Duration,
    told: impl Fn(&'static str) -> F,
) -> anyhow::Result<usize> {
    let mut end = signal(SignalKind::terminate())?;
    let mut stopped = Vec::new();
    let all = stop_all(wanted, &mut stopped);
    if all.is_ok() {
        told(STANDS_STILL).await;
        tokio::select! {
            () = sleep(lasts) => {}
            _ = end.recv() => {}
        }
        told(GOES_ON).await;
    }
    // Containers before what looks after them.
    for pid in stopped.iter().rev() {
        send(*pid, Signal::CONT).ok();
    }
    all.map(|()| stopped.len())
}

/// Says that they stand still now.
pub const STANDS_STILL: &str = "stands still";
/// Says that they are about to go on.
pub const GOES_ON: &str = "goes on";

/// How many there are of them now.
pub fn count(wanted: &Wanted) -> anyhow::Result<usize> {
    Ok(chosen(&table()?, wanted, own()).len())
}

/// Until none is left that was there at the beginning: a process can fork between the look and the signal.
fn stop_all(wanted: &Wanted, stopped: &mut Vec<i32>) -> anyhow::Result<()> {
    loop {
        let fresh: Vec<i32> =
            chosen(&table()?, wanted, own()).into_iter().filter(|pid| !stopped.contains(pid)).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        for pid in fresh {
            send(pid, Signal::STOP)?;
            stopped.push(pid);
        }
    }
}

/// Sends a signal; gone already is as good.
pub fn send(pid: i32, signal: Signal) -> anyhow::Result<()> {
    let Some(target) = Pid::from_raw(pid) else { return Ok(()) };
    match kill_process(target, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("can't signal the process {pid}")),
    }
}

fn own() -> i32 {
    i32::try_from(std::process::id()).unwrap_or_default()
}

/// The named ones first.
fn chosen(table: &BTreeMap<i32, Process>, wanted: &Wanted, own: i32) -> Vec<i32> {
    let named = |process: &Process| wanted.named.contains(&process.name);
    let shim_of = |pid: i32| {
        let mut at = pid;
        while let Some(process) = table.get(&at) {
            if at != pid && SHIMS.contains(&process.name.as_str()) {
                return Some(at);
            }
            at = process.parent;
        }
        None
    };
    let spared = shim_of(own);
    let in_another_pod = |pid: i32| {
        let shim = shim_of(pid);
        shim.is_some() && shim != spared
    };
    let first = table.iter().filter(|(_, process)| named(process)).map(|(pid, _)| *pid);
    let rest = table.iter().filter(|(pid, process)| wanted.containers && !named(process) && in_another_pod(**pid));
    first.chain(rest.map(|(pid, _)| *pid)).filter(|pid| *pid != own).collect()
}

/// Every process of the host.
fn table() -> anyhow::Result<BTreeMap<i32, Process>> {
    let mut table = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").context("can't read /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process that has just ended has no file any more.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some(process) = parse(&stat) {
            table.insert(pid, process);
        }
    }
    Ok(table)
}

/// `pid (name) state parent …`: a name may hold anything, brackets too.
fn parse(stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let parent = after.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process { parent, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with two pods, one of them the helper's own.
    fn host() -> BTreeMap<i32, Process> {
        [
            (1, 0, "systemd"),
            (10, 1, "containerd"),
            (20, 1, "kubelet"),
            (30, 1, "containerd-shim"),
            (31, 30, "pause"),
            (32, 30, "brainy-sidecar"),
            (33, 32, "child (of it)"),
            (40, 1, "containerd-shim"),
            (41, 40, "pause"),
            (42, 40, "e2e-tools"),
        ]
        .map(|(pid, parent, name)| (pid, Process { parent, name: name.to_owned() }))
        .into()
    }

    #[test]
    fn a_host_is_its_kubelet_and_all_containers_but_those_of_who_asks() {
        let wanted = Wanted { named: vec!["kubelet".into()], containers: true };
        assert_eq!(chosen(&host(), &wanted, 42), [20, 31, 32, 33]);
    }

    #[test]
    fn a_name_alone_is_that_process_alone_also_in_a_container() {
        let wanted = Wanted { named: vec!["brainy-sidecar".into()], containers: false };
        assert_eq!(chosen(&host(), &wanted, 42), [32]);
        let wanted = Wanted { named: vec!["e2e-tools".into()], containers: false };
        assert!(chosen(&host(), &wanted, 42).is_empty(), "it would stop itself");
    }

    #[test]
    fn a_name_with_brackets_and_blanks_is_read() {
        let process = Process { parent: 32, name: "child (of it)".to_owned() };
        assert_eq!(parse("33 (child (of it)) S 32 1 1 0"), Some(process));
        assert_eq!(parse(""), None);
    }

    #[tokio::test]
    async fn what_stands_still_goes_on_afterwards() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(')').unwrap().1.split_whitespace().next().unwrap().to_owned()
        };
        // By a name that no other process has.
        let own_name = format!("stand-{}", std::process::id());
        let named = Wanted { named: vec![own_name], containers: false };
        assert_eq!(count(&named).unwrap(), 0);
        send(pid, Signal::STOP).unwrap();
        while state() != "T" {
            sleep(Duration::from_millis(5)).await;
        }
        send(pid, Signal::CONT).unwrap();
        while state() == "T" {
            sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        send(pid, Signal::CONT).unwrap();
    }
}
