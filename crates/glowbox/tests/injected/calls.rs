//! System calls, and the faults that each of them can have.
//!
//! What can't fail on Linux in the way it is used (closing, unmapping, asking for the own id), what is
//! the standard library's own business (futexes, the heap's `brk`), and what has no failure that a program
//! could see is left alone; the end says how often that was.

use std::fmt;

/// A system call that was made: its number and arguments.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(crate) number: i64,
    pub(crate) arguments: [u64; 6],
}

/// What makes two calls alike: the number, for an ioctl the request, for `fcntl` the command, for
/// `madvise` the advice, and for `mmap` whose memory it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    number: i64,
    which: u64,
}

/// What happens instead of a call, or to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not made, and fails with this.
    Fails(i32),
    /// A signal is pending when it is made. That must never be seen by whoever uses the library.
    Signal,
    /// The process is killed before it is made.
    Kill,
}

const fn ioctl(direction: u64, kind: u8, number: u64, size: u64) -> u64 {
    direction << 30 | size << 16 | (kind as u64) << 8 | number
}

const NONE: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;

/// The ioctls that the library makes.
const IOCTLS: &[(u64, &str)] = &[
    (ioctl(NONE, 0xae, 0x00, 0), "KVM_GET_API_VERSION"),
    (ioctl(NONE, 0xae, 0x01, 0), "KVM_CREATE_VM"),
    (ioctl(NONE, 0xae, 0x03, 0), "KVM_CHECK_EXTENSION"),
    (VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE"),
    (ioctl(READ | WRITE, 0xae, 0x05, 8), "KVM_GET_SUPPORTED_CPUID"),
    (ioctl(NONE, 0xae, 0x41, 0), "KVM_CREATE_VCPU"),
    (ioctl(WRITE, 0xae, 0x46, 32), "KVM_SET_USER_MEMORY_REGION"),
    (KVM_RUN, "KVM_RUN"),
    (ioctl(READ, 0xae, 0x81, 144), "KVM_GET_REGS"),
    (ioctl(WRITE, 0xae, 0x82, 144), "KVM_SET_REGS"),
    (ioctl(READ, 0xae, 0x83, 312), "KVM_GET_SREGS"),
    (ioctl(WRITE, 0xae, 0x84, 312), "KVM_SET_SREGS"),
    (ioctl(WRITE, 0xae, 0x89, 8), "KVM_SET_MSRS"),
    (ioctl(WRITE, 0xae, 0x90, 8), "KVM_SET_CPUID2"),
    (ioctl(WRITE, 0xae, 0xa0, 64), "KVM_SET_VCPU_EVENTS"),
    (ioctl(READ, 0xae, 0xa4, 4096), "KVM_GET_XSAVE"),
    (ioctl(WRITE, 0xae, 0xa7, 392), "KVM_SET_XCRS"),
    (ioctl(WRITE, 0xae, 0xc6, 392), "KVM_X86_SET_MSR_FILTER"),
    (PAGEMAP_SCAN, "PAGEMAP_SCAN"),
];

const KVM_RUN: u64 = ioctl(NONE, 0xae, 0x80, 0);
const VCPU_MMAP_SIZE: u64 = ioctl(NONE, 0xae, 0x04, 0);
const PAGEMAP_SCAN: u64 = ioctl(READ | WRITE, b'f', 16, 96);

/// Whose memory an `mmap` is for.
const HEAP: u64 = 0;
const OWN: u64 = 1;

impl Fault {
    /// Whether a process that meets it once goes other ways from then on.
    pub(crate) fn is_remembered(self, kind: Kind) -> bool {
        let scan = kind == Kind { number: libc::SYS_ioctl, which: PAGEMAP_SCAN };
        scan && matches!(self, Fault::Fails(libc::ENOTTY | libc::EINVAL))
    }
}

/// Everything else: number, name, and how it can fail.
const CALLS: &[(i64, &str, &[i32])] = &[
    (libc::SYS_open, "open", OPEN),
    (libc::SYS_openat, "openat", OPEN),
    (libc::SYS_mmap, "mmap", &[libc::ENOMEM, libc::EAGAIN, libc::EPERM]),
    (libc::SYS_mremap, "mremap", &[libc::ENOMEM]),
    (libc::SYS_mprotect, "mprotect", &[libc::ENOMEM, libc::EACCES]),
    (libc::SYS_madvise, "madvise", &[libc::ENOMEM, libc::EAGAIN, libc::EINVAL]),
    (libc::SYS_memfd_create, "memfd_create", &[libc::EMFILE, libc::ENFILE, libc::ENOMEM]),
    (libc::SYS_ftruncate, "ftruncate", &[libc::ENOSPC, libc::EFBIG, libc::EINTR, libc::EINVAL]),
    (libc::SYS_fcntl, "fcntl", &[libc::EBUSY, libc::EPERM]),
    (libc::SYS_pread64, "pread64", &[libc::EIO, libc::EINTR, libc::ENOMEM]),
    (libc::SYS_read, "read", &[libc::EIO, libc::EINTR]),
    (libc::SYS_pwrite64, "pwrite64", WRITES),
    (libc::SYS_write, "write", WRITES),
    (libc::SYS_writev, "writev", WRITES),
    (libc::SYS_fsync, "fsync", &[libc::EIO, libc::ENOSPC, libc::EINTR]),
    (libc::SYS_rename, "rename", RENAMES),
    (libc::SYS_renameat, "renameat", RENAMES),
    (libc::SYS_renameat2, "renameat2", RENAMES),
    (libc::SYS_linkat, "linkat", RENAMES),
    (libc::SYS_fchmod, "fchmod", &[libc::EPERM, libc::EIO]),
    (libc::SYS_stat, "stat", STATUS),
    (libc::SYS_fstat, "fstat", STATUS),
    (libc::SYS_lstat, "lstat", STATUS),
    (libc::SYS_newfstatat, "newfstatat", STATUS),
    (libc::SYS_statx, "statx", STATUS),
    (libc::SYS_readlink, "readlink", STATUS),
    (libc::SYS_getdents64, "getdents64", &[libc::EIO, libc::ENOENT]),
    (libc::SYS_lseek, "lseek", &[libc::EINVAL]),
    (libc::SYS_pipe2, "pipe2", &[libc::EMFILE, libc::ENFILE]),
    (libc::SYS_clone, "clone", &[libc::EAGAIN]),
    (libc::SYS_clone3, "clone3", &[libc::EAGAIN, libc::ENOSYS]),
    (libc::SYS_rt_sigaction, "rt_sigaction", &[libc::EINVAL]),
    (libc::SYS_getrusage, "getrusage", &[libc::EINVAL]),
    (libc::SYS_getrandom, "getrandom", &[libc::EINTR, libc::ENOSYS, libc::EPERM]),
    (libc::SYS_getcwd, "getcwd", STATUS),
    (libc::SYS_poll, "poll", &[libc::EINTR, libc::ENOMEM]),
    // These do not fail, but meet signals.
    (libc::SYS_munmap, "munmap", &[]),
    (libc::SYS_close, "close", &[]),
    (libc::SYS_unlink, "unlink", &[]),
    (libc::SYS_futex, "futex", &[]),
    (libc::SYS_clock_nanosleep, "clock_nanosleep", &[]),
];

const OPEN: &[i32] =
    &[libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EACCES, libc::ENOENT, libc::EINTR];
const WRITES: &[i32] =
    &[libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EIO, libc::EINTR, libc::ENOMEM];
const RENAMES: &[i32] = &[libc::EACCES, libc::ENOSPC, libc::EXDEV, libc::EIO];
const STATUS: &[i32] = &[libc::EACCES, libc::ENOMEM, libc::EIO];
/// How any request to KVM may fail.
const REQUESTS: &[i32] = &[libc::ENOMEM, libc::EINVAL, libc::EINTR];

impl Made {
    pub(crate) fn kind(&self) -> Kind {
        let [_, second, third, fourth, ..] = self.arguments;
        let which = match self.number {
            libc::SYS_ioctl | libc::SYS_fcntl => second,
            libc::SYS_madvise => third,
            // What the heap asks for is plain and private, and has no flag but these.
            libc::SYS_mmap => {
                let heap = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                if fourth == u64::try_from(heap).unwrap() { HEAP } else { OWN }
            }
            _ => 0,
        };
        Kind { number: self.number, which }
    }
}

/// Those that are left alone, for what is printed at the end.
const OTHERS: &[(i64, &str)] = &[
    (libc::SYS_brk, "brk"),
    (libc::SYS_getpid, "getpid"),
    (libc::SYS_gettid, "gettid"),
    (libc::SYS_rt_sigprocmask, "rt_sigprocmask"),
    (libc::SYS_rt_sigreturn, "rt_sigreturn"),
    (libc::SYS_sched_yield, "sched_yield"),
    (libc::SYS_tgkill, "tgkill"),
];

impl Kind {
    pub(crate) fn is_run(self) -> bool {
        self == Kind { number: libc::SYS_ioctl, which: KVM_RUN }
    }

    /// Whether it may be made to fail again and again: not where Rust ends the process, as it does when
    /// its heap gets no memory.
    fn may_fail_for_good(self) -> bool {
        self != Kind { number: libc::SYS_mmap, which: HEAP }
    }

    /// The faults that it can have, with how often in a row.
    pub(crate) fn faults(self) -> Vec<(Fault, u32)> {
        let errors: Vec<i32> = match (self.number, self.which) {
            (libc::SYS_ioctl, KVM_RUN) => return Kind::faults_of_run(),
            // The last three stand for a kernel that has no such request, and are remembered.
            (libc::SYS_ioctl, PAGEMAP_SCAN) => {
                vec![libc::ENOMEM, libc::EFAULT, libc::EINTR, libc::ENOTTY, libc::EINVAL]
            }
            (libc::SYS_ioctl, which) => {
                let creates = which == ioctl(NONE, 0xae, 0x01, 0);
                let more: &[i32] = if creates { &[libc::EMFILE, libc::EACCES] } else { &[] };
                REQUESTS.iter().chain(more).copied().collect()
            }
            // No more descriptors; or the seals.
            (libc::SYS_fcntl, which) if which == libc::F_DUPFD_CLOEXEC as u64 => vec![libc::EMFILE],
            (libc::SYS_fcntl, which) if which != libc::F_ADD_SEALS as u64 => Vec::new(),
            (number, _) => match CALLS.iter().find(|(other, ..)| *other == number) {
                Some((.., errors)) => errors.to_vec(),
                None => return Vec::new(),
            },
        };
        let mut faults = vec![(Fault::Signal, 1)];
        for error in errors {
            faults.push((Fault::Fails(error), 1));
            if self.may_fail_for_good() && error != libc::EINTR {
                faults.push((Fault::Fails(error), u32::MAX));
            }
        }
        faults
    }

    fn faults_of_run() -> Vec<(Fault, u32)> {
        let mut faults = Vec::new();
        for times in [1, 2, 7] {
            faults.push((Fault::Signal, times));
            faults.push((Fault::Fails(libc::EAGAIN), times));
        }
        for error in [libc::EFAULT, libc::EINVAL, libc::ENOMEM, libc::EPERM] {
            faults.push((Fault::Fails(error), 1));
        }
        faults
    }

    /// Whether it asks what KVM can do.
    pub(crate) fn asks(self) -> bool {
        let requests = [ioctl(NONE, 0xae, 0x00, 0), ioctl(NONE, 0xae, 0x03, 0)];
        self.number == libc::SYS_ioctl && requests.contains(&self.which)
    }

    /// The words of which an error's text has one where this has failed.
    pub(crate) fn words(self) -> &'static [&'static str] {
        match self.number {
            libc::SYS_ioctl => match self.which {
                PAGEMAP_SCAN => &["pages"],
                // A part of making a VM.
                VCPU_MMAP_SIZE => &["KVM_CREATE_VM", "KVM_GET_VCPU_MMAP_SIZE"],
                which => IOCTLS
                    .iter()
                    .find(|(other, _)| *other == which)
                    .map_or(&[], |found| std::slice::from_ref(&found.1)),
            },
            _ => &[],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.number == libc::SYS_ioctl {
            let found = IOCTLS.iter().find(|(request, _)| *request == self.which);
            return match found {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "ioctl {:#x}", self.which),
            };
        }
        let known = CALLS.iter().map(|(number, name, _)| (number, name));
        let mut known = known.chain(OTHERS.iter().map(|(number, name)| (number, name)));
        match known.find(|(number, _)| **number == self.number) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "call {}", self.number),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Fails(error) => match NAMES.iter().find(|(other, _)| other == error) {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "error {error}"),
            },
            Fault::Signal => f.write_str("a pending signal"),
            Fault::Kill => f.write_str("SIGKILL"),
        }
    }
}

const NAMES: &[(i32, &str)] = &[
    (libc::EACCES, "EACCES"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::EBUSY, "EBUSY"),
    (libc::EDQUOT, "EDQUOT"),
    (libc::EFAULT, "EFAULT"),
    (libc::EFBIG, "EFBIG"),
    (libc::EINTR, "EINTR"),
    (libc::EINVAL, "EINVAL"),
    (libc::EIO, "EIO"),
    (libc::EMFILE, "EMFILE"),
    (libc::ENFILE, "ENFILE"),
    (libc::ENOENT, "ENOENT"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::ENOSYS, "ENOSYS"),
    (libc::ENOTTY, "ENOTTY"),
    (libc::EPERM, "EPERM"),
    (libc::EXDEV, "EXDEV"),
];
