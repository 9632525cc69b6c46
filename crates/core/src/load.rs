//! The initial contents of guest memory: page tables, program, stack, mailbox.
//!
//! Every guest starts as a Linux process does: at its entry point, with a System V initial stack
//! (arguments, environment, auxiliary vector). One private auxiliary entry,
//! [`glowbox_abi::AT_GLOWBOX`], points to the mailbox's control page; a program that does not know
//! Glowbox ignores it.

use glowbox_abi::mailbox::{BOOT_INFO_OFFSET, BootInfo, ENTROPY_OFFSET, Entropy};
use glowbox_abi::{ABI_VERSION, AT_GLOWBOX};

use crate::address::{Gpa, Gva, PAGE_SIZE, index};
use crate::elf::{Personality, Program};
use crate::layout::{LENT, Layout, PAGE_TABLES_GPA, RegionKind};
use crate::paging;

/// Entries of the auxiliary vector, by their System V numbers.
mod aux {
    pub(super) const NULL: u64 = 0;
    pub(super) const PHDR: u64 = 3;
    pub(super) const PHENT: u64 = 4;
    pub(super) const PHNUM: u64 = 5;
    pub(super) const PAGESZ: u64 = 6;
    pub(super) const BASE: u64 = 7;
    pub(super) const FLAGS: u64 = 8;
    pub(super) const ENTRY: u64 = 9;
    pub(super) const UID: u64 = 11;
    pub(super) const EUID: u64 = 12;
    pub(super) const GID: u64 = 13;
    pub(super) const EGID: u64 = 14;
    pub(super) const PLATFORM: u64 = 15;
    pub(super) const CLKTCK: u64 = 17;
    pub(super) const SECURE: u64 = 23;
    pub(super) const RANDOM: u64 = 25;
    pub(super) const EXECFN: u64 = 31;
    pub(super) const MINSIGSTKSZ: u64 = 51;
}

/// The user and the group that a Linux program runs as.
pub const USER: u64 = 1000;
/// Bytes of stack that a signal handler needs, with room for AVX state.
const MIN_SIGNAL_STACK: u64 = 4096;
/// Clock ticks a second.
const TICKS: u64 = 100;

/// Bytes in a page, as an index type.
const PAGE: usize = 4096;
/// Bytes of stack that a guest uses while it starts.
const STACK_AT_START: u64 = 2 * PAGE_SIZE;

/// What a guest is started with, besides its program.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// `argv[0]`.
    pub name: &'a [u8],
    /// The arguments after it.
    pub arguments: &'a [Vec<u8>],
    /// The environment: `NAME=value`.
    pub environment: &'a [Vec<u8>],
    /// Random bytes for the guest (`AT_RANDOM`).
    pub random: [u8; 16],
    /// What the guest's random numbers are made of.
    pub entropy: Entropy,
    /// Most verbose log level the host wants: 0 (nothing) to 5 (trace).
    pub log_level: u32,
    /// Bytes of text the host accepts in one log record.
    pub log_text_limit: u64,
}

impl<'a> Start<'a> {
    /// A guest of which nothing else counts: it gets its name, no random bytes, and no log.
    pub fn named(name: &'a [u8]) -> Start<'a> {
        Start {
            name,
            arguments: &[],
            environment: &[],
            random: [0; 16],
            entropy: Entropy::default(),
            log_level: 0,
            log_text_limit: 0,
        }
    }
}

/// Where a loaded guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First instruction.
    pub rip: Gva,
    /// Initial stack pointer.
    pub rsp: Gva,
}

/// Writes everything that a guest needs into its memory, which must read as zero and be
/// `layout.size()` bytes.
///
/// # Panics
///
/// If the memory is smaller than the layout, or the layout is another program's.
pub fn load(program: &Program, layout: &Layout, start: &Start<'_>, memory: &mut [u8]) -> Entry {
    page_tables(layout, memory);
    segments(program, layout, memory);
    relocate(program, layout, memory);
    boot_info(layout, start, memory);
    entropy(layout, &start.entropy, memory);
    stack(program, layout, start, memory)
}

/// Takes away the stack that a program was to start with, whose stack pointer would have been `from`.
///
/// # Panics
///
/// As [`load`], or if `from` is not in the stack.
pub fn clear_stack(layout: &Layout, from: Gva, memory: &mut [u8]) {
    let stack = layout.region(RegionKind::Stack);
    let region = range(layout.memory(RegionKind::Stack));
    let start = region.start + index(from.0 - stack.start.0);
    memory[start..region.end].fill(0);
}

/// Writes the stack that a loaded program starts with; also in the place of another one, if it has not
/// run since.
///
/// # Panics
///
/// As [`load`].
pub fn stack(program: &Program, layout: &Layout, start: &Start<'_>, memory: &mut [u8]) -> Entry {
    let rip = Gva(program.entry().wrapping_add(layout.load_base()));
    Entry { rip, rsp: initial_stack(program, layout, start, memory) }
}

/// Writes a layout's page tables.
///
/// # Panics
///
/// If the memory is smaller than the layout.
pub fn page_tables(layout: &Layout, memory: &mut [u8]) {
    let tables = range(layout.memory(RegionKind::PageTables));
    let tables = &mut memory[tables];
    tables.fill(0);
    paging::build(&layout.mappings(), tables, PAGE_TABLES_GPA)
        .expect("the layout counted its tables");
    paging::link_directories(tables, PAGE_TABLES_GPA, Gva(LENT.start), layout.lent_tables())
        .expect("the supervisor's addresses lie below the same table");
}

/// The parts of guest memory that [`load`] writes to, and the guest's first instructions after it:
/// worth making resident beforehand. Variables that start as zero are not among them; they may be
/// many.
pub fn written(program: &Program, layout: &Layout) -> Vec<std::ops::Range<usize>> {
    // The supervisor comes first, then the tables, then the program.
    let mut parts = Vec::new();
    parts.push(0..index(layout.memory(RegionKind::PageTables).end));
    for segment in program.segments().iter().filter(|segment| !segment.file.is_empty()) {
        let start = place(layout, segment.address);
        let end = start + segment.file.len();
        match parts.last_mut() {
            Some(last) if last.end.next_multiple_of(PAGE) >= start & !(PAGE - 1) => last.end = end,
            _ => parts.push(start..end),
        }
    }
    // The control page follows the stack's end.
    let top = layout.memory(RegionKind::Stack).end - STACK_AT_START;
    parts.push(index(top)..index(layout.memory(RegionKind::Control).end));
    parts
}

fn range(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
    index(range.start)..index(range.end)
}

/// Offset into guest memory of a program's address.
fn place(layout: &Layout, address: u64) -> usize {
    let Gpa(gpa) = layout
        .translate(address.wrapping_add(layout.load_base()))
        .expect("a checked program's addresses lie in its layout");
    index(gpa)
}

fn segments(program: &Program, layout: &Layout, memory: &mut [u8]) {
    for segment in program.segments() {
        let bytes = &program.bytes()[segment.file.clone()];
        // A segment's pages follow each other in guest memory, RELRO or not.
        if !bytes.is_empty() {
            let at = place(layout, segment.address);
            memory[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

fn relocate(program: &Program, layout: &Layout, memory: &mut [u8]) {
    for (target, addend) in program.relocations() {
        let value = layout.load_base().wrapping_add_signed(addend);
        let at = place(layout, target);
        memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

fn boot_info(layout: &Layout, start: &Start<'_>, memory: &mut [u8]) {
    let address = |kind| layout.region(kind).start.0;
    let limits = layout.limits();
    // A Linux program asks for its memory instead.
    let heap = match layout.personality() {
        Personality::Glowbox => (address(RegionKind::Heap), limits.heap),
        Personality::Linux => (0, 0),
    };
    let info = BootInfo {
        abi_version: ABI_VERSION,
        log_level: start.log_level,
        incoming_address: address(RegionKind::Incoming),
        incoming_size: limits.incoming,
        outgoing_address: address(RegionKind::Outgoing),
        outgoing_size: limits.outgoing,
        heap_address: heap.0,
        heap_size: heap.1,
        log_text_limit: start.log_text_limit,
        map_table_address: address(RegionKind::MapTable),
    };
    let at = index(layout.memory(RegionKind::Control).start) + BOOT_INFO_OFFSET;
    memory[at..at + BootInfo::SIZE].copy_from_slice(&info.to_bytes());
}

fn entropy(layout: &Layout, entropy: &Entropy, memory: &mut [u8]) {
    let at = index(layout.memory(RegionKind::Control).start) + ENTROPY_OFFSET;
    memory[at..at + Entropy::SIZE].copy_from_slice(&entropy.to_bytes());
}

/// How many bytes of arguments and environment a program with such a stack can be started with.
pub fn most_arguments(stack: u64) -> u64 {
    stack / 4
}

/// Bytes of stack that arguments and environment take, with the pointers to them.
pub fn arguments_size(start: &Start<'_>) -> u64 {
    let texts = start.arguments.iter().chain(start.environment);
    texts.map(|text| text.len() as u64 + 1 + 8).sum::<u64>() + start.name.len() as u64 + 1
}

/// Writes the System V initial stack and returns the stack pointer.
fn initial_stack(program: &Program, layout: &Layout, start: &Start<'_>, memory: &mut [u8]) -> Gva {
    let stack = layout.region(RegionKind::Stack);
    let base = layout.memory(RegionKind::Stack).start;
    let mut write = |address: u64, bytes: &[u8]| {
        let at = index(base + (address - stack.start.0));
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    };
    // Strings and random bytes first, at the very top, each string with a zero behind it. Of an earlier
    // start there may be other bytes.
    let mut next = stack.end().0 - 8;
    let mut text = |bytes: &[u8]| {
        write(next - 1, &[0]);
        next -= bytes.len() as u64 + 1;
        write(next, bytes);
        next
    };
    let name = text(start.name);
    let arguments: Vec<u64> = start.arguments.iter().map(|argument| text(argument)).collect();
    let environment: Vec<u64> = start.environment.iter().map(|pair| text(pair)).collect();
    let platform = text(b"x86_64");
    let random = (next - 16) & !15;
    write(random, &start.random);

    let mut words = vec![1 + arguments.len() as u64, name];
    words.extend(arguments);
    words.push(0);
    words.extend(environment);
    words.push(0);
    words.extend(auxiliary(program, layout).into_iter().flatten());
    words.extend([aux::EXECFN, name, aux::PLATFORM, platform, aux::RANDOM, random]);
    words.extend([AT_GLOWBOX, layout.region(RegionKind::Control).start.0, aux::NULL, 0]);
    let pointer = (random - 8 * words.len() as u64) & !15;
    for (index, word) in words.iter().enumerate() {
        write(pointer + 8 * index as u64, &word.to_le_bytes());
    }
    Gva(pointer)
}

/// The entries of the auxiliary vector that point to nothing on the stack.
fn auxiliary(program: &Program, layout: &Layout) -> Vec<[u64; 2]> {
    let mut entries = Vec::new();
    if let Some((headers, count)) = program.headers() {
        let headers = headers.wrapping_add(layout.load_base());
        entries.extend([[aux::PHDR, headers], [aux::PHENT, 56], [aux::PHNUM, count.into()]]);
    }
    let entry = program.entry().wrapping_add(layout.load_base());
    entries.extend([[aux::PAGESZ, PAGE_SIZE], [aux::BASE, 0], [aux::FLAGS, 0]]);
    entries.extend([[aux::ENTRY, entry], [aux::CLKTCK, TICKS], [aux::SECURE, 0]]);
    entries.extend([aux::UID, aux::EUID, aux::GID, aux::EGID].map(|kind| [kind, USER]));
    entries.push([aux::MINSIGSTKSZ, MIN_SIGNAL_STACK]);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::{SMALL, program};
    use crate::layout::Limits;

    #[test]
    fn what_an_earlier_start_has_left_on_the_stack_is_no_part_of_a_text() {
        let limits = Limits { heap: 16 << 10, incoming: 4096, outgoing: 4096, ..Limits::DEFAULT };
        let program = program(&SMALL);
        let layout = Layout::new(&program, limits, 7).unwrap();
        let mut memory = vec![0xff; index(layout.size())];
        let (arguments, environment) =
            (vec![b"exit".to_vec(), b"7".to_vec()], vec![b"A=".to_vec()]);
        let start = Start {
            name: b"program",
            arguments: &arguments,
            environment: &environment,
            random: [1; 16],
            entropy: Entropy::default(),
            log_level: 0,
            log_text_limit: 1,
        };
        let Entry { rsp, .. } = stack(&program, &layout, &start, &mut memory);
        let at = |address: u64| index(layout.translate(address).unwrap().0);
        let word = |number: u64| {
            let at = at(rsp.0 + 8 * number);
            u64::from_le_bytes(*memory[at..].first_chunk().unwrap())
        };
        let text = |address: u64| memory[at(address)..].split(|byte| *byte == 0).next().unwrap();
        assert_eq!(word(0), 3);
        assert_eq!([1, 2, 3].map(|number| text(word(number))), [&b"program"[..], b"exit", b"7"]);
        assert_eq!((word(4), text(word(5)), word(6)), (0, &b"A="[..], 0));
    }
}
