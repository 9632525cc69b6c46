//! Panics, caught and not, and the other ways in which a call or the whole program ends.

use std::panic::{catch_unwind, panic_any, resume_unwind};

use glowbox_guest::{guest_function, host_function};

/// The host calls back into the guest: the function `call_back`.
#[host_function]
fn back();

#[guest_function]
fn panic_with(text: &str) {
    panic!("told to: {text}");
}

#[guest_function]
fn index_out_of_bounds(at: usize) -> u8 {
    [1, 2, 3][at]
}

#[guest_function]
fn panic_without_text() {
    panic_any(17_u8);
}

#[guest_function]
fn catch_panic(text: &str) -> String {
    let caught = catch_unwind(|| panic!("{text}"));
    caught.expect_err("it panics").downcast_ref::<String>().cloned().unwrap_or_default()
}

#[guest_function]
fn join_panicking_thread(text: String) -> bool {
    std::thread::spawn(move || panic!("{text}")).join().is_err()
}

/// Goes on with another thread's panic: it ends the call, with the place where it began.
#[guest_function]
fn pass_on_a_threads_panic(text: String) {
    let thread = std::thread::spawn(move || -> () { panic!("{text}") });
    thread.join().unwrap_or_else(|payload| resume_unwind(payload));
}

/// Catches a panic, and then panics with the same words elsewhere.
#[guest_function]
fn panic_after_a_caught_one() {
    let _ = catch_unwind(|| panic!("again"));
    panic!("again");
}

/// A panic in a call within a call ends both, whatever the outer one catches.
#[guest_function]
fn catch_around_host_call() -> bool {
    catch_unwind(back).is_err()
}

#[guest_function]
fn call_back() {
    panic!("in a call within a call");
}

/// Destructors run when a panic unwinds.
#[guest_function]
fn drop_while_unwinding() -> u32 {
    struct Adds<'a>(&'a mut u32);
    impl Drop for Adds<'_> {
        fn drop(&mut self) {
            *self.0 += 1;
        }
    }
    let mut count = 0;
    let _ = catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _adds = Adds(&mut count);
        panic!("on purpose");
    }));
    count
}

#[guest_function]
fn exit(status: i32) {
    std::process::exit(status);
}

#[guest_function]
fn abort() {
    std::process::abort();
}

/// Uses up the stack.
#[guest_function]
fn recurse(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 16]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + here[3] }
}

#[guest_function]
fn null_pointer() -> u8 {
    let null = std::hint::black_box(std::ptr::null::<u8>());
    // SAFETY: not at all; a test wants the fault.
    unsafe { null.read_volatile() }
}

/// Allocates so much, writes to every page, and counts them.
#[guest_function]
fn allocate(bytes: usize) -> usize {
    let memory = std::hint::black_box(vec![1_u8; bytes]);
    memory.iter().step_by(4096).map(|byte| usize::from(*byte)).sum()
}

/// Maps regions that need a page table each, in this order, writes to all their pages, and says
/// whether each page has kept what was written.
#[guest_function]
fn fill_regions(order: Vec<u64>) -> bool {
    const PAGES: u64 = 512;
    let page = |region: u64, page: u64| {
        let address = (1 << 36) + (region * PAGES + page) * 4096;
        std::ptr::with_exposed_provenance_mut::<u64>(usize::try_from(address).expect("64 bits"))
    };
    for region in &order {
        let at = page(*region, 0).cast();
        let (rights, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
        );
        // SAFETY: nothing of the program is mapped there.
        assert_eq!(unsafe { libc::mmap(at, 2 << 20, rights, flags, -1, 0) }, at);
    }
    let pages = || order.iter().flat_map(|region| (0..PAGES).map(|index| (*region, index)));
    for (region, index) in pages() {
        // SAFETY: it was mapped above, for writing, and is aligned to a page.
        unsafe { page(region, index).write_volatile(region * PAGES + index) };
    }
    // SAFETY: as above.
    pages().all(
        |(region, index)| unsafe { page(region, index).read_volatile() } == region * PAGES + index,
    )
}

#[guest_function]
fn try_to_allocate(bytes: usize) -> bool {
    std::hint::black_box(&mut Vec::<u8>::new()).try_reserve_exact(bytes).is_ok()
}
