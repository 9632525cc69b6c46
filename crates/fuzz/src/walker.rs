//! A reference for page tables: what a CPU makes of them, written from the manual and from nothing else.
//!
//! Intel SDM, volume 3A, chapter 4: 4.5 (4-level paging), 4.6 (access rights), 4.7 (reserved bits). No
//! constant and no code of `glowbox_core::paging` is used here, so that a mistake there is not made twice.

/// What user code and the supervisor may do with a page, in all levels together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights {
    /// R/W is set on every level.
    pub(crate) write: bool,
    /// U/S is set on every level.
    pub(crate) user: bool,
    /// XD is set on no level.
    pub(crate) execute: bool,
}

/// Where linear addresses lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The first linear address; of a whole page.
    pub(crate) linear: u64,
    /// The first byte of the page frame.
    pub(crate) frame: u64,
    /// Bytes: 4 KiB, 2 MiB or 1 GiB.
    pub(crate) size: u64,
    /// In all levels together.
    pub(crate) rights: Rights,
    /// Whether the CPU would have to write to a table when the page is used as its rights allow.
    pub(crate) settled: bool,
}

/// Why an address leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPage {
    /// Bits 63 to 47 are not all the same.
    NotCanonical,
    /// The P flag is 0 on some level.
    NotPresent,
    /// A reserved bit is set.
    Reserved,
    /// A table lies where there is no memory.
    Outside,
}

/// Physical memory, as the walker reads it: eight bytes at an address that is a multiple of eight.
pub(crate) type Memory<'a> = &'a dyn Fn(u64) -> Option<u64>;

const P: u64 = 0x1;
const RW: u64 = 0x2;
const US: u64 = 0x4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const XD: u64 = 0x8000_0000_0000_0000;
/// Bits 51 to 12: MAXPHYADDR is taken to be 52, the most there is.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// One step down: what an entry on a level (4 is the root's) says.
enum Step {
    Table(u64),
    Page { frame: u64, size: u64 },
}

fn step(entry: u64, level: u32) -> Result<Step, NoPage> {
    if entry & P == 0 {
        return Err(NoPage::NotPresent);
    }
    match level {
        // Table 4-15: bit 7 of a PML4E is reserved.
        4 if entry & PS != 0 => Err(NoPage::Reserved),
        // Table 4-16: a 1-GByte page; bits 29:13 are reserved (12 is PAT).
        3 if entry & PS != 0 => match entry & 0x3fff_e000 {
            0 => Ok(Step::Page { frame: entry & FRAME & !0x3fff_ffff, size: 1 << 30 }),
            _ => Err(NoPage::Reserved),
        },
        // Table 4-18: a 2-MByte page; bits 20:13 are reserved (12 is PAT).
        2 if entry & PS != 0 => match entry & 0x1f_e000 {
            0 => Ok(Step::Page { frame: entry & FRAME & !0x1f_ffff, size: 1 << 21 }),
            _ => Err(NoPage::Reserved),
        },
        1 => Ok(Step::Page { frame: entry & FRAME, size: 1 << 12 }),
        _ => Ok(Step::Table(entry & FRAME)),
    }
}

#[derive(Clone, Copy)]
struct Gathered {
    rights: Rights,
    accessed: bool,
}

impl Gathered {
    const ALL: Gathered =
        Gathered { rights: Rights { write: true, user: true, execute: true }, accessed: true };

    fn with(self, entry: u64) -> Gathered {
        Gathered {
            rights: Rights {
                write: self.rights.write && entry & RW != 0,
                user: self.rights.user && entry & US != 0,
                execute: self.rights.execute && entry & XD == 0,
            },
            accessed: self.accessed && entry & A != 0,
        }
    }

    fn leaf(self, entry: u64, linear: u64, frame: u64, size: u64) -> Leaf {
        let settled = self.accessed && (entry & D != 0 || !self.rights.write);
        Leaf { linear, frame, size, rights: self.rights, settled }
    }
}

/// Translates one linear address: the page that it lies in.
pub(crate) fn walk(memory: Memory<'_>, cr3: u64, linear: u64) -> Result<Leaf, NoPage> {
    let high = linear >> 47;
    if high != 0 && high != 0x1_ffff {
        return Err(NoPage::NotCanonical);
    }
    let mut table = cr3 & FRAME;
    let mut gathered = Gathered::ALL;
    for (level, lowest_bit) in [(4, 39), (3, 30), (2, 21), (1, 12)] {
        let entry = memory(table + 8 * (linear >> lowest_bit & 511)).ok_or(NoPage::Outside)?;
        gathered = gathered.with(entry);
        match step(entry, level)? {
            Step::Table(next) => table = next,
            Step::Page { frame, size } => {
                return Ok(gathered.leaf(entry, linear & !(size - 1), frame, size));
            }
        }
    }
    unreachable!("an entry of the lowest level leads to a page")
}

/// Everything that is mapped, by ascending linear address. The tables must be a tree of at most `tables`.
pub(crate) fn everything(memory: Memory<'_>, cr3: u64, tables: usize) -> Result<Vec<Leaf>, NoPage> {
    let mut all = All { memory, left: tables, leaves: Vec::new() };
    all.table(cr3 & FRAME, 4, 0, Gathered::ALL)?;
    Ok(all.leaves)
}

struct All<'a> {
    memory: Memory<'a>,
    left: usize,
    leaves: Vec<Leaf>,
}

impl All<'_> {
    fn table(&mut self, at: u64, level: u32, linear: u64, above: Gathered) -> Result<(), NoPage> {
        self.left = self.left.checked_sub(1).expect("there are more tables than were counted");
        let span = 1u64 << (12 + 9 * (level - 1));
        for index in 0..512 {
            let entry = (self.memory)(at + 8 * index).ok_or(NoPage::Outside)?;
            if entry == 0 {
                continue;
            }
            let mut linear = linear + index * span;
            if level == 4 && index >= 256 {
                // The upper half of the canonical addresses.
                linear |= 0xffff_0000_0000_0000;
            }
            let gathered = above.with(entry);
            match step(entry, level) {
                Ok(Step::Table(next)) => self.table(next, level - 1, linear, gathered)?,
                Ok(Step::Page { frame, size }) => {
                    self.leaves.push(gathered.leaf(entry, linear, frame, size));
                }
                Err(NoPage::NotPresent) => panic!("an entry that is not present holds {entry:#x}"),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}

/// A stretch of addresses with one right, as long as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) linear: u64,
    pub(crate) physical: u64,
    pub(crate) length: u64,
    pub(crate) rights: Rights,
}

/// Joins what adjoins, so that two descriptions of one mapping are equal. They must ascend.
pub(crate) fn joined(stretches: impl IntoIterator<Item = Stretch>) -> Vec<Stretch> {
    let mut joined: Vec<Stretch> = Vec::new();
    for next in stretches {
        match joined.last_mut() {
            Some(last)
                if last.linear + last.length == next.linear
                    && last.physical + last.length == next.physical
                    && last.rights == next.rights =>
            {
                last.length += next.length;
            }
            _ => joined.push(next),
        }
    }
    joined
}

impl From<Leaf> for Stretch {
    fn from(leaf: Leaf) -> Stretch {
        let Leaf { linear, frame, size, rights, .. } = leaf;
        Stretch { linear, physical: frame, length: size, rights }
    }
}
