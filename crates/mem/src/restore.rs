//! Putting written pages back.
//!
//! Private pages are compared with what they go back to, and copied where they differ; they stay
//! private, mapped and writable, so that the next use does not fault on them. That is cheap as long
//! as a page is written again soon. A page that is not costs a comparison each time, so once the
//! comparisons have cost as much as a page fault would, it is dropped: it is the image's again, and
//! shared. This rule never costs more than twice what knowing the future would, and what both cost is
//! measured on the machine at hand.
//!
//! Beyond a number of pages that the caller sets, what a guest has written is dropped at once: a
//! guest that once wrote everything should not hold on to all of it.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::image::Image;
use crate::{GuestMemory, PAGE, written};

static ZEROS: [u8; PAGE] = [0; PAGE];

/// Pages that the costs are measured with.
const TRIAL: usize = 64;
/// Bounds of how often a page may be found unwritten until it is dropped.
const MIN_IDLE: u8 = 8;
const MAX_IDLE: u8 = 250;

/// What [`GuestMemory::restore`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Pages that were private.
    pub private: usize,
    /// Pages that differed from what they go back to, or were dropped unseen.
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
    /// or captured; without such, to zero. At most `keep` pages stay private.
    ///
    /// What lies before `from` must not have been written.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; what is in memory is then anything.
    pub fn restore(&mut self, from: usize, keep: usize) -> Result<Restored, RestoreError> {
        let mut found = std::mem::take(&mut self.found);
        let result = written::find(self.bytes(), from / PAGE, &mut found)
            .map_err(|source| RestoreError::Unknown { source })
            .and_then(|()| self.put_back(&found, keep));
        self.found = found;
        result
    }

    fn put_back(&mut self, found: &[Range<usize>], keep: usize) -> Result<Restored, RestoreError> {
        let (image, layered) = (self.image.clone(), self.is_layered());
        // Below a page that goes back to zero there may be one of an image that was mapped before.
        let beneath = self.mapped.clone().filter(|_| !layered);
        let zero_beneath = |page| !beneath.as_ref().is_some_and(|image| image.has(page));
        let mut restored = Restored::default();
        let mut news = Vec::new();
        let mut tired: Vec<Range<usize>> = Vec::new();
        let mut pristine = Pristine::new(image.as_deref());
        for pages in found {
            for page in pages.clone() {
                restored.private += 1;
                let from = pristine.page(page)?;
                let droppable = layered || from.is_none() && zero_beneath(page);
                if restored.private > keep && droppable {
                    restored.written += 1;
                    add(&mut tired, page);
                    continue;
                }
                let idle = self.idle[page];
                let bytes = &mut self.bytes_mut()[page * PAGE..(page + 1) * PAGE];
                let from = from.unwrap_or(&ZEROS);
                if bytes != from {
                    bytes.copy_from_slice(from);
                    restored.written += 1;
                    restored.copied += 1;
                    self.idle[page] = 1;
                    if idle == 0 {
                        news.push(page);
                    }
                } else if droppable && idle >= MIN_IDLE && idle >= idle_limit() {
                    add(&mut tired, page);
                } else {
                    self.idle[page] = idle.saturating_add(1).min(MAX_IDLE);
                }
            }
        }
        if let (Some(image), true) = (&image, layered) {
            if !news.is_empty() {
                image.learn(&news);
            }
            tired.iter().for_each(|pages| image.unlearn(pages.clone()));
        }
        for pages in tired {
            restored.dropped += pages.len();
            self.drop_pages(pages);
        }
        Ok(restored)
    }
}

fn add(ranges: &mut Vec<Range<usize>>, page: usize) {
    match ranges.last_mut() {
        Some(last) if last.end == page => last.end += 1,
        _ => ranges.push(page..page + 1),
    }
}

/// What pages go back to, asked for in ascending order.
struct Pristine<'a> {
    image: Option<&'a Image>,
    /// Index of the first run that does not end before the page asked for last.
    run: usize,
    space: Box<[u8; PAGE]>,
}

impl<'a> Pristine<'a> {
    fn new(image: Option<&'a Image>) -> Pristine<'a> {
        Pristine { image, run: 0, space: Box::new([0; PAGE]) }
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
fn idle_limit() -> u8 {
    static LIMIT: OnceLock<u8> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let limit = measure().unwrap_or(u64::from(MIN_IDLE));
        u8::try_from(limit.min(u64::from(MAX_IDLE))).unwrap_or(MAX_IDLE).max(MIN_IDLE)
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
