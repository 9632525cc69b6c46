//! Virtual processors: vCPUs of KVM.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, Msrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use libc::{c_int, c_void};
use mshv_bindings::{
    HV_STATUS_INVALID_VP_STATE, MSHV_VP_MMAP_OFFSET_COUNT, MSHV_VP_MMAP_OFFSET_REGISTERS,
    MSHV_VP_STATE_COUNT, MSHV_VP_STATE_XSAVE, hv_message,
    hv_message_type_HVMSG_INVALID_VP_REGISTER_VALUE as INVALID_REGISTER,
    hv_message_type_HVMSG_UNRECOVERABLE_EXCEPTION as UNRECOVERABLE_EXCEPTION,
    hv_message_type_HVMSG_UNSUPPORTED_FEATURE as UNSUPPORTED_FEATURE,
    hv_message_type_HVMSG_X64_HALT as HALT, hv_register_x64_cpuid_result_parameters,
    hv_vp_register_page, mshv_get_set_vp_state, mshv_run_vp,
};

use crate::hypercall::{self, Status};
use crate::memory::Regions;
use crate::message::{self, PortAccess};
use crate::partition::{Partition, ROOT_HVCALL, exchanges, size};
use crate::user;
use crate::{Errno, host};

/// The requests, by `_IOR` and `_IOWR` of `<linux/ioctl.h>`.
const RUN_VP: u32 = 2 << 30 | size::<mshv_run_vp>() << 16 | 0xb8 << 8;
const GET_VP_STATE: u32 = exchanges::<mshv_get_set_vp_state>(1);

const PAGE: usize = 4096;
/// Bytes of an XSAVE area without and with AVX; as many as of the partition's largest are copied, which is that
/// of a CPU with AMX here. And where the area says what it has room for.
const XSAVE: usize = 576;
const XSAVE_AVX: usize = XSAVE + 256;
const XSAVE_LARGEST: usize = 11_008;
const XCOMP_BV: std::ops::Range<usize> = 520..528;
const COMPACTED: u64 = 1 << 63;
const AVX: u64 = 1 << 2;
/// How many entries it may take to finish what KVM left unfinished at an exit by a port.
const MAX_FINISHES: u32 = 10_000;
/// Bits of a page-table entry: present, and a large page. Its address.
const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What a descriptor of a virtual processor stands for.
pub(crate) struct Vp {
    partition: Arc<Partition>,
    shared: Arc<Shared>,
}

/// The processor itself.
pub(crate) struct Shared {
    state: Mutex<State>,
}

/// What it holds.
pub(crate) struct State {
    vcpu: VcpuFd,
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: kvm_sregs,
    pub(crate) xfem: u64,
    pub(crate) msrs: Vec<kvm_msr_entry>,
    /// Whether registers have been set that KVM does not know of yet.
    pub(crate) dirty: bool,
    /// Whether it has run: what `cpuid` says stays as it is then.
    pub(crate) started: bool,
    registered: Vec<hv_register_x64_cpuid_result_parameters>,
    page: RegisterPage,
}

/// A page that the program maps as well.
struct RegisterPage(*mut hv_vp_register_page);

// SAFETY: the page belongs to this value; the program's own use of it is the program's to order.
unsafe impl Send for RegisterPage {}

impl RegisterPage {
    fn new() -> Result<RegisterPage, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0)
        };
        if page == libc::MAP_FAILED { Err(libc::ENOMEM) } else { Ok(RegisterPage(page.cast())) }
    }

    /// Maps it once more.
    fn again(&self) -> Result<*mut c_void, Errno> {
        // SAFETY: with an old size of zero a shared mapping is doubled, and stays.
        let page = unsafe { libc::mremap(self.0.cast(), 0, PAGE, libc::MREMAP_MAYMOVE) };
        if page == libc::MAP_FAILED { Err(libc::ENOMEM) } else { Ok(page) }
    }

    fn read(&self) -> hv_vp_register_page {
        // SAFETY: the mapping is a page; the program may write to it meanwhile, so each byte is anything.
        unsafe { self.0.read_volatile() }
    }

    fn write(&self, page: hv_vp_register_page) {
        // SAFETY: as above.
        unsafe { self.0.write_volatile(page) };
    }
}

impl Drop for RegisterPage {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping; the program's is another one.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}

/// Answers requests of a virtual processor.
pub(crate) fn request(vp: &Arc<Vp>, request: u32, at: u64) -> Result<i32, Errno> {
    match request {
        RUN_VP => {
            let message = vp.shared.state().run(&vp.partition)?;
            user::write(at, &message)?;
            Ok(0)
        }
        GET_VP_STATE => vp.shared.state().get(at),
        ROOT_HVCALL => hypercall::request(&vp.partition, true, at),
        _ => Err(libc::ENOTTY),
    }
}

impl Vp {
    pub(crate) fn new(partition: &Arc<Partition>) -> Result<Vp, Errno> {
        let mut vcpu = partition.vm().create_vcpu(0).map_err(|error| error.errno())?;
        let regs = vcpu.get_regs().map_err(|error| error.errno())?;
        let sregs = vcpu.get_sregs().map_err(|error| error.errno())?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
        let state = State {
            vcpu,
            regs,
            sregs,
            xfem: 1,
            msrs: Vec::new(),
            dirty: false,
            started: false,
            registered: Vec::new(),
            page: RegisterPage::new()?,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        Ok(Vp { partition: Arc::clone(partition), shared })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Maps one of its pages into the program (`mshv_vp_mmap`).
    pub(crate) fn map_page(
        &self,
        length: usize,
        protection: c_int,
        flags: c_int,
        offset: i64,
    ) -> Result<*mut c_void, Errno> {
        let page = u32::try_from(offset / 4096).map_err(|_| libc::EINVAL)?;
        let aligned = offset % 4096 == 0 && (1..=PAGE).contains(&length);
        let shared = flags & libc::MAP_SHARED != 0 && flags & libc::MAP_FIXED == 0;
        let both = libc::PROT_READ | libc::PROT_WRITE;
        if !aligned || !shared || protection & !both != 0 || page >= MSHV_VP_MMAP_OFFSET_COUNT {
            return Err(libc::EINVAL);
        }
        if page != MSHV_VP_MMAP_OFFSET_REGISTERS {
            // A page that this processor does not have.
            return Err(libc::ENODEV);
        }
        self.shared.state().page.again()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with its state; `None` if it runs.
    pub(crate) fn with_state<T>(&self, what: impl FnOnce(&mut State) -> T) -> Option<T> {
        Some(what(&mut *self.state.try_lock().ok()?))
    }
}

impl State {
    pub(crate) fn invalidate_page(&mut self) {
        let mut page = self.page.read();
        if page.isvalid != 0 {
            page.isvalid = 0;
            self.page.write(page);
        }
    }

    /// Has `cpuid` say something else.
    pub(crate) fn register_cpuid(
        &mut self,
        result: hv_register_x64_cpuid_result_parameters,
    ) -> Result<(), Status> {
        if self.started {
            return Err(HV_STATUS_INVALID_VP_STATE);
        }
        self.registered.push(result);
        Ok(())
    }

    /// What `cpuid` says of a leaf; `registered`: after what has been registered.
    pub(crate) fn cpuid(&self, leaf: u32, subleaf: u32, registered: bool) -> [u32; 4] {
        let host = host::host().map_or(&[][..], |host| &host.cpuid);
        let found = host.iter().find(|e| {
            let indexed = e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
            e.function == leaf && (e.index == subleaf || !indexed)
        });
        let mut values = found.map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx]);
        let registered = self.registered.iter().filter(|_| registered);
        for of in registered.filter(|of| {
            let input = of.input;
            input.eax == leaf && (input.subleaf_specific == 0 || input.ecx == subleaf)
        }) {
            let result = of.result;
            let masked = [
                (result.eax, result.eax_mask),
                (result.ebx, result.ebx_mask),
                (result.ecx, result.ecx_mask),
                (result.edx, result.edx_mask),
            ];
            for (value, (set, mask)) in values.iter_mut().zip(masked) {
                *value = *value & !mask | set & mask;
            }
        }
        values
    }

    /// All that `cpuid` says, for KVM.
    fn all_cpuid(&self) -> Result<CpuId, Errno> {
        let indexed = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        let host = host::host()?.cpuid.iter().map(|e| (e.function, e.index, e.flags & indexed));
        let others = self.registered.iter().map(|of| {
            let input = of.input;
            (input.eax, input.ecx, if input.subleaf_specific != 0 { indexed } else { 0 })
        });
        let mut all: Vec<kvm_cpuid_entry2> = Vec::new();
        for (function, index, flags) in host.chain(others) {
            let [eax, ebx, ecx, edx] = self.cpuid(function, index, true);
            let known = all.iter().any(|e| (e.function, e.index) == (function, index));
            // A leaf of zeros is one that is not there.
            if !known && [eax, ebx, ecx, edx] != [0; 4] {
                all.push(kvm_cpuid_entry2 {
                    function,
                    index,
                    flags,
                    eax,
                    ebx,
                    ecx,
                    edx,
                    ..Default::default()
                });
            }
        }
        CpuId::from_entries(&all).map_err(|_| libc::ENOMEM)
    }

    /// Before the first run: what stays as it is.
    fn start(&mut self) -> Result<(), Errno> {
        if self.started {
            return Ok(());
        }
        self.vcpu.set_cpuid2(&self.all_cpuid()?).map_err(|error| error.errno())?;
        let msrs = Msrs::from_entries(&self.msrs).map_err(|_| libc::EINVAL)?;
        let written = self.vcpu.set_msrs(&msrs).map_err(|error| error.errno())?;
        if written != self.msrs.len() {
            return Err(libc::EIO);
        }
        // KVM takes XCR0 where CR4 says that it is there.
        self.vcpu.set_sregs(&self.sregs).map_err(|error| error.errno())?;
        if host::host()?.xcr0 != 0 {
            let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
            xcrs.xcrs[0].value = self.xfem;
            self.vcpu.set_xcrs(&xcrs).map_err(|error| error.errno())?;
        }
        self.started = true;
        self.dirty = true;
        Ok(())
    }

    /// Hands to KVM what has been set since the last exit.
    fn hand_over(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let shared = self.vcpu.sync_regs_mut();
        (shared.regs, shared.sregs) = (self.regs, self.sregs);
        shared.events = kvm_vcpu_events {
            flags: kvm_bindings::KVM_VCPUEVENT_VALID_SHADOW,
            ..kvm_vcpu_events::default()
        };
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        self.vcpu.set_sync_dirty_reg(SyncReg::VcpuEvents);
    }

    /// Takes from KVM what the last exit left.
    fn take_back(&mut self) {
        let shared = self.vcpu.sync_regs();
        (self.regs, self.sregs) = (shared.regs, shared.sregs);
    }

    /// Lets it run until something is to be told (`mshv_vp_ioctl_run_vp`), or a signal is pending.
    fn run(&mut self, partition: &Partition) -> Result<hv_message, Errno> {
        self.start()?;
        let page = self.page.read();
        if self.take_page(&page).is_err() {
            return Ok(message::other(self, INVALID_REGISTER));
        }
        let hidden = hv_vp_register_page { isvalid: 0, dirty: 0, ..page };
        self.page.write(hidden);
        self.hand_over();
        be_late()?;
        let message = self.enter(partition)?;
        let page = self.page();
        self.page.write(page);
        Ok(message)
    }

    fn enter(&mut self, partition: &Partition) -> Result<hv_message, Errno> {
        self.vcpu.set_kvm_immediate_exit(0);
        let port =
            |port, written, data: &[u8]| (port, written, u8::try_from(data.len()).unwrap_or(4));
        let (port, written, size) = match self.vcpu.run() {
            Ok(VcpuExit::IoOut(at, data)) => port(at, true, data),
            Ok(VcpuExit::IoIn(at, data)) => port(at, false, data),
            Ok(VcpuExit::MmioRead(gpa, _)) => return Ok(self.memory(partition, gpa, false)),
            Ok(VcpuExit::MmioWrite(gpa, _)) => return Ok(self.memory(partition, gpa, true)),
            Ok(VcpuExit::Shutdown) => return Ok(self.other(UNRECOVERABLE_EXCEPTION)),
            Ok(VcpuExit::Hlt) => return Ok(self.other(HALT)),
            Ok(VcpuExit::FailEntry(..)) => return Ok(self.other(INVALID_REGISTER)),
            Ok(_) => return Ok(self.other(UNSUPPORTED_FEATURE)),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {
                self.take_back();
                return Err(libc::EINTR);
            }
            // A page of a region could not be had.
            Err(error) if error.errno() == libc::EFAULT => {
                let lost = partition.with_regions(Regions::lost).ok_or(libc::EFAULT)?;
                return Ok(self.memory(partition, lost, false));
            }
            Err(error) => return Err(error.errno()),
        };
        self.take_back();
        let before = self.regs;
        self.finish()?;
        let behind = self.regs.rip;
        let (start, length, string) = partition.with_regions(|regions| {
            port_instruction(before.rip, behind, port, |gva, n| self.read(regions, gva, n))
        });
        // The hypervisor leaves the processor at the instruction, which has not been executed.
        self.regs = kvm_regs { rip: start, ..before };
        self.dirty = true;
        let size = size.min(4);
        Ok(message::port(self, PortAccess { port, written, size, string, length }))
    }

    /// Lets KVM do what it would do at the next entry: it holds on to an exit by a port.
    fn finish(&mut self) -> Result<(), Errno> {
        self.vcpu.set_kvm_immediate_exit(1);
        for _ in 0..MAX_FINISHES {
            match self.vcpu.run() {
                // A repeated instruction, which goes on.
                Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {}
                Err(error) if error.errno() == libc::EAGAIN => {}
                Err(error) if error.errno() == libc::EINTR => {
                    self.take_back();
                    return Ok(());
                }
                Ok(_) => return Err(libc::EIO),
                Err(error) => return Err(error.errno()),
            }
        }
        Err(libc::EIO)
    }

    fn memory(&mut self, partition: &Partition, gpa: u64, written: bool) -> hv_message {
        self.take_back();
        let mapped = partition.with_regions(|regions| {
            regions.find(gpa).is_some() && (!written || regions.is_read_only(gpa))
        });
        message::memory(self, gpa, written, mapped)
    }

    fn other(&mut self, message_type: u32) -> hv_message {
        self.take_back();
        message::other(self, message_type)
    }

    /// Reads the guest's memory at one of its own addresses.
    fn read(&self, regions: &Regions, gva: u64, length: usize) -> Option<Vec<u8>> {
        let mut table = self.sregs.cr3 & ADDRESS;
        for shift in [39, 30, 21, 12] {
            let entry = regions.read(table + (gva >> shift & 0x1ff) * 8, 8)?;
            let entry = u64::from_le_bytes(*entry.first_chunk()?);
            if entry & PRESENT == 0 {
                return None;
            }
            table = entry & ADDRESS;
            if shift == 12 || entry & LARGE != 0 && shift < 39 {
                let into = gva & ((1 << shift) - 1);
                return regions.read((table & !((1 << shift) - 1)) + into, length);
            }
        }
        None
    }

    /// Answers `MSHV_GET_VP_STATE` (`mshv_vp_ioctl_get_set_state`).
    fn get(&mut self, at: u64) -> Result<i32, Errno> {
        let mut args: mshv_get_set_vp_state = user::read(at)?;
        let kind = u32::from(args.type_);
        let (buffer, room) = (args.buf_ptr, args.buf_sz as usize);
        let aligned = room.is_multiple_of(PAGE) && buffer.is_multiple_of(4096);
        let nonzero = args.rsvd.iter().any(|byte| *byte != 0);
        if kind >= MSHV_VP_STATE_COUNT || nonzero || room == 0 || !aligned {
            return Err(libc::EINVAL);
        }
        if kind != MSHV_VP_STATE_XSAVE {
            // More than this stands in for.
            return Err(libc::EOPNOTSUPP);
        }
        // What has been set takes effect when it runs; of this state nothing has.
        let area = self.vcpu.get_xsave().map_err(|error| error.errno())?;
        let mut bytes: Vec<u8> = area.region.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(if self.xfem & AVX != 0 { XSAVE_AVX } else { XSAVE });
        bytes.resize(XSAVE_LARGEST, 0);
        // Compacted, and with nothing behind AVX as the standard form is.
        let form = COMPACTED | self.xfem | 3;
        bytes[XCOMP_BV].copy_from_slice(&form.to_le_bytes());
        args.buf_sz = u32::try_from(bytes.len()).map_err(|_| libc::EINVAL)?;
        user::write(at, &args)?;
        if bytes.len() > room {
            return Err(libc::EINVAL);
        }
        user::write_bytes(buffer, &bytes)?;
        Ok(0)
    }
}

/// Where an instruction that uses a port starts, how long it is, and whether it is one of `ins` and `outs`.
///
/// Before it is finished KVM shows either its start or its end; afterwards its end, but for a repeated one
/// that has more to do.
fn port_instruction(
    before: u64,
    behind: u64,
    port: u16,
    read: impl Fn(u64, usize) -> Option<Vec<u8>>,
) -> (u64, u8, bool) {
    let is_string = |byte: u8| (0x6c..=0x6f).contains(&byte);
    let is_prefix = |byte: u8| [0x66, 0x67, 0xf2, 0xf3].contains(&byte);
    // Most are in one piece with what is before them: one walk of the tables for all.
    let around = (behind & 0xfff).checked_sub(2).filter(|at| at + 5 <= 4096);
    let around = around.and_then(|_| read(behind.wrapping_sub(2), 5));
    let (last, next) = match &around {
        Some(bytes) => (Some(bytes[..2].to_vec()), Some(bytes[2..].to_vec())),
        None => (read(behind.wrapping_sub(2), 2), read(behind, 3)),
    };
    if let Some(bytes) = next {
        let prefixes = bytes.iter().take_while(|byte| is_prefix(**byte)).count();
        if prefixes > 0 && bytes.get(prefixes).is_some_and(|byte| is_string(*byte)) {
            return (behind, u8::try_from(prefixes + 1).unwrap_or(2), true);
        }
    }
    let length = behind.wrapping_sub(before);
    let (start, length) = match u8::try_from(length) {
        Ok(length @ 1..=15) => (before, length),
        _ => {
            let last = last.unwrap_or(vec![0, 0]);
            let by_number = (0xe4..=0xe7).contains(&last[0]) && u16::from(last[1]) == port;
            let length = if by_number { 2 } else { 1 };
            let string = length == 1 && is_string(last[1]);
            return (behind.wrapping_sub(u64::from(length)), length, string);
        }
    };
    let string = read(start, 1).is_some_and(|bytes| is_string(bytes[0]));
    (start, length, string)
}

/// Comes too late, if that is asked for. What a signal's handler does meanwhile stays without effect.
fn be_late() -> Result<(), Errno> {
    let late = host::host()?.late;
    let start = Instant::now();
    while start.elapsed() < late {
        std::hint::spin_loop();
    }
    Ok(())
}
