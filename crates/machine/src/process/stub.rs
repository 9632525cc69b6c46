//! The program that a guest's process starts with: it empties the process's address space and gives away
//! all that the guest is not to have.
//!
//! It is an ELF file of one page of code and one of data, in a memfd, made once. The process is started with
//! three descriptors: guest memory, a socket to the host, and a few pages ([`Frames`]) that the kernel writes
//! a signal's frame to when the guest faults.
//!
//! [`Frames`]: super::frames::Frames

use std::fs::File;
use std::io::{self, Write};

use glowbox_core::address::GUESTS_END;

/// Where its code lies: behind all that guests may have, and 64 GiB below the end. The kernel puts the stack of
/// a new program at random into the last 16 GiB, and that before the program itself, which would not find its
/// place free then. What else it adds comes later, where there is room, and is unmapped first of all.
const STUB: u64 = GUESTS_END;
/// The instruction by which the tracer makes system calls.
pub(super) const GATE: u64 = STUB;
/// Behind it.
pub(super) const BEHIND_GATE: u64 = GATE + 2;
/// Offset of the first instruction of the program.
const ENTRY: u64 = 16;
/// Offset of the list of calls and of what they point to.
const DATA: u64 = 0x1000;
/// Where the signal frames' pages lie, which are also where no handler can be executed.
pub(super) const FRAMES: u64 = STUB + 0x1_0000;
/// Bytes of them: more than a frame with the state of any CPU's registers takes.
pub(super) const FRAMES_SIZE: u64 = 0x1_0000;
/// All of that.
pub(super) const AREA: std::ops::Range<u64> = STUB..FRAMES + FRAMES_SIZE;
/// The code segment of 64-bit programs, on every Linux.
pub(super) const CODE_SEGMENT: u64 = 0x33;
/// What stands for no system call where the system looks for one's number.
pub(super) const NO_CALL: u64 = u64::MAX;
/// The end of all addresses that a process has.
pub(super) const END: u64 = 0x7fff_ffff_f000;

/// Descriptors of the process.
pub(super) const MEMORY: u64 = 0;
pub(super) const SOCKET: u64 = 1;
const FRAMES_FILE: u64 = 2;

std::arch::global_asm!(
    include_str!("x86_64.s"),
    calls = const DATA,
    exit_group = const libc::SYS_exit_group,
);

unsafe extern "C" {
    static glowbox_stub_start: u8;
    static glowbox_stub_load_flags: u8;
    static glowbox_stub_load_bases: u8;
    static glowbox_stub_end: u8;
}

fn code() -> &'static [u8] {
    let (start, end) = (&raw const glowbox_stub_start, &raw const glowbox_stub_end);
    // SAFETY: the two symbols are the bounds of the constant bytes that x86_64.s assembles to.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// Where a piece of the code lies in the process.
fn place_of(code: *const u8) -> u64 {
    STUB + (code.addr() - (&raw const glowbox_stub_start).addr()) as u64
}

/// The address of the code that loads the flags from the stack, and traps then.
pub(super) fn load_flags() -> u64 {
    place_of(&raw const glowbox_stub_load_flags)
}

/// Where it has trapped: behind `popfq` and `int3`.
pub(super) fn behind_load_flags() -> u64 {
    load_flags() + 2
}

/// The address of the code that loads the base of FS from RAX and that of GS from RDX, and traps then.
pub(super) fn load_bases() -> u64 {
    place_of(&raw const glowbox_stub_load_bases)
}

/// Where it has trapped: behind `wrfsbase`, `wrgsbase` and `int3`.
pub(super) fn behind_load_bases() -> u64 {
    load_bases() + 11
}

/// A system call: its number and arguments.
pub(super) type Call = (libc::c_long, [u64; 6]);

/// A call of the list.
struct Listed {
    name: &'static str,
    call: Call,
    /// Whether the program goes on if it is refused.
    may_fail: bool,
}

/// The list of calls and what they point to.
struct Data {
    calls: Vec<Listed>,
    /// What lies behind the list.
    pieces: Vec<u8>,
}

/// Most calls in the list, its end included.
const MOST: u64 = 40;

impl Data {
    fn call(&mut self, name: &'static str, number: libc::c_long, arguments: &[u64]) {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        self.calls.push(Listed { name, call: (number, all), may_fail: false });
    }

    /// A call that may be refused.
    fn try_call(&mut self, name: &'static str, number: libc::c_long, arguments: &[u64]) {
        self.call(name, number, arguments);
        self.calls.iter_mut().last().expect("one has been added").may_fail = true;
    }

    /// Puts words behind the list, and returns their address.
    fn words(&mut self, words: &[u64]) -> u64 {
        let at = STUB + DATA + MOST * 64 + self.pieces.len() as u64;
        words.iter().for_each(|word| self.pieces.extend(word.to_le_bytes()));
        at
    }
}

/// What a guest's process may do at most: have no core dump, no other process or thread, no queues, and no
/// locked memory.
const LIMITS: [libc::c_uint; 4] =
    [libc::RLIMIT_CORE, libc::RLIMIT_NPROC, libc::RLIMIT_MSGQUEUE, libc::RLIMIT_MEMLOCK];

/// How many I/O ports there are.
const PORTS: u64 = 1 << 16;

/// The signals that a fault raises.
const FAULTS: [libc::c_int; 5] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];

/// `SA_RESTORER` of the kernel's interface, without which it takes no handler.
const SA_RESTORER: u64 = 0x0400_0000;
/// Bytes of a signal set for the kernel.
const SET_SIZE: u64 = 8;

/// All that the program does, in order.
fn data() -> Data {
    let mut data = Data { calls: Vec::new(), pieces: Vec::new() };
    // First: from here on it gets no signals that are for the host's group of processes or its terminal.
    data.call("setsid", libc::SYS_setsid, &[]);
    let (read_write, shared) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
    // Before anything else is mapped, and all of it in two pieces: the vDSO can't be cut.
    data.call("munmap", libc::SYS_munmap, &[0, STUB]);
    let stubs_end = STUB + 2 * DATA;
    data.call("munmap", libc::SYS_munmap, &[stubs_end, END - stubs_end]);
    let frames = [FRAMES, FRAMES_SIZE, word(read_write), word(shared), FRAMES_FILE, 0];
    data.call("mmap", libc::SYS_mmap, &frames);
    // Until the tracer is there.
    data.call("read", libc::SYS_read, &[SOCKET, FRAMES, 1]);
    data.call("close_range", libc::SYS_close_range, &[FRAMES_FILE, u64::from(u32::MAX), 0]);
    let prctl = [
        (libc::PR_SET_PDEATHSIG, word(libc::SIGKILL)),
        (libc::PR_SET_DUMPABLE, 0),
        (libc::PR_SET_NO_NEW_PRIVS, 1),
    ];
    for (option, value) in prctl {
        data.call("prctl", libc::SYS_prctl, &[word(option), value, 0, 0, 0]);
    }
    // Rights to ports outlive `fork` and `exec`. The system refuses to take them away where it gives none; a filter
    // over the host may refuse it too.
    data.try_call("iopl", libc::SYS_iopl, &[0]);
    data.try_call("ioperm", libc::SYS_ioperm, &[0, PORTS, 0]);
    let none = data.words(&[0, 0]);
    for limit in LIMITS {
        data.call("prlimit64", libc::SYS_prlimit64, &[0, u64::from(limit), none, 0]);
    }
    let set = word(libc::SIG_SETMASK);
    data.call("rt_sigprocmask", libc::SYS_rt_sigprocmask, &[set, none, 0, SET_SIZE]);
    let stack = data.words(&[FRAMES, 0, FRAMES_SIZE]);
    data.call("sigaltstack", libc::SYS_sigaltstack, &[stack, 0]);
    // The handler can't be executed: what would run it faults once more, with the frame written.
    let flags = word(libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER) | SA_RESTORER;
    let action = data.words(&[FRAMES, flags, FRAMES, 0]);
    for signal in FAULTS {
        let arguments = [word(signal), action, 0, SET_SIZE];
        data.call("rt_sigaction", libc::SYS_rt_sigaction, &arguments);
    }
    let filter = filter();
    let program = data.words(&filter);
    let program = data.words(&[filter.len() as u64, program]);
    let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    data.call("seccomp", libc::SYS_seccomp, &[mode, 0, program]);
    assert!((data.calls.len() as u64) < MOST, "too many calls");
    data
}

pub(super) fn word(value: libc::c_int) -> u64 {
    u64::try_from(value).expect("constants are not negative")
}

/// The system calls that the process may make after that, and those by the gate only.
const ALLOWED: [libc::c_long; 4] =
    [libc::SYS_mmap, libc::SYS_munmap, libc::SYS_recvmsg, libc::SYS_close];

/// Fields of what a filter looks at, and the only architecture that it lets pass.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const POINTER: u32 = 8;
const X86_64: u32 = 0xc000_003e;

/// The filter, an instruction a word. Nothing that the guest does passes it: it can't be where its
/// instruction pointer is behind the gate, and have left by something else than the gate, which the tracer
/// stops at.
fn filter() -> Vec<u64> {
    let load =
        |at: u32| u64::from(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) | u64::from(at) << 32;
    let equal = |value: u32, then: usize, otherwise: usize| {
        let jumps = (then as u64) << 16 | (otherwise as u64) << 24;
        u64::from(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) | jumps | u64::from(value) << 32
    };
    let end = |action: u32| u64::from(libc::BPF_RET | libc::BPF_K) | u64::from(action) << 32;
    let pointer = BEHIND_GATE.to_le_bytes();
    let half = |at: usize| u32::from_le_bytes(*pointer[at..].first_chunk().expect("four bytes"));
    let checks = [(ARCHITECTURE, X86_64), (POINTER, half(0)), (POINTER + 4, half(4))];
    let refuse_at = 2 * checks.len() + 1 + ALLOWED.len();
    let mut program = Vec::new();
    for (field, value) in checks {
        program.push(load(field));
        program.push(equal(value, 0, refuse_at - program.len() - 1));
    }
    program.push(load(NUMBER));
    for number in ALLOWED {
        let number = u32::try_from(number).expect("numbers are small");
        program.push(equal(number, refuse_at - program.len(), 0));
    }
    program.push(end(libc::SECCOMP_RET_TRAP));
    program.push(end(libc::SECCOMP_RET_ALLOW));
    program
}

/// What the call with this place in the list, counted from 1, is.
pub(super) fn name_of(place: usize) -> &'static str {
    data().calls.get(place.wrapping_sub(1)).map_or("the stub", |listed| listed.name)
}

/// Makes the program, in a memfd.
pub(super) fn program() -> io::Result<File> {
    let (code, data) = (code(), data());
    let file = glowbox_mem::memfd(c"glowbox-stub", true)?;
    let mut image = header();
    image.resize(usize::try_from(DATA).expect("small"), 0);
    image.extend(code);
    image.resize(2 * usize::try_from(DATA).expect("small"), 0);
    for Listed { call: (number, arguments), may_fail, .. } in &data.calls {
        let number = u64::try_from(*number).expect("numbers are positive");
        let words = [number].into_iter().chain(*arguments).chain([u64::from(*may_fail)]);
        words.for_each(|word| image.extend(word.to_le_bytes()));
    }
    image.extend(u64::MAX.to_le_bytes());
    image.resize(usize::try_from(2 * DATA + MOST * 64).expect("small"), 0);
    image.extend(&data.pieces);
    (&file).write_all(&image)?;
    Ok(file)
}

/// The ELF header, and that of the only segment: all behind the file's first page.
fn header() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let halves = |bytes: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    };
    let words = |bytes: &mut Vec<u8>, values: &[u64]| {
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    };
    // Executable, x86-64; version; entry, program headers, no section headers.
    halves(&mut bytes, &[2, 62, 1, 0]);
    words(&mut bytes, &[STUB + ENTRY, 64, 0]);
    halves(&mut bytes, &[0, 0, 64, 56, 1, 0, 0, 0]);
    // Loaded, readable and executable.
    halves(&mut bytes, &[1, 0, 5, 0]);
    words(&mut bytes, &[DATA, STUB, STUB, 2 * DATA, 2 * DATA, DATA]);
    bytes
}

/// How far down from the end the kernel may put a stack, by 4 Mi pages, and room for the stack itself.
const STACKS: u64 = (1 << 34) + (1 << 30);
const _: () =
    assert!(AREA.end <= END - STACKS, "where the kernel puts a stack a program can't be started");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_before_the_data_and_starts_with_the_gate() {
        assert!(code().len() < usize::try_from(DATA).unwrap());
        assert_eq!(code()[..3], [0x0f, 0x05, 0xcc]);
        assert_eq!(header().len(), 120);
        let size = MOST * 64 + data().pieces.len() as u64;
        assert!(size < DATA, "{size} bytes of data");
    }

    #[test]
    fn every_jump_of_the_filter_leads_to_an_end() {
        let filter = filter();
        for (at, instruction) in filter.iter().enumerate() {
            let bytes = instruction.to_le_bytes();
            if bytes[0] & 7 == 5 {
                for jump in [bytes[2], bytes[3]] {
                    assert!(at + 1 + usize::from(jump) < filter.len());
                }
            }
        }
        let last_two = &filter[filter.len() - 2..];
        assert!(last_two.iter().all(|instruction| instruction & 7 == 6));
    }
}
