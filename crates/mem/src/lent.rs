//! What is lent to guests beside their memory: files and bytes of the host, for reading.
//!
//! A [`Lent`] is a read-only mapping whose size is whole large pages; what the file or the bytes do
//! not fill reads as zero. It belongs to nobody's memory, so any number of guests can read it at
//! once. The host itself never looks into a file's mapping: the file may be cut short at any time,
//! and a guest that then reads what is gone gets an error, where the host would get a signal.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::PAGE;
use crate::dumps;
use crate::shared;
use crate::window::MapError;

/// Bytes in a large page; the unit in which memory is lent.
pub const LARGE_PAGE: usize = 2 << 20;

/// A read-only mapping that can be lent to guests.
#[derive(Debug)]
pub struct Lent {
    base: NonNull<u8>,
    /// Bytes that are lent.
    length: usize,
    /// Bytes that are mapped: whole large pages.
    mapped: usize,
    /// The file, or bytes as one, for a guest in another process; made when the first such guest asks.
    file: OnceLock<File>,
}

// SAFETY: the mapping is owned by this value and only ever read, by guests.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

/// Bytes of the host in pages of their own, so that lending them lends nothing else.
#[derive(Debug)]
pub struct Bytes {
    lent: Lent,
}

impl Lent {
    /// Maps a file from its start, as long as it is now, and keeps it open.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the file is empty or no regular file, or the system refuses.
    pub fn file(file: File) -> Result<Lent, MapError> {
        let failed = |size, source| MapError { size, source };
        let metadata = file.metadata().map_err(|source| failed(0, source))?;
        let size = metadata.len();
        if !metadata.is_file() || size == 0 {
            return Err(failed(size, io::ErrorKind::InvalidInput.into()));
        }
        let length =
            usize::try_from(size).map_err(|_| failed(size, io::ErrorKind::InvalidInput.into()))?;
        let lent = Lent::reserve(length, libc::PROT_READ)?;
        // SAFETY: replaces a part of the reservation just made, which nobody uses yet.
        let mapped = unsafe {
            libc::mmap(
                lent.base.as_ptr().cast(),
                length,
                libc::PROT_READ,
                // A backend may map it for writing (and never do), which is to reserve no memory.
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(failed(size, io::Error::last_os_error()));
        }
        dumps::leave_out(lent.base, length).map_err(|source| failed(size, source))?;
        lent.file.get_or_init(|| file);
        Ok(lent)
    }

    /// What is lent as a file, for a guest in another process to map: it is lent from the file's start on.
    ///
    /// # Errors
    ///
    /// If there is none and none can be made.
    pub fn as_file(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        // SAFETY: the mapping is as long, is never written again, and is no file's, which has one.
        let bytes = unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.length) };
        let file = shared::file_of(bytes)?;
        Ok(self.file.get_or_init(|| file))
    }

    /// Address space for `length` bytes in whole large pages, aligned to them, that reads as zero.
    fn reserve(length: usize, protection: libc::c_int) -> Result<Lent, MapError> {
        let failed = |source| MapError { size: length as u64, source };
        let invalid = || failed(io::ErrorKind::InvalidInput.into());
        let mapped = length.checked_next_multiple_of(LARGE_PAGE).ok_or_else(invalid)?;
        // One large page more, to align within.
        let reserved = mapped.checked_add(LARGE_PAGE).ok_or_else(invalid)?;
        if length == 0 || isize::try_from(reserved).is_err() {
            return Err(invalid());
        }
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(std::ptr::null_mut(), reserved, protection, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let before = base.addr().next_multiple_of(LARGE_PAGE) - base.addr();
        // SAFETY: both pieces are parts of the mapping just made, before and behind what is kept.
        let base = unsafe {
            let kept = base.cast::<u8>().add(before);
            if before > 0 {
                libc::munmap(base, before);
            }
            if before < LARGE_PAGE {
                libc::munmap(kept.add(mapped).cast(), LARGE_PAGE - before);
            }
            kept
        };
        let base = NonNull::new(base).ok_or_else(invalid)?;
        let lent = Lent { base, length, mapped, file: OnceLock::new() };
        dumps::leave_out(base, mapped).map_err(failed)?;
        Ok(lent)
    }

    /// Bytes that are lent.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes that are mapped, a multiple of [`LARGE_PAGE`].
    pub fn mapped(&self) -> usize {
        self.mapped
    }

    /// Where it lies in the host's address space, for handing it to a hypervisor.
    pub fn host_address(&self) -> u64 {
        self.base.addr().get() as u64
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `reserve`; every guest that it was lent to has given it back,
        // since a machine holds on to what it has been lent.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

impl Bytes {
    /// So many bytes, all zero.
    ///
    /// # Errors
    ///
    /// [`MapError`] if there are none, or the system refuses.
    pub fn zeroed(length: usize) -> Result<Bytes, MapError> {
        Lent::reserve(length, libc::PROT_READ | libc::PROT_WRITE).map(|lent| Bytes { lent })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the mapping is this value's own, anonymous, and at least that long.
        unsafe { std::slice::from_raw_parts(self.lent.base.as_ptr(), self.lent.length) }
    }

    /// The bytes, for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only access: nothing has been lent yet.
        unsafe { std::slice::from_raw_parts_mut(self.lent.base.as_ptr(), self.lent.length) }
    }

    /// What can be lent to guests. The bytes can't be written from now on.
    pub fn into_lent(self) -> Lent {
        self.lent
    }
}

const _: () = assert!(LARGE_PAGE.is_multiple_of(PAGE));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_aligned_to_large_pages_and_keep_their_length() {
        for length in [1, 4096, LARGE_PAGE - 1, LARGE_PAGE, LARGE_PAGE + 1] {
            let mut bytes = Bytes::zeroed(length).unwrap();
            bytes.as_mut_slice()[length - 1] = 7;
            assert_eq!((bytes.as_slice().len(), bytes.as_slice()[length - 1]), (length, 7));
            let lent = bytes.into_lent();
            assert_eq!(lent.host_address() % LARGE_PAGE as u64, 0);
            assert_eq!((lent.length(), lent.mapped() % LARGE_PAGE), (length, 0));
        }
    }

    #[test]
    fn what_cannot_be_lent_is_refused() {
        assert!(Bytes::zeroed(0).is_err());
        assert!(Bytes::zeroed(usize::MAX).is_err());
        assert!(Lent::file(File::open("/dev/null").unwrap()).is_err());
        assert!(Lent::file(File::open("/").unwrap()).is_err());
    }
}
