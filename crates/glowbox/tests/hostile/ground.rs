//! A machine whose code the test writes, and which is watched.
//!
//! The fastest way to let ring 3 execute anything: one VM, into whose code pages the host puts each case's
//! bytes before it starts the guest again. What the guest may write is put back after each case from a copy;
//! all else must not have changed, byte for byte. Nothing of the library above the machine takes part: what
//! that makes of such guests is tested in [`crate::sandboxes`].

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use glowbox_core::address::Protection;
use glowbox_core::elf::Program;
use glowbox_core::layout::{Layout, Limits, RegionKind, SUPERVISOR_STACK_GPA};
use glowbox_core::load::{self, Start};
use glowbox_core::paging::Privilege;
use glowbox_core::registers::{CpuState, Registers};
use glowbox_machine::interrupt::{RunControl, default_signal, install};
use glowbox_machine::supervisor;
use glowbox_machine::{Exit, Machine, Platform};
use glowbox_testguest::{CODE, GuestFile, R, Segment, W, X};

use crate::support::tried;

/// Bytes of code that a case can have.
pub(crate) const CODE_SIZE: usize = 4 << 12;
/// Bytes of data that a case can use.
pub(crate) const DATA_SIZE: usize = 4 << 12;
/// Where constants and data lie in the file.
const CONSTANTS: u64 = 0x8000;
const DATA: u64 = 0x10000;
/// `int3`: what is left of the code pages. Whatever a case jumps to in them ends there.
const FILLER: u8 = 0xcc;
/// How long a case may run before it is stopped, and one that must end by itself.
const SHORT: Duration = Duration::from_millis(40);
const LONG: Duration = Duration::from_secs(30);
/// How long after the last deadline the host may still be in the guest, before the test gives up.
const HANG: Duration = Duration::from_secs(60);
/// The bytes of an XSAVE area that say which components are in use.
const XSAVE_HEADER: Range<usize> = 512..520;
/// After how many cases all of memory is compared, and the guest has to work.
const BATCH: u64 = 256;

static PLATFORM: LazyLock<Box<dyn Platform>> =
    LazyLock::new(|| glowbox_machine::open(None).expect("a backend"));
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One machine, and what its memory has to be.
pub(crate) struct Ground {
    machine: Box<dyn Machine>,
    watch: Arc<Watch>,
    pub(crate) layout: Layout,
    pub(crate) code: u64,
    pub(crate) data: u64,
    pub(crate) stack: Range<u64>,
    /// Memory as it was before the first case, with the code of the present one.
    clean: Vec<u8>,
    /// What the guest may write, and the supervisor's stack.
    writable: Vec<Range<usize>>,
    /// What is compared after each case: supervisor, page tables, code and constants.
    fixed: Vec<Range<usize>>,
    code_at: usize,
    code_length: usize,
    /// The state that the check of a clean guest has to find.
    proof: Option<CpuState>,
    cases: u64,
}

/// How a case ended.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    /// The guest's data pages.
    pub(crate) data: Vec<u8>,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.exit.fmt(f)
    }
}

impl Outcome {
    /// The registers at the end, where the exit has them.
    pub(crate) fn registers(&self) -> Option<&Registers> {
        match &self.exit {
            Exit::Exception(exception) => Some(&exception.registers),
            Exit::Port { registers, .. } | Exit::Syscall(registers) => Some(registers),
            _ => None,
        }
    }

    /// Vector and error code of the exception that it was.
    pub(crate) fn exception(&self) -> Option<(u8, u64)> {
        match &self.exit {
            Exit::Exception(exception) => Some((exception.vector, exception.error_code)),
            _ => None,
        }
    }
}

/// What ring-3 code can make the CPU raise: divide, debug, breakpoint, overflow, bound, invalid opcode, x87
/// segment not there, invalid TSS, segment not there, stack, protection, page, x87, alignment, SIMD.
const VECTORS: [u8; 15] = [0, 1, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 16, 17, 19];

impl Ground {
    pub(crate) fn new() -> Ground {
        let program = Program::parse(guest_file().to_bytes().into()).expect("a guest");
        let layout = Layout::new(&program, Limits::MIN, 7).expect("limits");
        let memory = PLATFORM.memory(layout.size()).expect("memory");
        let control = Arc::new(RunControl::new(install(default_signal()).expect("a signal")));
        let mut machine = PLATFORM.machine(memory, Arc::clone(&control)).expect("a machine");
        machine.carry_registers(true);
        load::load(&program, &layout, &Start::named(b"raw"), machine.memory_mut());
        let base = layout.load_base();
        let user = |protection: Protection| {
            layout.regions().iter().filter_map(move |region| match region.backing {
                Some((gpa, rights, Privilege::User)) if rights == protection => {
                    Some(place(gpa.0)..place(gpa.0 + region.length))
                }
                _ => None,
            })
        };
        let mut writable: Vec<_> = user(Protection::ReadWrite).collect();
        writable.push(place(SUPERVISOR_STACK_GPA.0)..place(SUPERVISOR_STACK_GPA.0 + 4096));
        let mut fixed: Vec<_> =
            user(Protection::Read).chain(user(Protection::ReadExecute)).collect();
        fixed.push(0..place(SUPERVISOR_STACK_GPA.0));
        let tables = layout.memory(RegionKind::PageTables);
        fixed.push(place(tables.start)..place(tables.end));
        let code_at = place(layout.translate(base + CODE).expect("code").0);
        let stack = layout.region(RegionKind::Stack);
        let mut ground = Ground {
            watch: Watch::over(control),
            code: base + CODE,
            data: base + DATA,
            stack: stack.start.0..stack.end().0,
            clean: Vec::new(),
            writable,
            fixed,
            code_at,
            code_length: 0,
            proof: None,
            cases: 0,
            machine,
            layout,
        };
        ground.machine.install(&ground.state(&Registers::default()));
        ground.clean = ground.machine.memory().to_vec();
        ground.prove_clean();
        ground
    }

    /// The registers a case starts with: general ones as given, the stack's middle, the code's start.
    fn state(&self, registers: &Registers) -> CpuState {
        let mut state = CpuState::starting_at(self.code, (self.stack.start + self.stack.end) / 2);
        let start = state.registers;
        state.registers =
            Registers { rip: start.rip, rsp: start.rsp, rflags: start.rflags, ..*registers };
        state
    }

    /// Registers that all point to the middle of the data.
    pub(crate) fn pointers(&self) -> Registers {
        filled(self.data + DATA_SIZE as u64 / 2)
    }

    /// Whether IOPL counts, as on all hardware: a port that is not the guest's leads to the host.
    pub(crate) fn has_ports(&mut self) -> bool {
        let outcome = self.run_to_its_end(&[0xe4, 0x80], &Registers::default());
        matches!(outcome.exit, Exit::Port { .. })
    }

    /// Runs a case that may go on for ever.
    pub(crate) fn run(&mut self, code: &[u8], registers: &Registers) -> Outcome {
        self.run_for(code, registers, SHORT)
    }

    /// Runs a case that ends by itself.
    #[track_caller]
    pub(crate) fn run_to_its_end(&mut self, code: &[u8], registers: &Registers) -> Outcome {
        let mut outcome = self.run_for(code, registers, SHORT);
        if outcome.exit == Exit::Interrupted {
            // This thread may have been kept from running.
            outcome = self.run_for(code, registers, LONG);
        }
        assert_ne!(outcome.exit, Exit::Interrupted, "{code:02x?} goes on for ever");
        outcome
    }

    #[track_caller]
    fn run_for(&mut self, code: &[u8], registers: &Registers, allowed: Duration) -> Outcome {
        let outcome = self.execute(code, registers, allowed);
        self.cases += 1;
        if self.cases.is_multiple_of(BATCH) {
            self.prove_clean();
        }
        outcome
    }

    #[track_caller]
    fn execute(&mut self, code: &[u8], registers: &Registers, allowed: Duration) -> Outcome {
        let code = &*spared(code);
        self.enter(code, registers, allowed);
        let exit = self.leave(|| format!("{code:02x?} with {registers:x?}"));
        if let Err(why) = self.check(&exit) {
            panic!("{why}: {code:02x?} with\n{registers}\nended in {exit:x?}");
        }
        let at = place(self.layout.translate(self.data).expect("data").0);
        let data = self.machine.memory()[at..at + DATA_SIZE].to_vec();
        if exit != Exit::CalledOut {
            self.machine.settle().expect("a machine that goes on");
        }
        self.put_back();
        Outcome { exit, data }
    }

    /// Makes ready to run a case.
    fn enter(&mut self, code: &[u8], registers: &Registers, allowed: Duration) {
        self.put_code(code);
        let state = self.state(registers);
        self.machine.install(&state);
        // The resume page holds the state.
        let resume = self.layout.memory(RegionKind::Resume);
        let resume = place(resume.start)..place(resume.end);
        self.clean[resume.clone()].copy_from_slice(&self.machine.memory()[resume]);
        self.machine.start(&state).expect("a start");
        self.watch.begin(allowed);
    }

    /// Runs what has been made ready.
    #[track_caller]
    fn leave(&mut self, what: impl Fn() -> String) -> Exit {
        *self.watch.running.lock().unwrap() = Some((Instant::now() + LONG, what()));
        let exit = self.machine.run();
        self.watch.end();
        exit.unwrap_or_else(|error| panic!("{error}: {}", what()))
    }

    fn put_code(&mut self, code: &[u8]) {
        let length = code.len().max(self.code_length);
        let range = self.code_at..self.code_at + length;
        let page = &mut self.clean[range.clone()];
        page.fill(FILLER);
        page[..code.len()].copy_from_slice(code);
        self.machine.memory_mut()[range.clone()].copy_from_slice(&self.clean[range]);
        self.code_length = code.len();
    }

    /// What is wrong with how a case ended, if anything is.
    fn check(&self, exit: &Exit) -> Result<(), String> {
        let memory = self.machine.memory();
        for range in &self.fixed {
            if memory[range.clone()] != self.clean[range.clone()] {
                return Err(format!("memory at {range:x?} has changed"));
            }
        }
        match exit {
            Exit::Exception(exception) if !VECTORS.contains(&exception.vector) => {
                Err("an exception that ring 3 can't raise".into())
            }
            Exit::Exception(exception)
                if exception.address.is_some() != (exception.vector == 14) =>
            {
                Err("an address that does not belong to the exception".into())
            }
            Exit::Exception(_) | Exit::CalledOut | Exit::Interrupted => Ok(()),
            // By the supervisor's own port too, where ports are not guarded.
            Exit::Port { registers, .. } if supervisor::contains(registers.rip) => {
                Err("an exit from the supervisor under another name".into())
            }
            Exit::Port { .. } | Exit::Syscall(_) => Ok(()),
            _ => Err("an exit that no guest should cause".into()),
        }
    }

    fn put_back(&mut self) {
        let memory = self.machine.memory_mut();
        for range in &self.writable {
            memory[range.clone()].copy_from_slice(&self.clean[range.clone()]);
        }
    }

    /// Checks that all of memory is as it was, that the guest works, and that it finds the registers, x87, SSE
    /// and AVX included, that it found before any case.
    #[track_caller]
    pub(crate) fn prove_clean(&mut self) {
        // mov eax, 0x600d; out PORT, al
        let code = [0xb8, 0x0d, 0x60, 0, 0, 0xe6, glowbox_abi::CALL_PORT];
        self.enter(&code, &Registers::default(), LONG);
        assert_eq!(self.leave(|| "the check of a clean guest".into()), Exit::CalledOut);
        let found = self.machine.state().expect("a state");
        assert_eq!(found.registers.rax, 0x600d);
        let proof = self.proof.get_or_insert_with(|| found.clone());
        // The header says which components are in use, which the CPU finds out as it likes; what is not is in
        // its initial state all the same.
        let (was, is) = (proof.extended.bytes(), found.extended.bytes());
        let other: Vec<_> = (0..was.len())
            .filter(|at| was[*at] != is[*at] && !XSAVE_HEADER.contains(at))
            .map(|at| (at, was[at], is[at]))
            .collect();
        assert!(other.is_empty(), "x87, SSE and AVX state is not as it was: {other:02x?}");
        let rest = |state: &CpuState| (state.registers, state.fs_base, state.gs_base);
        assert_eq!(rest(proof), rest(&found), "the CPU is not as it was");
        let (memory, clean) = (self.machine.memory(), &self.clean);
        if memory != clean {
            let pages = memory.chunks(4096).zip(clean.chunks(4096));
            let other: Vec<_> = pages.enumerate().filter(|(_, (a, b))| a != b).collect();
            panic!(
                "pages {:?} are not as they were",
                other.iter().map(|(at, _)| at).collect::<Vec<_>>()
            );
        }
    }
}

/// All general registers with one value.
pub(crate) fn filled(value: u64) -> Registers {
    Registers {
        rax: value,
        rbx: value,
        rcx: value,
        rdx: value,
        rsi: value,
        rdi: value,
        rsp: value,
        rbp: value,
        r8: value,
        r9: value,
        r10: value,
        r11: value,
        r12: value,
        r13: value,
        r14: value,
        r15: value,
        ..Registers::default()
    }
}

/// A guest-physical address as an index.
pub(crate) fn place(gpa: u64) -> usize {
    usize::try_from(gpa).expect("guest memory fits")
}

/// Code with these cases behind it, each in so many bytes.
pub(crate) fn with_cases(mut code: Vec<u8>, cases: &[Vec<u8>], size: usize) -> Vec<u8> {
    for case in cases {
        let end = code.len() + size;
        code.extend(&case[..case.len().min(size)]);
        code.resize(end, 0xcc);
    }
    // Whole, since what runs from one case into the next is code as well.
    spared(&code).into_owned()
}

/// Code without what QEMU itself does wrong, where `GLOWBOX_HOSTILE_SPARE_QEMU` is set: QEMU 10.0 executes
/// in ring 3 a `mov` to CS, and takes one to the segment registers six and seven, which there are not, for
/// LDTR and TR; everywhere else they are `#UD`. And it ends itself by assertions where a VEX prefix says
/// 256 bits of an instruction that has but 128, as `vroundss` and `vpinsrb`, and at a `vpinsrw` of MMX.
fn spared(code: &[u8]) -> Cow<'_, [u8]> {
    static SPARE: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("GLOWBOX_HOSTILE_SPARE_QEMU").is_some());
    if !*SPARE {
        return code.into();
    }
    let mut spared = code.to_vec();
    for at in 0..code.len() {
        match code[at..] {
            // nop
            [0x8e, modrm, ..] if [1, 6, 7].contains(&(modrm >> 3 & 7)) => spared[at] = 0x90,
            // The bit that says so, in prefixes of three and of two bytes.
            [0xc4, map, long, opcode, ..] if has_128_bits(map & 0x1f, opcode) => {
                spared[at + 2] = long & !4;
            }
            [0xc5, long, opcode, ..] if has_128_bits(1, opcode) => spared[at + 1] = long & !4,
            _ => {}
        }
        match code[at..] {
            // `vpinsrw` without the prefix that it has to have.
            [0xc4, map, prefix, 0xc4, ..] if map & 0x1f == 1 && prefix & 3 == 0 => {
                spared[at + 2] |= 1;
            }
            [0xc5, prefix, 0xc4, ..] if prefix & 3 == 0 => spared[at + 1] |= 1,
            _ => {}
        }
    }
    if spared != code {
        tried("changed, to spare QEMU", 1);
    }
    spared.into()
}

/// Whether an instruction with a VEX prefix, by its map and opcode, has no form for 256 bits.
fn has_128_bits(map: u8, opcode: u8) -> bool {
    match map {
        1 => matches!(
            opcode,
            0x12 | 0x13 | 0x16 | 0x17 | 0x6e | 0x7e | 0xae | 0xc4 | 0xc5 | 0xd6 | 0xf7
        ),
        2 => opcode == 0xdb,
        3 => matches!(opcode, 0x0a | 0x0b | 0x14..=0x17 | 0x20..=0x22 | 0x41 | 0x60..=0x63 | 0xdf),
        _ => false,
    }
}

fn guest_file() -> GuestFile {
    let mut file = GuestFile::of_code(&[]);
    file.segments = vec![
        Segment::of(CODE, R | X, vec![FILLER; CODE_SIZE]),
        Segment::of(CONSTANTS, R, vec![0x5a; 4096]),
        Segment::of(DATA, R | W, vec![0; DATA_SIZE]),
    ];
    file
}

/// The thread that stops cases whose time is over, and the test if one can't be stopped.
struct Watch {
    control: Arc<RunControl>,
    /// What runs, and until when it may.
    running: Mutex<Option<(Instant, String)>>,
    over: AtomicBool,
}

impl Watch {
    fn over(control: Arc<RunControl>) -> Arc<Watch> {
        let watch =
            Arc::new(Watch { control, running: Mutex::new(None), over: AtomicBool::new(false) });
        let watching = Arc::downgrade(&watch);
        std::thread::spawn(move || {
            while let Some(watch) = watching.upgrade() {
                watch.control.expire(now());
                watch.end_if_it_hangs();
                if watch.over.load(Ordering::Relaxed) {
                    break;
                }
                drop(watch);
                std::thread::sleep(Duration::from_millis(4));
            }
        });
        watch
    }

    fn begin(&self, allowed: Duration) {
        self.control.begin(now() + u64::try_from(allowed.as_nanos()).expect("a short time"));
    }

    fn end(&self) {
        self.control.end();
        *self.running.lock().unwrap() = None;
    }

    fn end_if_it_hangs(&self) {
        if let Some((until, what)) = &*self.running.lock().unwrap()
            && until.elapsed() > HANG
        {
            eprintln!("the host is still in the guest {HANG:?} after the deadline: {what}");
            std::process::exit(101);
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.watch.over.store(true, Ordering::Relaxed);
    }
}

fn now() -> u64 {
    u64::try_from(CLOCK.elapsed().as_nanos()).expect("a short time")
}
