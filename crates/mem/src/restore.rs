//! Putting written pages back.
//!
//! Private pages are compared with what they go back to, and copied where they differ; they stay
//! private, mapped and writable, so that the next use does not fault on them. That is cheap as long
//! as a page is written again soon. A page that is not costs a comparison each time, so once the
//! comparisons have cost as much as a page fault would, it is dropped: it is the image's again, and
//! shared. What both cost is measured on the machine at hand, in the host; in a guest a fault costs more.
//!
//! A page that is written each time, but with what it holds already (much of a stack is), looks
//! unwritten too. It gives itself away when it has been dropped: it is private again the very next
//! time. Then it is kept for good, or nearly.
//!
//! Beyond a number of pages that the caller sets, what a guest has written is dropped at once: a
//! guest that once wrote everything should not hold on to all of it. What can't be dropped (in a
//! program that locks its memory) is copied back all the same.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::image::Image;
use crate::{GuestMemory, PAGE, append, faults, written};

static ZEROS: [u8; PAGE] = [0; PAGE];

/// Pages that the costs are measured with.
const TRIAL: usize = 64;
/// Bounds of how often a page may be found unwritten until it is dropped.
const MIN_IDLE: u16 = 8;
const MAX_IDLE: u16 = 250;
/// From here on counts a page that came back right after it was dropped, until it is dropped again.
const KEPT: u16 = 1000;
const MAX_KEPT: u16 = 60_000;
/// How many restores in a row may do without asking the system.
const CHECK_EVERY: u8 = 100;
/// Stands for a page that the last restore has dropped as unwritten.
const JUST_DROPPED: u16 = u16::MAX;
/// What is noted of a page that was written, and of one of which nothing is known.
pub(crate) const WRITTEN: u16 = 1;
const UNKNOWN: u16 = 0;

/// What [`GuestMemory::restore`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Pages that were private.
    pub private: usize,
    /// Pages that differed from what they go back to, or were too many to be looked at.
    pub written: usize,
    /// Of these, pages that were copied back, or zeroed, in place.
    pub copied: usize,
    /// Pages that were dropped.
    pub dropped: usize,
}

/// Memory could not be put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The image's file can't be read, or has become too short.
    #[error("the file that the memory's image lies in can't be read any more")]
    ImageLost {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Memory that the guest must not reach any more can't be taken out of its reach.
    #[error("memory can't be taken out of the guest's reach")]
    StillInReach {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system does not say which pages have been written.
    #[error("the system does not say which pages of memory have been written (/proc/self/pagemap)")]
    Unknown {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl GuestMemory {
    /// Puts memory from byte `from` on back to what it was filled with or what was last remembered
    /// or captured; without such, to zero. Of those that can be dropped, at most `keep` stay private.
    ///
    /// What lies before `from` must not have been written.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; what is in memory is then anything.
    pub fn restore(&mut self, from: usize, keep: usize) -> Result<Restored, RestoreError> {
        self.forget_revealed().map_err(|source| RestoreError::StillInReach { source })?;
        let mut found = std::mem::take(&mut self.found);
        let result = self.find_changed(from, &mut found).and_then(|()| self.put_back(&found, keep));
        self.found = found;
        // Pages that could not be dropped are private without a note.
        let all_noted = result.is_ok() && !self.drop_failed;
        // Another process's page faults are not counted.
        let all_noted = all_noted && self.shared.is_none();
        self.restored_at = if all_noted { faults::now() } else { None };
        result
    }

    /// Finds the private pages: those that are known, if there can't be others, or by asking.
    fn find_changed(
        &mut self,
        from: usize,
        found: &mut Vec<Range<usize>>,
    ) -> Result<(), RestoreError> {
        let no_others = self.restored_at.is_some() && self.restored_at == faults::now();
        let known = |(page, idle): &(usize, u16)| *idle != JUST_DROPPED && *page >= from / PAGE;
        if no_others && self.unasked < CHECK_EVERY && !self.always_asks {
            self.unasked += 1;
            found.clear();
            for (page, _) in self.notes.iter().filter(|note| known(note)) {
                append(found, *page..*page + 1);
            }
            return Ok(());
        }
        self.unasked = 0;
        let image = self.image.clone();
        // A page of zeros may stand for one that has been written where something else was before.
        let was_not_zero = |page| image.as_ref().is_some_and(|image| image.has(page));
        self.find_written(from / PAGE, was_not_zero, found)
            .map_err(|source| RestoreError::Unknown { source })?;
        // The older way takes pages of zeros that have only been read for private ones.
        let scans = written::scans();
        let same_way = std::mem::replace(&mut self.was_scanned, scans) == scans;
        if no_others && same_way {
            let mut notes = self.notes.iter().filter(|note| known(note)).map(|(page, _)| *page);
            let expected = |page: usize| notes.any(|noted| noted == page);
            if !found.iter().flat_map(Clone::clone).all(expected) {
                debug_assert!(false, "pages became private without a page fault's being counted");
                faults::distrust();
            }
        }
        Ok(())
    }

    fn put_back(&mut self, found: &[Range<usize>], keep: usize) -> Result<Restored, RestoreError> {
        let (image, layered) = (self.image.clone(), self.is_layered());
        // Below a page that goes back to zero there may be one of an image that was mapped before.
        let beneath = self.mapped.clone().filter(|_| !layered);
        let zero_beneath = |page| !beneath.as_ref().is_some_and(|image| image.has(page));
        let mut restored = Restored::default();
        let mut droppable_pages = 0;
        self.drop_failed = false;
        let (mut surplus, mut tired, mut news) = (Vec::new(), Vec::new(), Vec::new());
        let mut pristine = Pristine::new(image.as_deref());
        let before = std::mem::take(&mut self.notes);
        let mut before = before.iter().copied().peekable();
        let mut notes = Vec::with_capacity(found.iter().map(Range::len).sum());
        for page in found.iter().flat_map(Clone::clone) {
            restored.private += 1;
            let from = pristine.page(page)?;
            let own = is_among(&self.own, page);
            let droppable = match from {
                Some(_) => layered && !own,
                None => zero_beneath(page),
            };
            droppable_pages += usize::from(droppable);
            // Notes of pages that are not private any more end here.
            while before.next_if(|(noted, _)| *noted < page).is_some() {}
            let idle =
                before.next_if(|(noted, _)| *noted == page).map_or(UNKNOWN, |(_, idle)| idle);
            if droppable && droppable_pages > keep {
                restored.written += 1;
                append(&mut surplus, page..page + 1);
                continue;
            }
            let back = idle == JUST_DROPPED;
            let bytes = &mut self.bytes_mut()[page * PAGE..(page + 1) * PAGE];
            let of_image = from.is_some();
            let from = from.unwrap_or(&ZEROS);
            if bytes != from {
                bytes.copy_from_slice(from);
                restored.written += 1;
                restored.copied += 1;
                notes.push((page, WRITTEN));
                if idle == UNKNOWN || back {
                    news.push(page);
                }
            } else if droppable && is_tired(idle) {
                notes.push((page, JUST_DROPPED));
                append(&mut tired, page..page + 1);
            } else {
                notes.push((page, next_idle(idle)));
                // Older kernels take a page of zeros that has been read for a private one.
                if idle == UNKNOWN && of_image && !own || back {
                    news.push(page);
                }
            }
        }
        self.notes = notes;
        if let (Some(image), true) = (&image, layered) {
            if !news.is_empty() {
                image.learn(&news);
            }
            surplus.iter().chain(&tired).for_each(|pages| image.unlearn(pages.clone()));
        }
        for pages in tired {
            // What can't be dropped is as it should be; next time it looks as if it had come back.
            match self.drop_pages(pages.clone()) {
                true => restored.dropped += pages.len(),
                false => self.drop_failed = true,
            }
        }
        self.drop_surplus(&surplus, image.as_deref(), &mut restored)?;
        Ok(restored)
    }

    /// Drops written pages that nobody has looked at; what can't be dropped is put back in place.
    fn drop_surplus(
        &mut self,
        surplus: &[Range<usize>],
        image: Option<&Image>,
        restored: &mut Restored,
    ) -> Result<(), RestoreError> {
        let mut pristine = Pristine::new(image);
        for pages in surplus {
            if self.drop_pages(pages.clone()) {
                restored.dropped += pages.len();
                continue;
            }
            self.drop_failed = true;
            for page in pages.clone() {
                let from = pristine.page(page)?.unwrap_or(&ZEROS);
                self.bytes_mut()[page * PAGE..(page + 1) * PAGE].copy_from_slice(from);
                restored.copied += 1;
            }
        }
        Ok(())
    }
}

/// Whether a page has been found unwritten so often that it is better dropped.
fn is_tired(idle: u16) -> bool {
    match idle {
        JUST_DROPPED => false,
        KEPT.. => idle >= MAX_KEPT,
        _ => idle >= MIN_IDLE && idle >= idle_limit(),
    }
}

/// The count of a page that has been found unwritten once more.
fn next_idle(idle: u16) -> u16 {
    match idle {
        JUST_DROPPED => KEPT,
        KEPT.. => (idle + 1).min(MAX_KEPT),
        _ => (idle + 1).min(MAX_IDLE),
    }
}

/// Whether a page lies in one of these ranges, which ascend.
pub(crate) fn is_among(ranges: &[Range<usize>], page: usize) -> bool {
    let after = ranges.partition_point(|range| range.start <= page);
    after > 0 && ranges[after - 1].contains(&page)
}

/// What pages go back to, asked for in ascending order.
struct Pristine<'a> {
    image: Option<&'a Image>,
    /// Index of the first run that does not end before the page asked for last.
    run: usize,
    /// For images that have to be read; there once one is.
    space: Option<Box<[u8; PAGE]>>,
}

impl<'a> Pristine<'a> {
    fn new(image: Option<&'a Image>) -> Pristine<'a> {
        Pristine { image, run: 0, space: None }
    }

    /// `None` for a page that goes back to zero.
    fn page(&mut self, page: usize) -> Result<Option<&[u8]>, RestoreError> {
        let Some(image) = self.image else {
            return Ok(None);
        };
        let runs = image.runs();
        while runs.get(self.run).is_some_and(|run| run.first + run.count <= page) {
            self.run += 1;
        }
        match runs.get(self.run) {
            Some(run) if run.first <= page => {
                let at = run.at + (page - run.first);
                let bytes = image.page(at, &mut self.space);
                bytes.map(Some).map_err(|source| RestoreError::ImageLost { source })
            }
            _ => Ok(None),
        }
    }
}

/// How often a page may be found unwritten until dropping it is the better bet: what a page fault
/// costs, in comparisons. Measured once a process.
fn idle_limit() -> u16 {
    static LIMIT: OnceLock<u16> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let limit = measure().unwrap_or(u64::from(MIN_IDLE));
        u16::try_from(limit.min(u64::from(MAX_IDLE))).unwrap_or(MAX_IDLE).max(MIN_IDLE)
    })
}

/// The ratio of a page's drop and next fault to a comparison of it.
fn measure() -> Option<u64> {
    let mut source = GuestMemory::new((TRIAL * PAGE) as u64).ok()?;
    source.bytes_mut().fill(1);
    let image = source.capture(&[]).ok()?;
    let mut memory = GuestMemory::new((TRIAL * PAGE) as u64).ok()?;
    memory.fill(&Arc::clone(&image), &[]).ok()?;
    let touch = |memory: &mut GuestMemory| {
        memory.bytes_mut().chunks_mut(PAGE).for_each(|page| page[0] = 1);
    };
    touch(&mut memory);
    let start = Instant::now();
    memory.drop_pages(0..TRIAL);
    touch(&mut memory);
    let faulting = start.elapsed();
    let start = Instant::now();
    memory.restore(0, usize::MAX).ok()?;
    let comparing = start.elapsed();
    u64::try_from(faulting.as_nanos() / comparing.as_nanos().max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: usize = 256;

    fn memory() -> GuestMemory {
        GuestMemory::new((PAGES * PAGE) as u64).unwrap()
    }

    /// An image whose first half is ones, and a window of it.
    fn image_and_window() -> (Arc<Image>, GuestMemory) {
        let mut source = memory();
        source.bytes_mut()[..PAGES / 2 * PAGE].fill(1);
        let image = source.capture(&[]).unwrap();
        let mut window = memory();
        window.fill(&image, &[]).unwrap();
        (image, window)
    }

    fn private(memory: &GuestMemory) -> usize {
        let mut found = Vec::new();
        written::find(memory.bytes(), 0, |_| false, &mut found).unwrap();
        found.iter().map(ExactSizeIterator::len).sum()
    }

    fn write(memory: &mut GuestMemory, pages: Range<usize>, byte: u8) {
        pages.for_each(|page| memory.bytes_mut()[page * PAGE + 7] = byte);
    }

    #[test]
    fn what_was_written_is_put_back_and_no_more_than_asked_for_stays_private() {
        let (image, mut window) = image_and_window();
        for keep in [usize::MAX, 100, 1, 0] {
            write(&mut window, 0..PAGES, 9);
            let restored = window.restore(0, keep).unwrap();
            assert_eq!((restored.private, restored.written), (PAGES, PAGES));
            assert_eq!((restored.copied, restored.dropped), {
                let kept = keep.min(PAGES);
                (kept, PAGES - kept)
            });
            // Before it is read: kernels without PAGEMAP_SCAN can't tell the page of zeros.
            assert!(private(&window) <= keep);
            let mut fresh = memory();
            fresh.fill(&image, &[]).unwrap();
            assert!(window.bytes() == fresh.bytes(), "{keep}");
        }
    }

    /// Memory with a page that became private without a fault, for all that was counted.
    fn private_without_a_fault() -> GuestMemory {
        let (_, mut window) = image_and_window();
        window.always_asks = true;
        write(&mut window, 0..3, 9);
        window.restore(0, usize::MAX).unwrap();
        write(&mut window, 7..8, 9);
        window.restored_at = faults::now();
        window
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "without a page fault's being counted")]
    fn a_page_fault_that_is_not_counted_is_noticed() {
        let _ = private_without_a_fault().restore(0, usize::MAX);
    }

    #[test]
    fn pages_that_another_way_of_asking_takes_for_private_are_no_uncounted_faults() {
        let mut window = private_without_a_fault();
        window.was_scanned = !window.was_scanned;
        assert_eq!(window.restore(0, usize::MAX).unwrap().written, 1);
    }

    #[test]
    fn a_page_that_is_not_written_any_more_is_given_up() {
        let (_, mut window) = image_and_window();
        write(&mut window, 0..PAGES, 9);
        for _ in 0..=MAX_IDLE {
            window.restore(0, usize::MAX).unwrap();
        }
        assert_eq!(private(&window), 0);
    }

    #[test]
    fn a_page_that_is_written_with_what_it_holds_is_given_up_once_at_most() {
        let (_, mut window) = image_and_window();
        let dropped: usize = (0..4 * usize::from(MAX_IDLE))
            .map(|_| {
                write(&mut window, 3..4, 1);
                window.restore(0, usize::MAX).unwrap().dropped
            })
            .sum();
        assert_eq!((dropped, private(&window)), (1, 1));
        // When it is not written for long enough, then all the same.
        for _ in 0..MAX_KEPT {
            window.restore(0, usize::MAX).unwrap();
        }
        assert_eq!(private(&window), 0);
    }

    #[test]
    fn a_page_that_goes_back_to_zero_never_shows_an_image_that_lay_there_before() {
        for keep in [0, usize::MAX] {
            let (_, mut window) = image_and_window();
            window.bytes_mut()[..PAGE * 10].fill(0);
            let second = window.capture(&[]).unwrap();
            assert_eq!(second.pages(), PAGES / 2 - 10);
            for _ in 0..=MAX_IDLE {
                write(&mut window, 200..210, 9);
                window.restore(0, keep).unwrap();
            }
            assert!(window.bytes()[..PAGE * 10].iter().all(|byte| *byte == 0));
            // And the third knows what lies in the first.
            let third = window.capture(&[]).unwrap();
            let mut copy = memory();
            copy.fill(&third, &[]).unwrap();
            assert!(copy.bytes() == window.bytes());
        }
    }

    #[test]
    fn what_is_locked_into_memory_is_put_back_all_the_same() {
        let (image, mut window) = image_and_window();
        write(&mut window, 0..PAGES, 9);
        // SAFETY: locks pages of this test's own.
        let locked = unsafe { libc::mlock(window.bytes().as_ptr().cast(), PAGES * PAGE) };
        if locked != 0 {
            eprintln!("left out: this process may not lock a MiB of memory");
            return;
        }
        let restored = window.restore(0, 10).unwrap();
        assert_eq!((restored.written, restored.copied, restored.dropped), (PAGES, PAGES, 0));
        let mut fresh = memory();
        fresh.fill(&image, &[]).unwrap();
        assert!(fresh.bytes() == window.bytes());
        // Neither does not asking what was written lose any of it, though nothing faults any more.
        window.always_asks = false;
        for round in 0..3 * usize::from(MAX_IDLE) {
            let keep = if round % 2 == 0 { 10 } else { usize::MAX };
            if round % 50 == 0 {
                write(&mut window, 0..PAGES, 9);
            }
            window.restore(0, keep).unwrap();
            assert!(fresh.bytes() == window.bytes(), "round {round}");
        }
    }

    #[test]
    fn without_asking_all_that_is_written_is_put_back_too() {
        let (image, mut window) = image_and_window();
        let mut fresh = memory();
        fresh.fill(&image, &[]).unwrap();
        window.always_asks = false;
        // Numbers that look random; always the same.
        let mut state = 1usize;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for round in 0..3000 {
            for _ in 0..random(6) {
                let page = random(PAGES);
                write(&mut window, page..(page + 1 + random(4)).min(PAGES), 9);
            }
            let keep = [5, usize::MAX][usize::from(random(10) > 0)];
            window.restore(0, keep).unwrap();
            assert!(fresh.bytes() == window.bytes(), "round {round}");
        }
    }

    #[test]
    fn very_many_runs_are_copied_and_not_mapped_and_go_back_to_what_they_were() {
        let mut source = GuestMemory::new(64 << 20).unwrap();
        let pages: Vec<usize> = (0..500).map(|index| index * 30).collect();
        for page in &pages {
            source.bytes_mut()[page * PAGE] = 5;
        }
        // And one run that is mapped.
        source.bytes_mut()[16_000 * PAGE..16_100 * PAGE].fill(6);
        let image = source.capture(&[]).unwrap();
        assert_eq!((image.runs().len(), image.pages()), (501, 600));
        for keep in [0, usize::MAX] {
            let mut window = GuestMemory::new(64 << 20).unwrap();
            window.fill(&image, &[]).unwrap();
            for _ in 0..=MAX_IDLE {
                write(&mut window, 290..310, 9);
                window.restore(0, keep).unwrap();
                assert_eq!(window.bytes()[300 * PAGE], 5);
            }
            assert!(window.bytes() == source.bytes());
        }
    }

    #[test]
    fn what_is_read_at_once_is_never_given_up() {
        let (image, _) = image_and_window();
        let mut file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; image.pages() * PAGE];
        image.read(0, &mut bytes).unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let image = Arc::new(Image::in_file(file, 0, image.runs().to_vec()).unwrap());
        let mut window = memory();
        window.fill(&image, std::slice::from_ref(&(3 * PAGE..5 * PAGE))).unwrap();
        for keep in [0, usize::MAX] {
            for _ in 0..=MAX_IDLE {
                write(&mut window, 2..6, 9);
                window.restore(0, keep).unwrap();
                assert_eq!(window.bytes()[..10 * PAGE], bytes[..10 * PAGE]);
            }
        }
    }

    #[test]
    fn what_a_windows_use_writes_is_learned_even_if_nothing_changes() {
        let (image, _) = image_and_window();
        for _ in 0..LEARNED_AFTER {
            let mut window = memory();
            window.fill(&image, &[]).unwrap();
            write(&mut window, 5..7, 1);
            write(&mut window, 200..201, 1);
            window.restore(0, usize::MAX).unwrap();
        }
        assert_eq!(image.learned(), [5..7, 200..201]);
    }

    /// How many windows it takes.
    const LEARNED_AFTER: usize = 2;
}
