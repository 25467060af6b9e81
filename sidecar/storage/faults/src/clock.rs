//! A clock on the wall that can be set, of single processes.

use std::fs::{self, File};
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::kernel::{Answer, Asked, Heard, Listener, let_go, start_halted};

/// How often is looked whether the process is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The time of day of the processes that are started on it: the machine's, and some seconds more or less. Clocks that only
/// count (CLOCK_MONOTONIC, CLOCK_BOOTTIME) are the machine's: nothing can set those.
///
/// A process asks its time of day by clock_gettime(CLOCK_REALTIME), which is answered here. Programs of other kinds than
/// Rust's and newer C libraries' may ask by time or gettimeofday: these tell the machine's time.
#[derive(Clone, Debug, Default)]
pub struct WallClock {
    ahead: Arc<AtomicI64>,
    told: Arc<AtomicU64>,
}

impl WallClock {
    /// Right.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it to so many seconds before the machine's clock; behind it, where negative.
    pub fn set(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::SeqCst);
    }

    /// How often a process was told the time.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    /// Starts a process that goes by this clock. Fails where the kernel does not allow to trace it, or to supervise its
    /// system calls.
    pub fn start(&self, command: Command) -> io::Result<Child> {
        // A thread of its own: a filter can't be taken off again, and the process gets it from whoever starts it.
        let started = thread::spawn(|| start_supervised(command)).join();
        let (listener, child, memory) = started.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let clock = self.clone();
        thread::spawn(move || clock.answer(&listener, &memory));
        Ok(child)
    }

    /// Answers until the process has ended: nobody else has the filter.
    fn answer(&self, listener: &Listener, memory: &File) {
        loop {
            match listener.hear(LOOK_AGAIN) {
                Ok(Heard::Asked(asked)) => {
                    // Who is gone needs no answer.
                    let answer = if self.tell(&asked, memory).is_ok() { Answer::Done } else { Answer::Continue };
                    listener.answer(asked, answer).unwrap_or_else(|error| panic!("answering what time it is: {error}"));
                }
                Ok(Heard::Nothing) => {}
                Ok(Heard::Over) => return,
                Err(error) => panic!("listening to system calls: {error}"),
            }
        }
    }

    fn tell(&self, asked: &Asked, memory: &File) -> io::Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let seconds = since.as_secs().saturating_add_signed(self.ahead.load(Ordering::SeqCst));
        let [_, place, ..] = asked.arguments;
        let mut time = [0; 16];
        time[..8].copy_from_slice(&seconds.to_ne_bytes());
        time[8..].copy_from_slice(&u64::from(since.subsec_nanos()).to_ne_bytes());
        memory.write_all_at(&time, place)?;
        self.told.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn start_supervised(command: Command) -> io::Result<(Listener, Child, File)> {
    let refused = |error: io::Error| {
        let why = "a process can't be started here whose system calls are supervised (ptrace, seccomp)";
        io::Error::new(error.kind(), format!("{why}: {error}"))
    };
    let listener = Listener::install_where(libc::SYS_clock_gettime, libc::CLOCK_REALTIME as u32).map_err(refused)?;
    let mut child = start_halted(command).map_err(refused)?;
    match hide_vdso(&child).and_then(|memory| let_go(&child).map(|()| memory)) {
        Ok(memory) => Ok((listener, child, memory)),
        Err(why) => {
            child.kill()?;
            child.wait()?;
            Err(refused(why))
        }
    }
}

/// The kernel has code of its own in each process (the vDSO) that tells the time without a system call, so that nobody could
/// answer in its stead. A process learns where it lies from the vector beside its arguments, before its first step: there
/// it is crossed out. Some libraries ask the kernel for that vector again: they find code that consists of no parts, and ask
/// for the time by system calls too. The process's memory.
fn hide_vdso(child: &Child) -> io::Result<File> {
    const WORD: usize = size_of::<u64>();
    let missing = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a new process without {what}"));
    let folder = format!("/proc/{}", child.id());
    let stat = fs::read_to_string(format!("{folder}/stat"))?;
    // Its 28th field; the second may hold blanks, in parentheses.
    let stack = stat.rsplit_once(") ").and_then(|(_, from_third)| from_third.split(' ').nth(25)?.parse().ok());
    let stack: u64 = stack.ok_or_else(|| missing("a stack"))?;
    let memory = File::options().read(true).write(true).open(format!("{folder}/mem"))?;
    let word = |at: u64| {
        let mut bytes = [0; WORD];
        memory.read_exact_at(&mut bytes, at).map(|()| u64::from_ne_bytes(bytes))
    };
    // The number of arguments, the arguments, 0, the environment, 0, and pairs of a kind and a value.
    let mut at = stack + (word(stack)? + 2) * WORD as u64;
    while word(at)? != 0 {
        at += WORD as u64;
    }
    at += WORD as u64;
    loop {
        match word(at)? {
            libc::AT_NULL => return Err(missing("a vDSO")),
            libc::AT_SYSINFO_EHDR => break,
            _ => at += 2 * WORD as u64,
        }
    }
    let vdso = word(at + WORD as u64)?;
    memory.write_all_at(&libc::AT_IGNORE.to_ne_bytes(), at)?;
    memory.write_all_at(&0_u16.to_ne_bytes(), vdso + offset_of!(libc::Elf64_Ehdr, e_phnum) as u64)?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;

    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    /// This test binary again, with this test alone.
    const TELLS: &str = "clock::tests::tells_the_time";

    /// For each line that it reads, one with its time of day in seconds, by the standard library and by one that makes its
    /// system calls itself, and what the clock that sessions go by says since the last.
    #[test]
    #[ignore = "is the process of another test"]
    fn tells_the_time() {
        let seconds = |id| clock_gettime(id).tv_sec;
        let mut last = seconds(ClockId::Boottime);
        for _ in io::stdin().lines() {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let counted = seconds(ClockId::Boottime);
            println!("\ntold {wall} {} {}", seconds(ClockId::Realtime), counted - last);
            last = counted;
        }
    }

    #[test]
    fn a_process_goes_by_the_clock_that_it_is_given_and_this_one_does_not() {
        let clock = WallClock::new();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TELLS, "--ignored", "--nocapture"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let before = SystemTime::now();
        let mut child = clock.start(command).unwrap();
        let (mut input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut told = output.lines().map_while(Result::ok).filter_map(|line| {
            let numbers: Vec<i64> =
                line.strip_prefix("told ")?.split(' ').map(|number| number.parse().unwrap()).collect();
            Some(<[i64; 3]>::try_from(numbers).unwrap())
        });
        for ahead in [0, 3600, -3600, 86_400, 0] {
            clock.set(ahead);
            let asked = clock.told();
            writeln!(input).unwrap();
            let [wall, by_itself, since] = told.next().unwrap();
            let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
            for wall in [wall, by_itself] {
                assert!((now + ahead - wall).abs() < 600, "{ahead} ahead it says {wall}, and here it is {now}");
            }
            assert!(since < 600, "a clock that only counts has jumped by {since} s");
            assert!(clock.told() > asked);
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        assert!(before.elapsed().unwrap() < Duration::from_secs(600));
    }
}
