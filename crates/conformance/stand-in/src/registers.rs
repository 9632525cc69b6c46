//! Registers by the hypervisor's names, kept as KVM has them.

use kvm_bindings::{kvm_dtable, kvm_msr_entry, kvm_segment};
use mshv_bindings::{
    self as hv, HV_STATUS_INVALID_PARAMETER, HV_STATUS_INVALID_REGISTER_VALUE, SegmentRegister,
    hv_register_value, hv_vp_register_page, hv_x64_segment_register, hv_x64_table_register,
};

use crate::host;
use crate::hypercall::Status;
use crate::vp::State;

/// General registers, in the order of their names and of the register page.
const RAX: u32 = hv::hv_register_name_HV_X64_REGISTER_RAX;
const R15: u32 = hv::hv_register_name_HV_X64_REGISTER_R15;

/// Flags that are there; one is always set. Interrupts can't be on, nor virtual-8086 mode: there is nothing
/// here for either.
const RFLAGS: u64 = 0x0025_7dd7;
const RFLAGS_SET: u64 = 1 << 1;
const CR0: u64 = 0xe005_003f;
const EFER: u64 = 0xd01;
/// x87 state is always on.
const XFEM_X87: u64 = 1;

const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const SFMASK: u32 = 0xc000_0084;

/// Whether the upper bits of an address are copies of bit 47.
fn is_canonical(address: u64) -> bool {
    let high = address.cast_signed() >> 47;
    high == 0 || high == -1
}

fn check(condition: bool) -> Result<(), Status> {
    condition.then_some(()).ok_or(HV_STATUS_INVALID_REGISTER_VALUE)
}

impl State {
    /// The general register of a name.
    fn general(&mut self, name: u32) -> &mut u64 {
        let r = &mut self.regs;
        let all = [
            &mut r.rax, &mut r.rcx, &mut r.rdx, &mut r.rbx, &mut r.rsp, &mut r.rbp, &mut r.rsi,
            &mut r.rdi, &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13,
            &mut r.r14, &mut r.r15,
        ];
        let index = usize::try_from(name - RAX).unwrap_or(0);
        all.into_iter().nth(index).expect("one of sixteen")
    }

    fn segment(&mut self, name: u32) -> Option<&mut kvm_segment> {
        let s = &mut self.sregs;
        Some(match name {
            hv::hv_register_name_HV_X64_REGISTER_ES => &mut s.es,
            hv::hv_register_name_HV_X64_REGISTER_CS => &mut s.cs,
            hv::hv_register_name_HV_X64_REGISTER_SS => &mut s.ss,
            hv::hv_register_name_HV_X64_REGISTER_DS => &mut s.ds,
            hv::hv_register_name_HV_X64_REGISTER_FS => &mut s.fs,
            hv::hv_register_name_HV_X64_REGISTER_GS => &mut s.gs,
            hv::hv_register_name_HV_X64_REGISTER_LDTR => &mut s.ldt,
            hv::hv_register_name_HV_X64_REGISTER_TR => &mut s.tr,
            _ => return None,
        })
    }

    fn table(&mut self, name: u32) -> Option<&mut kvm_dtable> {
        match name {
            hv::hv_register_name_HV_X64_REGISTER_GDTR => Some(&mut self.sregs.gdt),
            hv::hv_register_name_HV_X64_REGISTER_IDTR => Some(&mut self.sregs.idt),
            _ => None,
        }
    }

    fn msr(name: u32) -> Option<u32> {
        match name {
            hv::hv_register_name_HV_X64_REGISTER_STAR => Some(STAR),
            hv::hv_register_name_HV_X64_REGISTER_LSTAR => Some(LSTAR),
            hv::hv_register_name_HV_X64_REGISTER_SFMASK => Some(SFMASK),
            _ => None,
        }
    }

    /// What a register holds.
    pub(crate) fn register(&mut self, name: u32) -> Result<hv_register_value, Status> {
        if let Some(segment) = self.segment(name) {
            return Ok(hv_register_value { segment: hv_segment(segment) });
        }
        if let Some(table) = self.table(name) {
            let (base, limit) = (table.base, table.limit);
            let table = hv_x64_table_register { base, limit, ..Default::default() };
            return Ok(hv_register_value { table });
        }
        if let Some(index) = State::msr(name) {
            let set = self.msrs.iter().find(|msr| msr.index == index);
            return Ok(hv_register_value { reg64: set.map_or(0, |msr| msr.data) });
        }
        let s = &self.sregs;
        let reg64 = match name {
            RAX..=R15 => *self.general(name),
            hv::hv_register_name_HV_X64_REGISTER_RIP => self.regs.rip,
            hv::hv_register_name_HV_X64_REGISTER_RFLAGS => self.regs.rflags,
            hv::hv_register_name_HV_X64_REGISTER_CR0
            | hv::hv_register_name_HV_X64_REGISTER_INTERMEDIATE_CR0 => s.cr0,
            hv::hv_register_name_HV_X64_REGISTER_CR2 => s.cr2,
            hv::hv_register_name_HV_X64_REGISTER_CR3
            | hv::hv_register_name_HV_X64_REGISTER_INTERMEDIATE_CR3 => s.cr3,
            hv::hv_register_name_HV_X64_REGISTER_CR4
            | hv::hv_register_name_HV_X64_REGISTER_INTERMEDIATE_CR4 => s.cr4,
            hv::hv_register_name_HV_X64_REGISTER_CR8 => s.cr8,
            hv::hv_register_name_HV_X64_REGISTER_EFER => s.efer,
            hv::hv_register_name_HV_X64_REGISTER_APIC_BASE => s.apic_base,
            hv::hv_register_name_HV_X64_REGISTER_XFEM => self.xfem,
            hv::hv_register_name_HV_REGISTER_PENDING_INTERRUPTION
            | hv::hv_register_name_HV_REGISTER_INTERRUPT_STATE
            | hv::hv_register_name_HV_REGISTER_PENDING_EVENT0 => 0,
            _ => return Err(HV_STATUS_INVALID_PARAMETER),
        };
        Ok(hv_register_value { reg64 })
    }

    /// Sets a register. The register page does not show it: that is not valid from here on.
    pub(crate) fn set_register(&mut self, name: u32, to: hv_register_value) -> Result<(), Status> {
        self.invalidate_page();
        self.dirty = true;
        if self.segment(name).is_some() {
            // SAFETY: any bytes are a value of each part of the union.
            return self.set_segment(name, unsafe { to.segment });
        }
        if let Some(table) = self.table(name) {
            // SAFETY: as above.
            let value = unsafe { to.table };
            let pad = value.pad;
            check(is_canonical(value.base) && pad == [0; 3])?;
            (table.base, table.limit) = (value.base, value.limit);
            return Ok(());
        }
        // SAFETY: as above.
        let value = unsafe { to.reg64 };
        if let Some(index) = State::msr(name) {
            check(index != LSTAR || is_canonical(value))?;
            check(!self.started)?;
            self.msrs.retain(|msr| msr.index != index);
            self.msrs.push(kvm_msr_entry { index, data: value, ..Default::default() });
            return Ok(());
        }
        self.set_word(name, value)
    }

    fn set_segment(&mut self, name: u32, to: hv_x64_segment_register) -> Result<(), Status> {
        check(is_canonical(to.base))?;
        let to = SegmentRegister::from(to);
        let Some(segment) = self.segment(name) else { return Ok(()) };
        *segment = kvm_segment {
            base: to.base,
            limit: to.limit,
            selector: to.selector,
            type_: to.type_,
            present: to.present,
            dpl: to.dpl,
            db: to.db,
            s: to.s,
            l: to.l,
            g: to.g,
            avl: to.avl,
            unusable: 1 - to.present,
            padding: 0,
        };
        Ok(())
    }

    fn set_word(&mut self, name: u32, value: u64) -> Result<(), Status> {
        let host = host::host().map_err(|_| HV_STATUS_INVALID_PARAMETER)?;
        match name {
            RAX..=R15 => *self.general(name) = value,
            hv::hv_register_name_HV_X64_REGISTER_RIP => {
                check(is_canonical(value))?;
                self.regs.rip = value;
            }
            hv::hv_register_name_HV_X64_REGISTER_RFLAGS => {
                check(value & !RFLAGS == 0 && value & RFLAGS_SET != 0)?;
                self.regs.rflags = value;
            }
            hv::hv_register_name_HV_X64_REGISTER_CR0 => {
                check(value & !CR0 == 0)?;
                self.sregs.cr0 = value;
            }
            hv::hv_register_name_HV_X64_REGISTER_CR2 => self.sregs.cr2 = value,
            hv::hv_register_name_HV_X64_REGISTER_CR3 => {
                check(value >> 52 == 0)?;
                self.sregs.cr3 = value;
            }
            hv::hv_register_name_HV_X64_REGISTER_CR4 => {
                check(value & !host.cr4 == 0)?;
                self.sregs.cr4 = value;
            }
            hv::hv_register_name_HV_X64_REGISTER_EFER => {
                check(value & !EFER == 0)?;
                self.sregs.efer = value;
            }
            hv::hv_register_name_HV_X64_REGISTER_XFEM => {
                check(value & !host.xcr0 == 0 && value & XFEM_X87 != 0 && !self.started)?;
                self.xfem = value;
            }
            // Nothing is ever pending here.
            hv::hv_register_name_HV_REGISTER_PENDING_INTERRUPTION
            | hv::hv_register_name_HV_REGISTER_INTERRUPT_STATE
            | hv::hv_register_name_HV_REGISTER_PENDING_EVENT0 => check(value == 0)?,
            _ => return Err(HV_STATUS_INVALID_PARAMETER),
        }
        Ok(())
    }

    /// Takes over what the program has written into the register page, and has said so of.
    pub(crate) fn take_page(&mut self, page: &hv_vp_register_page) -> Result<(), Status> {
        let dirty = page.dirty;
        let is_dirty = |class: u32| dirty & 1 << class != 0;
        let known = [
            hv::HV_X64_REGISTER_CLASS_GENERAL,
            hv::HV_X64_REGISTER_CLASS_IP,
            hv::HV_X64_REGISTER_CLASS_SEGMENT,
            hv::HV_X64_REGISTER_CLASS_FLAGS,
        ];
        check(dirty & !known.iter().fold(0, |bits, class| bits | 1 << class) == 0)?;
        // SAFETY: any bytes are a value of each part of the unions.
        let (registers, segments) =
            unsafe { (page.__bindgen_anon_1.registers, page.__bindgen_anon_3.segment_registers) };
        if is_dirty(hv::HV_X64_REGISTER_CLASS_GENERAL) {
            for (name, value) in (RAX..=R15).zip(registers) {
                self.set_word(name, value)?;
            }
        }
        if is_dirty(hv::HV_X64_REGISTER_CLASS_IP) {
            self.set_word(hv::hv_register_name_HV_X64_REGISTER_RIP, registers[16])?;
        }
        if is_dirty(hv::HV_X64_REGISTER_CLASS_FLAGS) {
            self.set_word(hv::hv_register_name_HV_X64_REGISTER_RFLAGS, registers[17])?;
        }
        if is_dirty(hv::HV_X64_REGISTER_CLASS_SEGMENT) {
            for (name, value) in (hv::hv_register_name_HV_X64_REGISTER_ES..).zip(segments) {
                self.set_segment(name, value)?;
            }
        }
        self.dirty |= dirty != 0;
        Ok(())
    }

    /// What the register page shows after an intercept.
    pub(crate) fn page(&mut self) -> hv_vp_register_page {
        let mut page = hv_vp_register_page { version: 1, isvalid: 1, ..Default::default() };
        let mut registers = [0; 18];
        for (name, value) in (RAX..=R15).zip(&mut registers) {
            *value = *self.general(name);
        }
        (registers[16], registers[17]) = (self.regs.rip, self.regs.rflags);
        let s = self.sregs;
        let segments = [s.es, s.cs, s.ss, s.ds, s.fs, s.gs].map(|segment| hv_segment(&segment));
        page.__bindgen_anon_1 = hv::hv_vp_register_page__bindgen_ty_1 { registers };
        page.__bindgen_anon_3 =
            hv::hv_vp_register_page__bindgen_ty_3 { segment_registers: segments };
        (page.cr0, page.cr3, page.cr4, page.cr8) = (s.cr0, s.cr3, s.cr4, s.cr8);
        (page.efer, page.xfem) = (s.efer, self.xfem);
        page
    }
}

/// KVM's segment register as the hypervisor has it.
pub(crate) fn hv_segment(of: &kvm_segment) -> hv_x64_segment_register {
    SegmentRegister {
        base: of.base,
        limit: of.limit,
        selector: of.selector,
        type_: of.type_,
        present: of.present,
        dpl: of.dpl,
        db: of.db,
        s: of.s,
        l: of.l,
        g: of.g,
        avl: of.avl,
        ..Default::default()
    }
    .into()
}
