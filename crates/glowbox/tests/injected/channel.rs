//! What the process that has the faults and the one that injects them tell each other: a page of memory
//! that they share, and a signal that stops the one when it has said something.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The signal that is sent by the traced process to itself. It never arrives.
pub(crate) const SIGNAL: libc::c_int = libc::SIGUSR1;

/// What the traced process says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Said {
    /// What follows is traced.
    Begin,
    /// It was so until here.
    End,
    /// The text is the error with which that ended, or empty.
    Ended,
    /// It asks whether it is to go on.
    Next,
    /// Something is wrong: the text says what.
    Failed,
}

const SAID: [Said; 5] = [Said::Begin, Said::End, Said::Ended, Said::Next, Said::Failed];
const SIZE: usize = 64 << 10;
const TEXT: usize = SIZE - size_of::<Page>();

#[repr(C)]
struct Page {
    said: AtomicU32,
    answer: AtomicU32,
    length: AtomicUsize,
    /// Text follows, up to the end of the memory.
    text: [u8; 0],
}

/// One side's end.
pub(crate) struct Channel {
    page: *mut Page,
}

impl Channel {
    pub(crate) fn new() -> Channel {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice; zeros are a page's valid value.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, protection, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Channel { page: page.cast() }
    }

    fn page(&self) -> &Page {
        // SAFETY: mapped in `new` for as long as this value lives, and changed through atomics only.
        unsafe { &*self.page }
    }

    /// Says something, and waits until the tracer has seen it.
    pub(crate) fn say(&self, said: Said) {
        self.page().said.store(said as u32, Ordering::SeqCst);
        // SAFETY: sends a signal to this thread, which its tracer takes.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), SIGNAL) };
    }

    /// Says something with a text.
    pub(crate) fn tell(&self, said: Said, text: &str) {
        let bytes = &text.as_bytes()[..text.len().min(TEXT)];
        // SAFETY: the text's bytes lie in the mapping, behind the page's head; the tracer reads them when
        // this process has stopped.
        unsafe {
            let to = (&raw mut (*self.page).text).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.page().length.store(bytes.len(), Ordering::SeqCst);
        self.say(said);
    }

    /// Asks whether it is to go on.
    pub(crate) fn next(&self) -> bool {
        self.say(Said::Next);
        self.page().answer.load(Ordering::SeqCst) != 0
    }

    /// What the traced process said last.
    pub(crate) fn said(&self) -> Said {
        SAID[self.page().said.load(Ordering::SeqCst) as usize]
    }

    /// The text that it said last.
    pub(crate) fn text(&self) -> String {
        let length = self.page().length.load(Ordering::SeqCst);
        // SAFETY: the bytes lie in the mapping, and the process that writes them has stopped.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const (*self.page).text).cast::<u8>(), length)
        };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Answers `next`.
    pub(crate) fn answer(&self, go_on: bool) {
        self.page().answer.store(u32::from(go_on), Ordering::SeqCst);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.page.cast(), SIZE) };
    }
}
