//! Which pages of a mapping are private: written, and so no longer the image's or zero.
//!
//! The kernel knows. A page of a private mapping that has been written, by the host or by a guest, is
//! an anonymous page, or has been swapped out as one; a page that has only been read is a page of
//! the file, or the page of zeros. Linux 6.7 and later are asked by `PAGEMAP_SCAN`, which gives
//! ranges and passes over what is not there; older ones by reading `/proc/self/pagemap`, eight bytes
//! a page, which takes time in proportion to the window's size. Where there is neither (no /proc),
//! nothing is known, and the caller has to start afresh.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::{GuestMemory, LARGE_PAGE, PAGE, append};

/// `struct page_region` of the kernel's interface.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of the kernel's interface.
#[repr(C)]
#[derive(Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any_of_mask: u64,
    return_mask: u64,
}

/// The request that finds them: `_IOWR('f', 16, struct pm_scan_arg)`.
pub const PAGEMAP_SCAN: libc::c_ulong = 3 << 30
    | (size_of::<ScanArguments>() as libc::c_ulong) << 16
    | (b'f' as libc::c_ulong) << 8
    | 16;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_ZERO: u64 = 1 << 5;

/// Ranges that one request asks for.
const BATCH: usize = 64;

/// Bits of an entry of `/proc/self/pagemap`.
const ENTRY_FILE: u64 = 1 << 61;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_PRESENT: u64 = 1 << 63;
/// Entries read at once.
const ENTRIES: usize = 8192;

/// Set when the kernel has turned out not to know `PAGEMAP_SCAN`.
static NO_SCAN: AtomicBool = AtomicBool::new(false);

/// Whether the kernel is asked by `PAGEMAP_SCAN`, for all that is known.
pub(crate) fn scans() -> bool {
    !NO_SCAN.load(Ordering::Relaxed)
}

/// Finds the private pages among those from `first` to the end of `memory`, and writes them to
/// `found` as ascending ranges of page numbers.
///
/// The page of zeros stands for a page that has only been read; but the kernel may also put it where
/// a page full of zeros has been written. So it counts as private where `was_not_zero` says that
/// something else was before.
pub(crate) fn find(
    memory: &[u8],
    first: usize,
    was_not_zero: impl Fn(usize) -> bool,
    found: &mut Vec<Range<usize>>,
) -> io::Result<()> {
    found.clear();
    let pagemap = pagemap()?;
    if scans() {
        match scan(pagemap, memory, first, was_not_zero, found) {
            // Also EINVAL: a kernel that knows the request but not these categories.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOTTY | libc::EINVAL | libc::EPERM)
                ) =>
            {
                NO_SCAN.store(true, Ordering::Relaxed);
                found.clear();
            }
            done => return done,
        }
    }
    read_entries(pagemap, memory, first, found)
}

/// How this system tells which pages have been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// By `PAGEMAP_SCAN` (Linux 6.7): in time that depends on what was written.
    Scan,
    /// By `/proc/self/pagemap`: in time that depends on how much memory the guest may have.
    Entries,
    /// Not at all: what a guest has used is thrown away at each reset.
    Unknown,
}

/// Finds out how this system tells which pages have been written.
pub fn tracking() -> Tracking {
    let Ok(memory) = GuestMemory::new(LARGE_PAGE as u64) else { return Tracking::Unknown };
    match find(memory.bytes(), 0, |_| false, &mut Vec::new()) {
        Err(_) => Tracking::Unknown,
        Ok(()) if NO_SCAN.load(Ordering::Relaxed) => Tracking::Entries,
        Ok(()) => Tracking::Scan,
    }
}

/// This process's page map, which stays open. It describes the process that opened it, whoever asks:
/// a fork opens another one. Without a lock, which a fork might inherit locked.
fn pagemap() -> io::Result<&'static File> {
    static PAGEMAP: AtomicPtr<(u32, File)> = AtomicPtr::new(ptr::null_mut());
    let process = std::process::id();
    let known = PAGEMAP.load(Ordering::Acquire);
    // SAFETY: null, or what was stored below, which is never freed.
    if let Some((owner, file)) = unsafe { known.as_ref() }
        && *owner == process
    {
        return Ok(file);
    }
    let opened = Box::into_raw(Box::new((process, File::open("/proc/self/pagemap")?)));
    match PAGEMAP.compare_exchange(known, opened, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: just made, and never freed from now on. There is one for each fork in a line.
        Ok(_) => Ok(unsafe { &(*opened).1 }),
        Err(others) => {
            // SAFETY: just made, and nobody else has seen it.
            drop(unsafe { Box::from_raw(opened) });
            // SAFETY: another thread of this process has stored it; never freed.
            Ok(unsafe { &(*others).1 })
        }
    }
}

fn scan(
    pagemap: &File,
    memory: &[u8],
    first: usize,
    was_not_zero: impl Fn(usize) -> bool,
    found: &mut Vec<Range<usize>>,
) -> io::Result<()> {
    let base = memory.as_ptr().addr();
    let end = (base + memory.len()) as u64;
    let mut regions = [PageRegion::default(); BATCH];
    let mut arguments = ScanArguments {
        size: size_of::<ScanArguments>() as u64,
        start: (base + first * PAGE) as u64,
        end,
        regions: regions.as_mut_ptr().expose_provenance() as u64,
        regions_length: BATCH as u64,
        // Not a file's page, and there, in memory or in swap; and whether it is the page of zeros.
        category_inverted: PAGE_IS_FILE,
        category_mask: PAGE_IS_FILE,
        category_any_of_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_ZERO,
        ..ScanArguments::default()
    };
    while arguments.start < end {
        // SAFETY: the arguments live on this stack and have the kernel's layout; the kernel writes
        // at most `regions_length` regions to `regions`, which lives as long, and the field
        // `walk_end`. It reads page tables only, and changes nothing about the pages (flags is 0).
        let count = unsafe {
            libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, std::ptr::from_mut(&mut arguments))
        };
        let Ok(count) = usize::try_from(count) else {
            return Err(io::Error::last_os_error());
        };
        for region in &regions[..count.min(BATCH)] {
            let page =
                |address: u64| usize::try_from(address).unwrap_or(0).wrapping_sub(base) / PAGE;
            let pages = page(region.start)..page(region.end);
            if region.categories & PAGE_IS_ZERO == 0 {
                append(found, pages);
            } else {
                pages.filter(|page| was_not_zero(*page)).for_each(|p| append(found, p..p + 1));
            }
        }
        if arguments.walk_end <= arguments.start {
            return Err(io::Error::other("PAGEMAP_SCAN does not come on"));
        }
        arguments.start = arguments.walk_end;
    }
    Ok(())
}

fn read_entries(
    pagemap: &File,
    memory: &[u8],
    first: usize,
    found: &mut Vec<Range<usize>>,
) -> io::Result<()> {
    let base = memory.as_ptr().addr() / PAGE;
    let pages = memory.len() / PAGE;
    let mut bytes = vec![0; ENTRIES.min(pages - first.min(pages)) * 8];
    let mut page = first;
    while page < pages {
        let part = &mut bytes[..(pages - page).min(ENTRIES) * 8];
        pagemap.read_exact_at(part, ((base + page) * 8) as u64)?;
        let (entries, _) = part.as_chunks();
        for entry in entries {
            let entry = u64::from_le_bytes(*entry);
            let present = entry & ENTRY_PRESENT != 0 && entry & ENTRY_FILE == 0;
            if present || entry & ENTRY_SWAPPED != 0 {
                append(found, page..page + 1);
            }
            page += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both ways say of memory that is written here and there.
    #[test]
    fn both_ways_find_the_same_pages_and_reading_is_no_writing() {
        let mut memory = GuestMemory::new(64 << 20).unwrap();
        for page in [0, 1, 2, 100, 511, 512, 513, 9000, 16383] {
            memory.bytes_mut()[page * PAGE + 17] = 1;
        }
        assert_eq!(memory.bytes()[200 * PAGE], 0);
        let expected = [0..3, 100..101, 511..514, 9000..9001, 16383..16384];
        let file = pagemap().unwrap();
        let mut found = Vec::new();
        match scan(file, memory.bytes(), 0, |_| false, &mut found) {
            Ok(()) => assert_eq!(found, expected),
            Err(error) => eprintln!("left out: this kernel has no PAGEMAP_SCAN: {error}"),
        }
        found.clear();
        read_entries(file, memory.bytes(), 0, &mut found).unwrap();
        // The old way can't tell the page of zeros.
        found.retain(|pages| *pages != (200..201));
        assert_eq!(found, expected);
        find(memory.bytes(), 101, |_| false, &mut found).unwrap();
        found.retain(|pages| *pages != (200..201));
        assert_eq!(found, expected[2..]);
    }

    #[test]
    fn what_the_system_can_do_is_what_is_then_done() {
        let memory = GuestMemory::new(64 << 10).unwrap();
        let file = pagemap().unwrap();
        let by_scan = scan(file, memory.bytes(), 0, |_| false, &mut Vec::new()).is_ok();
        assert_eq!(tracking(), if by_scan { Tracking::Scan } else { Tracking::Entries });
    }

    #[test]
    fn more_ranges_than_one_request_gives_are_all_found() {
        let mut memory = GuestMemory::new(16 << 20).unwrap();
        let written: Vec<usize> = (0..1000).map(|index| index * 3).collect();
        for page in &written {
            memory.bytes_mut()[page * PAGE] = 1;
        }
        let mut found = Vec::new();
        find(memory.bytes(), 0, |_| false, &mut found).unwrap();
        let expected: Vec<_> = written.iter().map(|page| *page..page + 1).collect();
        assert_eq!(found, expected);
    }
}
