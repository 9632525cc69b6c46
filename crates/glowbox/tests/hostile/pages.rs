//! Every page of the address space, read, written and jumped to: what the layout allows works, and nothing
//! else.

use glowbox_core::address::Protection;
use glowbox_core::layout::{Region, RegionKind};
use glowbox_core::paging::Privilege;
use glowbox_core::registers::Registers;
use glowbox_machine::Exit;

use crate::ground::{Ground, Outcome};
use crate::support::{executed, tried};

const PAGE: u64 = 4096;
/// Bits of a page fault's error code: the page is there, and its entry has a reserved bit set.
const PRESENT: u64 = 1;
const RESERVED: u64 = 1 << 3;

/// How memory is used, and by what code, of an address in RAX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
    Jump,
}

impl Use {
    const ALL: [Use; 3] = [Use::Read, Use::Write, Use::Jump];

    /// mov al, [rax]; mov [rax], al; jmp rax
    fn code(self) -> &'static [u8] {
        match self {
            Use::Read => &[0x8a, 0],
            Use::Write => &[0x88, 0],
            Use::Jump => &[0xff, 0xe0],
        }
    }

    /// The bits of a page fault's error code that say so, with that of user mode.
    fn error_code(self) -> u64 {
        match self {
            Use::Read => 4,
            Use::Write => 6,
            Use::Jump => 0x14,
        }
    }

    fn is_allowed(self, protection: Protection) -> bool {
        match self {
            Use::Read => true,
            Use::Write => protection == Protection::ReadWrite,
            Use::Jump => protection == Protection::ReadExecute,
        }
    }
}

fn is_canonical(address: u64) -> bool {
    let upper = address >> 47;
    upper == 0 || upper == 0x1_ffff
}

fn region_at(ground: &Ground, address: u64) -> Option<Region> {
    ground.layout.region_at(address).copied()
}

/// What the layout allows at an address; `None` for nothing.
fn allowed(ground: &Ground, address: u64) -> Option<Protection> {
    match region_at(ground, address)?.backing? {
        (_, protection, Privilege::User) => Some(protection),
        _ => None,
    }
}

/// Whether something is mapped there, be it for the supervisor.
fn is_mapped(ground: &Ground, address: u64) -> bool {
    region_at(ground, address).is_some_and(|region| region.backing.is_some())
}

fn run(ground: &mut Ground, what: Use, address: u64) -> Outcome {
    let registers = Registers { rax: address, ..Registers::default() };
    ground.run(what.code(), &registers)
}

/// Uses an address in each way, and checks that it comes to what the layout says.
fn check(ground: &mut Ground, address: u64) {
    for what in Use::ALL {
        let resume = region_at(ground, address).is_some_and(|of| of.kind == RegionKind::Resume);
        if what == Use::Jump && (resume || address == ground.code) {
            // Starts the guest again, or again and again.
            run(ground, what, address);
            continue;
        }
        let registers = Registers { rax: address, ..Registers::default() };
        let outcome = ground.run_to_its_end(what.code(), &registers);
        if let Err(why) = judge(ground, what, address, &outcome) {
            panic!("{what:?} of {address:#x}: {why}: {outcome:x?}");
        }
        tried("pages", 1);
        executed("pages", 1);
    }
}

fn judge(ground: &Ground, what: Use, address: u64, outcome: &Outcome) -> Result<(), &'static str> {
    let Exit::Exception(exception) = &outcome.exit else { return Err("not an exception") };
    let rip = exception.registers.rip;
    if allowed(ground, address).is_some_and(|protection| what.is_allowed(protection)) {
        // `int3` behind it, or what it jumped to.
        let next = if what == Use::Jump { address + 1 } else { ground.code + 3 };
        let fine = exception.vector == 3 && rip == next;
        return if fine { Ok(()) } else { Err("it is allowed") };
    }
    if !is_canonical(address) {
        return if exception.vector == 13 { Ok(()) } else { Err("no general protection fault") };
    }
    if exception.vector != 14 || exception.address != Some(address) {
        return Err("no page fault there");
    }
    // Where page tables are shadowed, those of the upper half are not only the guest's: see docs/kvm.md.
    let shadowed = if address >> 63 == 1 { PRESENT | RESERVED } else { 0 };
    let error_code = exception.error_code & !shadowed;
    if error_code & !PRESENT != what.error_code() {
        return Err("another error code");
    }
    if error_code & PRESENT != 0 && !is_mapped(ground, address) {
        return Err("a page that is not there is said to be");
    }
    let at = if what == Use::Jump { address } else { ground.code };
    if rip == at { Ok(()) } else { Err("at another instruction") }
}

/// First and last byte of some pages of each region, and beyond its borders: of all pages of those that are
/// mapped, and of those that are not, some.
fn of_regions(ground: &Ground) -> Vec<u64> {
    let mut addresses = Vec::new();
    for region in ground.layout.regions() {
        let pages = region.length / PAGE;
        let step = if region.backing.is_some() { 1 } else { (pages / 64).max(1) };
        let starts = (0..pages).step_by(usize::try_from(step).expect("few")).chain([pages - 1]);
        addresses.extend(starts.flat_map(|page| {
            let start = region.start.0 + page * PAGE;
            [start, start + PAGE - 1]
        }));
        addresses.extend([region.start.0.wrapping_sub(1), region.end().0]);
    }
    addresses
}

/// Addresses in each slot of the tables' levels: the root's all, and those below it where something is.
fn of_slots(ground: &Ground) -> Vec<u64> {
    let slots = |base: u64, shift: u32| {
        (0..512u64).flat_map(move |slot| {
            let start = base.wrapping_add(slot << shift);
            // Upper-half addresses of the root's level are canonical by their sign.
            let start = if shift == 39 && slot >= 256 { start | 0xffff << 48 } else { start };
            [start, start + (1 << shift) / 2 + 8, start + ((1 << shift) - 1)]
        })
    };
    let gib = |address: u64| address & !((1 << 30) - 1);
    let mut addresses: Vec<u64> = slots(0, 39).chain(slots(0, 30)).collect();
    for address in [0, ground.code, ground.stack.start, glowbox_core::layout::SUPERVISOR_CODE.0] {
        addresses.extend(slots(gib(address), 21));
    }
    addresses
}

tests! {
    fn every_page_is_what_the_layout_says() {
        let mut ground = Ground::new();
        for address in of_regions(&ground) {
            check(&mut ground, address);
        }
        ground.prove_clean();
    }

    fn nothing_is_anywhere_else() {
        let mut ground = Ground::new();
        for address in of_slots(&ground) {
            check(&mut ground, address);
        }
        // Addresses that there can't be, of each size.
        for bit in 47..64 {
            for address in [1 << bit, (1 << bit) | ground.data, !(1 << bit), !0 << bit, (!0 << bit) - 1] {
                check(&mut ground, address);
            }
        }
        ground.prove_clean();
    }

    fn accesses_that_cross_into_a_forbidden_page_fault_there() {
        let mut ground = Ground::new();
        for region in ground.layout.regions().to_vec() {
            for other in [region.end().0, region.start.0] {
                let Some(address) = other.checked_sub(4) else { continue };
                // mov rcx, [rax]; mov [rax], rcx; movups xmm0, [rax]; movups [rax], xmm0; vmovups ymm0, [rax]
                let codes: [(&[u8], Use); 5] = [
                    (&[0x48, 0x8b, 8], Use::Read),
                    (&[0x48, 0x89, 8], Use::Write),
                    (&[0x0f, 0x10, 0], Use::Read),
                    (&[0x0f, 0x11, 0], Use::Write),
                    (&[0xc5, 0xfc, 0x10, 0], Use::Read),
                ];
                for (code, what) in codes {
                    let registers = Registers { rax: address, ..Registers::default() };
                    let outcome = ground.run_to_its_end(code, &registers);
                    let may = |at| allowed(&ground, at).is_some_and(|of| what.is_allowed(of));
                    let vector = outcome.exception().map(|(vector, _)| vector);
                    let fine = match (may(address), may(other)) {
                        // AVX is not everywhere.
                        (true, true) => matches!(vector, Some(3 | 6)),
                        _ => matches!(vector, Some(14 | 6)),
                    };
                    assert!(fine, "{code:02x?} at {address:#x}: {outcome:x?}");
                    tried("accesses across pages", 1);
                }
            }
        }
        ground.prove_clean();
    }

    fn code_cannot_change_itself() {
        let mut ground = Ground::new();
        // Every kind of instruction that writes, where it stands and elsewhere in the code.
        let writes: [&[u8]; 22] = [
            &[0xc6, 0, 0x90],
            &[0x48, 0x89, 8],
            &[0xaa],
            &[0xf3, 0xaa],
            &[0xa4],
            &[0xf3, 0x48, 0xa5],
            &[0x87, 8],
            &[0xf0, 0x01, 8],
            &[0xf0, 0x0f, 0xb1, 8],
            &[0xf0, 0x0f, 0xc7, 8],
            &[0x0f, 0xc1, 8],
            &[0xfe, 0],
            &[0xd0, 0x20],
            &[0x0f, 0xab, 8],
            &[0x0f, 0x29, 0],
            &[0x0f, 0xe7, 0],
            &[0x0f, 0xc3, 8],
            &[0x0f, 0xae, 0],
            &[0xd9, 0x38],
            &[0xdd, 0x30],
            &[0x8f, 0],
            &[0x0f, 0x94, 0],
        ];
        for code in writes {
            for offset in [0, 16, 0x800, 0x1000, 0x3e00] {
                let place = ground.code + offset;
                let registers = Registers {
                    rax: place,
                    rdi: place,
                    rsi: ground.data,
                    rcx: 1,
                    ..Registers::default()
                };
                let outcome = ground.run_to_its_end(code, &registers);
                // Page protection; some machines read first, which is allowed.
                let Some((14, error)) = outcome.exception() else { panic!("{code:02x?}: {outcome:x?}") };
                assert_eq!(error, 7, "{code:02x?}: {outcome:x?}");
                tried("self-modifying code", 1);
            }
        }
        // Pushes and calls with the stack in the code.
        for code in [&[0x50][..], &[0xe8, 0, 0, 0, 0], &[0xc8, 16, 0, 0], &[0x9c], &[0xff, 0x30]] {
            // mov rsp, rax
            let code = [&[0x48, 0x89, 0xc4], code].concat();
            let registers = Registers { rax: ground.code + 0x800, ..Registers::default() };
            let outcome = ground.run_to_its_end(&code, &registers);
            assert_eq!(outcome.exception(), Some((14, 7)), "{code:02x?}: {outcome:x?}");
            tried("self-modifying code", 1);
        }
        ground.prove_clean();
    }

    fn what_a_guest_writes_is_never_code() {
        let mut ground = Ground::new();
        for kind in [RegionKind::Data, RegionKind::Stack, RegionKind::Control, RegionKind::Outgoing, RegionKind::Heap] {
            let region = *ground.layout.region(kind);
            for address in (region.start.0..region.end().0).step_by(4096) {
                // mov dword [rax + 8], 0x0b0f0b0f; add rax, 8; jmp rax
                let code = [0xc7, 0x40, 8, 0x0f, 0x0b, 0x0f, 0x0b, 0x48, 0x83, 0xc0, 8, 0xff, 0xe0];
                let registers = Registers { rax: address, ..Registers::default() };
                let outcome = ground.run_to_its_end(&code, &registers);
                assert_eq!(outcome.exception(), Some((14, 0x15)), "{address:#x}: {outcome:x?}");
                assert_eq!(outcome.registers().map(|of| of.rip), Some(address + 8));
                tried("self-modifying code", 1);
                executed("self-modifying code", 3);
            }
        }
        ground.prove_clean();
    }
}
