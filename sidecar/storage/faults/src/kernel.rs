//! What the kernel offers: a filter over a thread's system calls, a listener that is asked about each, and a new process that
//! stands still before its first step.

#![allow(unsafe_code, reason = "there is no safe interface to it")]

use std::io;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr::null_mut;
use std::time::Duration;

use libc::{c_int, c_long, c_uint};

/// A filter of 32-bit calls would have to know other numbers: such calls pass unseen, and no program of ours makes any.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    id: u64,
    /// Its number.
    pub(crate) number: c_long,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// What a system call that waits is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// It happens.
    Continue,
    /// It returns this error and does not happen (any more).
    Fail(c_int),
    /// It succeeds and does not happen (any more).
    Done,
}

/// Hears of the calls of the thread that made it and of all threads that this one starts from then on.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

/// What became of waiting for a call.
pub(crate) enum Heard {
    /// One waits for an answer.
    Asked(Asked),
    /// None came in time.
    Nothing,
    /// Nobody is left who could make one.
    Over,
}

impl Listener {
    /// Has all calls of these numbers wait, of the current thread and those that it starts. It can't be undone.
    pub(crate) fn install(numbers: &[c_long]) -> io::Result<Self> {
        Self::install_program(filter(numbers))
    }

    /// The same for the calls of one number whose first argument is this one.
    pub(crate) fn install_where(number: c_long, argument: u32) -> io::Result<Self> {
        Self::install_program(filter_where(number, argument))
    }

    fn install_program(mut program: Vec<libc::sock_filter>) -> io::Result<Self> {
        let length = u16::try_from(program.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
        // SAFETY: takes numbers only.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel copies the program, which outlives the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        let fd = c_int::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a new descriptor, which nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for the next call.
    pub(crate) fn hear(&self, patience: Duration) -> io::Result<Heard> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let patience = c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: one descriptor, as said.
        match unsafe { libc::poll(&raw mut poll, 1, patience) } {
            0 => return Ok(Heard::Nothing),
            1 => {}
            _ => return or_nothing(libc::EINTR),
        }
        if poll.revents & libc::POLLIN == 0 {
            return Ok(Heard::Over);
        }
        // SAFETY: it consists of numbers, and the kernel demands that they are zero.
        let mut heard: libc::seccomp_notif = unsafe { zeroed() };
        // SAFETY: the kernel fills in what it gets room for.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut heard) } != 0 {
            // Whoever asked was interrupted or is gone.
            return or_nothing(libc::ENOENT);
        }
        Ok(Heard::Asked(Asked { id: heard.id, number: c_long::from(heard.data.nr), arguments: heard.data.args }))
    }

    /// Answers a call.
    pub(crate) fn answer(&self, asked: Asked, answer: Answer) -> io::Result<()> {
        let (error, flags) = match answer {
            Answer::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Answer::Fail(errno) => (-errno, 0),
            Answer::Done => (0, 0),
        };
        let mut response = libc::seccomp_notif_resp { id: asked.id, val: 0, error, flags };
        // SAFETY: the kernel reads the response.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) } {
            0 => Ok(()),
            _ => or_nothing(libc::ENOENT).map(|_| ()),
        }
    }
}

/// Nothing, if the last error was the one that means no more.
fn or_nothing(harmless: c_int) -> io::Result<Heard> {
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(harmless) { Ok(Heard::Nothing) } else { Err(error) }
}

/// Starts a program. It stands still before its first step until it is let go, by the thread that started it.
pub(crate) fn start_halted(mut command: Command) -> io::Result<Child> {
    let traced = || {
        // SAFETY: takes no pointers.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, null_mut::<u8>(), null_mut::<u8>()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec it makes one system call.
    let child = unsafe { command.pre_exec(traced) }.spawn()?;
    let mut status = 0;
    // SAFETY: the kernel fills in the status.
    if unsafe { libc::waitpid(number_of(&child), &raw mut status, libc::__WALL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if libc::WIFSTOPPED(status) { Ok(child) } else { Err(io::Error::other("the program ended before it began")) }
}

/// Lets a program go that stands still.
pub(crate) fn let_go(child: &Child) -> io::Result<()> {
    // SAFETY: takes no pointers.
    match unsafe { libc::ptrace(libc::PTRACE_DETACH, number_of(child), null_mut::<u8>(), null_mut::<u8>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn number_of(child: &Child) -> libc::pid_t {
    child.id() as libc::pid_t
}

/// Asks about these numbers, and lets all others pass.
fn filter(numbers: &[c_long]) -> Vec<libc::sock_filter> {
    let mut program =
        vec![load(offset_of!(libc::seccomp_data, arch)), equal(ARCHITECTURE, 0, numbers.len() + 1), load(NUMBER)];
    let compare = |(at, number): (usize, &c_long)| equal(*number as u32, numbers.len() - at, 0);
    program.extend(numbers.iter().enumerate().map(compare));
    program.extend([answer(libc::SECCOMP_RET_ALLOW), answer(libc::SECCOMP_RET_USER_NOTIF)]);
    program
}

/// Asks about this number with this first argument, and lets all others pass.
fn filter_where(number: c_long, argument: u32) -> Vec<libc::sock_filter> {
    // Of its 8 bytes the lower half: both architectures put it first.
    let first = offset_of!(libc::seccomp_data, args);
    vec![
        load(offset_of!(libc::seccomp_data, arch)),
        equal(ARCHITECTURE, 0, 4),
        load(NUMBER),
        equal(number as u32, 0, 2),
        load(first),
        equal(argument, 1, 0),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_USER_NOTIF),
    ]
}

const NUMBER: usize = offset_of!(libc::seccomp_data, nr);

fn load(offset: usize) -> libc::sock_filter {
    operation(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32)
}

fn equal(value: u32, then: usize, otherwise: usize) -> libc::sock_filter {
    libc::sock_filter {
        // At most as far as there are numbers, which are a few dozen.
        jt: then as u8,
        jf: otherwise as u8,
        ..operation(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    }
}

fn answer(answer: c_uint) -> libc::sock_filter {
    operation(libc::BPF_RET | libc::BPF_K, answer)
}

fn operation(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}
