//! Functions that the benchmarks call, in a guest of ordinary size.

#![no_std]
#![no_main]

mod table;

use glowbox_guest::{guest_function, host_function};
use spin::Mutex;
use table::TABLE;

#[host_function]
fn nothing();

#[guest_function]
fn add(a: u32, b: u32) -> u32 {
    a.wrapping_add(b)
}

/// The bytes stay in the mailbox until they are copied to its other half.
#[guest_function]
fn echo(data: &[u8]) -> &[u8] {
    data
}

/// The bytes go through the guest's heap.
#[guest_function]
fn echo_vec(data: Vec<u8>) -> Vec<u8> {
    data
}

/// Calls the host `count` times.
#[guest_function]
fn calls(count: u32) {
    for _ in 0..count {
        nothing();
    }
}

/// Runs until it is stopped.
#[guest_function]
fn spin() {
    loop {
        core::hint::spin_loop();
    }
}

/// A page of memory, which starts where a page of the VM's does.
#[derive(Clone)]
#[repr(align(4096))]
struct Page([u8; 4096]);

/// What is written to and read again. Filled before a snapshot is taken, it is part of the image.
static PAGES: Mutex<Vec<Page>> = Mutex::new(Vec::new());

/// Makes that many pages, with other bytes on each and no zero among them.
#[guest_function]
fn fill(count: u32) {
    let mut pages = PAGES.lock();
    pages.reserve_exact(count as usize);
    for page in 0..count {
        let mut bytes = Page([0; 4096]);
        for (byte, constant) in bytes.0.iter_mut().zip(TABLE.iter().skip(page as usize % 4096)) {
            *byte = *constant;
        }
        pages.push(bytes);
    }
}

/// Writes all bytes of the first `count` pages, and says how many pages those were.
#[guest_function]
fn write(count: u32, value: u8) -> usize {
    let mut pages = PAGES.lock();
    let pages = pages.iter_mut().take(count as usize);
    pages.map(|page| page.0.fill(value)).count()
}

/// The first byte of a page.
#[guest_function]
fn peek(page: u32) -> Option<u8> {
    PAGES.lock().get(page as usize).map(|page| page.0[0])
}

/// Keeps the table from being thrown out of the image.
#[guest_function]
fn lookup(index: u32) -> Option<u8> {
    TABLE.get(usize::try_from(index).ok()?).copied()
}
