//! One VM with one vCPU and one memory slot.

use std::sync::Arc;

use kvm_bindings::{
    Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_xcrs,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd, VmFd};

use glowbox_core::layout::PAGE_TABLES_GPA;
use glowbox_core::load::Entry;
use glowbox_core::registers::Registers;
use glowbox_mem::GuestMemory;

use super::{Kvm, failed};
use crate::interrupt::{Entered, InstalledSignal, RunControl};
use crate::supervisor::{self, selector};
use crate::{Exit, Machine, MachineError};

/// Protected mode, monitor coprocessor, 387, numeric errors, write protection in ring 0, paging.
const CR0: u64 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// Physical address extension, FXSAVE, unmasked SIMD exceptions. Every KVM has these.
const CR4_BASE: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// No `sgdt` and its like in ring 3, RDFSBASE and its like, XSAVE, and no execution of or access
/// to user pages in ring 0. Not every CPU has these, and not every KVM that has them says so.
const CR4_WISHES: [u64; 5] = [1 << 11, 1 << 16, CR4_OSXSAVE, 1 << 20, 1 << 21];
const CR4_OSXSAVE: u64 = 1 << 18;
/// `syscall`, long mode enabled and active, NX.
const EFER: u64 = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11;

/// IOPL 3 (see the supervisor), and the bit that is always set.
const RFLAGS: u64 = 3 << 12 | 1 << 1;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SFMASK: u32 = 0xc000_0084;
/// Flags that `syscall` clears: trap, interrupt, direction, IOPL, nested task, alignment.
const SYSCALL_FLAGS: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;

/// A virtual machine on KVM.
#[derive(Debug)]
pub struct KvmMachine {
    // Fields drop in this order: the vCPU and the VM before the memory they use.
    vcpu: VcpuFd,
    _vm: VmFd,
    memory: GuestMemory,
    /// `immediate_exit` in the vCPU's run page, which `vcpu` keeps mapped.
    immediate_exit: *mut u8,
    control: Arc<RunControl>,
    entries: u64,
}

// SAFETY: the only field that is not Send is `immediate_exit`, a pointer into the run page that
// `vcpu` owns; it moves with it, and is used only by the thread that has the machine.
unsafe impl Send for KvmMachine {}

impl KvmMachine {
    /// Makes a VM over `memory`, which has been loaded with a guest, and stands ready to run it
    /// from `entry` in ring 3.
    ///
    /// # Errors
    ///
    /// [`MachineError::Request`] with the KVM call that failed, [`MachineError::Unsupported`] if KVM
    /// lacks something.
    ///
    /// # Panics
    ///
    /// If the memory is smaller than the supervisor, which no loaded guest's is.
    pub fn new(
        kvm: &Kvm,
        mut memory: GuestMemory,
        entry: Entry,
        signal: InstalledSignal,
    ) -> Result<KvmMachine, MachineError> {
        supervisor::install(memory.bytes_mut());
        let vm = kvm.device.create_vm().map_err(|error| failed("KVM_CREATE_VM", error))?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: 0,
            memory_size: memory.size() as u64,
            userspace_addr: memory.host_address(),
            flags: 0,
        };
        // SAFETY: the mapping belongs to `memory`, which outlives the VM: see the order of fields.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))?;
        let mut vcpu = vm.create_vcpu(0).map_err(|error| failed("KVM_CREATE_VCPU", error))?;
        set_up(kvm, &mut vcpu, entry)?;
        let immediate_exit = &raw mut vcpu.get_kvm_run().immediate_exit;
        let control = Arc::new(RunControl::new(signal));
        Ok(KvmMachine { vcpu, _vm: vm, memory, immediate_exit, control, entries: 0 })
    }

    fn set_immediate_exit(&mut self, value: u8) {
        // SAFETY: the run page is mapped as long as `vcpu` lives. The signal handler may store to
        // the byte too, on this thread, so both do it atomically.
        unsafe { std::sync::atomic::AtomicU8::from_ptr(self.immediate_exit) }
            .store(value, std::sync::atomic::Ordering::SeqCst);
    }

    fn registers(&self) -> Result<Registers, MachineError> {
        let r = self.vcpu.get_regs().map_err(|error| failed("KVM_GET_REGS", error))?;
        Ok(Registers {
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
        })
    }

    /// What an exit by a port other than the call port, or in another way than `out`, means.
    fn other_port(&self, port: u16) -> Result<Exit, MachineError> {
        let registers = self.registers()?;
        if !supervisor::contains(registers.rip) {
            return Ok(Exit::Port { port, registers: Box::new(registers) });
        }
        let special = self.vcpu.get_sregs().map_err(|error| failed("KVM_GET_SREGS", error))?;
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

    fn run(&mut self) -> Result<Exit, MachineError> {
        // SAFETY: `self.vcpu` keeps the run page mapped, and this value is dropped before
        // `self.vcpu` can be, on this thread.
        let _entered = unsafe { Entered::new(self.immediate_exit) };
        loop {
            // In this order: a stop that comes after the check finds the handler ready to set the
            // flag again, and the entry returns at once.
            self.set_immediate_exit(0);
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
                    libc::EINTR | libc::EAGAIN => continue,
                    _ => return Err(failed("KVM_RUN", error)),
                },
            };
            return self.other_port(port);
        }
    }

    fn control(&self) -> &Arc<RunControl> {
        &self.control
    }

    fn entries(&self) -> u64 {
        self.entries
    }
}

/// Exits that a guest in ring 3 with a supervisor can't bring about. They are reported, not
/// trusted never to come.
fn broken(exit: VcpuExit<'_>) -> Exit {
    let reason = match exit {
        VcpuExit::Shutdown => "a triple fault".into(),
        VcpuExit::MmioRead(address, _) => format!("a read of absent memory at {address:#x}"),
        VcpuExit::MmioWrite(address, _) => format!("a write to absent memory at {address:#x}"),
        VcpuExit::FailEntry(reason, _) => format!("the CPU refused to enter (reason {reason:#x})"),
        VcpuExit::InternalError => "an internal error of KVM; the kernel log may say more".into(),
        other => format!("an exit that no guest should cause: {other:?}"),
    };
    Exit::Broken { reason }
}

fn set_up(kvm: &Kvm, vcpu: &mut VcpuFd, entry: Entry) -> Result<(), MachineError> {
    vcpu.set_cpuid2(&kvm.cpuid).map_err(|error| failed("KVM_SET_CPUID2", error))?;
    let has_xsave = set_special_registers(kvm, vcpu)?;
    if let (Some(components), true) = (kvm.xcr0, has_xsave) {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = components;
        vcpu.set_xcrs(&xcrs).map_err(|error| failed("KVM_SET_XCRS", error))?;
    }
    let star = u64::from(selector::KERNEL_CODE) << 32
        | u64::from(selector::SYSRET_BASE | selector::RING3) << 48;
    let entries =
        [(MSR_STAR, star), (MSR_LSTAR, supervisor::SYSCALL_ENTRY.0), (MSR_SFMASK, SYSCALL_FLAGS)]
            .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries)
        .map_err(|_| MachineError::Unsupported { what: "three MSRs in one request" })?;
    let written = vcpu.set_msrs(&msrs).map_err(|error| failed("KVM_SET_MSRS", error))?;
    if written != entries.len() {
        return Err(MachineError::Unsupported { what: "the MSRs of the syscall instruction" });
    }
    let registers =
        kvm_regs { rip: entry.rip.0, rsp: entry.rsp.0, rflags: RFLAGS, ..Default::default() };
    if kvm.sync_regs {
        vcpu.sync_regs_mut().regs = registers;
        vcpu.set_sync_dirty_reg(SyncReg::Register);
        return Ok(());
    }
    vcpu.set_regs(&registers).map_err(|error| failed("KVM_SET_REGS", error))
}

/// Long mode, ring 3. Returns whether XSAVE is on.
///
/// The first machine finds out what this KVM takes; all others start with the same. Where the run
/// page can carry registers the first `KVM_RUN` takes them from there, which saves three requests.
fn set_special_registers(kvm: &Kvm, vcpu: &mut VcpuFd) -> Result<bool, MachineError> {
    let sregs = match kvm.sregs.get() {
        Some(known) if kvm.sync_regs => {
            vcpu.sync_regs_mut().sregs = *known;
            vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
            known
        }
        Some(known) => {
            vcpu.set_sregs(known).map_err(|error| failed("KVM_SET_SREGS", error))?;
            known
        }
        None => {
            let found = find_special_registers(kvm, vcpu)?;
            kvm.sregs.get_or_init(|| found)
        }
    };
    Ok(sregs.cr4 & CR4_OSXSAVE != 0)
}

/// Sets the special registers and returns what they are.
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
    s.cr4 = wishes().fold(CR4_BASE, |bits, bit| bits | bit);
    if vcpu.set_sregs(s).is_err() {
        let mut accepted = CR4_BASE;
        for bit in wishes() {
            s.cr4 = accepted | bit;
            if vcpu.set_sregs(s).is_ok() {
                accepted = s.cr4;
            }
        }
        s.cr4 = accepted;
        vcpu.set_sregs(s).map_err(|error| failed("KVM_SET_SREGS", error))?;
    }
    Ok(())
}
