//! Guest memory: one linear piece of anonymous host memory that a hypervisor maps into a guest.
//!
//! Pages are committed when they are first touched, by host or guest; a limit of gigabytes costs
//! address space only. What has not been touched reads as zero.
//!
//! Whoever owns a [`GuestMemory`] together with the vCPU that runs on it (a `Machine`) lends it out
//! only while the vCPU is stopped, so plain slices are sound: running takes `&mut`, and so does
//! writing. Values read from it are the guest's claims all the same.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// Bytes in the smallest page.
const PAGE: usize = 4096;

/// One guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    base: NonNull<u8>,
    size: usize,
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
        let invalid = || MapError { size, source: io::ErrorKind::InvalidInput.into() };
        let length = usize::try_from(size).map_err(|_| invalid())?;
        if length == 0 || isize::try_from(length).is_err() {
            return Err(invalid());
        }
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing
        // that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(MapError { size, source: io::Error::last_os_error() });
        }
        let base = NonNull::new(base.cast()).ok_or_else(invalid)?;
        Ok(GuestMemory { base, size: length })
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
        // vCPU runs only under an exclusive borrow of the machine that owns this value.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.size) }
    }

    /// All of it, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.size) }
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and no borrow of it outlives `self`.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.size) };
        debug_assert_eq!(result, 0);
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
