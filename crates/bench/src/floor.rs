//! The bare KVM floor: the smallest VM that runs ring-3 code and leaves it by `out`.
//!
//! It promises to do nothing that a sandbox can go without: one VM, one vCPU, one memslot of six
//! pages, one loop of two instructions in ring 3. It has no IDT, no stack, no interrupt controller
//! and no supervisor; whatever goes wrong inside is a triple fault, and the VM reports it as an
//! error. What a benchmark of the library measures is divided by what this takes, so the quotient
//! says what the library adds to KVM on the machine at hand.
//!
//! It is written against the ioctls by hand, and not with the library's own pieces, because a floor
//! that shares code with what stands on it sinks and rises with it.
//!
//! Registers go in through the run page (`KVM_CAP_SYNC_REGS`, Linux 4.17), which saves two ioctls.
//!
//! Three things look like more than the smallest, and are not:
//!
//! - CR4, XCR0 and the CPUID are set the way any VM that runs compiled code must have them set.
//!   A floor without them would be the floor of another building.
//! - Port access is granted twice, by the I/O permission bitmap and by IOPL 3. Some KVMs honour
//!   only the one, some only the other.
//! - Page-table entries have their accessed and dirty bits set already, so that running the guest
//!   never writes to its page tables.

use std::error::Error;
use std::hint::black_box;
use std::io;
use std::ptr::{self, NonNull};

use kvm_bindings::{
    CpuId, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_xcrs,
};
use kvm_ioctls::{Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};

/// Why a floor could not be built or run: a text that names the step, with the cause behind it.
pub type FloorError = Box<dyn Error + Send + Sync>;

const PAGE: usize = 4096;

// The pages of the memslot, by guest-physical address. Virtual addresses are the same.
const PML4: u64 = 0x0000;
const PDPT: u64 = 0x1000;
const PD: u64 = 0x2000;
const PT: u64 = 0x3000;
const SYSTEM: u64 = 0x4000;
const CODE: u64 = 0x5000;
const MEMORY: usize = 6 * PAGE;

// Inside the SYSTEM page.
const GDT: u64 = SYSTEM;
const TSS: u64 = SYSTEM + 0x100;

// Page-table entries.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;
const RFLAGS_IOPL_3: u64 = 3 << 12;
/// x87, SSE and AVX: the state components that XCR0 enables where the CPUID offers them.
const XCR0_WANTED: u32 = 0b111;
/// What the APIC base register of the first vCPU holds after reset: at its usual address, enabled,
/// bootstrap processor. Written back unchanged, which saves reading it.
const APIC_BASE: u64 = 0xfee0_0900;

// GDT selectors; the TSS descriptor takes two entries.
const SELECTOR_CODE: u16 = 0x08 | 3;
const SELECTOR_DATA: u16 = 0x10 | 3;
const SELECTOR_TSS: u16 = 0x18;
const GDT_LIMIT: u16 = 5 * 8 - 1;

// The TSS: 104 bytes, then the permission bitmap, a bit a port, then a byte of ones that the
// processor demands. Ports beyond the limit are forbidden.
const TSS_IO_BASE_FIELD: u64 = 102;
const TSS_IO_BASE: u16 = 104;
const IO_BITMAP: [u8; 4] = [0xff, 0xff, !(1 << (PORT % 8)), 0xff];
const TSS_LIMIT: u16 = TSS_IO_BASE + 4 - 1;

/// The port that the guest writes to; the bitmap above allows it and no other.
const PORT: u8 = 0x10;

/// `again: out PORT, al; jmp again`
const PROGRAM: [u8; 4] = [0xe6, PORT, 0xeb, 0xfc];

/// A VM with one vCPU, in ring 3, that leaves by `out` each time it is run.
///
/// ```no_run
/// use glowbox_bench::floor::{self, Floor};
/// use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
/// use kvm_ioctls::Kvm;
///
/// # fn main() -> Result<(), floor::FloorError> {
/// let kvm = Kvm::new()?;
/// let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
/// let mut floor = Floor::new(&kvm, &cpuid)?;
/// floor.exit_round_trip()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Floor {
    // In the order in which they must be let go: KVM uses the memory until the VM is closed, and
    // the VM lives as long as its vCPU.
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: Memory,
}

impl Floor {
    /// Creates the VM, its memory and its vCPU, up to just before the first instruction.
    ///
    /// `cpuid` is what the vCPU is to show, normally `KVM_GET_SUPPORTED_CPUID` unchanged. The
    /// caller fetches it, once, because it takes about as long as the rest of the creation.
    ///
    /// # Errors
    ///
    /// When the memory can't be mapped or KVM refuses a step. The text names the step.
    pub fn new(kvm: &Kvm, cpuid: &CpuId) -> Result<Self, FloorError> {
        let mut memory = Memory::new()?;
        write_image(memory.bytes_mut());

        let vm = kvm.create_vm().map_err(|e| failed("KVM_CREATE_VM", e))?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.address(),
        };
        // SAFETY: the range is a mapping of exactly this length that `memory` owns, and nothing
        // else in the process refers to it from here on. `Floor` drops the vCPU and the VM before
        // the mapping, and so do the early returns below, since `memory` was declared first.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(|e| failed("KVM_SET_USER_MEMORY_REGION", e))?;

        let mut vcpu = vm.create_vcpu(0).map_err(|e| failed("KVM_CREATE_VCPU", e))?;
        vcpu.set_cpuid2(cpuid).map_err(|e| failed("KVM_SET_CPUID2", e))?;
        let features = Features::of(cpuid);
        if features.xcr0 != 0 {
            vcpu.set_xcrs(&xcrs(features)).map_err(|e| failed("KVM_SET_XCRS", e))?;
        }
        // The first KVM_RUN takes the registers over from the run page.
        let shared = vcpu.sync_regs_mut();
        shared.sregs = sregs(features);
        shared.regs =
            kvm_regs { rip: CODE, rflags: RFLAGS_RESERVED | RFLAGS_IOPL_3, ..Default::default() };
        vcpu.set_sync_dirty_reg(SyncReg::Register);
        vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);

        Ok(Self { vcpu, _vm: vm, _memory: memory })
    }

    /// Enters the guest and comes back by its `out`: one `KVM_RUN`, no other system call.
    ///
    /// # Errors
    ///
    /// When `KVM_RUN` fails (a signal counts as failure) or the exit is any other than the expected
    /// byte at the expected port. After an error the floor is of no further use.
    #[inline]
    pub fn exit_round_trip(&mut self) -> Result<(), FloorError> {
        match self.vcpu.run() {
            Ok(VcpuExit::IoOut(port, [_])) if port == u16::from(PORT) => Ok(()),
            Ok(VcpuExit::Shutdown) => {
                Err("floor: the guest took a triple fault (KVM_EXIT_SHUTDOWN); it has no \
                     exception handlers, so its very first fault ends it; see dmesg"
                    .into())
            }
            Ok(exit) => {
                Err(format!("floor: expected one byte out to port {PORT:#x}, got {exit:?}").into())
            }
            Err(e) if e.errno() == libc::EINVAL => Err(format!(
                "floor: KVM_RUN failed: {e}; if this was the first run, KVM refuses the registers \
                 (see `sregs`): the given CPUID may lack what they enable"
            )
            .into()),
            Err(e) => Err(failed("KVM_RUN", e)),
        }
    }
}

/// Creates a floor, runs it to its first exit and destroys it: the whole life of a VM.
///
/// # Errors
///
/// As [`Floor::new`] and [`Floor::exit_round_trip`].
pub fn create_once(kvm: &Kvm, cpuid: &CpuId) -> Result<(), FloorError> {
    create_to_first_exit(kvm, cpuid).map(drop)
}

/// Creates a floor and runs it to its first exit. Destroying it is left to the caller, who can
/// thereby keep it out of the measurement.
///
/// # Errors
///
/// As [`Floor::new`] and [`Floor::exit_round_trip`].
pub fn create_to_first_exit(kvm: &Kvm, cpuid: &CpuId) -> Result<Floor, FloorError> {
    let mut floor = Floor::new(kvm, cpuid)?;
    floor.exit_round_trip()?;
    Ok(floor)
}

/// Copies `src` to `dst`: the least that it takes to get a message's bytes to where the other side
/// can see them. An echo makes this copy at least once in each direction.
///
/// Measure it with buffers aligned like the mailbox, at best to pages. On some processors (seen on
/// Zen 3) a copy of 4 KiB whose target starts a few bytes further into its page than the source
/// takes 25 times as long, which would make for a floor above the ceiling.
///
/// # Panics
///
/// When the lengths differ.
#[inline]
pub fn memcpy_floor(src: &[u8], dst: &mut [u8]) {
    black_box(&mut *dst).copy_from_slice(black_box(src));
    black_box(dst);
}

/// What of the given CPUID bears on the control registers.
#[derive(Clone, Copy)]
struct Features {
    fsgsbase: bool,
    /// The value for XCR0; 0 without XSAVE.
    xcr0: u32,
}

impl Features {
    fn of(cpuid: &CpuId) -> Self {
        let leaf = |function| {
            cpuid.as_slice().iter().find(move |e| e.function == function && e.index == 0)
        };
        Self {
            fsgsbase: leaf(7).is_some_and(|e| e.ebx & 1 != 0),
            // KVM checks XCR0 against this leaf. It is empty on a host without XSAVE; the XSAVE bit
            // itself (leaf 1) tells less, since kvm-pvm leaves it out of KVM_GET_SUPPORTED_CPUID
            // although it has XSAVE.
            xcr0: leaf(0xd).map_or(0, |e| e.eax) & XCR0_WANTED,
        }
    }
}

fn xcrs(features: Features) -> kvm_xcrs {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].xcr = 0;
    xcrs.xcrs[0].value = u64::from(features.xcr0);
    xcrs
}

/// Long mode with paging, at privilege level 3.
fn sregs(features: Features) -> kvm_sregs {
    let mut cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    if features.fsgsbase {
        cr4 |= CR4_FSGSBASE;
    }
    if features.xcr0 != 0 {
        cr4 |= CR4_OSXSAVE;
    }
    let code = kvm_segment {
        limit: u32::MAX,
        selector: SELECTOR_CODE,
        type_: 0b1011, // code, readable, accessed
        present: 1,
        dpl: 3,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: SELECTOR_DATA,
        type_: 0b0011, // data, writable, accessed
        l: 0,
        db: 1,
        ..code
    };
    kvm_sregs {
        cs: code,
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        tr: kvm_segment {
            base: TSS,
            limit: u32::from(TSS_LIMIT),
            selector: SELECTOR_TSS,
            type_: 0b1011, // 64-bit TSS, busy
            present: 1,
            ..Default::default()
        },
        ldt: kvm_segment { type_: 0b0010, unusable: 1, ..Default::default() },
        gdt: kvm_dtable { base: GDT, limit: GDT_LIMIT, ..Default::default() },
        cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG,
        cr3: PML4,
        cr4,
        efer: EFER_LME | EFER_LMA,
        apic_base: APIC_BASE,
        ..Default::default()
    }
}

/// Writes page tables, descriptor table, TSS and program into fresh, zeroed guest memory.
fn write_image(memory: &mut [u8]) {
    let mut put = |address: u64, bytes: &[u8]| {
        let at = usize::try_from(address).expect("the image lies in the first 24 KiB");
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    };

    let table = PRESENT | WRITABLE | USER | ACCESSED | DIRTY;
    put(PML4, &(PDPT | table).to_le_bytes());
    put(PDPT, &(PD | table).to_le_bytes());
    put(PD, &(PT | table).to_le_bytes());
    // The two pages that are reached through linear addresses; the tables themselves are not.
    let system = SYSTEM | PRESENT | WRITABLE | ACCESSED | DIRTY;
    put(PT + entry_of(SYSTEM), &system.to_le_bytes());
    let program = CODE | PRESENT | USER | ACCESSED | DIRTY;
    put(PT + entry_of(CODE), &program.to_le_bytes());

    let gdt: [u64; 5] = [
        0,
        0x00af_fb00_0000_ffff, // 64-bit code, DPL 3, accessed
        0x00cf_f300_0000_ffff, // data, DPL 3, accessed
        u64::from(TSS_LIMIT) | (TSS & 0xff_ffff) << 16 | 0x8b << 40 | (TSS >> 24 & 0xff) << 56,
        TSS >> 32,
    ];
    for (address, descriptor) in (GDT..).step_by(8).zip(gdt) {
        put(address, &descriptor.to_le_bytes());
    }
    put(TSS + TSS_IO_BASE_FIELD, &TSS_IO_BASE.to_le_bytes());
    put(TSS + u64::from(TSS_IO_BASE), &IO_BITMAP);

    put(CODE, &PROGRAM);
}

/// The offset in the last-level page table of the entry for `address`, which is below 2 MiB.
fn entry_of(address: u64) -> u64 {
    address / PAGE as u64 * 8
}

fn failed(step: &str, cause: impl Error) -> FloorError {
    format!("floor: {step} failed: {cause}").into()
}

/// An anonymous mapping of `MEMORY` bytes, zeroed and resident.
#[derive(Debug)]
struct Memory(NonNull<u8>);

// SAFETY: the mapping belongs to the process and not to a thread, and `Memory` is its only owner.
unsafe impl Send for Memory {}

impl Memory {
    fn new() -> Result<Self, FloorError> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choosing; it can't overlap
        // anything that exists, and no descriptor is involved.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                MEMORY,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(failed("mmap of the guest memory", io::Error::last_os_error()));
        }
        NonNull::new(address.cast())
            .map(Self)
            .ok_or_else(|| "floor: mmap returned address zero".into())
    }

    /// The bytes, for as long as no VM has them.
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is readable, writable, `MEMORY` bytes long and owned by `self`, which
        // is borrowed for as long as the slice. `Floor::new` asks for it before it hands the range
        // to KVM and never afterwards, so no guest writes beneath the reference.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), MEMORY) }
    }

    fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped, once. The VM that used it has been closed (see the
        // field order of `Floor`), and no slice from `bytes_mut` outlives `self`.
        let result = unsafe { libc::munmap(self.0.as_ptr().cast(), MEMORY) };
        debug_assert_eq!(result, 0, "munmap of the guest memory");
    }
}
