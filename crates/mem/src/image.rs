//! Images: what guest memory is filled from and goes back to.
//!
//! An image holds the pages of a memory that are not zero, as runs of pages that follow each other.
//! It never changes. Usually it lies in a memfd that is sealed against every change, or in a file
//! that was saved; then windows map it, and share its pages. A small one, of what a guest had written
//! when it had started, may lie in ordinary memory.
//!
//! A file on disk can be cut short by anyone who may write to it, and reading a mapped page that is
//! gone ends the process. So the pages of such an image are read by system calls, which return an
//! error instead.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dumps;
use crate::memfd::{make_final, memfd};
use crate::restore::WRITTEN;
use crate::{GuestMemory, PAGE, append};

/// Most runs of an image that are mapped. Each is a mapping of its own in every window, as is the gap
/// behind it, and a process has 65,530 mappings. The smaller runs of an image that has more are
/// copied.
const MAX_MAPPED: usize = 64;
/// Pages in the largest gap between two runs that are made one: the first of these with which no more
/// than [`MAX_COPIED`] pages are in runs that are not mapped, or the last. The pages of a gap take no
/// space in the image until they are read, but then they do, for good. No layout has a gap this small
/// around what a snapshot leaves out.
const MAX_GAPS: [usize; 3] = [4, 16, 64];
/// Pages that each window of an image may have to copy, before larger gaps are bridged.
const MAX_COPIED: usize = 1024;
/// How often pages that were not written before are found written until they count as learned.
const LEARNED: u8 = 2;
/// Highest count: how often a learned page may turn out not to be needed before it is forgotten.
const MOST: u8 = 4;

/// Pages of memory that follow each other, and where they stand in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first page in memory.
    pub first: usize,
    /// How many pages.
    pub count: usize,
    /// Number of the first page in the image.
    pub at: usize,
}

/// An immutable image of a guest's memory.
#[derive(Debug)]
pub struct Image {
    runs: Vec<Run>,
    /// The runs that are mapped into windows, by their first pages, ascending. Others are copied.
    mapped: Vec<usize>,
    storage: Storage,
    /// Pages that windows of this image have turned out to write, and how often.
    learned: Mutex<BTreeMap<usize, u8>>,
}

#[derive(Debug)]
enum Storage {
    /// Small, and never mapped.
    Bytes(View),
    /// A sealed memfd, and a view of it.
    Memfd { file: File, view: View },
    /// A file on disk, and where the image starts in it.
    File { file: File, offset: u64 },
}

/// A mapping that nobody writes any more: of a sealed memfd, or of pages of its own.
#[derive(Debug)]
struct View {
    base: NonNull<u8>,
    size: usize,
}

/// An image could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed")]
pub struct CaptureError {
    /// What was being done.
    pub step: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> CaptureError {
    move |source| CaptureError { step, source }
}

// SAFETY: the view is a mapping that is only ever read, of what can't change.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// A view of a sealed file; `dumped`: whether core dumps have it.
    fn of_file(file: &File, size: usize, dumped: bool) -> io::Result<View> {
        View::map(libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), size, dumped)
    }

    /// Copies pieces of memory, one behind the other, into pages of their own.
    fn copy_of<'a>(
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
        dumped: bool,
    ) -> io::Result<View> {
        let size = pieces.clone().map(<[u8]>::len).sum();
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let view = View::map(protection, flags, -1, size, dumped)?;
        let mut at = 0;
        for piece in pieces {
            // SAFETY: the mapping has room for all pieces and is nobody else's yet.
            unsafe {
                let to = view.base.as_ptr().add(at);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len());
            }
            at += piece.len();
        }
        Ok(view)
    }

    fn map(
        protection: libc::c_int,
        flags: libc::c_int,
        file: RawFd,
        size: usize,
        dumped: bool,
    ) -> io::Result<View> {
        // An image of nothing still has a page, so that there is something to map.
        let size = size.max(PAGE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, file, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        let view = View { base, size };
        if !dumped {
            dumps::leave_out(base, size)?;
        }
        Ok(view)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping made in `map`, which nobody writes any more: pages of its own, or of a file
        // that has at least this size and is sealed against shrinking and writing.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.size) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, which nobody borrows any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.size) };
    }
}

impl Image {
    fn new(runs: Vec<Run>, storage: Storage) -> Image {
        let mapped = match &storage {
            Storage::Bytes(_) => Vec::new(),
            _ => largest(&runs),
        };
        Image { runs, mapped, storage, learned: Mutex::new(BTreeMap::new()) }
    }

    /// Whether one of its runs is mapped into windows. Others are copied.
    pub(crate) fn is_mapped(&self, run: Run) -> bool {
        self.mapped.binary_search(&run.first).is_ok()
    }

    /// An image in a file on disk, from `offset` on, which must be a multiple of the page size.
    /// The file is mapped, not read.
    ///
    /// # Errors
    ///
    /// If the runs are not ascending, or do not follow each other in the image, or are too many, or
    /// the file is too short for them.
    pub fn in_file(file: File, offset: u64, runs: Vec<Run>) -> io::Result<Image> {
        let invalid = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        let (mut next, mut at) = (0, 0);
        for run in &runs {
            let end = run.first.checked_add(run.count);
            let (Some(end), true) = (end, run.first >= next && run.count > 0 && run.at == at)
            else {
                return invalid("the image's runs are not in order");
            };
            // Neither can overflow where the memory's pages have byte addresses.
            if end > usize::MAX / PAGE {
                return invalid("the image's runs lie beyond any memory");
            }
            (next, at) = (end, at + run.count);
        }
        let needed = offset.checked_add((at * PAGE) as u64);
        if !offset.is_multiple_of(PAGE as u64)
            || needed.is_none_or(|needed| needed > i64::MAX as u64)
        {
            return invalid("the image does not start at a page");
        }
        if file.metadata()?.len() < needed.unwrap_or(u64::MAX) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Image::new(runs, Storage::File { file, offset }))
    }

    /// Whether one of its runs has this page of memory.
    pub(crate) fn has(&self, page: usize) -> bool {
        let next = self.runs.partition_point(|run| run.first <= page);
        next > 0 && page < self.runs[next - 1].first + self.runs[next - 1].count
    }

    /// The runs, ascending.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Pages in it.
    pub fn pages(&self) -> usize {
        self.runs.last().map_or(0, |run| run.at + run.count)
    }

    /// Its file and where it starts in it, for mapping.
    pub(crate) fn file(&self) -> Option<(RawFd, u64)> {
        match &self.storage {
            Storage::Bytes(_) => None,
            Storage::Memfd { file, .. } => Some((file.as_raw_fd(), 0)),
            Storage::File { file, offset } => Some((file.as_raw_fd(), *offset)),
        }
    }

    /// Whether it lies in a file that others may cut short.
    pub fn may_shrink(&self) -> bool {
        matches!(self.storage, Storage::File { .. })
    }

    /// Reads pages from the image's page `at` on.
    ///
    /// # Errors
    ///
    /// If its file can't be read, or has become too short.
    ///
    /// # Panics
    ///
    /// If the image has fewer pages.
    pub fn read(&self, at: usize, pages: &mut [u8]) -> io::Result<()> {
        let start = at * PAGE;
        match &self.storage {
            Storage::Bytes(view) => {
                pages.copy_from_slice(&view.bytes()[start..start + pages.len()]);
            }
            // Not from the view, which would make pages of the gaps between runs.
            Storage::Memfd { file, .. } => file.read_exact_at(pages, start as u64)?,
            Storage::File { file, offset } => file.read_exact_at(pages, offset + start as u64)?,
        }
        Ok(())
    }

    /// One of its pages; `space` is for images that have to be read.
    pub(crate) fn page<'a>(
        &'a self,
        at: usize,
        space: &'a mut Option<Box<[u8; PAGE]>>,
    ) -> io::Result<&'a [u8]> {
        let range = at * PAGE..(at + 1) * PAGE;
        match &self.storage {
            Storage::Bytes(view) | Storage::Memfd { view, .. } => Ok(&view.bytes()[range]),
            Storage::File { .. } => {
                let space = space.get_or_insert_with(|| Box::new([0; PAGE]));
                self.read(at, &mut space[..])?;
                Ok(&space[..])
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, u8>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether too little is known of what its windows write.
    pub fn is_unlearned(&self) -> bool {
        self.lock().values().all(|count| *count < LEARNED)
    }

    /// Notes that pages were written for the first time in a window.
    pub(crate) fn learn(&self, pages: &[usize]) {
        let mut learned = self.lock();
        for page in pages {
            let count = learned.entry(*page).or_default();
            *count = (*count + 1).min(MOST);
        }
    }

    /// Notes that a window has dropped pages that it had long not written.
    pub(crate) fn unlearn(&self, pages: Range<usize>) {
        let mut learned = self.lock();
        for page in pages {
            if let Some(count) = learned.get_mut(&page) {
                *count -= 1;
                if *count == 0 {
                    learned.remove(&page);
                }
            }
        }
    }

    /// The pages that windows of this image keep writing, as ranges.
    pub fn learned(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (page, _) in self.lock().iter().filter(|(_, count)| **count >= LEARNED) {
            append(&mut ranges, *page..page + 1);
        }
        ranges
    }
}

impl GuestMemory {
    /// Remembers what is in memory from byte `from` on, as what [`GuestMemory::restore`] goes back
    /// to. The cheap way, for memory whose pages are few and not to be shared.
    ///
    /// # Errors
    ///
    /// [`CaptureError`] if the system does not say which pages have been written.
    pub fn remember(&mut self, from: usize) -> Result<(), CaptureError> {
        let mut found = std::mem::take(&mut self.found);
        self.find_written(from / PAGE, |_| false, &mut found).map_err(failed("finding pages"))?;
        let mut runs: Vec<Run> = Vec::new();
        let mut at = 0;
        for pages in &found {
            runs.push(Run { first: pages.start, count: pages.len(), at });
            at += pages.len();
        }
        let memory = self.bytes();
        let pieces = found.iter().map(|pages| &memory[pages.start * PAGE..pages.end * PAGE]);
        let view = View::copy_of(pieces, self.dumped).map_err(failed("copying pages"))?;
        self.found = found;
        self.note_found();
        self.image = Some(Arc::new(Image::new(runs, Storage::Bytes(view))));
        Ok(())
    }

    /// Makes an image, in a memfd, of all that is in memory now but the ranges of bytes to
    /// `leave_out`, which it takes as zero. Memory goes back to that image from now on.
    ///
    /// It takes time in proportion to the pages that are not zero.
    ///
    /// # Errors
    ///
    /// [`CaptureError`].
    pub fn capture(&mut self, leave_out: &[Range<usize>]) -> Result<Arc<Image>, CaptureError> {
        let pages = self.pages_to_capture(leave_out)?;
        let runs = few_runs(&pages);
        let count = runs.last().map_or(0, |run| run.at + run.count);
        let file = memfd(c"glowbox-image", false).map_err(failed("making a memfd"))?;
        file.set_len((count.max(1) * PAGE) as u64).map_err(failed("sizing a memfd"))?;
        let mut run = runs.iter();
        let mut current = Run { first: 0, count: 0, at: 0 };
        for part in &pages {
            while current.first + current.count <= part.start {
                current = *run.next().expect("every page lies in a run");
            }
            let at = (current.at + part.start - current.first) * PAGE;
            let bytes = &self.bytes()[part.start * PAGE..part.end * PAGE];
            // By a system call: pages of a file that has been cut short are an error then.
            file.write_all_at(bytes, at as u64).map_err(failed("writing an image"))?;
        }
        make_final(&file).map_err(failed("sealing a memfd"))?;
        let view =
            View::of_file(&file, count * PAGE, self.dumped).map_err(failed("mapping a memfd"))?;
        let image = Arc::new(Image::new(runs, Storage::Memfd { file, view }));
        self.image = Some(Arc::clone(&image));
        // Private pages stay private, and none is news to the image.
        self.note_found();
        Ok(image)
    }

    /// Notes the pages that have been found as private.
    fn note_found(&mut self) {
        self.restored_at = None;
        // It is part of what memory goes back to from now on.
        self.revealed.clear();
        let pages = self.found.iter().flat_map(Clone::clone);
        self.notes = pages.map(|page| (page, WRITTEN)).collect();
    }

    /// The pages that are not zero, as ascending ranges.
    fn pages_to_capture(
        &mut self,
        leave_out: &[Range<usize>],
    ) -> Result<Vec<Range<usize>>, CaptureError> {
        let mut found = std::mem::take(&mut self.found);
        let known = self.find_written(0, |_| false, &mut found).is_ok();
        if !known {
            // The system does not say: any page may have been written.
            found.clear();
            found.push(0..self.size / PAGE);
        }
        let mut pages = Vec::new();
        let left_out = |page: usize| leave_out.iter().any(|range| range.contains(&(page * PAGE)));
        // What is shared may have gone from its file, and is not looked at here.
        let from_file = self.mapped.as_ref().filter(|image| image.may_shrink() && !known);
        let may_be_gone = |page| from_file.is_some_and(|image| image.has(page));
        let zero = |page: usize| {
            !may_be_gone(page) && self.bytes()[page * PAGE..(page + 1) * PAGE] == [0; PAGE]
        };
        // Of the image that is mapped, what has not been written: no need to look into it.
        let shared = self.mapped.iter().flat_map(|image| image.runs());
        pages.extend(shared.flat_map(|run| run.first..run.first + run.count));
        let private: Vec<usize> = found.iter().flat_map(Clone::clone).collect();
        let keep_shared = |page: &usize| private.binary_search(page).is_err() && !left_out(*page);
        pages.retain(keep_shared);
        pages.extend(private.iter().filter(|page| !left_out(**page) && !zero(**page)));
        pages.sort_unstable();
        self.found = found;
        let mut ranges: Vec<Range<usize>> = Vec::new();
        pages.into_iter().for_each(|page| append(&mut ranges, page..page + 1));
        Ok(ranges)
    }
}

/// Groups ranges of pages into runs, over gaps of up to so many pages.
fn runs(pages: &[Range<usize>], gap: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for part in pages {
        match runs.last_mut() {
            Some(last) if part.start - (last.first + last.count) <= gap => {
                last.count = part.end - last.first;
            }
            last => {
                let at = last.map_or(0, |last| last.at + last.count);
                runs.push(Run { first: part.start, count: part.len(), at });
            }
        }
    }
    runs
}

/// The first pages of the largest runs, ascending, at most [`MAX_MAPPED`].
fn largest(runs: &[Run]) -> Vec<usize> {
    let mut by_size: Vec<Run> = runs.to_vec();
    by_size.sort_by_key(|run| std::cmp::Reverse(run.count));
    by_size.truncate(MAX_MAPPED);
    let mut first: Vec<usize> = by_size.iter().map(|run| run.first).collect();
    first.sort_unstable();
    first
}

/// Groups pages as [`runs`] does, over the smallest gaps for which little is left to be copied.
fn few_runs(pages: &[Range<usize>]) -> Vec<Run> {
    let copied = |runs: &[Run]| {
        let mapped = largest(runs);
        let copied = runs.iter().filter(|run| mapped.binary_search(&run.first).is_err());
        copied.map(|run| run.count).sum::<usize>()
    };
    let mut grouped = Vec::new();
    for gap in MAX_GAPS {
        grouped = runs(pages, gap);
        if copied(&grouped) <= MAX_COPIED {
            break;
        }
    }
    grouped
}

/// Copies bytes of which some may not be there; `None` then.
pub(crate) fn through_pipe(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut reader, writer) = io::pipe().ok()?;
    let mut copy = vec![0; bytes.len()];
    // A page at a time, which a pipe always has room for.
    for (from, to) in bytes.chunks(PAGE).zip(copy.chunks_mut(PAGE)) {
        // SAFETY: the bytes are mapped; if what they are mapped from is gone, the call fails.
        let count = unsafe { libc::write(writer.as_raw_fd(), from.as_ptr().cast(), from.len()) };
        if usize::try_from(count) != Ok(from.len()) {
            return None;
        }
        reader.read_exact(to).ok()?;
    }
    Some(copy)
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn an_image_is_sealed_though_others_hold_its_pages() {
        let file = memfd(c"glowbox-image", false).expect("a memfd");
        file.write_all_at(&[7; PAGE], 0).expect("a page");
        let (reader, writer) = io::pipe().expect("a pipe");
        let descriptor = file.as_raw_fd();
        let errno = |result| (result, io::Error::last_os_error().raw_os_error());
        // SAFETY: it reads an offset that lives on, and moves a reference to a page into the pipe.
        let held = unsafe {
            libc::splice(descriptor, &mut 0, writer.as_raw_fd(), ptr::null_mut(), PAGE, 0)
        };
        assert_eq!(usize::try_from(held), Ok(PAGE));
        // The other seal is refused, and none is put on.
        // SAFETY: as in `seal`.
        let waited = unsafe { libc::fcntl(descriptor, libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
        assert_eq!(errno(waited), (-1, Some(libc::EBUSY)));
        make_final(&file).expect("it is sealed");

        let refused = file.write_all_at(&[8], 0).expect_err("a write");
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        for length in [0, 2 * PAGE as u64] {
            let refused = file.set_len(length).expect_err("another size");
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        }
        let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: it is refused.
        let refused = unsafe { libc::fallocate(descriptor, hole, 0, 4096) };
        assert_eq!(errno(refused), (-1, Some(libc::EPERM)));
        let map = |rights| {
            // SAFETY: a new mapping, where nothing is.
            unsafe { libc::mmap(ptr::null_mut(), PAGE, rights, libc::MAP_SHARED, descriptor, 0) }
        };
        assert_eq!(map(libc::PROT_READ | libc::PROT_WRITE), libc::MAP_FAILED);
        let shared = map(libc::PROT_READ);
        assert_ne!(shared, libc::MAP_FAILED);
        // SAFETY: the mapping is this test's, which does not look into it.
        let refused = unsafe { libc::mprotect(shared, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(errno(refused), (-1, Some(libc::EACCES)));
        // SAFETY: as above.
        unsafe { libc::munmap(shared, PAGE) };
        drop(reader);
    }
}
