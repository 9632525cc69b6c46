//! A guest without a CPU: a test says which calls its threads make.

#![allow(dead_code, unreachable_pub, reason = "each test uses some of it")]
#![allow(clippy::unwrap_used, reason = "it is for tests")]

pub mod drive;

use std::ops::Range;

use glowbox_core::fault::Exception;
use glowbox_core::registers::{ExtendedState, Registers};
use glowbox_linux::files::{self, Input};
use glowbox_linux::process::Options;
use glowbox_linux::space::{self, Initial, MMAP_BASE, Rights};
use glowbox_linux::{Bases, Broken, Clock, Event, Hardware, Limits, Next, Process, Streams, World};
pub use linux_raw_sys::general as raw;

pub const MEMORY: u64 = 4 << 20;
/// Where the guest has memory of its own, and how much.
pub const DATA: u64 = 0x40_0000;
pub const DATA_SIZE: u64 = 1 << 20;
/// The top of the first thread's stack.
pub const STACK: u64 = DATA + DATA_SIZE;
/// Where it pretends to have code.
pub const CODE: u64 = 0x20_0000;
/// What a call finds in RFLAGS: the bits that are always there for the machine below.
pub const FLAGS: u64 = 0x3002;

/// Memory, and what the vCPU holds.
pub struct Fake {
    pub memory: Vec<u8>,
    pub bases: Bases,
    pub extended: ExtendedState,
    /// How often its state was asked for.
    pub asked: u64,
    /// Whether the guest is to stop.
    pub stops: bool,
}

impl Hardware for Fake {
    fn memory(&self) -> &[u8] {
        &self.memory
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    fn reveal(&mut self, memory: Range<u64>) {
        assert!(memory.start < memory.end && memory.end <= MEMORY);
    }

    fn forget(&mut self, memory: Range<u64>) -> Result<(), Broken> {
        assert!(memory.start < memory.end && memory.end <= MEMORY);
        Ok(())
    }

    fn is_to_stop(&self) -> bool {
        self.stops
    }

    fn bases(&mut self) -> Result<Bases, Broken> {
        self.asked += 1;
        Ok(self.bases)
    }

    fn extended(&mut self) -> Result<ExtendedState, Broken> {
        self.asked += 1;
        Ok(self.extended.clone())
    }
}

/// How a guest went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    /// The thread that had left.
    On,
    /// Another one, or another state.
    Entered,
    Sleeps {
        until: Option<u64>,
        streams: Streams,
    },
    Deadlock,
    Exited(i32),
    Killed(i32),
    OutOfMemory,
}

pub struct Guest {
    pub process: Process,
    pub hardware: Fake,
    pub world: World,
    /// What the vCPU holds.
    pub registers: Registers,
}

pub fn space() -> space::Options {
    let read_write = Rights { read: true, write: true, execute: false };
    space::Options {
        root: 0,
        initial: vec![Initial {
            addresses: DATA..DATA + DATA_SIZE,
            memory: 1 << 20,
            rights: read_write,
            fixed: false,
        }],
        reserved: vec![],
        free: 2 << 20..MEMORY,
        program_break: 0x100_0000,
        break_limit: 0x200_0000,
        mmap_base: MMAP_BASE,
        areas: 256,
        allow_jit: false,
    }
}

/// Guest memory with page tables that map `DATA`.
fn mapped() -> Vec<u8> {
    let mut memory = vec![0; usize::try_from(MEMORY).unwrap()];
    let mut put = |at: u64, entry: u64| {
        let at = usize::try_from(at).unwrap();
        memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    };
    // Present, writable, the user's, accessed.
    let table = 0x27;
    for (level, shift) in [39, 30, 21].into_iter().enumerate() {
        let at = 0x1000 * level as u64;
        put(at + (DATA >> shift & 0x1ff) * 8, (at + 0x1000) | table);
    }
    for page in 0..DATA_SIZE >> 12 {
        // Dirty too, and not executable.
        let entry = ((1 << 20) + (page << 12)) | table | 1 << 6 | 1 << 63;
        put(0x3000 + (((DATA >> 12) + page) & 0x1ff) * 8, entry);
    }
    memory
}

/// What the fuzzers' guests are given: a file to read, a directory to write to, some input.
pub fn files_for_fuzz() -> files::Options {
    let mut options = files::Options::new();
    options
        .stdin(Input::bytes(vec![b'x'; 1000]))
        .file("/given/file", *b"some bytes")
        .scratch("/tmp", 1 << 16);
    options
}

/// Extended state with something in every byte that can have it.
pub fn extended(fill: u8) -> ExtendedState {
    let mut area = vec![fill; ExtendedState::MIN_SIZE + 256];
    area[512..576].fill(0);
    area[512] = 0b111;
    ExtendedState::from_xsave(&area, 0b111, 0xffff).unwrap()
}

impl Guest {
    pub fn new() -> Guest {
        Guest::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Guest {
        Guest::with_all(limits, &files::Options::new())
    }

    pub fn with_all(limits: Limits, files: &files::Options) -> Guest {
        let (files, grants) = files.build(&Clock::Virtual).unwrap();
        let options = Options { space: space(), files, seed: [1; 32], limits };
        let memory = mapped();
        let bases = Bases { fs: 0x1000, gs: 0x2000 };
        let registers = Registers { rip: CODE, rsp: STACK, rflags: FLAGS, ..Registers::default() };
        Guest {
            process: Process::new(options),
            hardware: Fake { memory, bases, extended: extended(0x5a), asked: 0, stops: false },
            world: World { files: grants, ..World::default() },
            registers,
        }
    }

    /// A guest with files and streams.
    pub fn with_files(files: &files::Options) -> Guest {
        Guest::with_all(Limits::default(), files)
    }

    pub fn clock(mut self, clock: Clock) -> Guest {
        self.world.clock = clock;
        self
    }

    pub fn event(&mut self, event: Event) -> Went {
        match self.process.handle(event, &mut self.hardware, &mut self.world) {
            Next::Proceed { registers, bases } => {
                self.registers = registers;
                self.hardware.bases = bases.unwrap_or(self.hardware.bases);
                Went::On
            }
            Next::Enter(state) => {
                self.registers = state.registers;
                self.hardware.bases = Bases { fs: state.fs_base, gs: state.gs_base };
                self.hardware.extended = state.extended;
                Went::Entered
            }
            Next::Sleep { until, streams } => Went::Sleeps { until, streams },
            Next::Deadlock => Went::Deadlock,
            Next::Exited(status) => Went::Exited(status),
            Next::Killed { signal, .. } => Went::Killed(signal),
            Next::OutOfMemory { .. } => Went::OutOfMemory,
            Next::Broken(broken) => panic!("the machine can't go on: {broken}"),
        }
    }

    /// Makes a call in the name of the thread that runs.
    pub fn call(&mut self, number: u32, arguments: &[u64]) -> Went {
        let mut six = [0; 6];
        six[..arguments.len()].copy_from_slice(arguments);
        let r = &mut self.registers;
        r.rax = number.into();
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = six;
        let registers = self.registers;
        self.event(Event::Syscall(registers))
    }

    /// As `call`, for one that returns at once. What it returns.
    pub fn returns(&mut self, number: u32, arguments: &[u64]) -> i64 {
        assert_eq!(self.call(number, arguments), Went::On);
        self.result()
    }

    /// What the call of the thread that runs returned.
    pub fn result(&self) -> i64 {
        self.registers.rax.cast_signed()
    }

    pub fn tick(&mut self) -> Went {
        let registers = self.registers;
        self.event(Event::Tick(registers))
    }

    pub fn fault(&mut self, vector: u8, error_code: u64, address: Option<u64>) -> Went {
        let registers = self.registers;
        self.event(Event::Exception(Exception { vector, error_code, address, registers }))
    }

    /// The thread that runs.
    pub fn id(&mut self) -> u64 {
        let before = self.registers;
        let id = self.returns(raw::__NR_gettid, &[]);
        self.registers = before;
        id.cast_unsigned()
    }

    /// Starts a thread with a stack of its own, as C libraries do. Its id.
    pub fn spawn(&mut self) -> u64 {
        let count = self.process.threads() as u64;
        self.spawn_with(DATA + DATA_SIZE / 2 + count * 0x1000, 0)
    }

    pub fn spawn_with(&mut self, stack: u64, clear_id: u64) -> u64 {
        let mut flags = raw::CLONE_VM
            | raw::CLONE_FS
            | raw::CLONE_FILES
            | raw::CLONE_SIGHAND
            | raw::CLONE_THREAD
            | raw::CLONE_SYSVSEM
            | raw::CLONE_SETTLS;
        if clear_id != 0 {
            flags |= raw::CLONE_CHILD_CLEARTID | raw::CLONE_CHILD_SETTID;
        }
        let id = self.returns(raw::__NR_clone, &[flags.into(), stack, 0, clear_id, stack]);
        assert!(id > 2, "{id}");
        id.cast_unsigned()
    }

    /// Lets the thread that runs wait at a futex whose word is 0.
    pub fn futex_wait(&mut self, address: u64) -> Went {
        self.call(raw::__NR_futex, &[address, raw::FUTEX_WAIT_PRIVATE.into(), 0, 0])
    }

    pub fn futex_wake(&mut self, address: u64, most: u64) -> i64 {
        self.returns(raw::__NR_futex, &[address, raw::FUTEX_WAKE_PRIVATE.into(), most])
    }

    /// Where in memory an address of `DATA` lies.
    fn at(address: u64) -> usize {
        assert!((DATA..DATA + DATA_SIZE).contains(&address));
        usize::try_from(address - DATA + (1 << 20)).unwrap()
    }

    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = Guest::at(address);
        self.hardware.memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn put_words(&mut self, address: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(address, &bytes);
    }

    pub fn bytes(&self, address: u64, length: usize) -> &[u8] {
        &self.hardware.memory[Guest::at(address)..][..length]
    }

    pub fn word(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.bytes(address, 8).try_into().unwrap())
    }

    pub fn word32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.bytes(address, 4).try_into().unwrap())
    }

    /// Sets a handler. It is at `CODE + 0x1000` and the signal's number.
    pub fn handler(&mut self, signal: u32, flags: u32, mask: u64) {
        let flags = u64::from(flags | raw::SA_RESTORER | raw::SA_SIGINFO);
        self.put_words(DATA, &[handler_of(signal), flags, CODE + 0x2000, mask]);
        assert_eq!(self.returns(raw::__NR_rt_sigaction, &[signal.into(), DATA, 0, 8]), 0);
    }

    /// Returns from a handler.
    pub fn sigreturn(&mut self) -> Went {
        // `ret` pops the address of the restorer.
        assert_eq!(self.word(self.registers.rsp), CODE + 0x2000);
        self.registers.rsp += 8;
        self.registers.rip = CODE + 0x2000;
        self.call(raw::__NR_rt_sigreturn, &[])
    }

    /// Whether the stack pointer is where a handler has it when it returns.
    pub fn in_handler(&self) -> bool {
        let stack = self.registers.rsp;
        (DATA..STACK - 8).contains(&stack) && self.word(stack) == CODE + 0x2000
    }

    /// What the thread that runs blocks.
    pub fn mask(&mut self) -> u64 {
        let before = self.registers;
        assert_eq!(self.returns(raw::__NR_rt_sigprocmask, &[0, 0, DATA, 8]), 0);
        self.registers = before;
        self.word(DATA)
    }

    pub fn block(&mut self, signal: u32) {
        self.put_words(DATA, &[bit(signal)]);
        assert_eq!(self.returns(raw::__NR_rt_sigprocmask, &[0, DATA, 0, 8]), 0);
    }
}

pub fn handler_of(signal: u32) -> u64 {
    CODE + 0x1000 + u64::from(signal)
}

pub fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

pub fn error(errno: u32) -> i64 {
    -i64::from(errno)
}
