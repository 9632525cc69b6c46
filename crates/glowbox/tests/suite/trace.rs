//! Counts the system calls of a piece of code, by running it in a traced child process.

use std::collections::BTreeMap;

#[path = "../injected/ptrace.rs"]
mod ptrace;

mod threads;

use ptrace::{to_next_system_call, wait};
pub(crate) use threads::calls_after_marks;

/// A system call that does nothing and that nobody makes: `getpriority` with this argument.
const MARK: i32 = 0x6c6f;

/// A system call's number, and for an ioctl its request.
pub(crate) type Call = (i64, u64);

/// Running a vCPU: `ioctl` with the request `KVM_RUN`.
pub(crate) const KVM_RUN: Call = (libc::SYS_ioctl, 0xae80);

/// Runs `code` in a forked and traced process and returns how often its first thread made each
/// system call between the two times it called `mark`.
///
/// Only what is safe in a child of a process with threads may be done there; so the engine, its
/// watchdog and the sandboxes are made in the child, and the guests have been read before.
pub(crate) fn count_system_calls(code: impl FnOnce(&dyn Fn())) -> BTreeMap<Call, u64> {
    crate::guests::build();
    // SAFETY: the child runs test code and leaves by `_exit`, without unwinding into the parent's.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => run_traced(code),
        child => watch(child),
    }
}

fn run_traced(code: impl FnOnce(&dyn Fn())) -> ! {
    ptrace::be_traced();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| code(&mark)));
    // SAFETY: ends the child.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

/// Tells whoever traces this thread that it has come to a certain point.
pub(crate) fn mark() {
    // SAFETY: reads a priority; the arguments are of no process.
    unsafe { libc::syscall(libc::SYS_getpriority, MARK, 0) };
}

/// Number and first two arguments of the system call at which the child has stopped.
fn system_call(child: libc::pid_t) -> (i64, i32, u64) {
    let registers = ptrace::registers(child);
    let number = i64::try_from(registers.orig_rax).unwrap_or(-1);
    (number, i32::try_from(registers.rdi & 0x7fff_ffff).unwrap_or(0), registers.rsi)
}

/// Leaves out what the machine decides and not the code. Where the kernel finds the processor's counter
/// unfit as a clock, as on emulated ones, reading the time is a system call. And the watchdog is told of
/// a deadline once a deadline's time, whatever the number of calls, which on a busy machine falls into
/// any test.
fn of_the_code(mut counts: BTreeMap<Call, u64>) -> BTreeMap<Call, u64> {
    counts.remove(&(libc::SYS_clock_gettime, 0));
    let wakes = (libc::SYS_futex, 0);
    // Each takes a futex call, and one more if the two threads met.
    if counts.get(&wakes).is_some_and(|count| *count <= 4) {
        counts.remove(&wakes);
    }
    counts
}

fn watch(child: libc::pid_t) -> BTreeMap<Call, u64> {
    assert!(libc::WIFSTOPPED(wait(child)));
    let mut counts = BTreeMap::new();
    let (mut marks, mut entering, mut signal) = (0, true, 0);
    loop {
        to_next_system_call(child, signal);
        signal = 0;
        let status = wait(child);
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            assert_eq!(status, 0, "the traced process failed");
            assert_eq!(marks, 2, "the traced process ended early");
            return of_the_code(counts);
        }
        match libc::WSTOPSIG(status) {
            libc::SIGTRAP => {
                if entering {
                    match system_call(child) {
                        (libc::SYS_getpriority, MARK, _) => marks += 1,
                        (number, _, request) if marks == 1 => {
                            let request = if number == libc::SYS_ioctl { request } else { 0 };
                            *counts.entry((number, request)).or_insert(0) += 1;
                        }
                        _ => {}
                    }
                }
                entering = !entering;
            }
            other => signal = other,
        }
    }
}
