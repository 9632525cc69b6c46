//! One VM with one vCPU, and guest memory in two memory slots.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_MEM_READONLY, KVM_VCPUEVENT_VALID_SHADOW, Msrs, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{
    MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, SyncReg, VcpuExit, VcpuFd, VmFd,
};

use glowbox_core::address::{Gpa, PAGE_SIZE};
use glowbox_core::layout::{LENT, PAGE_TABLES_GPA, RESUME, SUPERVISOR_STACK_GPA};
use glowbox_core::registers::{CpuState, ExtendedState, Registers};
use glowbox_mem::{GuestMemory, Image, Lent, Window};

use super::{Kvm, failed};
use crate::interrupt::{Entered, RunControl};
use crate::supervisor::resume::{self, Abilities};
use crate::supervisor::{self, selector};
use crate::{Backend, Exit, Machine, MachineError, SegmentBases};

/// Protected mode, monitor coprocessor, 387, numeric errors, write protection in ring 0, paging.
const CR0: u64 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// Physical address extension, FXSAVE, unmasked SIMD exceptions. Every KVM has these.
const CR4_BASE: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// No `sgdt` and its like in ring 3, RDFSBASE and its like, XSAVE, and no execution of or access
/// to user pages in ring 0. Not every CPU has these, and not every KVM that has them says so.
const CR4_WISHES: [u64; 5] = [1 << 11, CR4_FSGSBASE, CR4_OSXSAVE, 1 << 20, 1 << 21];
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
/// `syscall`, long mode enabled and active, NX.
const EFER: u64 = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11;

/// IOPL 3 (see the supervisor), and the bit that is always set.
const RFLAGS: u64 = 3 << 12 | 1 << 1;

/// The flags that ring-3 code can change: carry, parity, adjust, zero, sign, trap, direction,
/// overflow, alignment check, identification.
const USER_FLAGS: u64 =
    1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 18 | 1 << 21;

const TRAP_FLAG: u64 = 1 << 8;

/// The memory slot that comes and goes to make KVM forget page tables, behind those of what is lent, and
/// its guest-physical address, which no layout uses.
const PASSING_SLOT: u32 = 100;
const PASSING_SLOT_GPA: u64 = LENT.end;

/// The memory slot of what no vCPU may write.
const FIXED_SLOT: u32 = 101;

/// How often what the system refuses for the moment is tried.
const MAX_TRIES: u32 = 100;

/// What exits bring with them where they are to.
const CARRIED: [SyncReg; 2] = [SyncReg::Register, SyncReg::SystemRegister];

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SFMASK: u32 = 0xc000_0084;
/// Flags that `syscall` clears: trap, interrupt, direction, IOPL, nested task, alignment.
const SYSCALL_FLAGS: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;

/// Bytes of an XSAVE area without and with AVX state.
const XSAVE_SIZE: usize = ExtendedState::MIN_SIZE;
const XSAVE_AVX_SIZE: usize = XSAVE_SIZE + 256;
const XCR0_AVX: u64 = 1 << 2;
/// The components of FXSAVE: x87 and SSE.
const XCR0_LEGACY: u64 = 3;
/// Index of the 32-bit word in an XSAVE area that says which bits MXCSR has.
const MXCSR_MASK_WORD: usize = 7;
/// The MXCSR bits that every CPU with SSE2 has; for a CPU that does not say.
const MXCSR_BITS: u32 = 0xffbf;

/// A virtual machine on KVM.
#[derive(Debug)]
pub struct KvmMachine {
    // Fields drop in this order: the vCPU and the VM before the memory they use.
    vcpu: VcpuFd,
    vm: VmFd,
    memory: GuestMemory,
    /// What has been lent, in slots from 1 on.
    lent: Vec<(kvm_userspace_memory_region, Arc<Lent>)>,
    /// `immediate_exit` in the vCPU's run page, which `vcpu` keeps mapped.
    immediate_exit: *mut u8,
    control: Arc<RunControl>,
    /// The special registers that every guest starts with.
    sregs: kvm_sregs,
    sync_regs: bool,
    abilities: Abilities,
    /// Whether every exit brings the registers with it.
    carry: bool,
    /// Whether the last exit was one that KVM may have left unfinished.
    unfinished: bool,
    broken: bool,
    entries: u64,
    guest_time: Duration,
}

// SAFETY: the only field that is not Send is `immediate_exit`, a pointer into the run page that
// `vcpu` owns; it moves with it, and is used only by the thread that has the machine.
unsafe impl Send for KvmMachine {}

impl KvmMachine {
    /// Makes a VM over `memory`. Before it can run, memory has to be filled, and the machine
    /// started.
    ///
    /// # Errors
    ///
    /// [`MachineError::Request`] with the KVM call that failed, [`MachineError::Unsupported`] if KVM
    /// lacks something.
    pub fn new(
        kvm: &Kvm,
        memory: GuestMemory,
        control: Arc<RunControl>,
    ) -> Result<KvmMachine, MachineError> {
        // The system gives up when a signal is pending for this thread, as the one that ends a call is when
        // the call has ended by itself meanwhile; the signal has gone when it is tried again.
        let vm = patiently("KVM_CREATE_VM", libc::EINTR, || kvm.device.create_vm())?;
        // First: behind any other change of the VM, KVM may wait milliseconds before it takes a filter.
        if kvm.msr_filter {
            deny_msrs(&vm)?;
        }
        for slot in slots(&memory, kvm.read_only_memory) {
            // SAFETY: the mapping belongs to `memory`, which outlives the VM: see the order of fields.
            unsafe { vm.set_user_memory_region(slot) }
                .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))?;
        }
        let mut vcpu = vm.create_vcpu(0).map_err(|error| failed("KVM_CREATE_VCPU", error))?;
        let sregs = set_up(kvm, &vcpu)?;
        let immediate_exit = &raw mut vcpu.get_kvm_run().immediate_exit;
        let xcr0 = kvm.xcr0.filter(|_| sregs.cr4 & CR4_OSXSAVE != 0);
        let abilities = Abilities { fsgsbase: sregs.cr4 & CR4_FSGSBASE != 0, xcr0 };
        Ok(KvmMachine {
            vcpu,
            vm,
            memory,
            lent: Vec::new(),
            immediate_exit,
            control,
            sregs,
            sync_regs: kvm.sync_regs,
            abilities,
            carry: false,
            unfinished: false,
            broken: false,
            entries: 0,
            guest_time: Duration::ZERO,
        })
    }

    /// Lets KVM finish what the last exit left unfinished (an `in` that still has to be given its
    /// value, say), which it would otherwise do to the registers and the memory of the next guest.
    fn finish_exit(&mut self) -> Result<(), MachineError> {
        self.memory.used();
        self.set_immediate_exit(1);
        // EAGAIN: nothing has been done yet. EINTR: all has, and nothing been run.
        let result = patiently("KVM_RUN", libc::EAGAIN, || match self.vcpu.run() {
            Err(error) if error.errno() == libc::EINTR => Ok(true),
            result => result.map(|_| false),
        });
        let result = result.and_then(|finished| finished.then_some(()).ok_or(MachineError::Broken));
        self.set_immediate_exit(0);
        self.broken |= result.is_err();
        self.unfinished = false;
        result
    }

    /// Sets all that decides where and how user mode goes on.
    fn set_registers(&mut self, r: &Registers, bases: SegmentBases) -> Result<(), MachineError> {
        let regs = kvm_regs {
            rip: r.rip,
            rflags: r.rflags & USER_FLAGS | RFLAGS,
            rax: r.rax,
            rbx: r.rbx,
            rdx: r.rdx,
            rcx: r.rcx,
            rsi: r.rsi,
            rdi: r.rdi,
            rsp: r.rsp,
            rbp: r.rbp,
            r8: r.r8,
            r9: r.r9,
            r10: r.r10,
            r11: r.r11,
            r12: r.r12,
            r13: r.r13,
            r14: r.r14,
            r15: r.r15,
        };
        let mut sregs = self.sregs;
        (sregs.fs.base, sregs.gs.base) = (bases.fs, bases.gs);
        // No exception, interrupt or shadow of one is left over.
        let events =
            kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_SHADOW, ..kvm_vcpu_events::default() };
        if self.sync_regs {
            // The next KVM_RUN takes them over: no request of their own.
            let shared = self.vcpu.sync_regs_mut();
            (shared.regs, shared.sregs, shared.events) = (regs, sregs, events);
            self.vcpu.set_sync_dirty_reg(SyncReg::Register);
            self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
            self.vcpu.set_sync_dirty_reg(SyncReg::VcpuEvents);
            return Ok(());
        }
        self.vcpu.set_sregs(&sregs).map_err(|error| failed("KVM_SET_SREGS", error))?;
        self.vcpu.set_regs(&regs).map_err(|error| failed("KVM_SET_REGS", error))?;
        self.vcpu.set_vcpu_events(&events).map_err(|error| failed("KVM_SET_VCPU_EVENTS", error))
    }

    fn extended_state(&self) -> Result<ExtendedState, MachineError> {
        let area = self.vcpu.get_xsave().map_err(|error| failed("KVM_GET_XSAVE", error))?;
        let components = self.abilities.xcr0.unwrap_or(XCR0_LEGACY);
        let size = if components & XCR0_AVX != 0 { XSAVE_AVX_SIZE } else { XSAVE_SIZE };
        let bytes: Vec<u8> = area.region.iter().flat_map(|word| word.to_le_bytes()).collect();
        // Behind the FPU's control words: MXCSR, and which of its bits there are.
        let mask = area.region[MXCSR_MASK_WORD];
        let mask = if mask == 0 { MXCSR_BITS } else { mask };
        ExtendedState::from_xsave(&bytes[..size], components, mask).ok_or(
            MachineError::Unsupported { backend: Backend::Kvm, what: "XSAVE areas of usual size" },
        )
    }

    fn set_immediate_exit(&mut self, value: u8) {
        // SAFETY: the run page is mapped as long as `vcpu` lives. The signal handler may store to
        // the byte too, on this thread, so both do it atomically.
        unsafe { std::sync::atomic::AtomicU8::from_ptr(self.immediate_exit) }
            .store(value, std::sync::atomic::Ordering::SeqCst);
    }

    fn registers(&self) -> Result<Registers, MachineError> {
        if self.carries() {
            return Ok(registers(&self.vcpu.sync_regs().regs));
        }
        let regs = self.vcpu.get_regs().map_err(|error| failed("KVM_GET_REGS", error))?;
        Ok(registers(&regs))
    }

    fn special_registers(&self) -> Result<kvm_sregs, MachineError> {
        if self.carries() {
            return Ok(self.vcpu.sync_regs().sregs);
        }
        self.vcpu.get_sregs().map_err(|error| failed("KVM_GET_SREGS", error))
    }

    /// Whether the last exit has brought the registers.
    fn carries(&self) -> bool {
        self.carry && self.sync_regs
    }

    /// What an exit by a port other than the call port, or in another way than `out`, means.
    fn other_port(&self, port: u16) -> Result<Exit, MachineError> {
        let registers = self.registers()?;
        if !supervisor::contains(registers.rip) {
            return Ok(Exit::Port { port, registers: Box::new(registers) });
        }
        let special = self.special_registers()?;
        Ok(match supervisor::entered(&registers, special.cr2, self.memory.bytes()) {
            supervisor::Entered::Exception(exception) => Exit::Exception(Box::new(exception)),
            supervisor::Entered::Syscall => Exit::Syscall(Box::new(registers)),
            supervisor::Entered::Impossible(reason) => Exit::Broken { reason },
        })
    }
}

impl Machine for KvmMachine {
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
        supervisor::install(self.memory.bytes_mut());
        resume::install(self.memory.bytes_mut(), state, self.abilities);
    }

    fn start(&mut self, state: &CpuState) -> Result<(), MachineError> {
        self.settle()?;
        // The resume page loads RAX and RDX, and jumps to RIP. With the trap flag it would stop on its way,
        // where vector registers are the last guest's yet.
        let rflags = state.registers.rflags & !TRAP_FLAG;
        let registers = Registers { rip: RESUME.0, rax: 0, rdx: 0, rflags, ..state.registers };
        self.set_registers(&registers, SegmentBases { fs: state.fs_base, gs: state.gs_base })
    }

    fn proceed(&mut self, registers: &Registers, bases: SegmentBases) -> Result<(), MachineError> {
        // Nothing of the exit is left to be finished but the supervisor's `out`, which KVM gives up
        // when RIP is another.
        self.set_registers(registers, bases)
    }

    fn bases(&self) -> Result<SegmentBases, MachineError> {
        let special = self.special_registers()?;
        Ok(SegmentBases { fs: special.fs.base, gs: special.gs.base })
    }

    fn extended(&self) -> Result<ExtendedState, MachineError> {
        self.extended_state()
    }

    fn carry_registers(&mut self, carry: bool) {
        self.carry = carry;
        for which in CARRIED.into_iter().filter(|_| self.sync_regs) {
            match carry {
                true => self.vcpu.set_sync_valid_reg(which),
                false => self.vcpu.clear_sync_valid_reg(which),
            }
        }
    }

    fn reveal(&mut self, memory: Range<usize>) {
        self.memory.reveal(memory);
    }

    fn forget(&mut self, memory: Range<usize>) -> Result<(), MachineError> {
        self.memory.forget(memory).map_err(|source| {
            self.broken = true;
            MachineError::Request { request: "mprotect", source }
        })
    }

    fn settle(&mut self) -> Result<(), MachineError> {
        if self.broken {
            return Err(MachineError::Broken);
        }
        if self.unfinished {
            self.finish_exit()?;
            supervisor::wipe_stack(self.memory.bytes_mut());
        }
        Ok(())
    }

    fn state(&mut self) -> Result<CpuState, MachineError> {
        // Not every KVM shows the RIP behind an `out` before that is finished. Where the run page can
        // carry registers, that gives them as well.
        let carried = self.carry;
        self.carry_registers(true);
        let finished = self.finish_exit();
        let state = finished.and_then(|()| Ok((self.registers()?, self.special_registers()?)));
        self.carry_registers(carried);
        let (registers, special) = state?;
        let (fs_base, gs_base) = (special.fs.base, special.gs.base);
        Ok(CpuState { registers, fs_base, gs_base, extended: self.extended_state()? })
    }

    fn is_broken(&self) -> bool {
        self.broken
    }

    fn forget_tables(&mut self) -> Result<(), MachineError> {
        // KVM drops all that it has shadowed when a memory slot goes; so one comes and goes, where no
        // page table leads. Its memory is some page that is there.
        let slot = kvm_userspace_memory_region {
            slot: PASSING_SLOT,
            guest_phys_addr: PASSING_SLOT_GPA,
            memory_size: PAGE_SIZE,
            userspace_addr: self.memory.host_address(),
            flags: KVM_MEM_READONLY,
        };
        let gone = kvm_userspace_memory_region { memory_size: 0, flags: 0, ..slot };
        for region in [slot, gone] {
            // SAFETY: the page belongs to `self.memory`, which outlives the VM, and the VM is not
            // running; no page table leads to the slot, which is gone when this returns.
            if let Err(error) = unsafe { self.vm.set_user_memory_region(region) } {
                self.broken = true;
                return Err(failed("KVM_SET_USER_MEMORY_REGION", error));
            }
        }
        Ok(())
    }

    fn lend(&mut self, gpa: Gpa, lent: Arc<Lent>) -> Result<(), MachineError> {
        let slot = u32::try_from(self.lent.len() + 1).map_err(|_| MachineError::Unsupported {
            backend: Backend::Kvm,
            what: "that many memory slots",
        })?;
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: gpa.0,
            memory_size: lent.mapped() as u64,
            userspace_addr: lent.host_address(),
            flags: KVM_MEM_READONLY,
        };
        // SAFETY: the mapping belongs to `lent`, which `self` holds on to until the slot is gone.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))?;
        self.lent.push((region, lent));
        Ok(())
    }

    fn take_back(&mut self) -> Result<(), MachineError> {
        while let Some((region, _)) = self.lent.last() {
            let gone = kvm_userspace_memory_region { memory_size: 0, flags: 0, ..*region };
            // SAFETY: takes memory away from the VM, which is not running.
            let result = unsafe { self.vm.set_user_memory_region(gone) };
            if let Err(error) = result {
                self.broken = true;
                return Err(failed("KVM_SET_USER_MEMORY_REGION", error));
            }
            self.lent.pop();
        }
        Ok(())
    }

    fn run(&mut self) -> Result<Exit, MachineError> {
        self.memory.used();
        let start = Instant::now();
        let exit = self.enter();
        self.guest_time += start.elapsed();
        self.unfinished = !matches!(exit, Ok(Exit::CalledOut));
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

impl KvmMachine {
    /// The registers, if the guest's time slice is over and it is among its own code. If it is not, it
    /// is on its way out through the supervisor, or on its way in through the resume page, and gets
    /// there by itself.
    fn ended_slice(&self) -> Result<Option<Registers>, MachineError> {
        if self.control.stop_reason().is_some() || !self.control.take_tick() {
            return Ok(None);
        }
        let registers = self.registers()?;
        let entering = (RESUME.0..RESUME.0 + PAGE_SIZE).contains(&registers.rip);
        Ok((!entering && !supervisor::contains(registers.rip)).then_some(registers))
    }

    fn enter(&mut self) -> Result<Exit, MachineError> {
        // SAFETY: `self.vcpu` keeps the run page mapped, and this value is dropped before
        // `self.vcpu` can be, on this thread.
        let _entered = unsafe { Entered::new(self.immediate_exit) };
        let ticked = self.control.set_entered(true);
        let exit = self.run_until_exit(ticked);
        self.control.set_entered(false);
        exit
    }

    /// `ticked`: whether a time slice is over already.
    fn run_until_exit(&mut self, mut ticked: bool) -> Result<Exit, MachineError> {
        loop {
            // In this order: a stop that comes after the check finds the handler ready to set the
            // flag again, and the entry returns at once.
            self.set_immediate_exit(u8::from(std::mem::take(&mut ticked)));
            if self.control.stop_reason().is_some() {
                return Ok(Exit::Interrupted);
            }
            self.entries += 1;
            let port = match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) if port == u16::from(glowbox_abi::CALL_PORT) => {
                    return Ok(Exit::CalledOut);
                }
                Ok(VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _)) => port,
                Ok(other) => return Ok(broken(other)),
                Err(error) => match error.errno() {
                    // Not before the first entry, which may have a call out to finish.
                    libc::EINTR | libc::EAGAIN => match self.ended_slice()? {
                        Some(registers) => return Ok(Exit::Tick(Box::new(registers))),
                        None => continue,
                    },
                    libc::EFAULT => return Ok(Exit::MemoryLost),
                    _ => return Err(failed("KVM_RUN", error)),
                },
            };
            return self.other_port(port);
        }
    }
}

/// Makes a request again while the system refuses it for the moment, which `passing` stands for.
fn patiently<T>(
    request: &'static str,
    passing: i32,
    mut make: impl FnMut() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, MachineError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match make() {
            Ok(made) => return Ok(made),
            Err(error) if error.errno() == passing && tries < MAX_TRIES => {}
            Err(error) => return Err(failed(request, error)),
        }
    }
}

/// Guest memory as KVM is told of it: the supervisor's code and tables, which no vCPU writes, and all else.
///
/// Page tables are not among what is read-only. SVM takes every walk of them for a write, and so does VMX
/// where it keeps accessed and dirty bits; they would not work.
fn slots(
    memory: &GuestMemory,
    read_only: bool,
) -> impl Iterator<Item = kvm_userspace_memory_region> {
    let size = memory.size() as u64;
    let fixed = if read_only { SUPERVISOR_STACK_GPA.0.min(size) } else { 0 };
    let slot = |slot, part: Range<u64>, flags| kvm_userspace_memory_region {
        slot,
        guest_phys_addr: part.start,
        memory_size: part.end - part.start,
        userspace_addr: memory.host_address() + part.start,
        flags,
    };
    [slot(FIXED_SLOT, 0..fixed, KVM_MEM_READONLY), slot(0, fixed..size, 0)]
        .into_iter()
        .filter(|slot| slot.memory_size > 0)
}

/// Lets guests use no model-specific register by `rdmsr` and `wrmsr`. Ring 3 can't anyway; this holds if
/// something should ever run as ring 0.
fn deny_msrs(vm: &VmFd) -> Result<(), MachineError> {
    // KVM takes no filter without a range. This one denies a register as the default does.
    let range = MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base: 0,
        msr_count: 1,
        bitmap: &[0],
    };
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &[range])
        .map_err(|error| failed("KVM_X86_SET_MSR_FILTER", error))
}

/// KVM's general registers as ours.
fn registers(r: &kvm_regs) -> Registers {
    Registers {
        rax: r.rax,
        rbx: r.rbx,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rsp: r.rsp,
        rbp: r.rbp,
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rip: r.rip,
        rflags: r.rflags,
    }
}

/// Exits that a guest in ring 3 with a supervisor can't bring about. They are reported, not
/// trusted never to come.
fn broken(exit: VcpuExit<'_>) -> Exit {
    let reason = match exit {
        VcpuExit::Shutdown => "a triple fault".into(),
        VcpuExit::MmioRead(address, _) => format!("a read of absent memory at {address:#x}"),
        VcpuExit::MmioWrite(address, _) => {
            format!("a write to memory at {address:#x} that is absent or not to be written")
        }
        VcpuExit::FailEntry(reason, _) => format!("the CPU refused to enter (reason {reason:#x})"),
        VcpuExit::InternalError => "an internal error of KVM; the kernel log may say more".into(),
        other => format!("an exit that no guest should cause: {other:?}"),
    };
    Exit::Broken { reason }
}

/// Sets what stays as it is for the vCPU's life. Returns the special registers to start with.
fn set_up(kvm: &Kvm, vcpu: &VcpuFd) -> Result<kvm_sregs, MachineError> {
    vcpu.set_cpuid2(&kvm.cpuid).map_err(|error| failed("KVM_SET_CPUID2", error))?;
    // The first machine finds out what this KVM takes; all others start with the same.
    let sregs = match kvm.sregs.get() {
        Some(known) => known,
        None => {
            let found = find_special_registers(kvm, vcpu)?;
            kvm.sregs.get_or_init(|| found)
        }
    };
    if let (Some(components), true) = (kvm.xcr0, sregs.cr4 & CR4_OSXSAVE != 0) {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = components;
        vcpu.set_xcrs(&xcrs).map_err(|error| failed("KVM_SET_XCRS", error))?;
    }
    let star = u64::from(selector::KERNEL_CODE) << 32
        | u64::from(selector::SYSRET_BASE | selector::RING3) << 48;
    let entries =
        [(MSR_STAR, star), (MSR_LSTAR, supervisor::SYSCALL_ENTRY.0), (MSR_SFMASK, SYSCALL_FLAGS)]
            .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).map_err(|_| MachineError::Unsupported {
        backend: Backend::Kvm,
        what: "three MSRs in one request",
    })?;
    let written = vcpu.set_msrs(&msrs).map_err(|error| failed("KVM_SET_MSRS", error))?;
    if written != entries.len() {
        return Err(MachineError::Unsupported {
            backend: Backend::Kvm,
            what: "the MSRs of the syscall instruction",
        });
    }
    Ok(*sregs)
}

/// Sets the special registers to long mode in ring 3, and returns what they are.
fn find_special_registers(kvm: &Kvm, vcpu: &VcpuFd) -> Result<kvm_sregs, MachineError> {
    let mut s = vcpu.get_sregs().map_err(|error| failed("KVM_GET_SREGS", error))?;
    let flat = |selector, kind, dpl, long| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..Default::default()
    };
    // Types: 0xb is accessed readable code, 3 accessed writable data.
    s.cs = flat(selector::USER_CODE | selector::RING3, 0xb, 3, 1);
    let data = flat(selector::USER_DATA | selector::RING3, 3, 3, 0);
    (s.ss, s.ds, s.es, s.fs, s.gs) = (data, data, data, data, data);
    s.tr = kvm_segment {
        base: supervisor::TSS.base.0,
        limit: supervisor::TSS.limit.into(),
        selector: selector::TASK,
        // A busy 64-bit TSS, as it is once loaded.
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    s.ldt = kvm_segment { unusable: 1, ..Default::default() };
    (s.gdt.base, s.gdt.limit) = (supervisor::GDT.base.0, supervisor::GDT.limit);
    (s.idt.base, s.idt.limit) = (supervisor::IDT.base.0, supervisor::IDT.limit);
    (s.cr0, s.cr3, s.efer) = (CR0, PAGE_TABLES_GPA.0, EFER);
    find_cr4(kvm, vcpu, &mut s)?;
    Ok(s)
}

/// Finds out which control-register bits this KVM takes, by trying: all of them, then one by one.
fn find_cr4(kvm: &Kvm, vcpu: &VcpuFd, s: &mut kvm_sregs) -> Result<(), MachineError> {
    let wishes = || CR4_WISHES.into_iter().filter(|bit| *bit != CR4_OSXSAVE || kvm.xcr0.is_some());
    // Only this refusal is of a bit. Any other would have every later machine do without it.
    let takes = |s: &kvm_sregs| match vcpu.set_sregs(s) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == libc::EINVAL => Ok(false),
        Err(error) => Err(failed("KVM_SET_SREGS", error)),
    };
    s.cr4 = wishes().fold(CR4_BASE, |bits, bit| bits | bit);
    if !takes(s)? {
        let mut accepted = CR4_BASE;
        for bit in wishes() {
            s.cr4 = accepted | bit;
            if takes(s)? {
                accepted = s.cr4;
            }
        }
        s.cr4 = accepted;
        vcpu.set_sregs(s).map_err(|error| failed("KVM_SET_SREGS", error))?;
    }
    Ok(())
}
