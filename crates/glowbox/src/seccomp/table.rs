//! Which system calls the library makes, for what, and when.
//!
//! Nothing stands here by guess: the suite's topic `seccomp` counts what threads under a filter do, and
//! fails if one of them makes a call that is not here, or none makes one that is. What can't be seen on
//! every machine says when it is made.

use glowbox_machine::kvm::requests as kvm;

/// A system call that a filter allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) number: i64,
    pub(super) only: Only,
    /// When it is made, if not everywhere.
    pub(super) when: Option<&'static str>,
    pub(super) why: &'static str,
}

/// The arguments with which it is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Only {
    /// All.
    Any,
    /// Those of an `ioctl` with this request.
    Request(u32),
    /// Those of which one, by its index, has this value.
    Argument(u8, u32),
    /// Those without `PROT_EXEC` in the third.
    NotExecutable,
    /// Those that send a thread of this process the engine's signal, or `SIGABRT`.
    OwnSignals,
}

use Only::{Any, Argument, NotExecutable, OwnSignals, Request};

const fn always(number: i64, only: Only, why: &'static str) -> Entry {
    Entry { number, only, when: None, why }
}

const fn when(when: &'static str, number: i64, only: Only, why: &'static str) -> Entry {
    Entry { number, only, when: Some(when), why }
}

const OLD_KVM: &str = "on a KVM without KVM_CAP_SYNC_REGS";
const OLD_LINUX: &str = "on Linux before 6.7";
const NEW_LINUX: &str = "on Linux from 6.7 on";
const RANDOM: &str = "where random numbers can't be had without the kernel";
const ENDING: &str = "in a thread that ends, with musl";
const CLOCKS: &str = "where the clock can't be read without the kernel";
const STREAMS: &str = "for Linux programs that are given the process's own streams";
const DEBUGGING: &str = "after a stop by a debugger or by job control";
const C_LIBRARY: &str = "as the C library likes";
const CHECKED: &str = "where debug assertions are on";
const MUSL: &str = "with musl";
const GUESTS: &str = "as granted directories are used";
const FAILED: &str = "after a failure";

/// What calls, resets, spawns from idle VMs, and drops take, with what any thread needs.
pub(super) const CALLS: &[Entry] = &[
    always(libc::SYS_ioctl, Request(kvm::RUN), "runs a guest"),
    always(libc::SYS_ioctl, Request(kvm::GET_REGS), "describes a fault"),
    always(libc::SYS_ioctl, Request(kvm::GET_SREGS), "describes a fault"),
    always(libc::SYS_ioctl, Request(kvm::GET_XSAVE), "hands a signal to a Linux guest"),
    always(libc::SYS_ioctl, Request(kvm::SET_USER_MEMORY_REGION), "lends memory and takes it back"),
    when(OLD_KVM, libc::SYS_ioctl, Request(kvm::SET_REGS), "starts a guest"),
    when(OLD_KVM, libc::SYS_ioctl, Request(kvm::SET_SREGS), "starts a guest"),
    when(OLD_KVM, libc::SYS_ioctl, Request(kvm::SET_VCPU_EVENTS), "starts a guest"),
    when(
        NEW_LINUX,
        libc::SYS_ioctl,
        Request(PAGEMAP_SCAN),
        "finds the pages that a guest has written",
    ),
    when(OLD_LINUX, libc::SYS_pread64, Any, "finds the pages that a guest has written"),
    always(libc::SYS_getrusage, Argument(0, RUSAGE_THREAD), "tells whether there can be any"),
    always(libc::SYS_mmap, NotExecutable, "maps images; allocates memory"),
    always(libc::SYS_munmap, Any, "gives memory back"),
    always(libc::SYS_mprotect, NotExecutable, "makes a vCPU forget pages; allocates memory"),
    always(libc::SYS_madvise, Any, "gives pages back, and populates them"),
    when(C_LIBRARY, libc::SYS_mremap, Any, "allocates memory"),
    when(C_LIBRARY, libc::SYS_brk, Any, "allocates memory"),
    always(libc::SYS_close, Any, "closes a VM that the pool has no room for"),
    when(CHECKED, libc::SYS_fcntl, Argument(1, GET_FLAGS), "checks what is closed"),
    when(RANDOM, libc::SYS_getrandom, Any, "seeds a sandbox's random numbers"),
    always(libc::SYS_getpid, Any, "tells a fork from the process that has the VMs"),
    always(libc::SYS_gettid, Any, "tells interrupts where to go"),
    always(libc::SYS_rt_sigprocmask, Any, "unblocks the signal that ends calls"),
    always(libc::SYS_rt_sigreturn, Any, "goes back from that signal"),
    always(libc::SYS_tgkill, OwnSignals, "interrupts other threads' calls; aborts"),
    always(libc::SYS_futex, Any, "waits for other threads, and wakes them"),
    always(libc::SYS_clock_nanosleep, Any, "waits with a Linux guest"),
    when(CLOCKS, libc::SYS_clock_gettime, Any, "measures time"),
    when(DEBUGGING, libc::SYS_restart_syscall, Any, "goes on waiting"),
    when(C_LIBRARY, libc::SYS_sched_yield, Any, "waits for other threads"),
    when(STREAMS, libc::SYS_poll, Any, "waits for a stream"),
    when(STREAMS, libc::SYS_ppoll, Any, "waits for a stream"),
    when(STREAMS, libc::SYS_read, Argument(0, STDIN), "reads it"),
    when(STREAMS, libc::SYS_ioctl, Request(FIONREAD), "asks how much there is to read"),
    when(STREAMS, libc::SYS_write, Argument(0, STDOUT), "writes to it"),
    always(libc::SYS_write, Argument(0, STDERR), "says that a host function has panicked"),
    always(libc::SYS_sigaltstack, Any, "ends a thread"),
    always(libc::SYS_exit, Any, "ends a thread"),
    when(ENDING, libc::SYS_set_robust_list, Any, "ends a thread"),
    always(libc::SYS_exit_group, Any, "ends the process"),
];

/// What making VMs and snapshots takes beside that.
pub(super) const BUILDING: &[Entry] = &[
    always(libc::SYS_ioctl, Request(kvm::CREATE_VM), "makes a VM"),
    always(libc::SYS_ioctl, Request(kvm::SET_MSR_FILTER), "makes a VM"),
    always(libc::SYS_ioctl, Request(kvm::GET_VCPU_MMAP_SIZE), "makes a vCPU"),
    always(libc::SYS_ioctl, Request(kvm::CREATE_VCPU), "makes a vCPU"),
    always(libc::SYS_ioctl, Request(kvm::SET_CPUID), "makes a vCPU"),
    always(libc::SYS_ioctl, Request(kvm::SET_XCRS), "makes a vCPU"),
    always(libc::SYS_ioctl, Request(kvm::SET_MSRS), "makes a vCPU"),
    always(libc::SYS_memfd_create, Any, "makes a snapshot"),
    always(libc::SYS_ftruncate, Any, "makes a snapshot"),
    always(libc::SYS_pwrite64, Any, "makes a snapshot"),
    always(libc::SYS_fcntl, Argument(1, ADD_SEALS), "makes a snapshot that can't be changed"),
];

/// What files take beside that.
pub(super) const FILES: &[Entry] = &[
    always(libc::SYS_openat, Any, "opens a guest or a snapshot, or makes one"),
    when(MUSL, libc::SYS_open, Any, "opens a guest or a snapshot, or makes one"),
    always(libc::SYS_statx, Any, "asks what a file is"),
    when(C_LIBRARY, libc::SYS_fstat, Any, "asks what a file is"),
    when(C_LIBRARY, libc::SYS_newfstatat, Any, "asks what a file is"),
    always(libc::SYS_read, Any, "reads a guest; reads memory that may have been cut short"),
    always(libc::SYS_pread64, Any, "reads a snapshot"),
    when(GUESTS, libc::SYS_lseek, Any, "looks for holes in a file"),
    always(libc::SYS_write, Any, "saves a snapshot"),
    always(libc::SYS_fsync, Any, "saves a snapshot"),
    always(libc::SYS_renameat, Any, "saves a snapshot"),
    when(FAILED, libc::SYS_unlink, Any, "removes what could not be saved"),
    always(libc::SYS_pipe2, Any, "reads memory that may have been cut short"),
    always(libc::SYS_openat2, Any, "opens what lies in a granted directory"),
    when(GUESTS, libc::SYS_readlinkat, Any, "reads a link in a granted directory"),
    when(GUESTS, libc::SYS_getdents64, Any, "lists a granted directory"),
];

/// What the library or what it is built on may try in vain: it goes on without, or returns an error.
pub(super) const DISPENSABLE: &[i64] = &[
    // Starting threads: of another engine, or of Snapshot::keep_ready.
    libc::SYS_clone,
    libc::SYS_clone3,
    // A panic's backtrace.
    libc::SYS_getcwd,
    libc::SYS_readlink,
];

/// The request as the kernel counts it; `libc` has it with another type for each C library.
#[allow(clippy::cast_possible_truncation, reason = "a request has 32 bits")]
const PAGEMAP_SCAN: u32 = glowbox_mem::PAGEMAP_SCAN as u32;
/// The same of `FIONREAD`.
const FIONREAD: u32 = 0x541b;
const RUSAGE_THREAD: u32 = 1;
/// `F_ADD_SEALS` and `F_GETFD`.
const ADD_SEALS: u32 = 1033;
const GET_FLAGS: u32 = 1;
const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
