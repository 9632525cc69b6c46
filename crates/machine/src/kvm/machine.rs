//! One VM with one vCPU, and guest memory in two memory slots.

use std::ops::Range;
use std::sync::Arc;

use kvm_bindings::{
    KVM_MEM_READONLY, KVM_VCPUEVENT_VALID_SHADOW, Msrs, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{
    MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, SyncReg, VcpuExit, VcpuFd, VmFd,
};

use glowbox_core::address::{Gpa, PAGE_SIZE};
use glowbox_core::layout::{LENT, PAGE_TABLES_GPA};
use glowbox_core::registers::{ExtendedState, Registers};
use glowbox_mem::{GuestMemory, Lent};

use super::{Kvm, failed};
use crate::interrupt::{Entered, RunControl};
use crate::supervisor;
use crate::supervisor::resume::{self, Abilities};
use crate::vcpu::{
    self, CR0, CR4_BASE, CR4_FSGSBASE, CR4_OSXSAVE, CR4_SMAP, CR4_SMEP, CR4_UMIP, EFER, Segment,
    patiently,
};
use crate::vm::{Left, VirtualMachine, Vm};
use crate::{Backend, Exit, MachineError, SegmentBases};

/// What every machine wants in CR4. Not every CPU has these, and not every KVM that has them says so.
const CR4_WISHES: [u64; 5] = [CR4_UMIP, CR4_FSGSBASE, CR4_OSXSAVE, CR4_SMEP, CR4_SMAP];

/// The memory slot that comes and goes to make KVM forget page tables, behind those of what is lent, and
/// its guest-physical address, which no layout uses.
const PASSING_SLOT: u32 = 100;
const PASSING_SLOT_GPA: u64 = LENT.end;

/// The memory slot of what no vCPU may write.
const FIXED_SLOT: u32 = 101;

/// What exits bring with them where they are to.
const CARRIED: [SyncReg; 2] = [SyncReg::Register, SyncReg::SystemRegister];

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SFMASK: u32 = 0xc000_0084;

/// A virtual machine on KVM.
pub type KvmMachine = VirtualMachine<KvmVm>;

/// What KVM has of it.
#[derive(Debug)]
pub struct KvmVm {
    // Fields drop in this order: the vCPU before the VM.
    vcpu: VcpuFd,
    vm: VmFd,
    /// `immediate_exit` in the vCPU's run page, which `vcpu` keeps mapped.
    immediate_exit: *mut u8,
    /// The special registers that every guest starts with.
    sregs: kvm_sregs,
    sync_regs: bool,
    abilities: Abilities,
    /// Whether every exit brings the registers with it.
    carry: bool,
}

// SAFETY: the only field that is not Send is `immediate_exit`, a pointer into the run page that
// `vcpu` owns; it moves with it, and is used only by the thread that has the machine.
unsafe impl Send for KvmVm {}

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
            // SAFETY: the mapping belongs to `memory`, which outlives the VM: see `VirtualMachine`'s fields.
            unsafe { vm.set_user_memory_region(slot) }
                .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))?;
        }
        let mut vcpu = vm.create_vcpu(0).map_err(|error| failed("KVM_CREATE_VCPU", error))?;
        let sregs = set_up(kvm, &vcpu)?;
        let immediate_exit = &raw mut vcpu.get_kvm_run().immediate_exit;
        let xcr0 = kvm.xcr0.filter(|_| sregs.cr4 & CR4_OSXSAVE != 0);
        let abilities = Abilities { fsgsbase: sregs.cr4 & CR4_FSGSBASE != 0, xcr0 };
        let vm = KvmVm {
            vcpu,
            vm,
            immediate_exit,
            sregs,
            sync_regs: kvm.sync_regs,
            abilities,
            carry: false,
        };
        Ok(VirtualMachine::over(memory, vm, control))
    }
}

impl KvmVm {
    fn set_immediate_exit(&mut self, value: u8) {
        // SAFETY: the run page is mapped as long as `vcpu` lives. The signal handler may store to
        // the byte too, on this thread, so both do it atomically.
        unsafe { std::sync::atomic::AtomicU8::from_ptr(self.immediate_exit) }
            .store(value, std::sync::atomic::Ordering::SeqCst);
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
}

impl Vm for KvmVm {
    type Loan = (kvm_userspace_memory_region, Arc<Lent>);

    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn set_registers(&mut self, r: &Registers, bases: SegmentBases) -> Result<(), MachineError> {
        let regs = general_registers!(r => kvm_regs { rflags: r.rflags });
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

    fn registers(&self) -> Result<Registers, MachineError> {
        if self.carries() {
            return Ok(registers(&self.vcpu.sync_regs().regs));
        }
        let regs = self.vcpu.get_regs().map_err(|error| failed("KVM_GET_REGS", error))?;
        Ok(registers(&regs))
    }

    fn special(&self) -> Result<(SegmentBases, u64), MachineError> {
        let special = self.special_registers()?;
        Ok((SegmentBases { fs: special.fs.base, gs: special.gs.base }, special.cr2))
    }

    fn extended(&self) -> Result<ExtendedState, MachineError> {
        let area = self.vcpu.get_xsave().map_err(|error| failed("KVM_GET_XSAVE", error))?;
        let bytes: Vec<u8> = area.region.iter().flat_map(|word| word.to_le_bytes()).collect();
        let what = "XSAVE areas of usual size";
        resume::extended_state(&bytes, self.abilities)
            .ok_or(MachineError::Unsupported { backend: Backend::Kvm, what })
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

    fn finish(&mut self) -> Result<(), MachineError> {
        // An `in` still has to be given its value, say. KVM would otherwise do that to the registers and the
        // memory of the next guest.
        self.set_immediate_exit(1);
        // EAGAIN: nothing has been done yet. EINTR: all has, and nothing been run.
        let result = patiently("KVM_RUN", libc::EAGAIN, || match self.vcpu.run() {
            Err(error) if error.errno() == libc::EINTR => Ok(true),
            result => result.map(|_| false),
        });
        self.set_immediate_exit(0);
        result?.then_some(()).ok_or(MachineError::Broken)
    }

    fn behind_call(&mut self) -> Result<(Registers, SegmentBases), MachineError> {
        // Not every KVM shows the RIP behind an `out` before that is finished. Where the run page can
        // carry registers, that gives them as well.
        let carried = self.carry;
        self.carry_registers(true);
        let finished = self.finish();
        let state = finished.and_then(|()| Ok((self.registers()?, self.special()?.0)));
        self.carry_registers(carried);
        state
    }

    fn forget_tables(&mut self, memory: &GuestMemory) -> Result<(), MachineError> {
        // KVM drops all that it has shadowed when a memory slot goes; so one comes and goes, where no
        // page table leads. Its memory is some page that is there.
        let slot = kvm_userspace_memory_region {
            slot: PASSING_SLOT,
            guest_phys_addr: PASSING_SLOT_GPA,
            memory_size: PAGE_SIZE,
            userspace_addr: memory.host_address(),
            flags: KVM_MEM_READONLY,
        };
        let gone = kvm_userspace_memory_region { memory_size: 0, flags: 0, ..slot };
        for region in [slot, gone] {
            // SAFETY: the page belongs to `memory`, which outlives the VM, and the VM is not
            // running; no page table leads to the slot, which is gone when this returns.
            unsafe { self.vm.set_user_memory_region(region) }
                .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))?;
        }
        Ok(())
    }

    fn lend(
        &mut self,
        gpa: Gpa,
        lent: Arc<Lent>,
        loans: &[Self::Loan],
    ) -> Result<Self::Loan, MachineError> {
        let slot = u32::try_from(loans.len() + 1).map_err(|_| MachineError::Unsupported {
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
        // SAFETY: the mapping belongs to `lent`, which the machine holds on to until the slot is gone.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))?;
        Ok((region, lent))
    }

    fn take_back(&mut self, (region, _): &Self::Loan) -> Result<(), MachineError> {
        let gone = kvm_userspace_memory_region { memory_size: 0, flags: 0, ..*region };
        // SAFETY: takes memory away from the VM, which is not running.
        unsafe { self.vm.set_user_memory_region(gone) }
            .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))
    }

    fn run(&mut self, control: &RunControl, entries: &mut u64) -> Result<Left, MachineError> {
        // SAFETY: `self.vcpu` keeps the run page mapped, and this value is dropped before
        // `self.vcpu` can be, on this thread.
        let _entered = unsafe { Entered::new(self.immediate_exit) };
        let ticked = control.set_entered(true);
        let left = self.run_until_exit(control, entries, ticked);
        control.set_entered(false);
        left
    }
}

impl KvmVm {
    /// `ticked`: whether a time slice is over already.
    fn run_until_exit(
        &mut self,
        control: &RunControl,
        entries: &mut u64,
        mut ticked: bool,
    ) -> Result<Left, MachineError> {
        loop {
            // In this order: a stop that comes after the check finds the handler ready to set the
            // flag again, and the entry returns at once.
            self.set_immediate_exit(u8::from(std::mem::take(&mut ticked)));
            if control.stop_reason().is_some() {
                return Ok(Left::By(Exit::Interrupted));
            }
            *entries += 1;
            let port = match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) if port == u16::from(glowbox_abi::CALL_PORT) => {
                    return Ok(Left::By(Exit::CalledOut));
                }
                Ok(VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _)) => port,
                Ok(other) => return Ok(Left::By(broken(other))),
                Err(error) => match error.errno() {
                    // Not before the first entry, which may have a call out to finish.
                    libc::EINTR | libc::EAGAIN => {
                        match vcpu::ended_slice(control, || self.registers())? {
                            Some(registers) => {
                                return Ok(Left::By(Exit::Tick(Box::new(registers))));
                            }
                            None => continue,
                        }
                    }
                    libc::EFAULT => return Ok(Left::By(Exit::MemoryLost)),
                    _ => return Err(failed("KVM_RUN", error)),
                },
            };
            return Ok(Left::ByPort(port));
        }
    }
}

/// Guest memory as KVM is told of it: the supervisor's code and tables, which no vCPU writes, and all else.
fn slots(
    memory: &GuestMemory,
    read_only: bool,
) -> impl Iterator<Item = kvm_userspace_memory_region> {
    let size = memory.size() as u64;
    let fixed = if read_only { vcpu::fixed_end(size) } else { 0 };
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
    general_registers!(r => Registers { rflags: r.rflags })
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
    let entries = [
        (MSR_STAR, vcpu::STAR),
        (MSR_LSTAR, supervisor::SYSCALL_ENTRY.0),
        (MSR_SFMASK, vcpu::SFMASK),
    ]
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
    s.cs = segment(Segment::CODE);
    let data = segment(Segment::DATA);
    (s.ss, s.ds, s.es, s.fs, s.gs) = (data, data, data, data, data);
    s.tr = segment(Segment::TASK);
    s.ldt = kvm_segment { unusable: 1, ..Default::default() };
    (s.gdt.base, s.gdt.limit) = (vcpu::GDT.base.0, vcpu::GDT.limit);
    (s.idt.base, s.idt.limit) = (vcpu::IDT.base.0, vcpu::IDT.limit);
    (s.cr0, s.cr3, s.efer) = (CR0, PAGE_TABLES_GPA.0, EFER);
    find_cr4(kvm, vcpu, &mut s)?;
    Ok(s)
}

fn segment(of: Segment) -> kvm_segment {
    segment_register!(of => kvm_segment)
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
