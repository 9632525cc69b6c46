//! The descriptors that programs are given, and what is behind them.
//!
//! Each is the reading end of a pipe of its own. That makes it an open file like any other: it can be
//! duplicated, sent and closed, and is known by the pipe's inode. The writing end stays here: when the last
//! descriptor of the reading end has been closed, by whomever and however, it says so.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libc::c_int;

use crate::Errno;
use crate::partition::Partition;
use crate::vp::Vp;

/// What a descriptor stands for.
#[derive(Clone)]
pub(crate) enum Object {
    Device,
    Partition(Arc<Partition>),
    Vp(Arc<Vp>),
}

/// Device and inode number of the pipe.
pub(crate) type Key = (u64, u64);

struct Entry {
    object: Object,
    writing_end: c_int,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    /// How many there are when all are looked at.
    sweep_at: usize,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

/// Which descriptors have been given out, as bits: closing any other costs nothing.
static GIVEN: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

fn bit(fd: c_int) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((GIVEN.get(fd / 64)?, 1 << (fd % 64)))
}

fn table() -> MutexGuard<'static, Option<Table>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pipe behind a descriptor, if it is one.
fn key(fd: c_int) -> Option<Key> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the system fills the struct, which lives on this stack, or fails.
    let status = unsafe {
        if libc::fstat(fd, status.as_mut_ptr()) != 0 {
            return None;
        }
        status.assume_init()
    };
    (status.st_mode & libc::S_IFMT == libc::S_IFIFO).then_some((status.st_dev, status.st_ino))
}

fn close(fd: c_int) {
    // SAFETY: the descriptor is this module's own.
    unsafe { libc::syscall(libc::SYS_close, libc::c_long::from(fd)) };
}

/// Whether the last descriptor of the other end has been closed.
fn is_gone(writing_end: c_int) -> bool {
    let mut poll = libc::pollfd { fd: writing_end, events: 0, revents: 0 };
    // SAFETY: one struct, on this stack; does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & libc::POLLERR != 0 }
}

/// Makes a descriptor for an object.
pub(crate) fn insert(object: Object) -> Result<c_int, Errno> {
    let mut ends = [0; 2];
    // SAFETY: the system fills the array, which lives on this stack.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EMFILE));
    }
    let [fd, writing_end] = ends;
    let key = key(fd).ok_or(libc::EBADF)?;
    let mut table = table();
    let table = table.get_or_insert_default();
    table.entries.insert(key, Entry { object, writing_end });
    if let Some((word, bit)) = bit(fd) {
        word.fetch_or(bit, Ordering::Relaxed);
    }
    if table.entries.len() > table.sweep_at {
        let gone = |entry: &Entry| is_gone(entry.writing_end);
        for entry in table.entries.extract_if(|_, entry| gone(entry)) {
            close(entry.1.writing_end);
        }
        table.sweep_at = table.entries.len() * 2;
    }
    Ok(fd)
}

/// What a descriptor stands for, if it is one of these.
pub(crate) fn find(fd: c_int) -> Option<Object> {
    let key = key(fd)?;
    Some(table().as_ref()?.entries.get(&key)?.object.clone())
}

/// To be called before a descriptor is closed; what it returns is for [`closed`].
pub(crate) fn closing(fd: c_int) -> Option<Key> {
    let (word, bit) = bit(fd)?;
    let given = word.load(Ordering::Relaxed) & bit != 0;
    if !given {
        return None;
    }
    word.fetch_and(!bit, Ordering::Relaxed);
    key(fd)
}

/// To be called when a descriptor of that pipe has been closed.
pub(crate) fn closed(key: Key) {
    let gone = {
        let mut table = table();
        let Some(table) = table.as_mut() else { return };
        let gone = table.entries.get(&key).is_some_and(|entry| is_gone(entry.writing_end));
        gone.then(|| table.entries.remove(&key)).flatten()
    };
    // Behind the lock: what goes with it may take long.
    if let Some(entry) = gone {
        close(entry.writing_end);
    }
}
