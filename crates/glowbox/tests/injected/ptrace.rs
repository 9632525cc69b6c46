//! Stopping a forked child at its system calls.

use libc::pid_t;

/// Asks to be traced by the parent, and stops until it is ready.
pub(crate) fn be_traced() {
    // SAFETY: concerns this process only.
    unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
        libc::raise(libc::SIGSTOP);
    }
}

/// Waits until the child stops or ends, and returns how.
pub(crate) fn wait(child: pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child of this process and writes to this stack.
    let waited = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
    assert_eq!(waited, child, "waitpid: {}", std::io::Error::last_os_error());
    status
}

/// Lets the child go on, with a signal or 0, to the beginning or the end of its next system call.
pub(crate) fn to_next_system_call(child: pid_t, signal: i32) {
    go_on(libc::PTRACE_SYSCALL, child, signal);
}

fn go_on(request: libc::c_uint, child: pid_t, signal: i32) {
    // SAFETY: the child is stopped and traced by this thread.
    let result = unsafe { libc::ptrace(request, child, 0, signal) };
    assert_eq!(result, 0, "ptrace: {}", std::io::Error::last_os_error());
}

/// The registers of a child that has stopped.
pub(crate) fn registers(child: pid_t) -> libc::user_regs_struct {
    // SAFETY: an all-zero register set is a valid value; the child is stopped and traced.
    unsafe {
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        libc::ptrace(libc::PTRACE_GETREGS, child, 0, &raw mut registers);
        registers
    }
}

/// What only a tracer that changes what the child does needs.
#[allow(dead_code, reason = "the suite only counts")]
pub(crate) mod change {
    use super::{go_on, pid_t};

    /// Lets the child go on, with a signal or 0, until it is sent one.
    pub(crate) fn to_next_signal(child: pid_t, signal: i32) {
        go_on(libc::PTRACE_CONT, child, signal);
    }

    /// Sets the registers of a child that has stopped.
    pub(crate) fn set_registers(child: pid_t, registers: &libc::user_regs_struct) {
        // SAFETY: the child is stopped and traced by this thread; the struct is read.
        let result =
            unsafe { libc::ptrace(libc::PTRACE_SETREGS, child, 0, std::ptr::from_ref(registers)) };
        assert_eq!(result, 0, "ptrace: {}", std::io::Error::last_os_error());
    }

    /// Has stops at system calls told from those for a `SIGTRAP`, and the child killed with its tracer.
    pub(crate) fn set_options(child: pid_t) {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        // SAFETY: the child is stopped and traced by this thread.
        let result = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, options) };
        assert_eq!(result, 0, "ptrace: {}", std::io::Error::last_os_error());
    }
}
