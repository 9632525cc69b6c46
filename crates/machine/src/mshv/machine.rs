//! One partition with one virtual processor, and guest memory in two regions.

use std::io;
use std::ptr;
use std::sync::Arc;

use mshv_bindings::{
    hv_message_type_HVMSG_GPA_INTERCEPT as GPA_INTERCEPT,
    hv_message_type_HVMSG_INVALID_VP_REGISTER_VALUE as INVALID_REGISTER,
    hv_message_type_HVMSG_UNMAPPED_GPA as UNMAPPED_GPA,
    hv_message_type_HVMSG_UNRECOVERABLE_EXCEPTION as UNRECOVERABLE_EXCEPTION,
    hv_message_type_HVMSG_X64_EXCEPTION_INTERCEPT as EXCEPTION_INTERCEPT,
    hv_message_type_HVMSG_X64_HALT as HALT,
    hv_message_type_HVMSG_X64_IO_PORT_INTERCEPT as IO_PORT_INTERCEPT, *,
};
use mshv_ioctls::{MshvError, VcpuFd, VmFd};

use glowbox_core::address::Gpa;
use glowbox_core::layout::PAGE_TABLES_GPA;
use glowbox_core::registers::{ExtendedState, Registers};
use glowbox_mem::{GuestMemory, Lent};

use super::{Mshv, OSXSAVE, PAGE_SHIFT, SUBLEAVES, failed, map, partition, processor, unmap};
use crate::cpuid::Leaf;
use crate::interrupt::{Entered, RunControl};
use crate::supervisor::resume::{self, Abilities};
use crate::supervisor::{self, Table};
use crate::vcpu::{self, Segment, patiently};
use crate::vm::{Left, VirtualMachine, Vm};
use crate::{Backend, Exit, MachineError, SegmentBases};

/// Where an XSAVE area says which components are in use, where AVX state is, and its bit.
const XSTATE_BV: std::ops::Range<usize> = 512..520;
const XSAVE_AVX: std::ops::Range<usize> = 576..832;
const XCR0_AVX: u64 = 1 << 2;

/// Room for the state of every component that there is, in whole pages.
const XSAVE_ROOM: usize = 4 << PAGE_SHIFT;

#[repr(align(4096))]
struct XsaveArea([u8; XSAVE_ROOM]);

/// A virtual machine on Microsoft Hypervisor.
pub type MshvMachine = VirtualMachine<MshvVm>;

/// What Microsoft Hypervisor has of it.
#[derive(Debug)]
pub struct MshvVm {
    // Fields drop in this order: the processor before the partition.
    vp: VcpuFd,
    partition: VmFd,
    /// The region of the memory that the guest may write.
    open: mshv_user_mem_region,
    cr4: u64,
    abilities: Abilities,
    /// The registers with which the guest goes on, where they have been set since the last exit.
    given: Option<Registers>,
    /// Where it goes on after calling out: the hypervisor leaves it at that instruction.
    behind: Option<u64>,
}

impl MshvMachine {
    /// Makes a partition over `memory`. Before it can run, memory has to be filled, and the machine started.
    ///
    /// # Errors
    ///
    /// [`MachineError::Request`] with the request that failed.
    pub fn new(
        mshv: &Mshv,
        memory: GuestMemory,
        control: Arc<RunControl>,
    ) -> Result<MshvMachine, MachineError> {
        let partition = partition(&mshv.device)?;
        let (address, size) = (memory.host_address(), memory.size() as u64);
        let fixed = vcpu::fixed_end(size);
        map(&partition, address, 0, fixed, false)?;
        let open = map(&partition, address + fixed, fixed, size - fixed, true)?;
        let vp = processor(&partition)?;
        for leaf in mshv.leaves() {
            show(&vp, &leaf)?;
        }
        let mut constant = vec![
            register(hv_register_name_HV_X64_REGISTER_STAR, vcpu::STAR),
            register(hv_register_name_HV_X64_REGISTER_LSTAR, supervisor::SYSCALL_ENTRY.0),
            register(hv_register_name_HV_X64_REGISTER_SFMASK, vcpu::SFMASK),
        ];
        constant
            .extend(mshv.xcr0.map(|xcr0| register(hv_register_name_HV_X64_REGISTER_XFEM, xcr0)));
        set(&vp, &constant)?;
        let fsgsbase = mshv.cr4 & vcpu::CR4_FSGSBASE != 0;
        let abilities = Abilities { fsgsbase, xcr0: mshv.xcr0 };
        let cr4 = mshv.cr4;
        let vm = MshvVm { vp, partition, open, cr4, abilities, given: None, behind: None };
        Ok(VirtualMachine::over(memory, vm, control))
    }
}

impl Vm for MshvVm {
    type Loan = (mshv_user_mem_region, Arc<Lent>);

    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn set_registers(&mut self, r: &Registers, bases: SegmentBases) -> Result<(), MachineError> {
        let mut all = general(r).to_vec();
        all.extend(special(self.cr4, bases));
        set(&self.vp, &all)?;
        (self.given, self.behind) = (Some(*r), None);
        Ok(())
    }

    fn registers(&self) -> Result<Registers, MachineError> {
        if let Some(given) = self.given {
            return Ok(given);
        }
        // By the register page where that is valid, else by a request.
        let r = self.vp.get_regs().map_err(|error| failed("HVCALL_GET_VP_REGISTERS", error))?;
        Ok(Registers { rip: self.behind.unwrap_or(r.rip), ..registers(&r) })
    }

    fn special(&self) -> Result<(SegmentBases, u64), MachineError> {
        let (fs, gs, cr2) = (
            hv_register_name_HV_X64_REGISTER_FS,
            hv_register_name_HV_X64_REGISTER_GS,
            hv_register_name_HV_X64_REGISTER_CR2,
        );
        let mut found = [fs, gs, cr2].map(|name| register(name, 0));
        let request = "HVCALL_GET_VP_REGISTERS";
        patiently(request, libc::EAGAIN, || self.vp.get_reg(&mut found))?;
        // SAFETY: any bytes are a value of each part of these unions, which are integers.
        Ok(unsafe {
            let [fs, gs, cr2] = found.map(|register| register.value);
            (SegmentBases { fs: fs.segment.base, gs: gs.segment.base }, cr2.reg64)
        })
    }

    fn extended(&self) -> Result<ExtendedState, MachineError> {
        // Of the crate's page the driver says EINVAL where the CPU has more: AMX, which guests are not shown.
        let mut area = Box::new(XsaveArea([0; XSAVE_ROOM]));
        let mut request = mshv_get_set_vp_state {
            type_: MSHV_VP_STATE_XSAVE.try_into().expect("a small number"),
            buf_sz: XSAVE_ROOM.try_into().expect("some pages"),
            buf_ptr: ptr::from_mut(&mut *area).addr() as u64,
            ..Default::default()
        };
        let result = self.vp.get_vp_state_ioctl(&mut request);
        result.map_err(|error| failed("MSHV_GET_VP_STATE", error))?;
        // It is compacted: but with no component behind AVX that is where the standard form has it.
        let area = &mut area.0;
        let present = u64::from_le_bytes(*area[XSTATE_BV].first_chunk().expect("eight bytes"));
        if present & XCR0_AVX == 0 {
            area[XSAVE_AVX].fill(0);
        }
        let what = "XSAVE areas of usual size";
        resume::extended_state(area, self.abilities)
            .ok_or(MachineError::Unsupported { backend: Backend::Mshv, what })
    }

    fn carry_registers(&mut self, _carry: bool) {
        // The register page always has them.
    }

    fn finish(&mut self) -> Result<(), MachineError> {
        // No exit leaves anything: the instruction that has led to it has not been executed.
        Ok(())
    }

    fn behind_call(&mut self) -> Result<(Registers, SegmentBases), MachineError> {
        Ok((self.registers()?, self.special()?.0))
    }

    fn forget_tables(&mut self, _memory: &GuestMemory) -> Result<(), MachineError> {
        // What the hypervisor remembers of page tables goes with the memory that they lie in.
        unmap(&self.partition, self.open)?;
        let (address, gpa) = (self.open.userspace_addr, self.open.guest_pfn << PAGE_SHIFT);
        map(&self.partition, address, gpa, self.open.size, true).map(drop)
    }

    fn lend(
        &mut self,
        gpa: Gpa,
        lent: Arc<Lent>,
        loans: &[Self::Loan],
    ) -> Result<Self::Loan, MachineError> {
        let lent = at_another_place(lent, loans)?;
        let (address, size) = (lent.host_address(), lent.mapped());
        let at = usize::try_from(address).expect("an address of this process");
        // The driver takes pages for writing even where the guest may only read them (`mshv_regions.c`).
        // SAFETY: the mapping is private and lives as long as `lent`; nobody in this process writes to it.
        let result = unsafe {
            libc::mprotect(
                ptr::with_exposed_provenance_mut(at),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
            )
        };
        if result != 0 {
            let source = io::Error::last_os_error();
            return Err(MachineError::Request { request: "mprotect", source });
        }
        Ok((map(&self.partition, address, gpa.0, size as u64, false)?, lent))
    }

    fn take_back(&mut self, (region, _): &Self::Loan) -> Result<(), MachineError> {
        unmap(&self.partition, *region)
    }

    fn run(&mut self, control: &RunControl, entries: &mut u64) -> Result<Left, MachineError> {
        let entered = Entered::repeating(control.signal())
            .map_err(|source| MachineError::Request { request: "timer_create", source })?;
        let ticked = control.set_entered(true);
        let left = self.run_until_exit(control, entries, &entered, ticked);
        control.set_entered(false);
        left
    }
}

impl MshvVm {
    /// `may_tick`: whether a time slice may be over already.
    fn run_until_exit(
        &mut self,
        control: &RunControl,
        entries: &mut u64,
        entered: &Entered,
        mut may_tick: bool,
    ) -> Result<Left, MachineError> {
        loop {
            // In this order: a stop that comes after the check finds the signal repeated until it meets
            // the guest's entry.
            entered.rest();
            if control.stop_reason().is_some() {
                return Ok(Left::By(Exit::Interrupted));
            }
            if std::mem::take(&mut may_tick)
                && let Some(registers) = vcpu::ended_slice(control, || self.registers())?
            {
                return Ok(Left::By(Exit::Tick(Box::new(registers))));
            }
            if let Some(rip) = self.behind {
                set(&self.vp, &[register(hv_register_name_HV_X64_REGISTER_RIP, rip)])?;
            }
            *entries += 1;
            let result = self.vp.run();
            (self.given, self.behind) = (None, None);
            match result {
                Ok(message) => return self.left(&message),
                Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {
                    may_tick = true;
                }
                Err(error) => return Err(failed("MSHV_RUN_VP", error)),
            }
        }
    }

    /// What an intercept means.
    fn left(&mut self, message: &hv_message) -> Result<Left, MachineError> {
        Ok(Left::By(match message.header.message_type {
            IO_PORT_INTERCEPT => {
                let info = message.to_ioport_info().map_err(unreadable)?;
                let written = u32::from(info.header.intercept_access_type);
                let port = info.port_number;
                if written != HV_INTERCEPT_ACCESS_WRITE || port != glowbox_abi::CALL_PORT.into() {
                    return Ok(Left::ByPort(port));
                }
                let length = info.header.instruction_length();
                self.behind = Some(info.header.rip.wrapping_add(length.into()));
                Exit::CalledOut
            }
            kind @ (UNMAPPED_GPA | GPA_INTERCEPT) => {
                let info = message.to_memory_info().map_err(unreadable)?;
                let access = u32::from(info.header.intercept_access_type);
                self.no_memory(info.guest_physical_address, access, kind == GPA_INTERCEPT)
            }
            other => Exit::Broken { reason: unexpected(message, other) },
        }))
    }

    /// The driver could not give the guest a page of a region, or may not, or there is none.
    fn no_memory(&self, gpa: u64, access: u32, is_there: bool) -> Exit {
        let written = access == HV_INTERCEPT_ACCESS_WRITE;
        let start = self.open.guest_pfn << PAGE_SHIFT;
        let may_write = gpa >= start && gpa - start < self.open.size;
        if is_there && (!written || may_write) {
            return Exit::MemoryLost;
        }
        let what = if written { "a write to" } else { "a read of" };
        let reason = format!("{what} memory at {gpa:#x} that is absent or not to be written");
        Exit::Broken { reason }
    }
}

/// What is to be lent, mapped once more if it is lent already: no two regions of a partition may have the same
/// host memory.
fn at_another_place(
    lent: Arc<Lent>,
    loans: &[(mshv_user_mem_region, Arc<Lent>)],
) -> Result<Arc<Lent>, MachineError> {
    let address = lent.host_address();
    if loans.iter().all(|(region, _)| region.userspace_addr != address) {
        return Ok(lent);
    }
    let again = lent
        .as_file()
        .and_then(std::fs::File::try_clone)
        .and_then(|file| Lent::file(file).map_err(|error| error.source));
    let again = again.and_then(|again| match again.mapped() == lent.mapped() {
        true => Ok(Arc::new(again)),
        false => Err(io::Error::other("the file's size has changed")),
    });
    let request = "mapping what is lent once more";
    again.map_err(|source| MachineError::Request { request, source })
}

fn set(vp: &VcpuFd, registers: &[hv_register_assoc]) -> Result<(), MachineError> {
    // EAGAIN: the driver has given the hypervisor memory that this needed.
    patiently("HVCALL_SET_VP_REGISTERS", libc::EAGAIN, || vp.set_reg(registers))
}

impl Mshv {
    /// What each virtual processor is told to say by `cpuid`: all that there is, most of it zero.
    fn leaves(&self) -> impl Iterator<Item = Leaf> {
        let zero = |(leaf, subleaf)| Leaf { leaf, subleaf, eax: 0, ebx: 0, ecx: 0, edx: 0 };
        let osxsave = if self.xcr0.is_some() { OSXSAVE } else { 0 };
        let shown = self.shown.iter().map(move |leaf| match leaf.leaf {
            1 => Leaf { ecx: leaf.ecx | osxsave, ..*leaf },
            _ => *leaf,
        });
        shown.chain(self.hidden.iter().copied().map(zero))
    }
}

/// Has `cpuid` say this and nothing else of a leaf.
fn show(vp: &VcpuFd, leaf: &Leaf) -> Result<(), MachineError> {
    let (all, specific) = (u32::MAX, SUBLEAVES.iter().any(|(of, _)| *of == leaf.leaf));
    let result = hv_register_x64_cpuid_result_parameters__bindgen_ty_2 {
        eax: leaf.eax,
        eax_mask: all,
        ebx: leaf.ebx,
        ebx_mask: all,
        ecx: leaf.ecx,
        ecx_mask: all,
        edx: leaf.edx,
        edx_mask: all,
    };
    let input = hv_register_x64_cpuid_result_parameters__bindgen_ty_1 {
        eax: leaf.leaf,
        ecx: leaf.subleaf,
        subleaf_specific: specific.into(),
        always_override: 1,
        padding: 0,
    };
    let cpuid = hv_register_x64_cpuid_result_parameters { input, result };
    let input = hv_input_register_intercept_result {
        intercept_type: hv_intercept_type_HV_INTERCEPT_TYPE_X64_CPUID,
        parameters: hv_register_intercept_result_parameters { cpuid },
        ..Default::default()
    };
    patiently("HVCALL_REGISTER_INTERCEPT_RESULT", libc::EAGAIN, || {
        // What a request returns is written into its arguments.
        vp.hvcall(&mut make_args!(HVCALL_REGISTER_INTERCEPT_RESULT, input))
    })
}

fn register(name: hv_register_name, value: u64) -> hv_register_assoc {
    assoc(name, hv_register_value { reg64: value })
}

fn assoc(name: hv_register_name, value: hv_register_value) -> hv_register_assoc {
    hv_register_assoc { name, value, ..Default::default() }
}

/// The general registers.
fn general(r: &Registers) -> [hv_register_assoc; 18] {
    [
        (hv_register_name_HV_X64_REGISTER_RAX, r.rax),
        (hv_register_name_HV_X64_REGISTER_RBX, r.rbx),
        (hv_register_name_HV_X64_REGISTER_RCX, r.rcx),
        (hv_register_name_HV_X64_REGISTER_RDX, r.rdx),
        (hv_register_name_HV_X64_REGISTER_RSI, r.rsi),
        (hv_register_name_HV_X64_REGISTER_RDI, r.rdi),
        (hv_register_name_HV_X64_REGISTER_RSP, r.rsp),
        (hv_register_name_HV_X64_REGISTER_RBP, r.rbp),
        (hv_register_name_HV_X64_REGISTER_R8, r.r8),
        (hv_register_name_HV_X64_REGISTER_R9, r.r9),
        (hv_register_name_HV_X64_REGISTER_R10, r.r10),
        (hv_register_name_HV_X64_REGISTER_R11, r.r11),
        (hv_register_name_HV_X64_REGISTER_R12, r.r12),
        (hv_register_name_HV_X64_REGISTER_R13, r.r13),
        (hv_register_name_HV_X64_REGISTER_R14, r.r14),
        (hv_register_name_HV_X64_REGISTER_R15, r.r15),
        (hv_register_name_HV_X64_REGISTER_RIP, r.rip),
        (hv_register_name_HV_X64_REGISTER_RFLAGS, r.rflags),
    ]
    .map(|(name, value)| register(name, value))
}

/// The control and segment registers of ring 3, and no exception, interrupt or shadow of one left over.
fn special(cr4: u64, bases: SegmentBases) -> Vec<hv_register_assoc> {
    let data = Segment::DATA;
    let segments = [
        (hv_register_name_HV_X64_REGISTER_CS, Segment::CODE),
        (hv_register_name_HV_X64_REGISTER_SS, data),
        (hv_register_name_HV_X64_REGISTER_DS, data),
        (hv_register_name_HV_X64_REGISTER_ES, data),
        (hv_register_name_HV_X64_REGISTER_FS, Segment { base: bases.fs, ..data }),
        (hv_register_name_HV_X64_REGISTER_GS, Segment { base: bases.gs, ..data }),
        (hv_register_name_HV_X64_REGISTER_TR, Segment::TASK),
    ];
    let tables = [
        (hv_register_name_HV_X64_REGISTER_GDTR, vcpu::GDT),
        (hv_register_name_HV_X64_REGISTER_IDTR, vcpu::IDT),
    ];
    let others = [
        (hv_register_name_HV_X64_REGISTER_CR0, vcpu::CR0),
        (hv_register_name_HV_X64_REGISTER_CR3, PAGE_TABLES_GPA.0),
        (hv_register_name_HV_X64_REGISTER_CR4, cr4),
        (hv_register_name_HV_X64_REGISTER_EFER, vcpu::EFER),
        (hv_register_name_HV_REGISTER_PENDING_INTERRUPTION, 0),
        (hv_register_name_HV_REGISTER_INTERRUPT_STATE, 0),
        (hv_register_name_HV_REGISTER_PENDING_EVENT0, 0),
    ];
    let segments =
        segments.map(|(name, of)| assoc(name, hv_register_value { segment: segment(of) }));
    // No local descriptor table: a null selector.
    let none = hv_register_value { segment: hv_x64_segment_register::default() };
    let tables = tables.map(|(name, of)| assoc(name, hv_register_value { table: table(of) }));
    let others = others.map(|(name, value)| register(name, value));
    let ldtr = assoc(hv_register_name_HV_X64_REGISTER_LDTR, none);
    segments.into_iter().chain([ldtr]).chain(tables).chain(others).collect()
}

fn segment(of: Segment) -> hv_x64_segment_register {
    segment_register!(of => SegmentRegister).into()
}

fn table(of: Table) -> hv_x64_table_register {
    hv_x64_table_register { base: of.base.0, limit: of.limit, ..Default::default() }
}

fn registers(r: &StandardRegisters) -> Registers {
    general_registers!(r => Registers { rflags: r.rflags })
}

/// A message is not what its type says.
fn unreadable(error: impl Into<MshvError>) -> MachineError {
    failed("MSHV_RUN_VP", error.into())
}

/// What intercepts mean that a guest in ring 3 with a supervisor can't bring about. They are reported, not
/// trusted never to come.
fn unexpected(message: &hv_message, kind: hv_message_type) -> String {
    match kind {
        UNRECOVERABLE_EXCEPTION => "a triple fault".into(),
        HALT => "a halt".into(),
        EXCEPTION_INTERCEPT => match message.to_exception_info() {
            Ok(info) => format!("an intercepted exception, vector {}", { info.exception_vector }),
            Err(_) => "an intercepted exception".into(),
        },
        INVALID_REGISTER => "registers that the processor refuses".into(),
        other => format!("an intercept that no guest should cause: {other:#x}"),
    }
}
