//! Any file as a guest: it is refused, or it is laid out and loaded, and then memory holds what its
//! headers say, in pages that allow what its headers say, and nothing else is mapped.

use std::sync::Arc;

use glowbox_abi::mailbox::Entropy;
use glowbox_core::address::index;
use glowbox_core::elf::{MAX_IMAGE_SIZE, Program};
use glowbox_core::layout::{Layout, Limits, PAGE_TABLES_GPA, RegionKind};
use glowbox_core::load::{self, Entry, Start};
use glowbox_core::symbols;
use glowbox_mem::GuestMemory;
use xxhash_rust::xxh3::xxh3_64;

use crate::paging::exactly;
use crate::walker::{Leaf, walk};

/// Parses the bytes as a file and, where that succeeds, loads it.
///
/// # Panics
///
/// If a promise of the loader is broken.
pub fn run(bytes: &[u8]) {
    match Program::parse(Arc::from(bytes)) {
        Ok(program) => loaded(&program, xxh3_64(bytes)),
        Err(error) => assert!(error.to_string().len() < 4096, "an error says little: {error}"),
    }
    let _ = symbols::find(bytes, xxh3_64(bytes) >> 40);
}

fn loaded(program: &Program, choice: u64) {
    let limits = match choice % 4 {
        0 => Limits::default_for(program),
        1 => Limits { heap: 3 << 20, stack: 5 << 12, incoming: 3 << 12, outgoing: 2 << 20 },
        _ => Limits::MIN,
    };
    let extent = program.extent();
    assert!(extent.end - extent.start <= MAX_IMAGE_SIZE + 4096);
    let layout = Layout::new(program, limits, choice).expect("limits that can be");
    assert!(Layout::accepts_load_base(program, layout.load_base()));
    let mut memory = GuestMemory::new(layout.size()).expect("memory");
    let start = Start {
        name: b"fuzzed",
        arguments: &[],
        environment: &[],
        random: [7; 16],
        entropy: Entropy::default(),
        log_level: 3,
        log_text_limit: 100,
    };
    let entry = load::load(program, &layout, &start, memory.bytes_mut());
    check(program, &layout, entry, memory.bytes());
    let written = load::written(program, &layout);
    assert!(written.iter().all(|part| part.end <= memory.bytes().len()));
}

fn check(program: &Program, layout: &Layout, entry: Entry, memory: &[u8]) {
    let cr3 = PAGE_TABLES_GPA.0;
    let read = |address: u64| {
        let at = usize::try_from(address).ok()?;
        memory.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    };
    let tables = layout.memory(RegionKind::PageTables);
    let lent = layout.lent_tables();
    let most = (tables.end - tables.start + lent.end - lent.start) / 4096;
    exactly(&layout.mappings(), &read, cr3, index(most));
    let page = |address: u64| walk(&read, cr3, address).expect("it is mapped");
    let code = page(entry.rip.0).rights;
    assert!(code.user && code.execute && !code.write);
    let stack = page(entry.rsp.0).rights;
    assert!(stack.user && stack.write && !stack.execute && entry.rsp.0.is_multiple_of(16));
    segments(program, layout, memory, &page);
    relocations(program, layout, memory, &page);
}

/// The segments' bytes are where the page tables lead, with the rights that the headers ask for.
fn segments(program: &Program, layout: &Layout, memory: &[u8], page: &dyn Fn(u64) -> Leaf) {
    let relocated: Vec<u64> = program.relocations().map(|(target, _)| target).collect();
    for segment in program.segments() {
        let bytes = &program.bytes()[segment.file.clone()];
        let touched = |at: u64| relocated.iter().any(|target| at.wrapping_sub(*target) < 8);
        for (at, byte) in (segment.address..).zip(bytes).step_by(997) {
            let leaf = page(at.wrapping_add(layout.load_base()));
            let physical = leaf.frame + (at.wrapping_add(layout.load_base()) - leaf.linear);
            assert!(leaf.rights.user && !(leaf.rights.write && leaf.rights.execute));
            let found = memory[index(physical)];
            assert!(found == *byte || touched(at), "{at:#x} holds {found:#x}, not {byte:#x}");
        }
    }
}

/// The last relocation of an address is what stands there, if no other overlaps it.
fn relocations(program: &Program, layout: &Layout, memory: &[u8], page: &dyn Fn(u64) -> Leaf) {
    let Some((target, addend)) = program.relocations().last() else { return };
    let address = target.wrapping_add(layout.load_base());
    let bytes: [u8; 8] = std::array::from_fn(|offset| {
        let address = address + offset as u64;
        let leaf = page(address);
        memory[index(leaf.frame + (address - leaf.linear))]
    });
    let expected = layout.load_base().wrapping_add_signed(addend);
    assert_eq!(u64::from_le_bytes(bytes), expected, "relocation at {target:#x}");
}
