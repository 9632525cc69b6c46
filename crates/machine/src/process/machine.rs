//! A process as a machine.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libc::user_regs_struct;

use glowbox_core::address::{Gpa, Gva, PAGE_SIZE};
use glowbox_core::fault::Exception;
use glowbox_core::layout::PAGE_TABLES_GPA;
use glowbox_core::paging::{Leaf, walk};
use glowbox_core::registers::{CpuState, ExtendedState, Registers};
use glowbox_mem::{GuestMemory, Image, Lent, Window};

use super::ProcessPlatform;
use super::stub::{self, CODE_SEGMENT, Call, NO_CALL};
use super::tracer::{Resume, Stop, Tracee};
use super::translations::{Source, Translations};
use crate::interrupt::{Entered, RunControl};
use crate::supervisor::resume::{self, Abilities};
use crate::supervisor::{self, SYSCALL_ENTRY};
use crate::{Backend, Exit, Machine, MachineError, SegmentBases, TRAP_FLAG, USER_FLAGS};

/// The flag that makes the CPU check alignment, if the system wants it to. No hypervisor's guest knows that.
const ALIGNMENT_FLAG: u64 = 1 << 18;
/// Flags that `ptrace` does not set: nested task and identification.
const UNSETTABLE_FLAGS: u64 = 1 << 14 | 1 << 21;
/// Flags that are set whatever the guest does: the one that always is, and the one that lets interrupts in.
const FIXED_FLAGS: u64 = 1 << 1 | 1 << 9;
/// The end of the addresses that the system takes for a segment's base.
const BASES_END: u64 = stub::END;

/// The page of system calls from old times, which every process has on many systems.
const OLD_CALLS: Range<u64> = 0xffff_ffff_ff60_0000..0xffff_ffff_ff60_1000;

/// `si_code` of faults: of a page that is not there or may not be used, of memory that is gone, and by the
/// kernel without further word.
const MAPERR: i32 = 1;
const ACCERR: i32 = 2;
const ADRALN: i32 = 1;
const KERNEL: i32 = 0x80;

/// Vectors and bits of error codes.
const PROTECTION: u8 = 13;
const PAGE: u8 = 14;
const ALIGNMENT: u8 = 17;
const PAGE_PRESENT: u64 = 1 << 0;
const PAGE_WRITE: u64 = 1 << 1;
const PAGE_USER: u64 = 1 << 2;
const PAGE_FETCH: u64 = 1 << 4;
/// The error code of `#GP` for an interrupt gate that ring 3 may not use: its number, and the table.
const GATE_80: u64 = 0x80 << 3 | 2;

/// `out imm8, al`, `out dx, al`, and `outsb`.
const OUT_IMMEDIATE: u8 = 0xe6;
const OUT_DX: u8 = 0xee;
const OUT_STRING: u8 = 0x6e;
/// Most bytes of an instruction.
const MAX_INSTRUCTION: usize = 15;
/// `syscall` and `int 0x80`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const INTERRUPT_80: [u8; 2] = [0xcd, 0x80];

/// A guest's process, with its memory.
#[derive(Debug)]
pub struct ProcessMachine {
    /// First: the process ends before its memory goes.
    tracee: Tracee,
    memory: GuestMemory,
    control: Arc<RunControl>,
    abilities: Abilities,
    /// What has been lent: where, what, and the descriptor that the process has of it.
    lent: Vec<(Gpa, Arc<Lent>, u64)>,
    translations: Translations,
    /// What the process has to do before the guest runs on.
    calls: Vec<Call>,
    /// The guest's registers.
    registers: user_regs_struct,
    /// Whether they are others than the process's.
    changed: bool,
    /// The process's own flags.
    flags: u64,
    /// The further state that the guest is to have.
    extended: Option<Vec<u8>>,
    /// Bytes of the system's XSAVE area.
    area: usize,
    broken: bool,
    entries: u64,
    guest_time: Duration,
}

impl ProcessMachine {
    /// Starts a process over `memory`, which is of [`Platform::memory`](crate::Platform::memory). Before it
    /// can run, memory has to be filled, and the machine started.
    ///
    /// # Errors
    ///
    /// [`MachineError::Request`] with what the system refused.
    pub fn new(
        platform: &ProcessPlatform,
        memory: GuestMemory,
        control: Arc<RunControl>,
    ) -> Result<ProcessMachine, MachineError> {
        let file = memory.shared().ok_or(lacks("memory that two processes share"))?;
        let (tracee, registers) = Tracee::start(&platform.program, file)?;
        let abilities = Abilities { fsgsbase: true, xcr0: Some(platform.cpu.1) };
        Ok(ProcessMachine {
            tracee,
            memory,
            control,
            abilities,
            lent: Vec::new(),
            translations: Translations::default(),
            calls: Vec::new(),
            registers: user_regs_struct { orig_rax: NO_CALL, ..registers },
            changed: true,
            flags: registers.eflags,
            extended: None,
            area: platform.area,
            broken: false,
            entries: 0,
            guest_time: Duration::ZERO,
        })
    }

    /// Unmaps in the process what the host has made stale.
    fn unmap_stale(&mut self) {
        for range in self.memory.take_stale() {
            let calls = self.translations.forget(range.start as u64..range.end as u64);
            self.calls.extend(calls);
        }
    }

    fn set(&mut self, r: &Registers, bases: SegmentBases) -> Result<(), MachineError> {
        let has_them = (bases.fs, bases.gs) == (self.registers.fs_base, self.registers.gs_base);
        if !has_them && (bases.fs >= BASES_END || bases.gs >= BASES_END) {
            return Err(lacks("segment bases in the upper half of the addresses"));
        }
        self.registers = general_registers!(r => user_regs_struct {
            eflags: r.rflags & USER_FLAGS | FIXED_FLAGS,
            orig_rax: NO_CALL,
            fs_base: bases.fs,
            gs_base: bases.gs,
            cs: CODE_SEGMENT,
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
            ..self.registers
        });
        self.changed = true;
        Ok(())
    }

    /// The registers as they are after the last exit.
    fn now(&self) -> Registers {
        general_registers!(&self.registers => Registers { rflags: self.registers.eflags })
    }

    fn run_until_exit(&mut self, mut ticked: bool) -> Result<Exit, MachineError> {
        self.entries += 1;
        loop {
            if self.control.stop_reason().is_some() {
                return Ok(Exit::Interrupted);
            }
            if std::mem::take(&mut ticked) && self.control.take_tick() {
                return Ok(Exit::Tick(Box::new(self.now())));
            }
            let calls = std::mem::take(&mut self.calls);
            let registers = (self.changed || !calls.is_empty()).then_some(self.registers);
            let flags = self.registers.eflags;
            let flags = ((flags ^ self.flags) & UNSETTABLE_FLAGS != 0).then_some(flags);
            let extended = self.extended.take();
            let resume = Resume { calls, flags, registers, extended };
            let (stop, registers) = self.tracee.resume(resume)?;
            (self.registers, self.changed, self.flags) = (registers, false, registers.eflags);
            match stop {
                Stop::Kicked => ticked = true,
                Stop::Call => return Ok(self.call()),
                Stop::Fault { signal, code, address } => {
                    if let Some(exit) = self.fault(signal, code, address)? {
                        return Ok(exit);
                    }
                }
                Stop::Ended(status) => {
                    let reason = format!("the guest's process was ended (status {status:#x})");
                    return Ok(Exit::Broken { reason });
                }
            }
        }
    }

    /// The guest has stopped at a system call, of whichever kind.
    fn call(&mut self) -> Exit {
        let r = self.registers;
        // The number has been moved, since the result will be where it was.
        self.registers = user_regs_struct { rax: r.orig_rax, orig_rax: NO_CALL, ..r };
        self.changed = true;
        let before = r.rip.wrapping_sub(2);
        let exception = |this: &mut Self, vector, error_code, address, rip| {
            this.registers.rip = rip;
            this.exception(vector, error_code, address)
        };
        if stub::AREA.contains(&before) {
            // Its own gate, which is not there for the guest.
            return exception(self, PAGE, PAGE_USER | PAGE_FETCH, Some(before), before);
        }
        match self.code(before, 2).as_deref() {
            Some(code) if code == SYSCALL && r.cs == CODE_SEGMENT => {
                let registers = Registers { rip: SYSCALL_ENTRY.0, ..self.now() };
                Exit::Syscall(Box::new(registers))
            }
            Some(code) if code == INTERRUPT_80 => {
                exception(self, PROTECTION, GATE_80, None, before)
            }
            // `sysenter`, or `syscall` of 32-bit code.
            _ => exception(self, PROTECTION, 0, None, r.rip),
        }
    }

    fn exception(&self, vector: u8, error_code: u64, address: Option<u64>) -> Exit {
        let registers = self.now();
        Exit::Exception(Box::new(Exception { vector, error_code, address, registers }))
    }

    /// The guest has faulted. `None` if it goes on.
    fn fault(
        &mut self,
        signal: i32,
        code: i32,
        address: u64,
    ) -> Result<Option<Exit>, MachineError> {
        match (signal, code) {
            (libc::SIGSEGV, MAPERR | ACCERR) if self.translate(address)? => return Ok(None),
            (libc::SIGSEGV, KERNEL) if self.called_out() => {
                return Ok(Some(Exit::CalledOut));
            }
            (libc::SIGBUS, code) if code != ADRALN && code != KERNEL => {
                return Ok(Some(Exit::MemoryLost));
            }
            (libc::SIGSEGV, KERNEL) if OLD_CALLS.contains(&self.registers.rip) => {
                // It would have called that page with a stack that can't be read.
                return Ok(Some(self.called_old(self.registers.rip)));
            }
            (libc::SIGSYS, _) => {
                // The system has taken the return address.
                self.registers.rsp = self.registers.rsp.wrapping_sub(8);
                return Ok(Some(self.called_old(address)));
            }
            _ => {}
        }
        let registers = user_regs_struct { orig_rax: NO_CALL, ..self.registers };
        let frame = self.tracee.frame(signal, registers)?;
        (self.registers, self.changed) = (registers, true);
        let vector = u8::try_from(frame.vector).unwrap_or(u8::MAX);
        if vector == ALIGNMENT {
            self.registers.eflags &= !ALIGNMENT_FLAG;
            return Ok(None);
        }
        if vector != PAGE {
            return Ok(Some(self.exception(vector, frame.error_code, None)));
        }
        // Whether the page is there is for the guest's tables to say, and not for the process's.
        let leaf = walk(self.memory.bytes(), PAGE_TABLES_GPA, Gva(frame.address));
        let present = if leaf.is_some() { PAGE_PRESENT } else { 0 };
        let error_code = frame.error_code & (PAGE_WRITE | PAGE_FETCH) | PAGE_USER | present;
        Ok(Some(self.exception(PAGE, error_code, Some(frame.address))))
    }

    /// The guest has jumped into the page of system calls from old times, which the system emulates; for the
    /// guest nothing is there.
    fn called_old(&mut self, address: u64) -> Exit {
        self.registers.rip = address;
        self.changed = true;
        self.exception(PAGE, PAGE_USER | PAGE_FETCH, Some(address))
    }

    /// Maps what the guest's page tables say of an address, unless that has been done.
    fn translate(&mut self, address: u64) -> Result<bool, MachineError> {
        let extent = Translations::extent(self.memory.bytes(), PAGE_TABLES_GPA, address);
        let Some(extent) = extent.filter(|extent| !self.translations.has(address, extent)) else {
            return Ok(false);
        };
        if self.translations.are_too_many() {
            let calls = self.translations.forget_all();
            self.calls.extend(calls);
        }
        for (part, source) in self.sources(extent) {
            let call = self.translations.map(part, source);
            self.calls.push(call);
        }
        if !self.translations.has(address, &extent) {
            return Err(lacks("memory where the guest's page tables lead"));
        }
        Ok(true)
    }

    /// What the parts of an extent are mapped from.
    fn sources(&self, extent: Leaf) -> Vec<(Leaf, Source)> {
        let size = self.memory.size() as u64;
        let part = |start: u64, end: u64| {
            let (from, end) = (start.max(extent.gpa.0), end.min(extent.gpa.0 + extent.length));
            (from < end).then(|| {
                let gva = Gva(from - extent.gpa.0 + extent.gva.0);
                (Leaf { gva, gpa: Gpa(from), length: end - from, ..extent }, from - start)
            })
        };
        let mut parts = Vec::new();
        if let Some((leaf, offset)) = part(0, size) {
            parts.push((leaf, (Some(stub::MEMORY), offset)));
        }
        for (gpa, lent, descriptor) in &self.lent {
            let (length, mapped) = (lent.length() as u64, lent.mapped() as u64);
            let files_end = gpa.0 + length.next_multiple_of(PAGE_SIZE);
            if let Some((leaf, offset)) = part(gpa.0, files_end) {
                parts.push((leaf, (Some(*descriptor), offset)));
            }
            if let Some((leaf, _)) = part(files_end, gpa.0 + mapped) {
                parts.push((leaf, (None, 0)));
            }
        }
        parts
    }

    /// Whether it has faulted at the instruction with which it calls out; it goes on behind that then.
    fn called_out(&mut self) -> bool {
        let code = self.code(self.registers.rip, MAX_INSTRUCTION).unwrap_or_default();
        let dx = u8::try_from(self.registers.rdx & 0xffff).ok();
        let Some(length) = out_to(glowbox_abi::CALL_PORT, &code, dx) else { return false };
        self.registers.rip = self.registers.rip.wrapping_add(length);
        self.changed = true;
        true
    }

    /// Bytes of the guest's code, as far as they are there.
    fn code(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut code = Vec::with_capacity(length);
        let memory = self.memory.bytes();
        while code.len() < length {
            let at = address.checked_add(code.len() as u64)?;
            let leaf = walk(memory, PAGE_TABLES_GPA, Gva(at));
            let Some(leaf) = leaf.filter(|leaf| leaf.user && leaf.executable) else { break };
            let into = at - leaf.gva.0;
            let start = usize::try_from(leaf.gpa.0 + into).ok()?;
            let left = usize::try_from(leaf.length - into).unwrap_or(usize::MAX);
            let Some(bytes) = memory.get(start..) else { break };
            let count = (length - code.len()).min(left).min(bytes.len());
            if count == 0 {
                break;
            }
            code.extend(&bytes[..count]);
        }
        (!code.is_empty()).then_some(code)
    }
}

/// The length of the instruction at the start of `code`, if it writes a byte to `port`; `dx` is what DX holds.
fn out_to(port: u8, code: &[u8], dx: Option<u8>) -> Option<u64> {
    let is_prefix = |byte: &u8| {
        let legacy = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3].contains(byte);
        legacy || (0x40..0x50).contains(byte)
    };
    let prefixes = code.iter().take_while(|byte| is_prefix(byte)).count();
    let length = match code[prefixes..] {
        [OUT_IMMEDIATE, to, ..] if to == port => 2,
        [OUT_DX | OUT_STRING, ..] if dx == Some(port) => 1,
        _ => return None,
    };
    Some((prefixes + length) as u64)
}

fn lacks(what: &'static str) -> MachineError {
    MachineError::Unsupported { backend: Backend::Process, what }
}

impl Machine for ProcessMachine {
    fn memory(&self) -> &[u8] {
        self.memory.bytes()
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    fn image(&self) -> Option<&Arc<Image>> {
        self.memory.image()
    }

    fn window(&mut self) -> Window<'_> {
        Window::new(&mut self.memory)
    }

    fn copy_out(&self, range: Range<usize>) -> Option<Vec<u8>> {
        self.memory.copy_out(range)
    }

    fn install(&mut self, state: &CpuState) {
        // None of it is used here. But memory is to be the same as on other backends, which may run a
        // snapshot of it.
        supervisor::install(self.memory.bytes_mut());
        resume::install(self.memory.bytes_mut(), state, self.abilities);
    }

    fn start(&mut self, state: &CpuState) -> Result<(), MachineError> {
        self.settle()?;
        let rflags = state.registers.rflags & !TRAP_FLAG;
        let bases = SegmentBases { fs: state.fs_base, gs: state.gs_base };
        self.set(&Registers { rflags, ..state.registers }, bases)?;
        // What the state does not have is in its initial state.
        let mut area = vec![0; self.area];
        let known = state.extended.bytes();
        let length = known.len().min(area.len());
        area[..length].copy_from_slice(&known[..length]);
        self.extended = Some(area);
        Ok(())
    }

    fn proceed(&mut self, registers: &Registers, bases: SegmentBases) -> Result<(), MachineError> {
        self.set(registers, bases)
    }

    fn state(&mut self) -> Result<CpuState, MachineError> {
        let SegmentBases { fs, gs } = self.bases()?;
        let (registers, extended) = (self.now(), self.extended()?);
        Ok(CpuState { registers, fs_base: fs, gs_base: gs, extended })
    }

    fn bases(&self) -> Result<SegmentBases, MachineError> {
        Ok(SegmentBases { fs: self.registers.fs_base, gs: self.registers.gs_base })
    }

    fn extended(&mut self) -> Result<ExtendedState, MachineError> {
        // The guest may have been told to go on in another state, and not done so yet.
        let area = match &self.extended {
            Some(area) => area.clone(),
            None => self.tracee.extended()?,
        };
        resume::extended_state(&area, self.abilities).ok_or(lacks("XSAVE areas of usual size"))
    }

    fn carry_registers(&mut self, _: bool) {
        // They always come.
    }

    fn reveal(&mut self, memory: Range<usize>) {
        self.memory.reveal(memory);
    }

    fn forget(&mut self, memory: Range<usize>) -> Result<(), MachineError> {
        self.memory.forget(memory).map_err(|source| {
            self.broken = true;
            MachineError::Request { request: "forgetting memory", source }
        })
    }

    fn forget_tables(&mut self) -> Result<(), MachineError> {
        // What is lent too.
        let calls = self.translations.forget_all();
        self.calls.extend(calls);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), MachineError> {
        match self.broken {
            true => Err(MachineError::Broken),
            false => Ok(()),
        }
    }

    fn is_broken(&self) -> bool {
        self.broken
    }

    fn lend(&mut self, gpa: Gpa, lent: Arc<Lent>) -> Result<(), MachineError> {
        let failed = |source| MachineError::Request { request: "lending memory", source };
        let file = lent.as_file().and_then(std::fs::File::try_clone).map_err(failed)?;
        // If it fails, what was sent might be taken for the next file.
        let given = self.tracee.give(file, self.extended.clone());
        let descriptor = given.inspect_err(|_| self.broken = true)?;
        self.changed = true;
        self.lent.push((gpa, lent, descriptor));
        Ok(())
    }

    fn take_back(&mut self) -> Result<(), MachineError> {
        if self.lent.is_empty() {
            return Ok(());
        }
        while let Some((gpa, lent, descriptor)) = self.lent.pop() {
            let calls = self.translations.forget(gpa.0..gpa.0 + lent.mapped() as u64);
            self.calls.extend(calls);
            self.calls.push((libc::SYS_close, [descriptor, 0, 0, 0, 0, 0]));
        }
        // Now, and not before the next guest runs: nobody's file stays open in an idle machine.
        self.changed = true;
        let calls = std::mem::take(&mut self.calls);
        self.tracee.call(calls).inspect_err(|_| self.broken = true)
    }

    fn run(&mut self) -> Result<Exit, MachineError> {
        self.memory.used();
        self.unmap_stale();
        let start = Instant::now();
        let process = Arc::clone(self.tracee.pidfd());
        let entered = Entered::process(&process);
        let ticked = self.control.set_entered(true);
        let exit = self.run_until_exit(ticked);
        self.control.set_entered(false);
        drop(entered);
        self.guest_time += start.elapsed();
        self.broken |= matches!(exit, Ok(Exit::Broken { .. }) | Err(_));
        exit
    }

    fn control(&self) -> &Arc<RunControl> {
        &self.control
    }

    fn set_control(&mut self, control: Arc<RunControl>) {
        self.control = control;
    }

    fn entries(&self) -> u64 {
        self.entries
    }

    fn guest_time(&self) -> Duration {
        self.guest_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_writes_a_byte_to_the_port_is_recognised_and_nothing_else() {
        let of = |code: &[u8], dx| out_to(0x47, code, dx);
        assert_eq!(of(&[0xe6, 0x47, 0x90], None), Some(2));
        assert_eq!(of(&[0xee], Some(0x47)), Some(1));
        assert_eq!(of(&[0xf3, 0x48, 0x6e], Some(0x47)), Some(3));
        for code in [&[0xe6, 0x48][..], &[0xe6], &[0xe7, 0x47], &[0xec], &[0xf4], &[0x66], &[]] {
            assert_eq!(of(code, Some(0x47)), None, "{code:02x?}");
        }
        assert_eq!(of(&[0xee], None), None);
    }
}
