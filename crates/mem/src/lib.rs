//! Guest memory: one linear piece of host memory that a hypervisor maps into a guest, and the images
//! that it is filled from.
//!
//! A [`GuestMemory`] is a window: its address and size never change, so a hypervisor is told of it
//! once. What lies in it does: zeros, or an [`Image`] mapped copy-on-write, whose pages all windows
//! share until they are written. [`GuestMemory::restore`] puts the written ones back.
//!
//! Whoever owns a [`GuestMemory`] together with the vCPU that runs on it (a `Machine`) lends it out
//! only while the vCPU is stopped, so plain slices are sound: running takes `&mut`, and so does
//! writing. Values read from it are the guest's claims all the same.
//!
//! - `window`: the mapping;
//! - `image`: what it is filled from;
//! - `memfd`: files in memory;
//! - `shared`: the file under memory that another process maps too;
//! - `written`: which pages have been written, as the kernel knows it;
//! - `restore`: putting them back;
//! - `faults`: whether there can be new ones at all;
//! - `lent`: what is lent to a guest beside its memory;
//! - `dumps`: what the process's core dumps have of all this.

mod dumps;
mod faults;
mod image;
mod lent;
mod memfd;
mod restore;
mod shared;
mod window;
mod written;

pub use image::{CaptureError, Image, Run};
pub use lent::{Bytes, LARGE_PAGE, Lent};
pub use memfd::memfd;
pub use restore::{RestoreError, Restored};
pub use window::{GuestMemory, MapError, Window};
pub use written::{PAGEMAP_SCAN, Tracking, tracking};

use std::ops::Range;

/// Adds pages to ascending ranges, as a part of the last one if they follow it.
pub(crate) fn append(ranges: &mut Vec<Range<usize>>, pages: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == pages.start => last.end = pages.end,
        _ => ranges.push(pages),
    }
}

/// Bytes in the smallest page.
pub const PAGE: usize = 4096;
