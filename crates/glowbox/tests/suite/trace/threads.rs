//! Notes the system calls of all threads of a piece of code.

use std::collections::{BTreeSet, HashMap};

use super::ptrace::{to_next_system_call, wait};
use super::{Call, MARK, run_traced, system_call};

/// Runs `code` in a forked and traced process and returns which system calls each of its threads made
/// after it called [`mark`](super::mark). It waits for whatever child there is, so the process must have no
/// other.
pub(crate) fn calls_after_marks(code: impl FnOnce()) -> BTreeSet<Call> {
    crate::guests::build();
    // SAFETY: the child runs test code and leaves by `_exit`, without unwinding into the parent's.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => run_traced(|_| code()),
        child => watch(child),
    }
}

/// What is known of a traced thread.
#[derive(Default)]
struct Traced {
    in_call: bool,
    marked: bool,
}

fn watch(child: libc::pid_t) -> BTreeSet<Call> {
    assert!(libc::WIFSTOPPED(wait(child)));
    let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    // SAFETY: the child is stopped and traced by this thread.
    assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, options) }, 0);
    to_next_system_call(child, 0);
    let mut threads = HashMap::from([(child, Traced::default())]);
    let mut calls = BTreeSet::new();
    loop {
        let mut status = 0;
        // SAFETY: waits for the process's one child and its threads, and writes to this stack.
        let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        assert!(thread > 0, "waitpid: {}", std::io::Error::last_os_error());
        if !libc::WIFSTOPPED(status) {
            threads.remove(&thread);
            if thread == child {
                assert_eq!(status, 0, "the traced process failed");
                return calls;
            }
            continue;
        }
        let known = threads.contains_key(&thread);
        let traced = threads.entry(thread).or_default();
        let signal = match libc::WSTOPSIG(status) {
            // Its first stop.
            libc::SIGSTOP if !known => 0,
            stop if stop == libc::SIGTRAP | 0x80 => {
                traced.in_call = !traced.in_call;
                if traced.in_call {
                    note(thread, traced, &mut calls);
                }
                0
            }
            libc::SIGTRAP => 0,
            signal => signal,
        };
        // It fails if the thread has been ended with its process, of which there is news then.
        // SAFETY: the thread has stopped, and is traced by this one.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, thread, 0, signal) };
    }
}

/// Notes the call that a thread is about to make.
fn note(thread: libc::pid_t, traced: &mut Traced, calls: &mut BTreeSet<Call>) {
    match system_call(thread) {
        (libc::SYS_getpriority, MARK, _) => traced.marked = true,
        (number, _, request) if traced.marked => {
            let request = if number == libc::SYS_ioctl { request & 0xffff_ffff } else { 0 };
            calls.insert((number, request));
        }
        _ => {}
    }
}
