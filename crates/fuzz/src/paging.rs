//! The builder of page tables against the reference walker: what was asked for is walked to exactly the
//! right frame with exactly the right rights, nothing else is mapped, and what can't be is refused.

use glowbox_core::address::{Gpa, Gva, Protection};
use glowbox_core::paging::{
    Mapping, PagingError, Privilege, build, link_directories, map_large_read_only, table_pages,
};

use crate::input::Input;
use crate::walker::{self, NoPage, Rights, Stretch};

const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// Most mappings of one input.
const MOST: usize = 24;

/// Builds tables for the mappings that the bytes describe, and walks them.
///
/// # Panics
///
/// If the tables are not what was asked for.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    // Wherever the tables lie, but within what an entry can hold.
    let base = Gpa(u64::from(input.half()) * PAGE);
    let linked = input.byte();
    let mut mappings = Vec::new();
    while !input.is_empty() && mappings.len() < MOST {
        mappings.push(mapping(&mut input));
    }
    let fine = mappings.iter().all(is_possible);
    let counted = table_pages(&mappings);
    if !fine {
        assert!(counted.is_err(), "{mappings:x?}");
        let mut tables = vec![0xaa; 64 * 4096];
        assert!(build(&mappings, &mut tables, base).is_err(), "{mappings:x?}");
        return;
    }
    let pages = counted.expect("every mapping is possible");
    let mut tables = vec![0xaa; pages * 4096];
    match build(&mappings, &mut tables, base) {
        Ok(()) => {
            assert!(!overlap(&mappings), "{mappings:x?}");
            check(&mappings, &tables, base);
            too_few(&mappings, pages, base);
            link(&mappings, tables, base, linked);
        }
        Err(PagingError::Overlap { gva }) => {
            assert!(overlap(&mappings), "{gva} in {mappings:x?}");
        }
        Err(other) => panic!("{other}: {mappings:x?}"),
    }
}

/// A mapping, mostly one that can be: near borders of tables, and near the others.
fn mapping(input: &mut Input<'_>) -> Mapping {
    let flags = input.byte();
    let protection = match flags & 3 {
        0 => Protection::Read,
        1 => Protection::ReadExecute,
        _ => Protection::ReadWrite,
    };
    let privilege = if flags & 4 == 0 { Privilege::User } else { Privilege::Supervisor };
    let large = flags & 8 != 0;
    let unit = if flags & 16 == 0 { PAGE } else { LARGE };
    let length = u64::from(input.half() % 1100) * unit;
    // Small pages by the gigabyte would take the fuzzer's time.
    let few = length.min(6 * LARGE);
    let length = if large { length } else { few };
    let (gva, gpa) = match flags >> 5 {
        // Anything at all.
        0 => {
            return Mapping {
                gva: Gva(input.word()),
                gpa: Gpa(input.word()),
                length: few | u64::from(input.half() & 0xfff),
                protection,
                privilege,
                large,
            };
        }
        // In one phase, around the border of a table.
        1..4 => {
            let border = u64::from(input.half()) << 30;
            let before = u64::from(input.half()) * PAGE;
            (
                border.wrapping_sub(before) & 0x7fff_ffff_f000,
                u64::from(input.half()) * LARGE + (LARGE - before % LARGE),
            )
        }
        // The upper half of the addresses.
        4 => {
            (0xffff_8000_0000_0000 | u64::from(input.half()) << 21, u64::from(input.half()) * LARGE)
        }
        // Anywhere near the others.
        _ => (u64::from(input.half()) * PAGE, u64::from(input.half()) * PAGE),
    };
    let length = if (gva ^ gpa).is_multiple_of(LARGE) { length } else { few };
    Mapping { gva: Gva(gva), gpa: Gpa(gpa), length, protection, privilege, large }
}

/// Whether a mapping is whole pages of addresses that there are.
fn is_possible(mapping: &Mapping) -> bool {
    let Mapping { gva, gpa, length, .. } = *mapping;
    let whole = [gva.0, gpa.0, length].iter().all(|number| number % PAGE == 0);
    let Some(end) = gva.0.checked_add(length) else { return false };
    let half = |address: u64| match address >> 47 {
        0 => Some(false),
        0x1_ffff => Some(true),
        _ => None,
    };
    let last = end.saturating_sub(u64::from(length > 0));
    let canonical = half(gva.0).is_some() && half(gva.0) == half(last);
    let physical = gpa.0.checked_add(length).is_some_and(|end| end < 1 << 52);
    whole && canonical && physical
}

fn overlap(mappings: &[Mapping]) -> bool {
    let mut ranges: Vec<_> = mappings
        .iter()
        .filter(|mapping| mapping.length > 0)
        .map(|mapping| (mapping.gva.0, mapping.gva.0 + mapping.length))
        .collect();
    ranges.sort_unstable();
    ranges.windows(2).any(|pair| pair[0].1 > pair[1].0)
}

/// What the manual calls what was asked for.
pub(crate) fn stretch(mapping: &Mapping) -> Stretch {
    let rights = Rights {
        write: mapping.protection == Protection::ReadWrite,
        execute: mapping.protection == Protection::ReadExecute,
        user: mapping.privilege == Privilege::User,
    };
    Stretch { linear: mapping.gva.0, physical: mapping.gpa.0, length: mapping.length, rights }
}

/// Checks that page tables in `memory` map exactly these, and never have to be written by the CPU.
///
/// # Panics
///
/// If they do not.
pub(crate) fn exactly(mappings: &[Mapping], memory: walker::Memory<'_>, cr3: u64, tables: usize) {
    let leaves = walker::everything(memory, cr3, tables).expect("no reserved bits, all in memory");
    assert!(leaves.iter().all(|leaf| leaf.settled), "the CPU would write to a table");
    let mut asked: Vec<_> = mappings.iter().filter(|mapping| mapping.length > 0).collect();
    asked.sort_by_key(|mapping| mapping.gva);
    let expected = walker::joined(asked.iter().map(|mapping| stretch(mapping)));
    let found = walker::joined(leaves.iter().map(|leaf| Stretch::from(*leaf)));
    assert_eq!(found, expected, "{mappings:x?}");
    for leaf in leaves.iter().filter(|leaf| leaf.size > PAGE) {
        let of = asked.iter().rfind(|mapping| mapping.gva.0 <= leaf.linear);
        assert!(of.is_some_and(|mapping| mapping.large), "a large page at {:#x}", leaf.linear);
        assert_eq!(leaf.size, LARGE);
    }
    for mapping in &asked {
        edges(mapping, &expected, memory, cr3);
    }
}

/// Walks to the edges of a mapping, one address after the other.
fn edges(mapping: &Mapping, expected: &[Stretch], memory: walker::Memory<'_>, cr3: u64) {
    let (start, end) = (mapping.gva.0, mapping.gva.0.wrapping_add(mapping.length));
    for address in [start.wrapping_sub(1), start, start + mapping.length / 2, end - 1, end] {
        let by = expected.iter().find(|stretch| {
            address.checked_sub(stretch.linear).is_some_and(|into| into < stretch.length)
        });
        match (walker::walk(memory, cr3, address), by) {
            (Ok(leaf), Some(stretch)) => {
                let physical = leaf.frame + (address - leaf.linear);
                assert_eq!(physical, stretch.physical + (address - stretch.linear));
                assert_eq!(leaf.rights, stretch.rights);
            }
            (Err(NoPage::NotPresent | NoPage::NotCanonical), None) => {}
            (found, by) => panic!("{address:#x} leads to {found:x?}, not {by:x?}"),
        }
    }
}

/// Memory in which tables lie at a base and there is nothing else.
fn memory_of(tables: &[u8], base: Gpa) -> impl Fn(u64) -> Option<u64> {
    move |address| {
        let at = usize::try_from(address.checked_sub(base.0)?).ok()?;
        tables.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

fn check(mappings: &[Mapping], tables: &[u8], base: Gpa) {
    exactly(mappings, &memory_of(tables, base), base.0, tables.len() / 4096);
}

/// The number of tables is exact: with one fewer there is an error.
fn too_few(mappings: &[Mapping], pages: usize, base: Gpa) {
    let mut tables = vec![0; (pages - 1) * 4096];
    let error = build(mappings, &mut tables, base);
    assert_eq!(error, Err(PagingError::Full { pages: pages - 1 }));
}

/// Hangs directories for lent memory into the tables, and maps some in them.
fn link(mappings: &[Mapping], tables: Vec<u8>, base: Gpa, choice: u8) {
    let first = u64::from(choice >> 2) * GIB;
    let count = u64::from(choice & 3) + 1;
    let pages = tables.len() / 4096;
    // Behind the tables, so that the walker finds all in one piece.
    let mut memory = tables;
    let directories = base.0 + memory.len() as u64;
    let range = directories..directories + count * PAGE;
    let linked = link_directories(&mut memory, base, Gva(first), range);
    let taken = mappings.iter().any(|mapping| {
        let end = mapping.gva.0.saturating_add(mapping.length);
        mapping.length > 0 && mapping.gva.0 < first + count * GIB && end > first
    });
    let below = |mapping: &&Mapping| mapping.length > 0 && mapping.gva.0 < 512 * GIB;
    match linked {
        Ok(()) => assert!(!taken, "{mappings:x?} at {first:#x}"),
        Err(PagingError::Overlap { .. }) => return assert!(taken, "{mappings:x?} at {first:#x}"),
        Err(_) => return assert_eq!(mappings.iter().find(below), None, "no level above"),
    }
    memory.resize((pages + usize::from(choice & 3) + 1) * 4096, 0);
    let lent = Gpa(u64::from(choice) * LARGE);
    let index = usize::from(choice) * 3 % (512 * (usize::from(choice & 3) + 1));
    map_large_read_only(&mut memory[pages * 4096..], index, lent);
    let mut all = mappings.to_vec();
    all.push(Mapping {
        gva: Gva(first + index as u64 * LARGE),
        gpa: lent,
        length: LARGE,
        protection: Protection::Read,
        privilege: Privilege::User,
        large: true,
    });
    check(&all, &memory, base);
}
