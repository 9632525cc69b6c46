//! Whether a thread has had a page fault.
//!
//! A page becomes private by a page fault and in no other way: of the thread that writes to it, or of the
//! thread that runs the guest which does, since KVM resolves a guest's faults in the thread that called it.
//! The kernel counts each thread's faults, and tells the count in a tenth of the time that it takes to
//! ask which pages are private. So where one thread alone has used a window, and its count has not
//! changed, the private pages are the ones that are known.
//!
//! Faults that KVM would resolve in threads of the kernel (asynchronous page faults) need its interrupt
//! controller, which no machine here has. What is counted on is checked all the same: always where debug
//! assertions are on, and otherwise now and then; and should it ever not hold, it is never used again.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A moment in a thread's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) thread: u64,
    faults: i64,
}

/// A number that no other thread of the process ever has.
pub(crate) fn thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }
    match NUMBER.get() {
        0 => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            NUMBER.set(number);
            number
        }
        number => number,
    }
}

/// Now; `None` if the system does not count faults, or not reliably.
pub(crate) fn now() -> Option<Moment> {
    if UNRELIABLE.load(Ordering::Relaxed) {
        return None;
    }
    // SAFETY: an all-zero `rusage` is a valid value of that plain C struct, which the call fills in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) != 0 {
            return None;
        }
        usage
    };
    Some(Moment { thread: thread(), faults: usage.ru_minflt + usage.ru_majflt })
}

static UNRELIABLE: AtomicBool = AtomicBool::new(false);

/// Notes that a page has become private without a fault's having been counted.
pub(crate) fn distrust() {
    UNRELIABLE.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GuestMemory, PAGE};

    #[test]
    fn a_write_to_a_new_page_is_counted_and_one_to_an_old_page_is_not() {
        let mut memory = GuestMemory::new(1 << 20).unwrap();
        let write = |memory: &mut GuestMemory, page: usize| memory.bytes_mut()[page * PAGE] = 1;
        // The thread may fault for reasons of its own (code that it runs for the first time), so
        // "no fault" is what some of many tries find.
        let changes = |memory: &mut GuestMemory, page| {
            let before = now().unwrap();
            write(memory, page);
            let after = now().unwrap();
            assert_eq!(before.thread, after.thread);
            after != before
        };
        assert!((0..20).all(|page| changes(&mut memory, page)));
        assert!((0..20).any(|page| !changes(&mut memory, page)));
    }

    #[test]
    fn no_two_threads_have_one_number() {
        let mine = thread();
        assert_eq!(thread(), mine);
        let others: Vec<u64> =
            (0..10).map(|_| std::thread::spawn(thread).join().unwrap()).collect();
        let distinct: std::collections::BTreeSet<u64> = others.iter().copied().collect();
        assert!(distinct.len() == 10 && !distinct.contains(&mine));
    }
}
