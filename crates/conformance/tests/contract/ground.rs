//! A machine with a guest of machine code.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use glowbox_abi::CALL_PORT;
use glowbox_core::elf::Program;
use glowbox_core::layout::{Layout, Limits, RegionKind};
use glowbox_core::load::{self, Start};
use glowbox_core::registers::{CpuState, Registers};
use glowbox_machine::interrupt::{NO_DEADLINE, RunControl, default_signal, install};
use glowbox_machine::supervisor::SYSCALL_ENTRY;
use glowbox_machine::{Exit, Machine, Platform};
use glowbox_testguest::{CODE, GuestFile, R, Segment, W, X};

/// Bytes of each of the guest's code, constants and data.
pub(crate) const SIZE: usize = 4 << 12;
/// Where constants and data lie in the file.
const CONSTANTS: u64 = 0x8000;
const DATA: u64 = 0x10000;
/// `int3`.
const FILLER: u8 = 0xcc;
/// What the constants are.
pub(crate) const CONSTANT: u8 = 0x5a;
/// How long a guest that ends by itself may run, before the test gives up.
const LONG: Duration = Duration::from_secs(60);
/// Flags that ring 3 sets as it likes, less the ones that trap: carry, parity, adjust, zero, sign, direction,
/// overflow.
pub(crate) const FLAGS: u64 = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11;

/// `out CALL_PORT, al`: calls out.
pub(crate) const CALL: [u8; 2] = [0xe6, CALL_PORT];
/// `ud2`.
pub(crate) const UD2: [u8; 2] = [0x0f, 0x0b];
/// `syscall`.
pub(crate) const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `jmp` to itself.
pub(crate) const SPIN: [u8; 2] = [0xeb, 0xfe];
/// `inc rbx; jmp` to that.
pub(crate) const COUNT: [u8; 5] = [0x48, 0xff, 0xc3, 0xeb, 0xfb];

static PLATFORM: LazyLock<Result<Box<dyn Platform>, String>> =
    LazyLock::new(|| glowbox_machine::open(None).map_err(|error| error.to_string()));
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) fn platform() -> &'static dyn Platform {
    PLATFORM.as_ref().expect("a backend").as_ref()
}

/// Nanoseconds on the clock of deadlines.
pub(crate) fn now() -> u64 {
    u64::try_from(CLOCK.elapsed().as_nanos()).unwrap()
}

/// The guest, ready to start.
pub(crate) struct Ground {
    pub(crate) machine: Box<dyn Machine>,
    pub(crate) control: Arc<RunControl>,
    pub(crate) layout: Layout,
    /// Addresses of its code, constants and data.
    pub(crate) code: u64,
    pub(crate) constants: u64,
    pub(crate) data: u64,
    /// The middle of its stack.
    pub(crate) stack: u64,
}

impl Ground {
    /// A guest whose code starts with these bytes.
    pub(crate) fn new(code: &[u8]) -> Ground {
        let program = Program::parse(guest_file(code).to_bytes().into()).unwrap();
        let layout = Layout::new(&program, Limits::MIN, 7).unwrap();
        let memory = platform().memory(layout.size()).unwrap();
        let control = Arc::new(RunControl::new(install(default_signal()).unwrap()));
        let mut machine = platform().machine(memory, Arc::clone(&control)).unwrap();
        load::load(&program, &layout, &Start::named(b"contract"), machine.memory_mut());
        let base = layout.load_base();
        let stack = layout.region(RegionKind::Stack);
        let stack = (stack.start.0 + stack.end().0) / 2;
        let (code, constants, data) = (base + CODE, base + CONSTANTS, base + DATA);
        Ground { machine, control, layout, code, constants, data, stack }
    }

    /// The state in which its code starts, with these general registers.
    pub(crate) fn state(&self, registers: &Registers) -> CpuState {
        let mut state = CpuState::starting_at(self.code, self.stack);
        let start = state.registers;
        let rflags = start.rflags | registers.rflags;
        state.registers = Registers { rip: start.rip, rsp: start.rsp, rflags, ..*registers };
        state
    }

    /// Installs a state and starts the guest in it.
    pub(crate) fn start(&mut self, state: &CpuState) {
        self.machine.install(state);
        self.machine.start(state).unwrap();
    }

    /// Starts the guest's code with zeros in its registers.
    pub(crate) fn start_plain(&mut self) {
        self.start(&self.state(&Registers::default()));
    }

    /// Runs it until it leaves by itself.
    #[track_caller]
    pub(crate) fn run(&mut self) -> Exit {
        self.control.begin(now() + u64::try_from(LONG.as_nanos()).unwrap());
        let _watch = Watch::over(&self.control);
        let exit = self.machine.run().unwrap();
        self.control.end();
        assert_ne!(exit, Exit::Interrupted, "the guest goes on for ever");
        exit
    }

    /// Runs it until it calls out.
    #[track_caller]
    pub(crate) fn run_to_call(&mut self) {
        assert_eq!(self.run(), Exit::CalledOut);
    }

    /// Begins a call that has no deadline.
    pub(crate) fn begin(&self) {
        self.control.begin(NO_DEADLINE);
    }

    /// Where an address of the guest's lies in its memory.
    pub(crate) fn place(&self, address: u64) -> usize {
        usize::try_from(self.layout.translate(address).unwrap().0).unwrap()
    }

    /// The eight bytes at an address of the guest's.
    pub(crate) fn word(&self, address: u64) -> u64 {
        let at = self.place(address);
        u64::from_le_bytes(*self.machine.memory()[at..].first_chunk().unwrap())
    }

    pub(crate) fn set_word(&mut self, address: u64, value: u64) {
        let at = self.place(address);
        self.machine.memory_mut()[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Makes what memory holds now what it is put back to.
    pub(crate) fn capture(&mut self) {
        self.machine.window().capture(&[]).unwrap();
    }

    /// Puts memory back.
    pub(crate) fn restore(&mut self) {
        self.machine.settle().unwrap();
        self.machine.window().restore(0, usize::MAX).unwrap();
    }
}

/// Ends a test whose guest is not got out by its deadline.
struct Watch(Arc<AtomicBool>);

impl Watch {
    fn over(control: &Arc<RunControl>) -> Watch {
        let ended = Arc::new(AtomicBool::new(false));
        let watch = Watch(Arc::clone(&ended));
        let control = Arc::clone(control);
        let until = Instant::now() + 2 * LONG;
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                control.expire(now());
                if Instant::now() > until {
                    eprintln!("a guest could not be got out by its deadline");
                    std::process::exit(101);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        watch
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The registers at a system call, as the calling code sees them, where the exit is one.
pub(crate) fn at_syscall(exit: &Exit) -> Option<Registers> {
    match exit {
        Exit::Syscall(registers) => Some(**registers),
        // Where `syscall` does not enter ring 0 (docs/kvm.md).
        Exit::Exception(exception)
            if exception.address == Some(SYSCALL_ENTRY.0)
                && exception.registers.rip == SYSCALL_ENTRY.0 =>
        {
            Some(exception.registers)
        }
        _ => None,
    }
}

/// `mov rax, [address]`.
pub(crate) fn load_from(address: u64) -> Vec<u8> {
    [&[0x48, 0xa1][..], &address.to_le_bytes()].concat()
}

/// `mov [address], rax`.
pub(crate) fn store_to(address: u64) -> Vec<u8> {
    [&[0x48, 0xa3][..], &address.to_le_bytes()].concat()
}

/// Registers that all differ.
pub(crate) fn distinct() -> Registers {
    let value = |n: u64| 0x0101_0101_0101_0101 * n;
    Registers {
        rax: value(1),
        rbx: value(2),
        rcx: value(3),
        rdx: value(4),
        rsi: value(5),
        rdi: value(6),
        rbp: value(7),
        r8: value(8),
        r9: value(9),
        r10: value(10),
        r11: value(11),
        r12: value(12),
        r13: value(13),
        r14: value(14),
        r15: value(15),
        ..Registers::default()
    }
}

fn guest_file(code: &[u8]) -> GuestFile {
    let mut code = code.to_vec();
    code.resize(SIZE, FILLER);
    let mut file = GuestFile::of_code(&[]);
    file.segments = vec![
        Segment::of(CODE, R | X, code),
        Segment::of(CONSTANTS, R, vec![CONSTANT; SIZE]),
        Segment::of(DATA, R | W, vec![0; SIZE]),
    ];
    file
}
