//! The guest's heap: the `talc` allocator over memory that it takes as it needs it.
//!
//! The heap's pages are mapped, but cost nothing until they are touched; so the allocator is given
//! memory step by step, up to the limit the host has set.

#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr::NonNull;

use talc::base::Talc;
use talc::base::binning::{Binning, DefaultBinning};
use talc::cell::TalcCell;
use talc::source::Source;

/// The heap grows by multiples of this.
const STEP: usize = 64 << 10;
/// What the allocator needs besides the request itself, generously.
const OVERHEAD: usize = 4096;

/// Where the allocator's memory comes from.
#[derive(Debug)]
struct Region {
    /// End of the memory that the allocator has, once it has some.
    end: Option<NonNull<u8>>,
    /// First address not given out.
    next: usize,
    /// End of the heap.
    limit: usize,
}

// SAFETY: `acquire` uses nothing but the allocator it is given.
unsafe impl Source for Region {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let Region { end, next, limit } = talc.source;
        let wanted = layout.size().checked_add(layout.align()).ok_or(())?;
        let wanted = wanted.checked_add(OVERHEAD).ok_or(())?.max(STEP);
        // The last step is as large as what is left, whole pages or not.
        let new_next = next.checked_add(wanted).map_or(limit, |address| address.min(limit));
        if new_next == next {
            return Err(());
        }
        let top = core::ptr::with_exposed_provenance_mut(new_next);
        // SAFETY: the addresses from `next` to `limit` are the heap, which the host mapped for
        // this allocator alone, and each part of it is handed over once.
        let new_end = unsafe {
            match end {
                Some(end) => Some(talc.extend(end, top)),
                None => {
                    let base = core::ptr::with_exposed_provenance_mut(next);
                    talc.claim(base, new_next - next)
                }
            }
        };
        talc.source.next = new_next;
        talc.source.end = new_end.or(end);
        if new_end.is_some() { Ok(()) } else { Err(()) }
    }
}

/// The allocator, and the last request if it could not be met.
struct Heap {
    talc: TalcCell<Region, DefaultBinning>,
    failed: Cell<usize>,
}

// SAFETY: a guest has one thread and no interrupts.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap =
    Heap { talc: TalcCell::new(Region { end: None, next: 0, limit: 0 }), failed: Cell::new(0) };

impl Heap {
    fn note(&self, pointer: *mut u8, size: usize) -> *mut u8 {
        self.failed.set(if pointer.is_null() { size } else { 0 });
        pointer
    }
}

// SAFETY: everything is passed on to `TalcCell`, which upholds the contract.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds `GlobalAlloc`'s contract.
        self.note(unsafe { self.talc.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.talc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        self.note(unsafe { self.talc.realloc(pointer, layout, size) }, size)
    }
}

/// Sets the heap's bounds; once, before the first allocation.
pub(crate) fn init(address: u64, size: u64) {
    let bound = |address: u64| usize::try_from(address).unwrap_or(0);
    let (next, limit) = (bound(address), bound(address.saturating_add(size)));
    HEAP.talc.replace_source(Region { end: None, next, limit });
}

/// The size of the last request if it could not be met, otherwise 0.
pub(crate) fn failed_request() -> usize {
    HEAP.failed.get()
}
