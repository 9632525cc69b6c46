//! Memory for a guest that runs in another process: a file in memory that both map.
//!
//! Such memory has no image beneath it, since a page can't be private and seen by two. Images are copied
//! into it, and each page that is there is looked at when it is put back: the file has pages where
//! something was written or read, and holes, which read as zero, elsewhere.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;

use crate::memfd::{make_final, memfd, seal};
use crate::{PAGE, append};

/// The file, and what has been done to it that the other process does not know.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) file: File,
    /// Bytes that it has to map anew.
    pub(crate) stale: Vec<Range<usize>>,
}

fn sized(size: u64) -> io::Result<File> {
    let file = memfd(c"glowbox-guest", true)?;
    file.set_len(size)?;
    Ok(file)
}

/// A file of these bytes, which never change.
pub(crate) fn file_of(bytes: &[u8]) -> io::Result<File> {
    let file = sized(bytes.len() as u64)?;
    file.write_all_at(bytes, 0)?;
    make_final(&file)?;
    Ok(file)
}

impl Shared {
    pub(crate) fn new(size: u64) -> io::Result<Shared> {
        let file = sized(size)?;
        // Nobody can make it shorter, which would end whoever reads it.
        seal(&file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?;
        Ok(Shared { file, stale: Vec::new() })
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Gives pages back, which read as zero from then on, in every mapping of the file.
    pub(crate) fn punch(&self, bytes: Range<usize>) -> io::Result<()> {
        let offset = |at: usize| {
            libc::off_t::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        };
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (start, length) = (offset(bytes.start)?, offset(bytes.len())?);
        // SAFETY: changes the contents of a file that is guest memory; see `GuestMemory`'s own methods for
        // who may do so when.
        match unsafe { libc::fallocate(self.descriptor(), mode, start, length) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The pages in a range that are there, as ascending ranges.
    pub(crate) fn find(
        &self,
        pages: Range<usize>,
        found: &mut Vec<Range<usize>>,
    ) -> io::Result<()> {
        found.clear();
        let end = pages.end * PAGE;
        let mut at = pages.start * PAGE;
        while at < end {
            let Some(start) = self.seek(at, libc::SEEK_DATA)? else { break };
            let stop = self.seek(start, libc::SEEK_HOLE)?.unwrap_or(end).min(end);
            if start < stop {
                append(found, start / PAGE..stop.div_ceil(PAGE));
            }
            at = stop.max(at + PAGE);
        }
        Ok(())
    }

    /// Where the next page or hole is; `None` behind the last page.
    fn seek(&self, from: usize, what: libc::c_int) -> io::Result<Option<usize>> {
        let from = libc::off_t::try_from(from).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the position of a file that is only ever mapped has no other use.
        let at = unsafe { libc::lseek(self.descriptor(), from, what) };
        match usize::try_from(at) {
            Ok(at) => Ok(Some(at)),
            Err(_) => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                error => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::GuestMemory;
    use crate::PAGE;

    const PAGES: usize = 64;

    fn memory() -> GuestMemory {
        GuestMemory::new_shared((PAGES * PAGE) as u64).unwrap()
    }

    #[test]
    fn what_was_written_is_found_and_put_back() {
        let mut source = memory();
        source.bytes_mut()[3 * PAGE..5 * PAGE].fill(7);
        let image = source.capture(&[]).unwrap();
        assert_eq!(image.pages(), 2);
        for keep in [0, usize::MAX] {
            let mut window = memory();
            window.fill(&image, &[]).unwrap();
            window.bytes_mut()[4 * PAGE] = 1;
            window.bytes_mut()[60 * PAGE] = 1;
            let restored = window.restore(0, keep).unwrap();
            assert_eq!((restored.private, restored.written), (3, 2));
            assert_eq!(restored.dropped, usize::from(keep == 0));
            let again = window.restore(0, usize::MAX).unwrap();
            assert_eq!((again.written, again.copied), (0, 0));
            // Last: looking at a page brings it into the file.
            assert!(window.bytes() == source.bytes());
        }
    }

    #[test]
    fn what_is_cleared_or_filled_is_stale_and_told_once() {
        let mut source = memory();
        source.bytes_mut()[0] = 7;
        let image: Arc<_> = source.capture(&[]).unwrap();
        let mut window = memory();
        assert!(window.take_stale().is_empty());
        window.fill(&image, &[]).unwrap();
        window.clear().unwrap();
        assert!(window.bytes().iter().all(|byte| *byte == 0));
        assert_eq!(window.take_stale(), vec![0..PAGES * PAGE]);
        window.reveal(PAGE..2 * PAGE);
        window.restore(0, 0).unwrap();
        assert_eq!(window.take_stale(), vec![PAGE..2 * PAGE]);
        assert!(window.take_stale().is_empty());
    }

    #[test]
    fn what_is_remembered_is_what_memory_goes_back_to() {
        let mut memory = memory();
        memory.bytes_mut()[9 * PAGE + 5] = 9;
        memory.remember(0).unwrap();
        memory.bytes_mut().fill(1);
        memory.restore(0, usize::MAX).unwrap();
        let different = (0..PAGES * PAGE)
            .find(|at| memory.bytes()[*at] != if *at == 9 * PAGE + 5 { 9 } else { 0 });
        assert_eq!(different, None);
    }
}
