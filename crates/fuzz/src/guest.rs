//! Whole guests of any bytes, on real KVM: the bytes are ring-3 machine code, and whatever they do, the host
//! gets an outcome that has a name, and after a reset everything is as it was before: general registers,
//! selectors, x87, SSE and AVX state, and all of guest memory, byte for byte.
//!
//! Two machines take all inputs, one after the other, so that what one leaves behind meets the next: one whose
//! memory was remembered where it is, as a built sandbox's, and one that has an image mapped, as a spawned
//! one's. A reset is what the library's is: `settle`, `restore`, `start`.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use glowbox_abi::CALL_PORT;
use glowbox_core::address::Protection;
use glowbox_core::elf::Program;
use glowbox_core::fault::{Code, Exception, Fault};
use glowbox_core::layout::{Layout, Limits, PAGE_TABLES, RegionKind, SUPERVISOR_CODE};
use glowbox_core::load::{self, Start};
use glowbox_core::paging::Privilege;
use glowbox_core::registers::{CpuState, ExtendedState};
use glowbox_machine::interrupt::{RunControl, default_signal, install};
use glowbox_machine::kvm::{Kvm, KvmMachine};
use glowbox_machine::{Exit, Machine, Platform, supervisor};
use glowbox_mem::{GuestMemory, Image};
use glowbox_testguest::{CODE, GuestFile, R, Segment, W, X};

use crate::input::Input;

/// Most bytes of an input that are code.
pub const MOST: usize = 4096;
/// How long the code may run.
const ALLOWED: Duration = Duration::from_millis(3);
/// How long the guest's own code may, which takes microseconds, but on a machine that others use.
const LONG: Duration = Duration::from_secs(30);
/// How often the watching thread looks whether the time is over.
const TICK: Duration = Duration::from_millis(1);

/// Where the input's code, constants and data lie in the guest's file.
const INPUT: u64 = CODE + 0x1000;
const INPUT_SIZE: usize = 2 << 12;
const CONSTANTS: u64 = 0x8000;
const DATA: u64 = 0x10000;
/// `int3`: what is left of the code pages.
const FILLER: u8 = 0xcc;
/// Most bytes that the input's prologue writes to each piece of memory.
const STAINED: u64 = 2 << 12;
/// Most pages that a reset leaves private, where it leaves any.
const KEPT: usize = 1024;

/// The bytes of an XSAVE area that say which components are in use.
const IN_USE: Range<usize> = 512..520;
/// Where x87, SSE and AVX state lie.
const COMPONENTS: [Range<usize>; 3] = [0..160, 160..416, 576..832];

/// What ring-3 code can make the CPU raise: divide, debug, breakpoint, overflow, bound, invalid opcode, x87
/// not available, x87 segment, invalid TSS, segment not there, stack, protection, page, x87, alignment, SIMD.
pub const VECTORS: [u8; 15] = [0, 1, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 16, 17, 19];

static KVM: LazyLock<Option<Kvm>> = LazyLock::new(|| Kvm::open().ok());
static MACHINES: LazyLock<Mutex<[Subject; 2]>> = LazyLock::new(|| Mutex::new(Subject::both()));
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Whether there is a KVM to run guests on.
pub fn is_possible() -> bool {
    KVM.is_some()
}

/// Runs the bytes as a guest, and checks that they leave nothing behind.
///
/// # Panics
///
/// If they do, or there is no KVM.
pub fn run(bytes: &[u8]) {
    outcome(bytes);
}

/// What an input did, for whoever wants to know whether it did something new.
#[derive(Debug)]
pub struct Seen {
    /// The outcome's name.
    pub outcome: String,
    /// The bytes at the instruction that ended it, if it is in the guest's code.
    pub instruction: Vec<u8>,
    /// The error code, and in which kind of memory the address lies, for a page fault.
    pub access: Option<(u64, Option<RegionKind>)>,
    /// Pages that had been written.
    pub pages: usize,
    /// Which 16-byte pieces of the extended state were not zero at the end.
    pub extended: Vec<usize>,
}

/// The same as [`run`], and says what happened.
///
/// # Panics
///
/// As [`run`].
pub fn outcome(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let flags = input.byte();
    let mut machines = MACHINES.lock().expect("no input before it has failed");
    let subject = &mut machines[usize::from(flags & 1)];
    let code = subject.code(flags, &mut input);
    let (exit, mut seen) = subject.execute(&code);
    let anew = flags & 0b1101 == 0b1101;
    let keep = if flags & 2 == 0 { KEPT } else { 0 };
    seen.pages = subject.reset(keep, anew);
    if let Err(why) = subject.check() {
        panic!("{why}, after {exit:x?} of {code:02x?}");
    }
    seen
}

/// One machine, and what has to be in it after each reset.
struct Subject {
    machine: KvmMachine,
    layout: Layout,
    /// The image that is mapped, if one is.
    image: Option<Arc<Image>>,
    /// The state to go back to.
    state: CpuState,
    /// What the guest finds when it goes on from there.
    found: CpuState,
    /// Memory at that point, with the present input's code.
    clean: Vec<u8>,
    /// Where the input's code is in memory, and how much of it there is.
    code_at: usize,
    code_length: usize,
    /// What the guest can write, for it.
    writable: Vec<Range<u64>>,
    avx: bool,
}

impl Subject {
    /// A machine with a built guest, and one that is spawned of it.
    fn both() -> [Subject; 2] {
        let kvm = KVM.as_ref().expect("KVM");
        let program = Program::parse(file().to_bytes().into()).expect("a guest");
        let layout = Layout::new(&program, Limits::MIN, 7).expect("limits");
        let control = Arc::new(RunControl::new(install(default_signal()).expect("a signal")));
        watch(&control);
        let machine = || {
            let memory = GuestMemory::new(layout.size()).expect("memory");
            KvmMachine::new(kvm, memory, Arc::clone(&control)).expect("a VM")
        };
        let mut built = machine();
        let entry = load::load(&program, &layout, &Start::named(b"fuzz"), built.memory_mut());
        let state = CpuState::starting_at(entry.rip.0, entry.rsp.0);
        built.install(&state);
        built.start(&state).expect("a start");
        control.begin(now() + nanoseconds(LONG));
        assert_eq!(built.run().expect("a run"), Exit::CalledOut);
        control.end();
        let state = built.state().expect("a state");
        built.install(&state);
        let image = built.window().capture(&[]).expect("an image");
        let from = place(layout.writable_from());
        built.window().remember(from).expect("the pages that were written");
        let mut spawned = machine();
        spawned.window().fill(&image, &[]).expect("memory");
        let avx = kvm.cpu().1 & 4 != 0;
        [(built, None), (spawned, Some(image))].map(|(machine, image)| {
            Subject::new(machine, layout.clone(), image, state.clone(), avx)
        })
    }

    fn new(
        machine: KvmMachine,
        layout: Layout,
        image: Option<Arc<Image>>,
        state: CpuState,
        avx: bool,
    ) -> Subject {
        let writable = layout.regions().iter().filter_map(|region| match region.backing {
            Some((_, Protection::ReadWrite, Privilege::User)) => {
                Some(region.start.0..region.end().0)
            }
            _ => None,
        });
        let code_at = place(layout.translate(layout.load_base() + INPUT).expect("code").0);
        let mut subject = Subject {
            writable: writable.collect(),
            code_at,
            code_length: 0,
            clean: machine.memory().to_vec(),
            found: state.clone(),
            machine,
            layout,
            image,
            state,
            avx,
        };
        subject.machine.start(&subject.state).expect("a start");
        subject.found = subject.go_on();
        subject
    }

    /// Lets the guest go on from the state it was put back to, up to where the input's code follows.
    fn go_on(&mut self) -> CpuState {
        self.machine.control().begin(now() + nanoseconds(LONG));
        let exit = self.machine.run();
        self.machine.control().end();
        assert_eq!(exit.expect("a run"), Exit::CalledOut);
        self.machine.state().expect("a state")
    }

    /// The code that an input stands for: what it has in registers at first, and its bytes.
    fn code(&self, flags: u8, input: &mut Input<'_>) -> Vec<u8> {
        let base = self.layout.load_base();
        let stack = self.layout.region(RegionKind::Stack);
        let values = [
            0,
            1,
            base + DATA + 0x800,
            base + DATA,
            base + INPUT + 0x100,
            base + CONSTANTS,
            stack.start.0,
            stack.end().0,
            self.layout.region(RegionKind::Control).start.0,
            self.layout.region(RegionKind::Heap).start.0,
            SUPERVISOR_CODE.0,
            PAGE_TABLES.0,
            0x7fff_ffff_ffff,
            1 << 63,
            0x1f80,
            u64::MAX,
        ];
        let mut code = Vec::new();
        if flags & 16 != 0 {
            self.stain(&mut code);
        }
        let choices = input.word();
        // All but RSP by number, and RSP last: in the middle of its stack, or as chosen.
        for register in (0..16).filter(|register| *register != 4) {
            let choice = choices >> (4 * register) & 15;
            load_register(&mut code, register, values[place(choice)]);
        }
        let chosen = values[place(choices >> 16 & 15)];
        let middle = (stack.start.0 + stack.end().0) / 2;
        load_register(&mut code, 4, if flags & 32 == 0 { middle } else { chosen });
        code.extend(input.take(MOST));
        code
    }

    /// Code that leaves something in every register that there is, and in all memory that it can write.
    fn stain(&self, code: &mut Vec<u8>) {
        for part in &self.writable {
            load_register(code, 7, part.start);
            load_register(code, 1, (part.end - part.start).min(STAINED));
            // mov al, 0xa5; rep stosb
            code.extend([0xb0, 0xa5, 0xf3, 0xaa]);
        }
        for register in 0..16 {
            // pcmpeqd xmm, xmm
            let [high, low] = [register >> 3, register & 7];
            code.extend([0x66, 0x40 | high << 2 | high, 0x0f, 0x76, 0xc0 | low << 3 | low]);
        }
        if self.avx {
            // vinsertf128 ymm, ymm, xmm, 1, of the first eight
            (0..8).for_each(|register: u8| {
                let operands = [0x7d & !(register << 3), 0x18, 0xc0 | register << 3 | register, 1];
                code.extend([0xc4, 0xe3].into_iter().chain(operands));
            });
        }
        // fldpi, eight times; push 0x1fbf; ldmxcsr [rsp]; push 0x77f; fldcw [rsp]
        code.extend([0xd9, 0xeb].repeat(8));
        code.extend([0x68, 0xbf, 0x1f, 0, 0, 0x0f, 0xae, 0x14, 0x24]);
        code.extend([0x68, 0x7f, 7, 0, 0, 0xd9, 0x2c, 0x24]);
        // mov eax, ss; mov ds, eax; mov es, eax; mov fs, eax; mov gs, eax
        code.extend([0x8c, 0xd0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8]);
        load_register(code, 0, 0x5a5a_5a5a_5a5a);
        // wrfsbase rax; wrgsbase rax; std
        code.extend([0xf3, 0x48, 0x0f, 0xae, 0xd0, 0xf3, 0x48, 0x0f, 0xae, 0xd8, 0xfd]);
    }

    /// Lets the guest execute the code. It stands before it.
    fn execute(&mut self, code: &[u8]) -> (Exit, Seen) {
        let length = code.len().max(self.code_length);
        let range = self.code_at..self.code_at + length;
        let page = &mut self.clean[range.clone()];
        page.fill(FILLER);
        page[..code.len()].copy_from_slice(code);
        self.code_length = code.len();
        self.machine.memory_mut()[range.clone()].copy_from_slice(&self.clean[range]);
        self.machine.control().begin(now() + nanoseconds(ALLOWED));
        let exit = self.machine.run();
        self.machine.control().end();
        let exit = exit.unwrap_or_else(|error| panic!("{error}: {code:02x?}"));
        let mut seen =
            self.seen(&exit).unwrap_or_else(|why| panic!("{why}: {exit:x?} of {code:02x?}"));
        let extended = self.machine.extended().expect("the extended state");
        let pieces = extended.bytes().chunks(16).enumerate();
        seen.extended = pieces
            .filter(|(_, piece)| piece.iter().any(|byte| *byte != 0))
            .map(|(at, _)| at)
            .collect();
        (exit, seen)
    }

    /// The outcome's name, or what is wrong with it.
    fn seen(&self, exit: &Exit) -> Result<Seen, &'static str> {
        let mut outcome = String::new();
        let mut rip = None;
        let mut access = None;
        match exit {
            Exit::Exception(exception) => {
                check_exception(exception)?;
                let at = exception.registers.rip;
                let (before, bytes) = (self.bytes(at.wrapping_sub(2), 2), self.bytes(at, 15));
                let around = Code { before: &before, at: &bytes };
                let entry = supervisor::SYSCALL_ENTRY.0;
                let (kind, at) = Fault::classify(exception, &self.layout, around, entry);
                write!(outcome, "{kind:?} {}", exception.vector).expect("a string");
                rip = Some(at);
                access = exception.address.map(|address| {
                    let region = self.layout.region_at(address);
                    (exception.error_code, region.map(|region| region.kind))
                });
            }
            Exit::Port { registers, .. } | Exit::Syscall(registers) => {
                if matches!(exit, Exit::Port { .. }) && supervisor::contains(registers.rip) {
                    return Err("an exit from the supervisor under another name");
                }
                outcome.push_str(if matches!(exit, Exit::Port { .. }) {
                    "Port"
                } else {
                    "Syscall"
                });
                rip = Some(registers.rip);
            }
            Exit::CalledOut => outcome.push_str("CalledOut"),
            Exit::Interrupted => outcome.push_str("Interrupted"),
            _ => return Err("an exit that no guest should cause"),
        }
        let instruction = rip.map(|rip| self.bytes(rip, 15)).unwrap_or_default();
        Ok(Seen { outcome, instruction, access, pages: 0, extended: Vec::new() })
    }

    /// Bytes of the program's memory at a guest-virtual address, as far as they lie in one region.
    fn bytes(&self, address: u64, length: u64) -> Vec<u8> {
        let region = self.layout.region_at(address);
        let Some((region, start)) = region.zip(self.layout.translate(address)) else {
            return Vec::new();
        };
        let start = place(start.0);
        let end = start + place(length.min(region.end().0 - address));
        self.machine.memory()[start..end].to_vec()
    }

    /// Puts everything back, as the library does; says how many pages had been written.
    fn reset(&mut self, keep: usize, anew: bool) -> usize {
        self.machine.settle().expect("a machine that goes on");
        let from = place(self.layout.writable_from());
        let restored = match self.image.as_ref().filter(|_| anew) {
            Some(image) => {
                // As a shell that another snapshot takes over.
                self.machine.forget_tables().expect("a slot");
                self.machine.window().fill(image, &[]).expect("memory");
                let range = self.code_at..self.code_at + self.code_length;
                self.machine.memory_mut()[range.clone()].copy_from_slice(&self.clean[range]);
                None
            }
            None => Some(self.machine.window().restore(from, keep).expect("a reset")),
        };
        self.machine.start(&self.state).expect("a start");
        restored.map_or(0, |restored| restored.written)
    }

    /// Says what is not as it was, if anything is not.
    fn check(&mut self) -> Result<(), String> {
        self.same_memory("before the guest goes on")?;
        let found = self.go_on();
        let other = |state: &CpuState| (state.registers, state.fs_base, state.gs_base);
        if other(&found) != other(&self.found) {
            return Err(format!(
                "registers are\n{}\nnot\n{}",
                found.registers, self.found.registers
            ));
        }
        same_extended(&self.found.extended, &found.extended)?;
        self.same_memory("when the guest has gone on")
    }

    fn same_memory(&self, when: &str) -> Result<(), String> {
        let (memory, clean) = (self.machine.memory(), &self.clean);
        if memory == clean {
            return Ok(());
        }
        let at = memory.iter().zip(clean).position(|(is, was)| is != was).expect("they differ");
        Err(format!("memory at {at:#x} is {:#x}, not {:#x}, {when}", memory[at], clean[at]))
    }
}

/// What can't be true of an exception in ring 3, if it is of this one.
fn check_exception(exception: &Exception) -> Result<(), &'static str> {
    if !VECTORS.contains(&exception.vector) {
        return Err("an exception that ring 3 can't raise");
    }
    if exception.address.is_some() != (exception.vector == 14) {
        return Err("an address that does not belong to the exception");
    }
    Ok(())
}

/// Compares x87, SSE and AVX state. The bits that say what is in use are left out: the CPU is free to say so of
/// a component in its initial state, and does when the state has been saved and loaded (`docs/kvm.md`). But what
/// is said not to be in use must be in its initial state. (Of SSE, `ExtendedState` says the same always.)
fn same_extended(was: &ExtendedState, is: &ExtendedState) -> Result<(), String> {
    let (was, is) = (was.bytes(), is.bytes());
    let differs = |at: &usize| was[*at] != is[*at] && !IN_USE.contains(at);
    let other: Vec<_> = (0..was.len().min(is.len())).filter(differs).collect();
    if !other.is_empty() || was.len() != is.len() {
        return Err(format!("x87, SSE and AVX state differs at {other:?}"));
    }
    let used = u64::from_le_bytes(*is[IN_USE].first_chunk().expect("eight bytes"));
    let initial = ExtendedState::initial();
    let at_first = |at: usize| initial.bytes().get(at).copied().unwrap_or(0);
    for (number, part) in COMPONENTS.into_iter().enumerate() {
        // MXCSR and its mask belong to neither of those that they lie among.
        let wrong = |at: &usize| is[*at] != at_first(*at) && !(24..32).contains(at);
        let part = part.start..part.end.min(is.len());
        if used & 1 << number == 0 && part.clone().any(|at| wrong(&at)) {
            return Err(format!("component {number} is not in use, and not in its initial state"));
        }
    }
    Ok(())
}

/// mov register, value
fn load_register(code: &mut Vec<u8>, register: u8, value: u64) {
    code.extend([0x48 | register >> 3, 0xb8 | register & 7]);
    code.extend(value.to_le_bytes());
}

/// The guest: it calls out, and again, so that the host sees in between what it finds; then comes an input.
fn file() -> GuestFile {
    let mut code = vec![FILLER; place(INPUT - CODE) + INPUT_SIZE];
    // out PORT, al; mov eax, ds; mov ebx, es; mov ecx, fs; mov edx, gs; out PORT, al; jmp INPUT
    let mut first = vec![0xe6, CALL_PORT, 0x8c, 0xd8, 0x8c, 0xc3, 0x8c, 0xe1, 0x8c, 0xea];
    first.extend([0xe6, CALL_PORT, 0xe9]);
    let jump = u32::try_from(INPUT - CODE).expect("it is near") - 4;
    let jump = jump - u32::try_from(first.len()).expect("it is near");
    first.extend(jump.to_le_bytes());
    code[..first.len()].copy_from_slice(&first);
    let mut file = GuestFile::of_code(&[]);
    file.segments = vec![
        Segment::of(CODE, R | X, code),
        Segment::of(CONSTANTS, R, vec![0x5a; 4096]),
        Segment::of(DATA, R | W, vec![0; 4 << 12]),
    ];
    file
}

/// Starts the thread that stops guests whose time is over.
fn watch(control: &Arc<RunControl>) {
    let control = Arc::downgrade(control);
    std::thread::spawn(move || {
        while let Some(control) = control.upgrade() {
            control.expire(now());
            drop(control);
            std::thread::sleep(TICK);
        }
    });
}

fn now() -> u64 {
    nanoseconds(CLOCK.elapsed())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a short time")
}

/// A number below the size of guest memory as an index.
fn place(number: u64) -> usize {
    usize::try_from(number).expect("guest memory fits")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An input that leaves something everywhere, and ends by `ud2`.
    const STAIN: [u8; 11] = [16, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x0f, 0x0b];

    #[test]
    fn what_is_left_behind_is_there_and_is_noticed() {
        if !is_possible() {
            // Not by a macro, whose output is kept back for a test that passes.
            return std::io::stderr().write_all(b"left out, there is no KVM\n").unwrap();
        }
        for subject in &mut Subject::both() {
            let mut input = Input::new(&STAIN[1..]);
            let code = subject.code(STAIN[0], &mut input);
            let (_, seen) = subject.execute(&code);
            assert_eq!(seen.outcome, "InvalidOpcode 6");
            assert_eq!(seen.instruction[..2], [0x0f, 0x0b]);
            // The legacy area's x87 and SSE registers; of AVX's the first eight.
            let components = if subject.avx { 0..44 } else { 0..26 };
            let unstained = |piece: &usize| !seen.extended.contains(piece);
            let left = components.filter(|piece| *piece < 26 || *piece >= 36);
            assert_eq!(left.filter(unstained).collect::<Vec<_>>(), [1; 0]);
            // Nothing is put back.
            subject.machine.settle().unwrap();
            let error = subject.same_memory("").unwrap_err();
            assert!(error.contains("0xa5"), "{error}");
            assert!(subject.reset(KEPT, false) >= subject.writable.len());
            subject.check().unwrap();
            // Registers of another start.
            let mut other = subject.state.clone();
            other.registers.rdi += 1;
            subject.machine.start(&other).unwrap();
            assert!(subject.check().unwrap_err().contains("registers"));
        }
    }

    #[test]
    fn extended_states_are_compared_but_for_what_the_cpu_may_say() {
        let was = ExtendedState::initial();
        let change = |changes: &[(usize, u8)]| {
            let mut bytes = was.bytes().to_vec();
            changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
            ExtendedState::from_xsave(&bytes, 7, 0xffff).unwrap()
        };
        same_extended(&was, &was).unwrap();
        same_extended(&was, &change(&[(512, 3)])).unwrap();
        for at in [0, 24, 32, 160, 415] {
            same_extended(&was, &change(&[(at, 1)])).unwrap_err();
        }
        let used = change(&[(32, 1), (512, 3)]);
        same_extended(&used, &used).unwrap();
        // The same bytes, of a component that would be loaded as zero.
        same_extended(&used, &change(&[(32, 1)])).unwrap_err();
    }
}
