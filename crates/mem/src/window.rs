//! The window itself.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::dumps;
use crate::faults::{self, Moment};
use crate::image::{self, Image, Run};
use crate::restore::WRITTEN;
use crate::shared::Shared;
use crate::{CaptureError, PAGE, RestoreError, Restored, append, written};

/// Most ranges that are noted as revealed; beyond, one stands for all of them.
const MAX_REVEALED: usize = 64;

/// One guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    pub(crate) base: NonNull<u8>,
    pub(crate) size: usize,
    /// What it goes back to.
    pub(crate) image: Option<Arc<Image>>,
    /// The image that is mapped here: a page of it that is dropped becomes the image's again. Other
    /// dropped pages read as zero. It is what memory goes back to, unless something else has been
    /// captured since.
    pub(crate) mapped: Option<Arc<Image>>,
    /// Pages of the image that is mapped that are not mapped but copied: those that the host uses
    /// itself, and the smaller runs of an image that has too many. They can't be dropped. Ascending.
    pub(crate) own: Vec<Range<usize>>,
    /// Pages that were private after the last restore, ascending, and how many restores in a row have
    /// found each of them unwritten (see `restore`).
    pub(crate) notes: Vec<(usize, u16)>,
    /// When the last restore ended, if nothing but that thread has used memory since.
    pub(crate) restored_at: Option<Moment>,
    /// Restores in a row that did not ask the system.
    pub(crate) unasked: u8,
    /// Whether the last answer came by `PAGEMAP_SCAN`.
    pub(crate) was_scanned: bool,
    /// Whether restores ask the system even if nothing can be new, and check that.
    pub(crate) always_asks: bool,
    /// Whether the last restore wanted to drop pages and could not.
    pub(crate) drop_failed: bool,
    /// Private pages, found by the last scan; kept for its capacity.
    pub(crate) found: Vec<Range<usize>>,
    /// What has come into the guest's reach since memory was what it goes back to.
    pub(crate) revealed: Vec<Range<usize>>,
    /// Whether nothing has been mapped or written here since it was made.
    untouched: bool,
    /// Whether the process's core dumps have it.
    pub(crate) dumped: bool,
    /// The file that it is mapped from, where another process maps it too.
    pub(crate) shared: Option<Shared>,
}

/// Guest memory could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{size} bytes of address space for guest memory could not be mapped")]
pub struct MapError {
    /// Bytes asked for.
    pub size: u64,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

// SAFETY: the mapping is owned by this value alone and belongs to no thread.
unsafe impl Send for GuestMemory {}
// SAFETY: through a shared reference the memory can only be read.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Reserves `size` bytes, which read as zero and take no memory until they are touched.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the size is zero or the system refuses.
    pub fn new(size: u64) -> Result<GuestMemory, MapError> {
        GuestMemory::map(size, None)
    }

    /// The same in a file of its own, for a guest that runs in another process ([`GuestMemory::shared`]).
    ///
    /// # Errors
    ///
    /// [`MapError`] if the size is zero or the system refuses.
    pub fn new_shared(size: u64) -> Result<GuestMemory, MapError> {
        let shared = Shared::new(size).map_err(|source| MapError { size, source })?;
        GuestMemory::map(size, Some(shared))
    }

    fn map(size: u64, shared: Option<Shared>) -> Result<GuestMemory, MapError> {
        let invalid = || MapError { size, source: io::ErrorKind::InvalidInput.into() };
        let length = usize::try_from(size).map_err(|_| invalid())?;
        if length == 0 || isize::try_from(length).is_err() {
            return Err(invalid());
        }
        let (flags, file) = match &shared {
            Some(shared) => (libc::MAP_SHARED, shared.descriptor()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_NORESERVE,
                file,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(MapError { size, source: io::Error::last_os_error() });
        }
        let base = NonNull::new(base.cast()).ok_or_else(invalid)?;
        small_pages(base, length);
        let memory = GuestMemory {
            base,
            size: length,
            image: None,
            mapped: None,
            own: Vec::new(),
            notes: Vec::new(),
            restored_at: None,
            unasked: 0,
            was_scanned: false,
            always_asks: cfg!(debug_assertions),
            drop_failed: false,
            found: Vec::new(),
            revealed: Vec::new(),
            untouched: true,
            dumped: false,
            shared,
        };
        memory.leave_out_of_dumps()?;
        Ok(memory)
    }

    /// Says whether core dumps of the process are to have what is in this memory, and in images that are
    /// captured of it. They have not, unless this is called with `true`.
    #[must_use]
    pub fn in_core_dumps(mut self, dumped: bool) -> GuestMemory {
        self.dumped = dumped;
        if dumped {
            // If the system refuses, a dump has less than it might.
            let _ = dumps::take_in(self.base, self.size);
        }
        self
    }

    /// To be called when something else has been mapped here, which core dumps would have.
    fn leave_out_of_dumps(&self) -> Result<(), MapError> {
        if self.dumped {
            return Ok(());
        }
        let failed = |source| MapError { size: self.size as u64, source };
        dumps::leave_out(self.base, self.size).map_err(failed)
    }

    /// Makes all of it zero again, and gives its pages back.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the system refuses. What is in memory is then anything.
    pub fn clear(&mut self) -> Result<(), MapError> {
        self.image = None;
        self.restored_at = None;
        if self.untouched {
            return Ok(());
        }
        self.map_zeros(0..self.size)?;
        self.leave_out_of_dumps()?;
        self.make_stale(0..self.size);
        self.mapped = None;
        self.own.clear();
        self.notes.clear();
        // All of it has been replaced, which no vCPU can miss.
        self.revealed.clear();
        self.untouched = true;
        Ok(())
    }

    /// Fills memory with an image: its pages are mapped, and shared until they are written, but for
    /// the smaller runs of an image with very many, which are copied. Pages that the image's other
    /// windows have turned out to write are copied beforehand.
    ///
    /// If the image lies in a file that may be cut short at any time, the pages in `eager` are read
    /// here and now: those are the ones that the host itself uses, which must not vanish under it.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the system refuses, or the image's file has become too short. What is in
    /// memory is then anything.
    ///
    /// # Panics
    ///
    /// If the image is of a larger memory.
    pub fn fill(&mut self, image: &Arc<Image>, eager: &[Range<usize>]) -> Result<(), MapError> {
        self.clear()?;
        self.untouched = false;
        self.mapped = Some(Arc::clone(image));
        for run in image.runs() {
            assert!(run.first + run.count <= self.size / PAGE, "the image of a larger memory");
            // What two processes are to see can't be private, and so has no image beneath it.
            if image.is_mapped(*run) && self.shared.is_none() {
                self.map_run(image, *run, eager)?;
            } else {
                self.own.push(run.first..run.first + run.count);
                self.read_run(image, *run)?;
            }
        }
        self.leave_out_of_dumps()?;
        for pages in image.learned() {
            self.populate(pages.start * PAGE..pages.end * PAGE);
            // As if they had been found private once: they are not news any more.
            self.notes.extend(pages.map(|page| (page, WRITTEN)));
        }
        self.image = Some(Arc::clone(image));
        Ok(())
    }

    /// Maps one run of an image.
    fn map_run(&mut self, image: &Image, run: Run, eager: &[Range<usize>]) -> Result<(), MapError> {
        let (file, offset) = image.file().expect("only images with a file have mapped runs");
        let size = (run.count * PAGE) as u64;
        let offset = offset + (run.at * PAGE) as u64;
        let failed = |source| MapError { size, source };
        let offset = libc::off_t::try_from(offset)
            .map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: the pages lie in this window, as `fill` has checked, and are replaced by others
        // that can be read and written in the same way; nobody borrows them, as this is called
        // under `&mut self` only.
        let mapped = unsafe {
            libc::mmap(
                self.base.as_ptr().add(run.first * PAGE).cast(),
                run.count * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file,
                offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        if image.may_shrink() {
            let pages = run.first..run.first + run.count;
            for part in eager {
                let part = part.start / PAGE..part.end.div_ceil(PAGE);
                let (start, end) = (part.start.max(pages.start), part.end.min(pages.end));
                if start < end {
                    self.map_zeros(start * PAGE..end * PAGE)?;
                    self.own.push(start..end);
                    let at = run.at + (start - run.first);
                    self.read_run(image, Run { first: start, count: end - start, at })?;
                }
            }
        }
        Ok(())
    }

    /// Copies one run of an image into pages that are private already.
    fn read_run(&self, image: &Image, run: Run) -> Result<(), MapError> {
        // SAFETY: the pages lie in this window and are borrowed by nobody: see `map_run`. They are
        // anonymous, so writing to them can't fail but for want of memory.
        let pages = unsafe {
            std::slice::from_raw_parts_mut(
                self.base.as_ptr().add(run.first * PAGE),
                run.count * PAGE,
            )
        };
        image
            .read(run.at, pages)
            .map_err(|source| MapError { size: (run.count * PAGE) as u64, source })
    }

    /// Replaces a range by fresh pages that read as zero.
    fn map_zeros(&self, range: Range<usize>) -> Result<(), MapError> {
        assert!(range.start <= range.end && range.end <= self.size);
        if let Some(shared) = &self.shared {
            let size = range.len() as u64;
            return shared.punch(range).map_err(|source| MapError { size, source });
        }
        // SAFETY: as in `map_run`.
        let mapped = unsafe {
            libc::mmap(
                self.base.as_ptr().add(range.start).cast(),
                range.len(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            let source = io::Error::last_os_error();
            return Err(MapError { size: range.len() as u64, source });
        }
        if let Some(start) = NonNull::new(mapped.cast()) {
            small_pages(start, range.len());
        }
        Ok(())
    }

    /// Gives pages back: they read as the image's again where it is mapped, and as zero elsewhere.
    /// `false` if the system refuses; then they are as they were.
    pub(crate) fn drop_pages(&mut self, pages: Range<usize>) -> bool {
        debug_assert!(!self.own.iter().any(|own| own.start < pages.end && pages.start < own.end));
        let range = pages.start * PAGE..pages.end * PAGE;
        if let Some(shared) = &self.shared {
            return shared.punch(range).is_ok();
        }
        let bytes = &mut self.bytes_mut()[range];
        // SAFETY: the pages are this window's, and nobody borrows them but this function.
        let result =
            unsafe { libc::madvise(bytes.as_mut_ptr().cast(), bytes.len(), libc::MADV_DONTNEED) };
        // It fails for ranges that are locked into memory.
        result == 0
    }

    /// The image that memory goes back to.
    pub fn image(&self) -> Option<&Arc<Image>> {
        self.image.as_ref()
    }

    /// Whether what memory goes back to is mapped.
    pub(crate) fn is_layered(&self) -> bool {
        match (&self.image, &self.mapped) {
            (Some(image), Some(mapped)) => Arc::ptr_eq(image, mapped),
            _ => false,
        }
    }

    /// Copies bytes that may lie in an image's file which has been cut short, where a plain read
    /// would end the process. `None` if they can't be read.
    ///
    /// # Panics
    ///
    /// If the range does not lie in memory.
    pub fn copy_out(&self, range: Range<usize>) -> Option<Vec<u8>> {
        let bytes = &self.bytes()[range];
        if !self.mapped.as_ref().is_some_and(|mapped| mapped.may_shrink()) {
            return Some(bytes.to_vec());
        }
        // A system call that is given an address it can't read says so.
        image::through_pipe(bytes)
    }

    /// Makes pages resident in one step, which takes about two thirds of the time of a page fault
    /// for each. A hint: where the system does not do it (Linux before 5.14, no memory), the pages
    /// come with their first use as others do.
    ///
    /// # Panics
    ///
    /// If the range does not lie in memory.
    pub fn populate(&mut self, range: Range<usize>) {
        let start = range.start & !(PAGE - 1);
        let pages = &mut self.bytes_mut()[start..range.end];
        // SAFETY: the pages are this mapping's, and making them resident changes no byte of them.
        unsafe {
            libc::madvise(pages.as_mut_ptr().cast(), pages.len(), libc::MADV_POPULATE_WRITE);
        }
    }

    /// Notes that page tables in this memory let the guest use these bytes of it now in a way in which
    /// they did not before. Putting memory back takes that right away, so it then makes the vCPU forget
    /// them.
    ///
    /// # Panics
    ///
    /// If the range does not lie in memory.
    pub fn reveal(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.size);
        append(&mut self.revealed, range);
        if self.revealed.len() > MAX_REVEALED {
            let start = self.revealed.iter().map(|range| range.start).min();
            let end = self.revealed.iter().map(|range| range.end).max();
            self.revealed.clear();
            self.revealed.extend(start.zip(end).map(|(start, end)| start..end));
        }
    }

    /// Makes a hypervisor's vCPU forget how it reaches these bytes: the next access walks the guest's
    /// page tables again. What is in them stays.
    ///
    /// Neither a KVM that shadows page tables nor a TLB notices when the host takes a right away in a
    /// page table. All of them notice when the host's own mapping of the memory behind it changes; so
    /// that is closed for a moment and opened again.
    ///
    /// # Errors
    ///
    /// What the system said, if it refuses: the memory can't be used then.
    ///
    /// # Panics
    ///
    /// If the range does not lie in memory.
    pub fn forget(&mut self, range: Range<usize>) -> io::Result<()> {
        if self.shared.is_some() {
            assert!(range.start <= range.end && range.end <= self.size);
            self.make_stale(range);
            return Ok(());
        }
        let start = range.start & !(PAGE - 1);
        let pages = &mut self.bytes_mut()[start..range.end];
        for protection in [libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE] {
            // SAFETY: the pages are this mapping's, nobody else borrows them, and when the loop ends
            // they can be used as before. If it ends early they are never used again: see `Errors`.
            let result =
                unsafe { libc::mprotect(pages.as_mut_ptr().cast(), pages.len(), protection) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    fn make_stale(&mut self, range: Range<usize>) {
        if let Some(shared) = &mut self.shared {
            append(&mut shared.stale, range);
        }
    }

    /// The file that it is mapped from, if it is one that another process maps too.
    pub fn shared(&self) -> Option<&File> {
        self.shared.as_ref().map(|shared| &shared.file)
    }

    /// The bytes that the other process has to map anew, since this was last asked: those that
    /// [`GuestMemory::forget`] was called with, and all of them when something else lies there.
    pub fn take_stale(&mut self) -> Vec<Range<usize>> {
        self.shared.as_mut().map(|shared| std::mem::take(&mut shared.stale)).unwrap_or_default()
    }

    /// Finds the pages from `first` on that may differ from what memory was filled with: private ones,
    /// or, in a file, all that are there. See `written`.
    pub(crate) fn find_written(
        &self,
        first: usize,
        was_not_zero: impl Fn(usize) -> bool,
        found: &mut Vec<Range<usize>>,
    ) -> io::Result<()> {
        match &self.shared {
            Some(shared) => shared.find(first..self.size / PAGE, found),
            None => written::find(self.bytes(), first, was_not_zero, found),
        }
    }

    /// Forgets all that has been revealed.
    pub(crate) fn forget_revealed(&mut self) -> io::Result<()> {
        while let Some(range) = self.revealed.last().cloned() {
            self.forget(range)?;
            self.revealed.pop();
        }
        Ok(())
    }

    /// Bytes in it.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Where it lies in the host's address space, for handing it to a hypervisor.
    pub fn host_address(&self) -> u64 {
        self.base.addr().get() as u64
    }

    /// All of it, for reading.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `base` and `size` are the mapping made in `new`, which lives as long as `self`.
        // Nobody writes to it while this borrow lasts: the host needs `&mut self` for that, and a
        // vCPU runs only under an exclusive borrow of the machine that owns this value. Shared pages
        // of an image in a file are another matter: the file may be changed or cut short by others.
        // They are never read through this slice; see `Image::may_shrink`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.size) }
    }

    /// Tells that this thread uses memory: writes to it, or lets a guest run that does.
    pub fn used(&mut self) {
        if self.restored_at.is_some_and(|moment| moment.thread != faults::thread()) {
            self.restored_at = None;
        }
    }

    /// All of it, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.used();
        self.untouched = false;
        // SAFETY: as for `bytes`; `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.size) }
    }
}

/// Keeps the system from making a whole large page private where a guest writes a byte. A hint: not
/// every kernel has large pages.
fn small_pages(start: NonNull<u8>, length: usize) {
    // SAFETY: says how a mapping of this module's own is to be backed, and changes no byte of it.
    unsafe { libc::madvise(start.as_ptr().cast(), length, libc::MADV_NOHUGEPAGE) };
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and no borrow of it outlives `self`.
        unsafe {
            if libc::munmap(self.base.as_ptr().cast(), self.size) != 0 {
                // It would have to split a mapping that the system has made one with others, and the
                // process may have no more of them. Its pages go all the same.
                libc::madvise(self.base.as_ptr().cast(), self.size, libc::MADV_DONTNEED);
            }
        }
    }
}

/// A borrowed [`GuestMemory`] that can be filled, restored and captured, but not exchanged for
/// another one: the hypervisor goes on using it.
#[derive(Debug)]
pub struct Window<'a> {
    memory: &'a mut GuestMemory,
}

impl<'a> Window<'a> {
    /// Lends guest memory.
    pub fn new(memory: &'a mut GuestMemory) -> Window<'a> {
        Window { memory }
    }

    /// Whether the image is mapped, and not only what memory goes back to.
    pub fn is_layered(&self) -> bool {
        self.memory.is_layered()
    }

    /// See [`GuestMemory::clear`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn clear(&mut self) -> Result<(), MapError> {
        self.memory.clear()
    }

    /// See [`GuestMemory::fill`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn fill(&mut self, image: &Arc<Image>, eager: &[Range<usize>]) -> Result<(), MapError> {
        self.memory.fill(image, eager)
    }

    /// See [`GuestMemory::populate`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn populate(&mut self, range: Range<usize>) {
        self.memory.populate(range);
    }

    /// See [`GuestMemory::restore`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn restore(&mut self, from: usize, keep: usize) -> Result<Restored, RestoreError> {
        self.memory.restore(from, keep)
    }

    /// See [`GuestMemory::remember`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remember(&mut self, from: usize) -> Result<(), CaptureError> {
        self.memory.remember(from)
    }

    /// See [`GuestMemory::capture`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn capture(&mut self, leave_out: &[Range<usize>]) -> Result<Arc<Image>, CaptureError> {
        self.memory.capture(leave_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_as_zero_and_keeps_what_is_written() {
        let mut memory = GuestMemory::new(1 << 20).unwrap();
        assert!(memory.bytes().iter().all(|byte| *byte == 0));
        memory.bytes_mut()[12345] = 7;
        assert_eq!(memory.bytes()[12345], 7);
        assert_eq!(memory.size(), 1 << 20);
    }

    #[test]
    fn gigabytes_cost_address_space_only() {
        let mut memory = GuestMemory::new(64 << 30).unwrap();
        let last = memory.size() - 1;
        memory.bytes_mut()[last] = 1;
        assert_eq!(memory.bytes()[last], 1);
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(GuestMemory::new(0).is_err());
        assert!(GuestMemory::new(u64::MAX).is_err());
        assert!(GuestMemory::new(1 << 60).unwrap_err().to_string().contains("1152921504606846976"));
    }
}
