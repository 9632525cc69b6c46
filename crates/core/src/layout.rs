//! Where everything lies in guest memory.
//!
//! ```text
//! guest-virtual                                   guest-physical (one linear memory)
//!            0 ┌──────────────────┐                  0 ┌───────────────────┐
//!              │ null page: never │                    │ supervisor        │
//!       64 KiB ├──────────────────┤                    │ page tables       │
//!              │ program at a     │                    │ program           │
//!              │ fixed address    │                    │ stack, control    │
//!        4 GiB ├──────────────────┤                    │ page, map table   │
//!              │ position-        │                    ├─── 2 MiB aligned ─┤
//!              │ independent      │                    │ incoming buffer   │
//!              │ program, random  │                    │ outgoing buffer   │
//!      256 GiB ├──────────────────┤                    │ heap              │
//!              │ guard            │                    └───────────────────┘
//!              │ stack            │
//!              │ guard, control,  │
//!              │ guard, incoming, │
//!              │ guard, outgoing, │
//!              │ guard, map table,│
//!              │ guard, heap      │
//!              ├──────────────────┤
//!      384 GiB │ lent mappings    │
//!              ├──────────────────┤
//!      511 GiB │ supervisor,      │
//!              │ resume page      │
//!              └──────────────────┘
//! ```
//!
//! A Linux program has no heap region: its address space is edited as it asks for it, anywhere in the
//! lower half of the addresses, and the memory in the heap's place is what it is made of.
//!
//! Lent mappings are no part of that linear memory: each has guest-physical memory of its own, at the
//! same address as its guest-virtual one.
//!
//! All of it lies in the lower half of the address space, below one root page-table entry, so that
//! a small guest needs few tables. Nothing but the regions named here is mapped. Where a region's
//! addresses allow, large pages are used; the buffers and the heap are aligned for them.

use std::ops::Range;

use crate::address::{GUESTS_END, Gpa, Gva, LARGE_PAGE_SIZE, PAGE_SIZE, Protection};
use crate::elf::{MIN_ADDRESS, Personality, Program};
use crate::paging::{Mapping, Privilege, table_pages};

/// Start of the addresses at which position-independent programs are loaded.
const PIE_START: u64 = 4 << 30;
/// End of those addresses.
const PIE_END: u64 = 255 << 30;
/// Start of stack, mailbox and heap.
const ARENA: u64 = 256 << 30;
/// Start of the supervisor's addresses.
const SUPERVISOR: u64 = 511 << 30;
/// Bytes that one page directory maps.
const DIRECTORY_SPAN: u64 = 1 << 30;
const _: () = assert!(SUPERVISOR + DIRECTORY_SPAN <= GUESTS_END);
/// Where mappings that the host lends lie, guest-virtual and guest-physical alike.
pub const LENT: Range<u64> = 384 << 30..SUPERVISOR;
/// Unmapped bytes below the stack. Compiled code touches every page of a large frame, so one page
/// would do; this much catches hand-written code too.
pub const STACK_GUARD: u64 = 1 << 20;
/// Unmapped bytes between buffers.
const GUARD: u64 = LARGE_PAGE_SIZE;

/// Where the supervisor's code is mapped.
pub const SUPERVISOR_CODE: Gva = Gva(SUPERVISOR);
/// Where the supervisor's descriptor tables are mapped.
pub const SUPERVISOR_TABLES: Gva = Gva(SUPERVISOR + PAGE_SIZE);
/// Where the supervisor's stack page is mapped.
pub const SUPERVISOR_STACK: Gva = Gva(SUPERVISOR + 2 * PAGE_SIZE);
/// Where the resume page is mapped: the ring-3 code by which a guest (re)starts, with the register
/// contents that it loads.
pub const RESUME: Gva = Gva(SUPERVISOR + 3 * PAGE_SIZE);
/// Where the page tables are mapped.
pub const PAGE_TABLES: Gva = Gva(SUPERVISOR + 4 * PAGE_SIZE);
/// Guest-physical counterpart of [`SUPERVISOR_CODE`].
pub const SUPERVISOR_CODE_GPA: Gpa = Gpa(0);
/// Guest-physical counterpart of [`SUPERVISOR_TABLES`].
pub const SUPERVISOR_TABLES_GPA: Gpa = Gpa(PAGE_SIZE);
/// Guest-physical counterpart of [`SUPERVISOR_STACK`].
pub const SUPERVISOR_STACK_GPA: Gpa = Gpa(2 * PAGE_SIZE);
/// Guest-physical counterpart of [`RESUME`].
pub const RESUME_GPA: Gpa = Gpa(3 * PAGE_SIZE);
/// Guest-physical counterpart of [`PAGE_TABLES`]; what CR3 holds.
pub const PAGE_TABLES_GPA: Gpa = Gpa(4 * PAGE_SIZE);

/// How much memory a guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes the heap may grow to.
    pub heap: u64,
    /// Bytes of stack.
    pub stack: u64,
    /// Bytes in the host-to-guest buffer.
    pub incoming: u64,
    /// Bytes in the guest-to-host buffer.
    pub outgoing: u64,
}

impl Limits {
    /// Smallest value of each limit.
    pub const MIN: Limits =
        Limits { heap: 16 << 10, stack: 16 << 10, incoming: PAGE_SIZE, outgoing: PAGE_SIZE };
    /// Largest value of each limit.
    pub const MAX: Limits =
        Limits { heap: 64 << 30, stack: 256 << 20, incoming: 1 << 30, outgoing: 1 << 30 };
    /// What a guest gets unless its host says otherwise.
    pub const DEFAULT: Limits =
        Limits { heap: 64 << 20, stack: 1 << 20, incoming: 16 << 20, outgoing: 16 << 20 };
    /// Bytes of stack that a Linux program gets unless its host says otherwise.
    pub const LINUX_STACK: u64 = 8 << 20;

    /// What this program gets unless its host says otherwise: a Linux program has a larger stack, and
    /// one that is no library takes no messages.
    pub fn default_for(program: &Program) -> Limits {
        let mut limits = Limits::DEFAULT;
        if program.personality() == Personality::Linux {
            limits.stack = Limits::LINUX_STACK;
        }
        if !program.is_library() {
            (limits.incoming, limits.outgoing) = (Limits::MIN.incoming, Limits::MIN.outgoing);
        }
        limits
    }
}

/// A limit that can't be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {found} bytes, but it must be a multiple of {PAGE_SIZE} from {min} to {max}")]
pub struct LimitError {
    /// Which limit.
    pub name: &'static str,
    /// What was asked for.
    pub found: u64,
    /// The smallest that is possible.
    pub min: u64,
    /// The largest that is possible.
    pub max: u64,
}

impl Limits {
    /// Checks every limit's size and alignment.
    ///
    /// # Errors
    ///
    /// [`LimitError`] naming the first that can't be.
    pub fn check(&self) -> Result<(), LimitError> {
        let (min, max) = (Limits::MIN, Limits::MAX);
        for (name, found, min, max) in [
            ("the memory limit", self.heap, min.heap, max.heap),
            ("the stack size", self.stack, min.stack, max.stack),
            ("the size of messages to the guest", self.incoming, min.incoming, max.incoming),
            ("the size of messages to the host", self.outgoing, min.outgoing, max.outgoing),
        ] {
            if !(min..=max).contains(&found) || found % PAGE_SIZE != 0 {
                return Err(LimitError { name, found, min, max });
            }
        }
        Ok(())
    }
}

/// What a stretch of guest-virtual addresses is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegionKind {
    /// Never mapped, so that null pointers fault.
    Null,
    /// The program's code.
    Code,
    /// The program's constants, and what relocation alone may write.
    ReadOnlyData,
    /// The program's variables.
    Data,
    /// Never mapped; below the stack.
    StackGuard,
    /// The stack.
    Stack,
    /// The mailbox's control page.
    Control,
    /// The host-to-guest buffer.
    Incoming,
    /// The guest-to-host buffer.
    Outgoing,
    /// The heap.
    Heap,
    /// The supervisor's code, tables and stack.
    Supervisor,
    /// The page tables.
    PageTables,
    /// The code by which a guest starts and starts again.
    Resume,
    /// The list of what the host lends.
    MapTable,
    /// Where the host lends files and bytes; mapped as far as it does.
    Lent,
}

/// A stretch of guest-virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// What it is for.
    pub kind: RegionKind,
    /// Its first address.
    pub start: Gva,
    /// Its length in bytes.
    pub length: u64,
    /// Where it lies in guest memory and how it is protected; `None` for what is never mapped.
    pub backing: Option<(Gpa, Protection, Privilege)>,
}

impl Region {
    /// The first address after it.
    pub fn end(&self) -> Gva {
        self.start.offset(self.length)
    }

    /// `small` if its page tables may be edited later, page by page.
    fn mapping(&self, small: bool) -> Option<Mapping> {
        let (gpa, protection, privilege) = self.backing?;
        let Region { start, length, .. } = *self;
        let large = !small || self.is_ours();
        Some(Mapping { gva: start, gpa, length, protection, privilege, large })
    }

    /// Whether it is not the program's, which may use it at most.
    pub fn is_ours(&self) -> bool {
        use RegionKind::{Code, Data, Heap, ReadOnlyData, Stack};
        !matches!(self.kind, Code | ReadOnlyData | Data | Stack | Heap)
    }
}

/// The whole layout of one guest.
#[derive(Debug, Clone)]
pub struct Layout {
    regions: Vec<Region>,
    load_base: u64,
    size: u64,
    limits: Limits,
    table_pages: u64,
    lent_tables: Gpa,
    personality: Personality,
    pool: Range<u64>,
}

impl Layout {
    /// Lays out a program. `random` decides where a position-independent one is loaded.
    ///
    /// # Errors
    ///
    /// [`LimitError`].
    ///
    /// # Panics
    ///
    /// Never for a checked program and checked limits.
    pub fn new(program: &Program, limits: Limits, random: u64) -> Result<Layout, LimitError> {
        let extent = program.extent();
        let load_base = if program.is_relocatable() {
            let pages = (PIE_END - PIE_START - (extent.end - extent.start)) / PAGE_SIZE;
            (PIE_START + random % pages * PAGE_SIZE).wrapping_sub(extent.start)
        } else {
            0
        };
        Layout::at(program, limits, load_base)
    }

    /// Lays out a program as another layout had it, with the load base that one had.
    ///
    /// # Errors
    ///
    /// [`LimitError`].
    ///
    /// # Panics
    ///
    /// If the load base is none that [`Layout::new`] gives this program: see
    /// [`Layout::accepts_load_base`].
    pub fn at(program: &Program, limits: Limits, load_base: u64) -> Result<Layout, LimitError> {
        limits.check()?;
        assert!(Layout::accepts_load_base(program, load_base), "an impossible load base");
        let mut layout = Layout {
            regions: Vec::new(),
            load_base,
            size: 0,
            limits,
            table_pages: 0,
            lent_tables: Gpa(0),
            personality: program.personality(),
            pool: 0..0,
        };
        // The tables move what comes after them, which may change how many tables that takes.
        loop {
            layout.place(program);
            let tables = table_pages(&layout.mappings()).expect("a layout's pages are distinct");
            if tables as u64 <= layout.table_pages {
                return Ok(layout);
            }
            layout.table_pages = tables as u64;
        }
    }

    /// Whether a program can be loaded there: in its place if it has one, otherwise on a page among
    /// the addresses for position-independent ones.
    pub fn accepts_load_base(program: &Program, load_base: u64) -> bool {
        if !program.is_relocatable() {
            return load_base == 0;
        }
        let extent = program.extent();
        let start = load_base.wrapping_add(extent.start);
        let end = start.checked_add(extent.end - extent.start);
        start.is_multiple_of(PAGE_SIZE)
            && start >= PIE_START
            && end.is_some_and(|end| end <= PIE_END)
    }

    fn place(&mut self, program: &Program) {
        self.regions.clear();
        // The tables are mapped too, and the table that maps them is always there.
        let tables = self.table_pages.max(1) * PAGE_SIZE;
        self.supervisor(tables);
        let mut next = PAGE_TABLES_GPA.offset(tables);
        next = self.program(program, next);
        let Limits { stack, heap, incoming, outgoing } = self.limits;
        self.unmapped(RegionKind::Null, Gva(0), MIN_ADDRESS);
        self.unmapped(RegionKind::StackGuard, Gva(ARENA), STACK_GUARD);
        let user = |gpa, protection| Some((gpa, protection, Privilege::User));
        let mut add = |kind, start: Gva, gpa: Gpa, length: u64, protection| {
            self.regions.push(Region { kind, start, length, backing: user(gpa, protection) });
            (start.offset(length), gpa.offset(length))
        };
        let stack_start = Gva(ARENA + STACK_GUARD);
        let (end, gpa) = add(RegionKind::Stack, stack_start, next, stack, Protection::ReadWrite);
        let control = end.offset(PAGE_SIZE);
        let (end, gpa) = add(RegionKind::Control, control, gpa, PAGE_SIZE, Protection::ReadWrite);
        let table = end.offset(PAGE_SIZE);
        let (end, gpa) = add(RegionKind::MapTable, table, gpa, PAGE_SIZE, Protection::Read);
        self.lent_tables = gpa;
        let gpa = gpa.offset((LENT.end - LENT.start) / DIRECTORY_SPAN * PAGE_SIZE);
        let large = |gva: Gva, gpa: Gpa| {
            (
                Gva(gva.offset(GUARD).0.next_multiple_of(LARGE_PAGE_SIZE)),
                Gpa(gpa.0.next_multiple_of(LARGE_PAGE_SIZE)),
            )
        };
        let (gva, gpa) = large(end, gpa);
        let (end, gpa) = add(RegionKind::Incoming, gva, gpa, incoming, Protection::Read);
        let (gva, gpa) = large(end, gpa);
        let (end, gpa) = add(RegionKind::Outgoing, gva, gpa, outgoing, Protection::ReadWrite);
        let (gva, gpa) = large(end, gpa);
        let gpa = match self.personality {
            Personality::Glowbox => add(RegionKind::Heap, gva, gpa, heap, Protection::ReadWrite).1,
            Personality::Linux => {
                self.pool = gpa.0..gpa.0 + heap;
                gpa.offset(heap)
            }
        };
        // Whole large pages, so that guests of one kind have windows of one size.
        self.size = gpa.0.next_multiple_of(LARGE_PAGE_SIZE);
        self.unmapped(RegionKind::Lent, Gva(LENT.start), LENT.end - LENT.start);
    }

    fn supervisor(&mut self, tables: u64) {
        // The resume page is the guest's to read and run: it restores what only ring 3 can.
        let resume = Some((RESUME_GPA, Protection::ReadExecute, Privilege::User));
        self.regions.push(Region {
            kind: RegionKind::Resume,
            start: RESUME,
            length: PAGE_SIZE,
            backing: resume,
        });
        for (kind, start, gpa, length, protection) in [
            (
                RegionKind::Supervisor,
                SUPERVISOR_CODE,
                SUPERVISOR_CODE_GPA,
                PAGE_SIZE,
                Protection::ReadExecute,
            ),
            (
                RegionKind::Supervisor,
                SUPERVISOR_TABLES,
                SUPERVISOR_TABLES_GPA,
                PAGE_SIZE,
                Protection::Read,
            ),
            (
                RegionKind::Supervisor,
                SUPERVISOR_STACK,
                SUPERVISOR_STACK_GPA,
                PAGE_SIZE,
                Protection::ReadWrite,
            ),
            (RegionKind::PageTables, PAGE_TABLES, PAGE_TABLES_GPA, tables, Protection::Read),
        ] {
            let backing = Some((gpa, protection, Privilege::Supervisor));
            self.regions.push(Region { kind, start, length, backing });
        }
    }

    /// Adds the program's segments from `next` on, and returns where they end.
    fn program(&mut self, program: &Program, mut next: Gpa) -> Gpa {
        for segment in program.segments() {
            let pages = segment.pages();
            let relro = match program.relro() {
                Some(relro) if pages.start <= relro.start && relro.end <= pages.end => relro,
                _ => pages.start..pages.start,
            };
            for (range, protection) in [
                (pages.start..relro.start, segment.protection),
                (relro.clone(), Protection::Read),
                (relro.end..pages.end, segment.protection),
            ] {
                if range.is_empty() {
                    continue;
                }
                let kind = match protection {
                    Protection::Read => RegionKind::ReadOnlyData,
                    Protection::ReadWrite => RegionKind::Data,
                    Protection::ReadExecute => RegionKind::Code,
                };
                let start = Gva(range.start.wrapping_add(self.load_base));
                let length = range.end - range.start;
                let backing = Some((next, protection, Privilege::User));
                self.regions.push(Region { kind, start, length, backing });
                next = next.offset(length);
            }
        }
        next
    }

    fn unmapped(&mut self, kind: RegionKind, start: Gva, length: u64) {
        self.regions.push(Region { kind, start, length, backing: None });
    }

    /// Every region.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// What page tables have to map.
    pub fn mappings(&self) -> Vec<Mapping> {
        let small = self.personality == Personality::Linux;
        self.regions.iter().filter_map(|region| region.mapping(small)).collect()
    }

    /// The region an address lies in.
    pub fn region_at(&self, address: u64) -> Option<&Region> {
        self.regions.iter().find(|region| {
            address.checked_sub(region.start.0).is_some_and(|into| into < region.length)
        })
    }

    /// Where an address that guest code may use lies in guest memory.
    pub fn translate(&self, address: u64) -> Option<Gpa> {
        let region = self.region_at(address)?;
        let (gpa, _, privilege) = region.backing?;
        (privilege == Privilege::User).then(|| gpa.offset(address - region.start.0))
    }

    /// The only region of a kind; for kinds of which there is exactly one.
    ///
    /// # Panics
    ///
    /// For a kind of which a layout has none.
    pub fn region(&self, kind: RegionKind) -> &Region {
        let found = self.regions.iter().find(|region| region.kind == kind);
        found.expect("every layout has one of these")
    }

    /// Guest-physical range of a mapped region of which there is exactly one.
    ///
    /// # Panics
    ///
    /// For a kind that is never mapped.
    pub fn memory(&self, kind: RegionKind) -> Range<u64> {
        let region = self.region(kind);
        let (gpa, ..) = region.backing.expect("a mapped kind");
        gpa.0..gpa.0 + region.length
    }

    /// Where the directories of the lent mappings' addresses lie: one page a GiB, the last page
    /// tables before the buffers.
    pub fn lent_tables(&self) -> Range<u64> {
        let pages = (LENT.end - LENT.start) / DIRECTORY_SPAN;
        self.lent_tables.0..self.lent_tables.0 + pages * PAGE_SIZE
    }

    /// Guest-physical memory that a Linux program's address space is made of, as it asks for it. Empty
    /// for others, which have a heap in its place.
    pub fn pool(&self) -> Range<u64> {
        self.pool.clone()
    }

    /// What the program takes for granted of whoever runs it.
    pub fn personality(&self) -> Personality {
        self.personality
    }

    /// The addresses from a Linux program's end to where its program break may go at most.
    pub fn program_break(&self, program: &Program) -> Range<u64> {
        let end = program.extent().end.wrapping_add(self.load_base);
        end..if self.load_base == 0 { PIE_START } else { ARENA }
    }

    /// The first byte of guest memory that the guest may write to, or the host in its name. What lies
    /// before it is the supervisor, the page tables and the program's code and constants; but the page
    /// tables of a Linux program change, and it can make anything of what it has.
    pub fn writable_from(&self) -> u64 {
        if self.personality == Personality::Linux {
            return 0;
        }
        let writable = |region: &Region| match region.backing {
            Some((gpa, Protection::ReadWrite, Privilege::User)) => Some(gpa.0),
            _ => None,
        };
        self.regions.iter().filter_map(writable).min().unwrap_or(self.size)
    }

    /// What is added to the program's addresses; wraps for a program that starts high.
    pub fn load_base(&self) -> u64 {
        self.load_base
    }

    /// Bytes of guest memory.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The limits it was made for.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::{SMALL, program};

    const LIMITS: Limits = Limits::DEFAULT;

    #[test]
    fn no_two_regions_overlap_in_either_address_space() {
        let program = program(&SMALL);
        for random in [0, 1, 12345, u64::MAX] {
            let layout = Layout::new(&program, LIMITS, random).unwrap();
            let mut virtual_ranges: Vec<_> =
                layout.regions().iter().map(|r| (r.start.0, r.end().0)).collect();
            let mut physical: Vec<_> = layout
                .mappings()
                .iter()
                .map(|mapping| (mapping.gpa.0, mapping.gpa.0 + mapping.length))
                .collect();
            for ranges in [&mut virtual_ranges, &mut physical] {
                ranges.sort_unstable();
                assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");
                assert!(ranges.iter().all(|(from, to)| from < to));
            }
            assert!(physical.last().unwrap().1 <= layout.size());
        }
    }

    #[test]
    fn the_load_address_of_a_pie_is_random_and_in_bounds() {
        let program = program(&SMALL);
        let base = |random| {
            let layout = Layout::new(&program, LIMITS, random).unwrap();
            layout.load_base() + program.extent().start
        };
        // Miri takes minutes for a thousand.
        let count = if cfg!(miri) { 10 } else { 1000 };
        let bases: std::collections::BTreeSet<u64> =
            (0..count).map(|n: u64| base(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        assert!(bases.len() as u64 * 100 > count * 99);
        assert!(bases.iter().all(|base| base % PAGE_SIZE == 0));
        assert!(*bases.first().unwrap() >= PIE_START && *bases.last().unwrap() < PIE_END);
    }

    #[test]
    fn the_default_layout_takes_few_tables() {
        let layout = Layout::new(&program(&SMALL), LIMITS, 7).unwrap();
        assert!(layout.table_pages <= 12, "{} tables", layout.table_pages);
    }

    #[test]
    fn zero_odd_and_enormous_limits_are_refused_by_name() {
        let check = |change: fn(&mut Limits)| {
            let mut limits = LIMITS;
            change(&mut limits);
            limits.check().unwrap_err().name
        };
        assert_eq!(check(|l| l.heap = 0), "the memory limit");
        assert_eq!(check(|l| l.heap = 65537), "the memory limit");
        assert_eq!(check(|l| l.heap = u64::MAX), "the memory limit");
        assert_eq!(check(|l| l.stack = 4097), "the stack size");
        assert_eq!(check(|l| l.stack = 1 << 40), "the stack size");
        assert_eq!(check(|l| l.incoming = 0), "the size of messages to the guest");
        assert_eq!(check(|l| l.outgoing = 100), "the size of messages to the host");
        assert!(LIMITS.check().is_ok() && Limits::MAX.check().is_ok());
    }

    #[test]
    fn the_largest_limits_fit_the_supervisors_table() {
        let layout = Layout::new(&program(&SMALL), Limits::MAX, 7).unwrap();
        assert!(layout.table_pages + 4 <= 512, "{} tables", layout.table_pages);
    }

    #[test]
    fn only_what_user_code_may_touch_translates() {
        let layout = Layout::new(&program(&SMALL), LIMITS, 7).unwrap();
        assert_eq!(layout.translate(0), None);
        assert_eq!(layout.translate(SUPERVISOR_CODE.0), None);
        assert_eq!(layout.translate(layout.region(RegionKind::StackGuard).start.0), None);
        let heap = layout.region(RegionKind::Heap);
        let gpa = layout.memory(RegionKind::Heap).start;
        assert_eq!(layout.translate(heap.start.0 + 5), Some(Gpa(gpa + 5)));
        assert_eq!(layout.translate(heap.end().0), None);
    }
}
