//! For batches: ends of every kind by an argument, results of every size, and lies.

use core::sync::atomic::{AtomicU32, Ordering};

use glowbox_guest::__private::FromGuest;
use glowbox_guest::__private::raw::{batch_progress, leave, with_outgoing};
use glowbox_guest::{guest_function, host_function};

#[host_function]
fn host_large_result(bytes: u32) -> u32;

static RUNS: AtomicU32 = AtomicU32::new(0);

/// How often the functions of this file have run.
#[guest_function]
fn runs() -> u32 {
    RUNS.load(Ordering::Relaxed)
}

/// Ends as `how` says; 0 is a value.
#[guest_function]
fn end_by(number: u32, how: u8) -> u32 {
    RUNS.fetch_add(1, Ordering::Relaxed);
    match how {
        0 => number,
        1 => panic!("item {number}"),
        // SAFETY: `ud2` raises an exception, from which nothing returns.
        2 => unsafe { core::arch::asm!("ud2", options(noreturn)) },
        3 => loop {
            core::hint::spin_loop();
        },
        4 => u32::try_from(core::hint::black_box(vec![1u8; 1 << 40]).len()).unwrap_or(0),
        _ => number + overflow(u64::from(number)),
    }
}

#[inline(never)]
#[allow(unconditional_recursion, reason = "the test is of what ends it")]
fn overflow(depth: u64) -> u32 {
    let frame = core::hint::black_box([depth; 64]);
    overflow(frame[63] + 1) + 1
}

/// A result of that many bytes, after its length.
#[guest_function]
fn sized(bytes: u32) -> Vec<u8> {
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    vec![run.to_le_bytes()[0]; bytes as usize]
}

/// An error with a text of so many bytes.
#[guest_function]
fn sized_error(bytes: u32) -> Result<u32, String> {
    RUNS.fetch_add(1, Ordering::Relaxed);
    Err("e".repeat(bytes as usize))
}

#[host_function]
fn host_length(data: &[u8]) -> u32;

/// Sends the host that many bytes.
#[guest_function]
fn send_bytes(bytes: u32) -> u32 {
    RUNS.fetch_add(1, Ordering::Relaxed);
    host_length(&vec![7; bytes as usize])
}

/// Lets the host call `sized` while this waits.
#[guest_function]
fn nested_sized(bytes: u32) -> u32 {
    host_large_result(bytes)
}

/// The same, and then panics.
#[guest_function]
fn nested_sized_panic(bytes: u32, panic: bool) -> u32 {
    let length = host_large_result(bytes);
    assert!(!panic, "after {length} bytes");
    length
}

/// While the batch's item waits for a host function, which calls this, hands over two results that
/// there are not.
#[guest_function]
fn hand_over_twice() -> u32 {
    for _ in 0..2 {
        batch_progress().fetch_add(1, Ordering::Relaxed);
        leave(&FromGuest { kind: 8, ..FromGuest::default() });
    }
    0
}

#[host_function]
fn host_hand_over() -> u32;

#[guest_function]
fn nested_hand_over(number: u32) -> u32 {
    if number == 3 { host_hand_over() } else { number }
}

/// Logs a text of that many bytes.
#[guest_function]
fn say_bytes(bytes: u32) -> u32 {
    glowbox_guest::print!("{}", "t".repeat(bytes as usize));
    bytes
}

/// Claims that so many results of the batch are done; with `u64::MAX`, does nothing.
#[guest_function]
fn claim_progress(done: u64) -> u64 {
    if done != u64::MAX {
        batch_progress().store(done, Ordering::Release);
    }
    done
}

/// Writes `bytes` so many bytes before the place where this result goes.
#[guest_function]
fn overwrite(before: u32, bytes: Vec<u8>) {
    with_outgoing(|space| {
        // SAFETY: what lies before it is the outgoing buffer too, or else a guard page.
        unsafe {
            let at = space.as_mut_ptr().sub(before as usize);
            at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    });
}
